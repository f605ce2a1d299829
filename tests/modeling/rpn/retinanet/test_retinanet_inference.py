"""RetinaNet's detections against loops over images, levels, cells, anchors and classes."""

import math

import pytest
import torch

from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.retinanet.inference import RetinaNetPostProcessor
from tests.devices import DEVICES
from tests.modeling.box_reference import decode_reference, nms_reference

SIZES = [(60, 44), (52, 48)]
GRIDS = [(12, 15), (6, 8)]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
ANCHORS, CLASSES = 2, 3


def selection_case(device="cpu", offset=1, images=2):
    anchors = AnchorGenerator((12, 24), (0.5, 1.0), (4, 8), -1, offset=offset).to(device)(GRIDS)
    logits = [2 * torch.randn(images, ANCHORS * CLASSES, *grid, device=device) - 2 for grid in GRIDS]
    regression = [3 * torch.randn(images, ANCHORS * 4, *grid, device=device) for grid in GRIDS]
    return anchors, logits, regression


def selector(offset=1, **settings):
    values = {"score_thresh": 0.3, "pre_nms_top_n": 60, "nms_thresh": 0.4, "detections_per_img": 25}
    return RetinaNetPostProcessor(**{**values, **settings}, box_coder=BoxCoder(WEIGHTS, offset=offset))


def reference(anchors, logits, regression, offset, score_thresh=0.3, top=60, nms_thresh=0.4, most=25):
    """Per image a list of (score, label, box), best first."""
    results = []
    for image, (width, height) in enumerate(SIZES[: len(logits[0])]):
        candidates = []
        for anchors_l, logits_l, deltas_l in zip(anchors, logits, regression, strict=True):
            level = []
            for y in range(logits_l.shape[2]):
                for x in range(logits_l.shape[3]):
                    for a in range(ANCHORS):
                        for category in range(CLASSES):
                            score = 1 / (1 + math.exp(-logits_l[image, a * CLASSES + category, y, x].item()))
                            if score > score_thresh:
                                anchor = anchors_l[(y * logits_l.shape[3] + x) * ANCHORS + a].tolist()
                                delta = deltas_l[image, 4 * a : 4 * a + 4, y, x].tolist()
                                level.append((score, category + 1, decode_reference(delta, anchor, WEIGHTS, offset)))
            candidates += sorted(level, key=lambda entry: -entry[0])[:top]
        found = []
        for label in range(1, CLASSES + 1):
            own = [entry for entry in candidates if entry[1] == label]
            limits = [width - offset, height - offset] * 2
            boxes = [[min(max(c, 0), limit) for c, limit in zip(box, limits, strict=True)] for _, _, box in own]
            full = [i for i, b in enumerate(boxes) if b[2] - b[0] + offset > 0 and b[3] - b[1] + offset > 0]
            boxes, scores = [boxes[i] for i in full], [own[i][0] for i in full]
            kept = nms_reference(boxes, scores, nms_thresh, offset) if nms_thresh > 0 else range(len(boxes))
            found += [(scores[i], label, boxes[i]) for i in kept]
        results.append(sorted(found, key=lambda entry: -entry[0])[:most])
    return results


def check(found, expected):
    assert len(found) == len(expected)
    for detections, wanted in zip(found, expected, strict=True):
        assert detections.get_field("labels").tolist() == [label for _, label, _ in wanted]
        torch.testing.assert_close(
            detections.get_field("scores").cpu(), torch.tensor([score for score, _, _ in wanted])
        )
        boxes = torch.tensor([box for _, _, box in wanted]).reshape(-1, 4)
        torch.testing.assert_close(detections.bbox.cpu(), boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("nms_thresh", [0.4, 0.0])
def test_detections_equal_loops(device, offset, nms_thresh):
    case = selection_case(device, offset)
    found = selector(offset, nms_thresh=nms_thresh)(*case, SIZES)
    check(found, reference(*case, offset, nms_thresh=nms_thresh))
    assert all(boxes.offset == offset and boxes.size == size for boxes, size in zip(found, SIZES, strict=True))


def test_limits_off_equal_loops():
    case = selection_case()
    found = selector(detections_per_img=0, pre_nms_top_n=100_000)(*case, SIZES)
    check(found, reference(*case, 1, top=100_000, most=100_000))
    assert min(map(len, found)) > 25


def test_a_batch_gives_what_single_images_give():
    anchors, logits, regression = selection_case()
    together = selector()(anchors, logits, regression, SIZES)
    for image, size in enumerate(SIZES):
        own = [[level[image : image + 1] for level in levels] for levels in (logits, regression)]
        (alone,) = selector()(anchors, *own, [size])
        assert torch.equal(alone.bbox, together[image].bbox)
        for name in ("scores", "labels"):
            assert torch.equal(alone.get_field(name), together[image].get_field(name))


def test_nothing_above_the_threshold():
    found = selector(score_thresh=1.0)(*selection_case(), SIZES)
    assert [len(boxes) for boxes in found] == [0, 0]
    assert all(boxes.get_field("labels").dtype == torch.int64 and boxes.bbox.shape == (0, 4) for boxes in found)


def test_an_anchor_can_be_found_as_two_classes_and_classes_do_not_suppress_each_other():
    anchors = [torch.tensor([[10.0, 10, 29, 29]])]
    logits, regression = [torch.tensor([2.0, -9, 1]).view(1, 3, 1, 1)], [torch.zeros(1, 4, 1, 1)]
    (found,) = selector()(anchors, logits, regression, [(60, 44)])
    assert found.get_field("labels").tolist() == [1, 3]
    torch.testing.assert_close(found.bbox, torch.tensor([[10.0, 10, 29, 29]] * 2))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_scores_that_are_no_numbers_are_dropped(value):
    anchors, logits, regression = selection_case()
    expected = reference(anchors, [level.clone() for level in logits], regression, 1, top=100_000)
    logits = [torch.cat([level, torch.full_like(level[:, :CLASSES], value)], dim=1) for level in logits]
    regression = [torch.cat([level, torch.zeros_like(level[:, :4])], dim=1) for level in regression]
    three = []
    for level, grid in zip(anchors, GRIDS, strict=True):
        per_cell = level.view(*grid, ANCHORS, 4)
        three.append(torch.cat([per_cell, per_cell[:, :, :1]], dim=2).reshape(-1, 4))
    check(selector(pre_nms_top_n=100_000)(three, logits, regression, SIZES), expected)


def test_half_precision_maps():
    anchors, logits, regression = selection_case()
    half = [[level.bfloat16() for level in levels] for levels in (logits, regression)]
    rounded = [[level.float() for level in levels] for levels in half]
    # without limits: they cut among equal scores, of which there are many in bfloat16
    unlimited = selector(detections_per_img=0, pre_nms_top_n=100_000, nms_thresh=0)
    for found, expected in zip(unlimited(anchors, *half, SIZES), unlimited(anchors, *rounded, SIZES), strict=True):
        assert found.bbox.dtype == found.get_field("scores").dtype == torch.float32
        torch.testing.assert_close(found.get_field("scores"), expected.get_field("scores"))
