"""BoxLists with all their fields on a simulated GPU: every operation gives what it gives on the CPU, over there."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou, boxlist_nms, cat_boxlist, remove_small_boxes
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from tests.simulated_cuda import NO_SIMULATION, CudaTensor, simulated_cuda

pytestmark = pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))

SIZE = (60, 40)


def boxes(offset=1):
    """Three boxes with scores, labels, masks of both forms, keypoints, a list and a BoxList."""
    boxlist = BoxList([[4.0, 5, 30, 35], [6, 5, 31, 33], [40, 2, 42, 39]], SIZE, offset=offset)
    boxlist.add_field("scores", torch.tensor([0.5, 0.9, 0.7]))
    boxlist.add_field("labels", torch.tensor([1, 1, 2]))
    bitmap = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    bitmap[2:39, 40:42] = 1
    polygon = [[4.0, 5, 30, 5, 30, 35]]
    boxlist.add_field("masks", SegmentationMask([polygon, polygon, bitmap], SIZE))
    points = torch.rand(3, 17, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([60.0, 40, 1])
    points[..., 2] = 2
    points[1, 3] = 0
    keypoints = PersonKeypoints(points, SIZE)
    keypoints.add_field("logits", torch.arange(51.0).view(3, 17))
    boxlist.add_field("keypoints", keypoints)
    boxlist.add_field("names", ["a", "b", "c"])
    boxlist.add_field("spans", BoxList(boxlist.bbox + 1, SIZE, offset=0))
    return boxlist


def check(there, here):
    """Equal values; tensors are on the device in one and on the CPU in the other."""
    assert type(there) is type(here) or isinstance(there, CudaTensor)
    if isinstance(here, torch.Tensor):
        assert isinstance(there, CudaTensor)
        torch.testing.assert_close(there.held, here, rtol=0, atol=0)
    elif isinstance(here, BoxList):
        assert (there.size, there.mode, there.offset) == (here.size, here.mode, here.offset)
        assert there.fields() == here.fields()
        check(there.bbox, here.bbox)
        for name in here.fields():
            check(there.get_field(name), here.get_field(name))
    elif isinstance(here, PersonKeypoints):
        assert there.size == here.size
        check(there.keypoints, here.keypoints)
        check(there.get_field("logits"), here.get_field("logits"))
    elif isinstance(here, SegmentationMask):
        assert torch.equal(there.get_mask_tensor(), here.get_mask_tensor())
    else:
        assert there == here


OPERATIONS = {
    "to": lambda b, move: b.to(move(b.bbox).device),
    "resize": lambda b, move: b.resize((90, 80)),
    "flip": lambda b, move: b.transpose(FLIP_LEFT_RIGHT),
    "flip top": lambda b, move: b.transpose(FLIP_TOP_BOTTOM),
    "crop": lambda b, move: b.crop((5, 5, 50, 30)),
    "crop by tensor": lambda b, move: b.crop(move(torch.tensor([5.0, 5, 50, 30]))),
    "convert": lambda b, move: b.convert("xywh").resize((30, 20)).convert("xyxy"),
    "clip": lambda b, move: b.crop((0, 0, 35, 40)).clip_to_image(),
    "area": lambda b, move: b.area(),
    "extents": lambda b, move: b.extents(),
    "number": lambda b, move: b[1],
    "slice": lambda b, move: b[1:],
    "list": lambda b, move: b[[2, 0]],
    "none": lambda b, move: b[[]],
    "mask": lambda b, move: b[b.get_field("scores") > 0.6],
    "mask of the host": lambda b, move: b[torch.tensor([True, False, True])],
    "indices": lambda b, move: b[move(torch.tensor([2, 2, 1]))],
    "indices of the host": lambda b, move: b[torch.tensor([2, 2, 1])],
    "copy": lambda b, move: b.copy_with_fields(["scores", "masks"]),
    "cat": lambda b, move: cat_boxlist([b, b[:1]]),
    "nms": lambda b, move: boxlist_nms(b, 0.5),
    "iou": lambda b, move: boxlist_iou(b, b[1:]),
    "small": lambda b, move: remove_small_boxes(b, 4),
    "images": lambda b, move: to_image_list([move(torch.ones(3, 5, 7)), move(torch.ones(3, 6, 4))], 4).tensors,
    "keypoints alone": lambda b, move: b.get_field("keypoints")[move(torch.tensor([0, 2]))],
    "targets": lambda b, move: b.get_field("masks").rasterize(b.extents(), 7, move(torch.tensor([0, 2, 1]))),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("offset", [0, 1])
def test_operation(name, offset):
    operation = OPERATIONS[name]
    here = operation(boxes(offset), lambda tensor: tensor)
    with simulated_cuda():
        there = operation(boxes(offset).to("cuda"), lambda tensor: tensor.to("cuda"))
        check(there, here)


def test_what_a_batch_of_targets_waits_for():
    """The training loop moves targets without waiting for any of their fields."""
    with simulated_cuda() as device:
        target = boxes().to("cuda", non_blocking=True)
        assert not device.waits
        target.to("cpu", non_blocking=True)
        assert not device.waits
