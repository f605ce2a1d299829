"""The shipped configs of torchvision's models against torchvision: anchors, sizes, every stage, losses."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models.detection.anchor_utils import AnchorGenerator as PeerAnchorGenerator
from torchvision.models.detection.image_list import ImageList as PeerImageList
from torchvision.transforms.functional import to_tensor

from benchmarks import fidelity
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIZES = [(800, 800), (800, 1088), (480, 672), (96, 160)]
LIMITS = {
    "image": 1e-5,
    "features": 1e-5,
    "proposals (px)": 1e-3,
    "score": 1e-5,
    "box (px)": 1e-3,
    "mask": 1e-4,
    "pasted mask": 1e-4,
    "keypoint (px)": 1e-2,
    "keypoint score": 1e-3,
}


@pytest.mark.parametrize("size_hw", SIZES)
def test_anchors(size_hw):
    ours = AnchorGenerator.from_cfg(fidelity.own_cfg(fidelity.MODELS[0], 800, 1333))
    peer = PeerAnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    cells = [(size_hw[0] // stride, size_hw[1] // stride) for stride in (4, 8, 16, 32)]
    cells.append(((cells[-1][0] + 1) // 2, (cells[-1][1] + 1) // 2))
    images = PeerImageList(torch.zeros(1, 3, *size_hw), [size_hw])
    (expected,) = peer(images, [torch.zeros(1, 1, *size) for size in cells])
    anchors = torch.cat(ours(cells, size_hw))
    assert size_hw != (800, 1088) or len(anchors) == 217_413
    assert torch.equal(anchors, expected)
    with pytest.raises(ValueError, match="image_size"):
        ours(cells)


@pytest.mark.parametrize("size_wh", [(640, 480), (333, 500), (1000, 200), (427, 640), (77, 77)])
def test_images(size_wh):
    cfg = fidelity.own_cfg(fidelity.MODELS[0], 200, 333)
    peer = fidelity.torchvision.models.detection.transform.GeneralizedRCNNTransform(
        200, 333, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    )
    (image,) = fidelity.random_images([size_wh])
    expected = peer([to_tensor(image)])[0]
    pixels, target = build_transforms(cfg, is_train=False)(image, BoxList(torch.ones(1, 4), size_wh, offset=0))
    assert [tuple(pixels.shape[1:])] == expected.image_sizes
    assert target.size == (pixels.shape[2], pixels.shape[1])
    torch.testing.assert_close(to_image_list([pixels], 32).tensors, expected.tensors, rtol=0, atol=1e-5)


def check(name, images, min_size, max_size):
    peer = fidelity.torchvision_model(name, min_size, max_size)
    cfg = fidelity.own_cfg(name, min_size, max_size)
    model, report = fidelity.own_model(cfg, peer.state_dict())
    assert report.family == "torchvision" and not report.unused and not report.mis_shaped
    assert all("anchor_generator" in key for key in report.missing)
    for batch in ([images[0]], images):
        differences = fidelity.compare(name, peer, model, cfg, batch)
        assert differences.pop("detections") > 10 * len(batch)
        assert all(value < LIMITS[stage] for stage, value in differences.items()), differences


@pytest.mark.slow
@pytest.mark.parametrize("name", fidelity.MODELS)
def test_detections_in_random_images(name):
    check(name, fidelity.random_images([(320, 213), (200, 300), (250, 250)]), 160, 256)


@pytest.mark.slow
@pytest.mark.parametrize("name", fidelity.MODELS)
def test_detections_in_photographs(name):
    root = os.environ.get("MASKRCNN_BENCHMARK_TEST_PHOTOGRAPHS")
    paths = sorted(Path(root).glob("*.jpg"))[:3] if root else []
    if not paths:
        pytest.skip("set MASKRCNN_BENCHMARK_TEST_PHOTOGRAPHS to a folder with photographs (*.jpg)")
    check(name, [Image.open(path).convert("RGB") for path in paths], 320, 533)


@pytest.mark.slow
@pytest.mark.parametrize("name", fidelity.MODELS)
def test_losses_where_no_sampling_is_random(name):
    """All anchors and proposals are sampled. Images with masks have the size that the model wants, because torchvision
    takes the nearest pixel of a resized mask."""
    peer, cfg = fidelity.torchvision_model(name, 128, 200), fidelity.own_cfg(name, 128, 200)
    enough = 10**5
    for section in ("RPN", "ROI_HEADS"):
        cfg.MODEL[section].BATCH_SIZE_PER_IMAGE, cfg.MODEL[section].POSITIVE_FRACTION = enough, 0.5
    for sampler in (peer.rpn.fg_bg_sampler, peer.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = enough, 0.5
    model, _ = fidelity.own_model(cfg, peer.state_dict())
    images = fidelity.random_images([(192, 128), (128, 160)] if "mask" in name else [(190, 130), (150, 200)])
    batch, targets, peer_targets = [], [], []
    for image in images:
        corners = torch.rand(4, 2) * 60
        boxes = torch.cat([corners, corners + 20 + 40 * torch.rand(4, 2)], dim=1)
        keypoints = torch.cat([boxes[:, None, :2] + 15 * torch.rand(4, 17, 2), torch.ones(4, 17, 1)], dim=2)
        masks = torch.zeros(4, image.height, image.width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, (x1 + x2) // 2 : x2] = 1
        truth = {"boxes": boxes, "labels": torch.ones(4, dtype=torch.int64), "keypoints": keypoints, "masks": masks}
        peer_targets.append(truth)
        target = BoxList(boxes, image.size, offset=0)
        target.add_field("labels", torch.ones(4, dtype=torch.int64))
        target.add_field("keypoints", PersonKeypoints(keypoints, image.size))
        target.add_field("masks", SegmentationMask(masks, image.size))
        pixels, target = build_transforms(cfg, is_train=False)(image, target)
        batch.append(pixels)
        targets.append(target)
    peer.train()
    peer.backbone.eval()
    expected = peer([to_tensor(image) for image in images], peer_targets)
    losses = model.train()(to_image_list(batch, 32), targets)
    names = {"loss_box_reg": "loss_box_reg", "loss_classifier": "loss_classifier", "loss_objectness": "loss_objectness"}
    names |= {"loss_rpn_box_reg": "loss_rpn_box_reg"} | ({"loss_kp": "loss_keypoint"} if "keypoint" in name else {})
    names |= {"loss_mask": "loss_mask"} if "mask" in name else {}
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        torch.testing.assert_close(
            losses[ours], expected[theirs], rtol=1e-4, atol=1e-5, msg=lambda text, n=ours: f"{n}: {text}"
        )
