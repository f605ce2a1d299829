import pytest
import torch

from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.inference import RPNPostProcessor
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH, OBJECTNESS
from tests.devices import DEVICES
from tests.modeling.box_reference import boxlist, decode_reference, nms_reference, random_boxes

SIZES = [(60, 44), (52, 48)]
GRIDS = [(12, 15), (6, 8)]
WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def selection_case(device="cpu", offset=1):
    anchors = AnchorGenerator((12, 24), (0.5, 1.0, 2.0), (4, 8), offset=offset).to(device)(GRIDS)
    objectness = [3 * torch.randn(2, 3, *grid) for grid in GRIDS]
    regression = [0.5 * torch.randn(2, 12, *grid) for grid in GRIDS]
    return anchors, [level.to(device) for level in objectness], [level.to(device) for level in regression]


def selector(offset=1, **settings):
    values = {"pre_nms_top_n": 40, "post_nms_top_n": 12, "nms_thresh": 0.6, "min_size": 6, "fpn_post_nms_top_n": 18}
    return RPNPostProcessor(**{**values, **settings}, box_coder=BoxCoder(WEIGHTS, offset=offset))


def reference(anchors, objectness, regression, offset, nms_thresh=0.6, pre=40, post=12, top=18, per_batch=False):
    """Per image and per level, in plain Python: lists of (logit, box), best first."""
    of_images = []
    for image, (width, height) in enumerate(SIZES):
        found = []
        for anchors_l, logits, deltas in zip(anchors, objectness, regression, strict=True):
            entries = []
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    for a in range(3):
                        anchor = anchors_l[(y * logits.shape[3] + x) * 3 + a].tolist()
                        delta = deltas[image, 4 * a : 4 * a + 4, y, x].tolist()
                        entries.append((float(logits[image, a, y, x]), anchor, delta))
            entries = sorted(entries, key=lambda entry: -entry[0])[:pre]
            boxes = [decode_reference(delta, anchor, WEIGHTS, offset) for _, anchor, delta in entries]
            limits = [width - offset, height - offset] * 2
            boxes = [[min(max(c, 0), limit) for c, limit in zip(box, limits, strict=True)] for box in boxes]
            kept = [i for i, b in enumerate(boxes) if b[2] - b[0] + offset >= 6 and b[3] - b[1] + offset >= 6]
            boxes, logits_kept = [boxes[i] for i in kept], [entries[i][0] for i in kept]
            order = nms_reference(boxes, logits_kept, nms_thresh, offset) if nms_thresh > 0 else range(len(boxes))
            found += [(logits_kept[i], boxes[i], image) for i in list(order)[:post]]
        found.sort(key=lambda entry: -entry[0])
        of_images.append(found if per_batch else found[:top])
    if per_batch:
        best = sorted(sum(of_images, []), key=lambda entry: -entry[0])[:top]
        of_images = [[entry for entry in best if entry[2] == image] for image in range(len(SIZES))]
    return of_images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("nms_thresh", [0.6, 0.0])
def test_selection_equals_loops(device, offset, per_batch, nms_thresh):
    anchors, objectness, regression = selection_case(device, offset)
    select = selector(offset, fpn_post_nms_per_batch=per_batch, nms_thresh=nms_thresh)
    proposals = select(anchors, objectness, regression, SIZES)
    expected = reference(anchors, objectness, regression, offset, nms_thresh, per_batch=per_batch)
    for proposals_per_image, entries, size in zip(proposals, expected, SIZES, strict=True):
        assert proposals_per_image.size == size and proposals_per_image.offset == offset
        assert len(proposals_per_image) == len(entries)
        scores = torch.tensor([logit for logit, _, _ in entries]).sigmoid()
        torch.testing.assert_close(proposals_per_image.get_field(OBJECTNESS).cpu(), scores)
        boxes = torch.tensor([box for _, box, _ in entries])
        torch.testing.assert_close(proposals_per_image.bbox.cpu(), boxes, rtol=1e-4, atol=1e-3)
    if per_batch:
        assert sum(len(proposals_per_image) for proposals_per_image in proposals) == 18


def test_single_level_has_no_limit_over_levels():
    anchors, objectness, regression = selection_case()
    proposals = selector(fpn_post_nms_top_n=3)(anchors[:1], objectness[:1], regression[:1], SIZES)
    assert [len(proposals_per_image) for proposals_per_image in proposals] == [12, 12]


def test_ground_truth_comes_last_with_objectness_one():
    anchors, objectness, regression = selection_case()
    targets = [boxlist(random_boxes(2, SIZES[0]), SIZES[0]).convert("xywh"), boxlist(torch.zeros(0, 4), SIZES[1])]
    without = selector()(anchors, objectness, regression, SIZES)
    proposals = selector()(anchors, objectness, regression, SIZES, targets)
    assert [len(p) for p in proposals] == [len(without[0]) + 2, len(without[1])]
    torch.testing.assert_close(proposals[0].bbox[-2:], targets[0].convert("xyxy").bbox)
    assert proposals[0].get_field(OBJECTNESS)[-2:].tolist() == [1, 1]
    for found, count in zip(proposals, (2, 0), strict=True):
        is_ground_truth = found.get_field(IS_GROUND_TRUTH)
        assert is_ground_truth.dtype == torch.bool and len(found) > count
        assert is_ground_truth.tolist() == [False] * (len(found) - count) + [True] * count
    torch.testing.assert_close(proposals[0].bbox[:-2], without[0].bbox)


def test_a_batch_equals_its_images_one_by_one():
    anchors, objectness, regression = selection_case()
    together = selector()(anchors, objectness, regression, SIZES)
    for image, size in enumerate(SIZES):
        one = slice(image, image + 1)
        alone = selector()(anchors, [o[one] for o in objectness], [r[one] for r in regression], [size])
        torch.testing.assert_close(alone[0].bbox, together[image].bbox, rtol=0, atol=0)


def test_predictions_that_are_not_numbers_make_no_proposals():
    anchors, objectness, regression = selection_case()
    objectness[0][0], regression[1][0] = torch.nan, torch.nan
    proposals = selector()(anchors, objectness, regression, SIZES)
    assert [len(p) for p in proposals] == [0, 18]


def test_channels_last_and_half_precision_maps():
    anchors, objectness, regression = selection_case()
    expected = selector()(anchors, objectness, regression, SIZES)
    last = [
        [level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in (objectness, regression)
    ]
    for ours, theirs in zip(selector()(anchors, *last, SIZES), expected, strict=True):
        torch.testing.assert_close(ours.bbox, theirs.bbox, rtol=0, atol=0)
    half = selector()(anchors, [o.bfloat16() for o in objectness], [r.bfloat16() for r in regression], SIZES)
    assert half[0].bbox.dtype == half[0].get_field(OBJECTNESS).dtype == torch.float32


def test_equal_probabilities_are_ranked_by_their_order():
    """The float32 sigmoids of 30 and 40 are both 1: by probability the finer level comes first, by logit the larger."""
    anchors, objectness, regression = selection_case()
    objectness = [torch.full_like(level, -9.0) for level in objectness]
    objectness[0][:, 0, 5, 5], objectness[1][:, 0, 1, 1] = 30.0, 40.0
    regression = [torch.zeros_like(level) for level in regression]
    finer, coarser = anchors[0][(5 * GRIDS[0][1] + 5) * 3], anchors[1][(GRIDS[1][1] + 1) * 3]
    for rank_by, order in (("logits", [coarser, finer]), ("probabilities", [finer, coarser])):
        for proposals in selector(min_size=0, rank_by=rank_by)(anchors, objectness, regression, SIZES):
            limits = torch.tensor([side - 1 for side in proposals.size] * 2)
            expected = torch.stack(order).clamp(min=0).minimum(limits)
            torch.testing.assert_close(proposals.bbox[:2], expected)
