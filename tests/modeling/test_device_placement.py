"""The inner path of RPN and box head on fake GPU tensors: an operation that meets a CPU tensor raises, with no GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from maskrcnn_benchmark.modeling.roi_heads.box_head import inference as box_inference
from maskrcnn_benchmark.modeling.rpn import inference as rpn_inference
from maskrcnn_benchmark.structures.image_list import ImageList
from tests.modeling.box_reference import boxlist
from tests.modeling.tiny import CHANNELS, STRIDES, tiny_cfg, tiny_detector

SIZES_WH = [(96, 64), (72, 80)]


def split_without_values(keep, image_ids, num_images):
    """`split_rows` with invented counts: what the device holds is not known here."""
    return list(torch.where(keep, image_ids, num_images).argsort(stable=True)[:20].split(10))


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch knows no CUDA device, not even a fake one")
def test_nothing_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(rpn_inference, "split_rows", split_without_values)
    monkeypatch.setattr(box_inference, "split_rows", split_without_values)
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: [4, 20])  # positives and negatives of the sample
    mode = FakeTensorMode()
    with mode, torch.device("cuda"):
        model = tiny_detector(tiny_cfg())
        features = [torch.randn(2, CHANNELS, 80 // stride, 96 // stride) for stride in STRIDES]
        images = ImageList(torch.zeros(2, 3, 80, 96), [(64, 96), (80, 72)])
        targets = [
            boxlist(torch.rand(count, 4), size, labels=torch.ones(count, dtype=torch.int64))
            for count, size in zip((2, 1), SIZES_WH, strict=True)
        ]
    with mode:  # with no default device now: a tensor that is made without one lands on the CPU
        proposals, losses = model.rpn(images, features, targets)
        box_head = model.roi_heads["box"]
        output = box_head(features, proposals, targets)
        losses = {**losses, **output.losses}
        rows = torch.zeros(30, dtype=torch.int64, device="cuda")
        monkeypatch.setattr(box_head.post_processor, "_candidates", lambda scores: (rows, rows + 1))
        detections = box_head.eval()(features, proposals).detections
    found = [*losses.values(), output.features, *(boxes.bbox for boxes in [*proposals, *detections])]
    assert len(losses) == 4 and len(found) == 9
    assert {tensor.device.type for tensor in found} == {"cuda"}
