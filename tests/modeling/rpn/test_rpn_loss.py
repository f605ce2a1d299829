import math

import pytest
import torch

from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.loss import RPNLossComputation
from tests.devices import DEVICES
from tests.modeling.box_reference import boxlist, encode_reference, iou_reference, random_boxes, smooth_l1_reference

SIZES = [(60, 44), (52, 48)]
GRIDS = [(12, 15), (6, 8)]


def rpn_case(device, offset, counts):
    generator = AnchorGenerator((12, 24), (0.5, 1.0), (4, 8), offset=offset).to(device)
    anchors = torch.cat(generator(GRIDS))
    visible = generator.visible(anchors, torch.tensor(SIZES, dtype=torch.float32, device=device))
    objectness = [torch.randn(2, 2, *grid, device=device, requires_grad=True) for grid in GRIDS]
    regression = [torch.randn(2, 8, *grid, device=device, requires_grad=True) for grid in GRIDS]
    targets = [
        boxlist(random_boxes(count, size, min_side=8), size, offset).to(device)
        for count, size in zip(counts, SIZES, strict=True)
    ]
    return anchors, visible, objectness, regression, targets


def loss_of(offset, batch_size=10_000):
    return RPNLossComputation(
        Matcher(0.7, 0.3, allow_low_quality_matches=True),
        BalancedPositiveNegativeSampler(batch_size, 1.0),
        BoxCoder((1.0, 1.0, 1.0, 1.0), offset=offset),
    )


def loss_reference(anchors, objectness, regression, targets, offset):
    """Loops over images, levels, cells and anchors; every anchor that is not ignored counts."""
    objectness_sum = box_sum = 0.0
    num_sampled = 0
    for image, target in enumerate(targets):
        gt = target.bbox.tolist()
        quality = [[iou_reference(g, a, offset) for a in anchors.tolist()] for g in gt]
        index = -1
        for logits, deltas in zip(objectness, regression, strict=True):
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    for a in range(logits.shape[1]):
                        index += 1
                        anchor = anchors[index].tolist()
                        width, height = target.size
                        beyond = (anchor[2] > width or anchor[3] > height) if offset == 0 else (
                            anchor[2] >= width or anchor[3] >= height
                        )  # fmt: skip
                        if anchor[0] < 0 or anchor[1] < 0 or beyond:
                            continue
                        column = [row[index] for row in quality]
                        best = max(column, default=0.0)
                        positive = best >= 0.7 or any(row[index] > 0 and row[index] == max(row) for row in quality)
                        if not positive and best >= 0.3:
                            continue
                        num_sampled += 1
                        logit = logits[image, a, y, x].item()
                        objectness_sum += math.log1p(math.exp(-logit if positive else logit))
                        if positive:
                            wanted = encode_reference(gt[column.index(best)], anchor, (1, 1, 1, 1), offset)
                            given = deltas[image, 4 * a : 4 * a + 4, y, x].tolist()
                            differences = [g - w for g, w in zip(given, wanted, strict=True)]
                            box_sum += smooth_l1_reference(differences, 1 / 9)
    return objectness_sum / num_sampled, box_sum / num_sampled


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("counts", [(3, 2), (2, 0)])
def test_losses_equal_loops(device, offset, counts):
    anchors, visible, objectness, regression, targets = rpn_case(device, offset, counts)
    losses = loss_of(offset)(anchors, visible, objectness, regression, targets)
    expected = loss_reference(anchors, objectness, regression, targets, offset)
    torch.testing.assert_close(torch.stack(losses).cpu(), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    sum(losses).backward()
    assert all(level.grad.abs().sum() > 0 for level in (*objectness, *regression))


def test_without_ground_truth_the_box_loss_is_an_attached_zero():
    anchors, visible, objectness, regression, targets = rpn_case("cpu", 1, (0, 0))
    objectness_loss, box_loss = loss_of(1)(anchors, visible, objectness, regression, targets)
    assert objectness_loss > 0 and box_loss == 0
    box_loss.backward()
    assert all(level.grad.eq(0).all() for level in regression)


def test_nothing_to_sample_gives_two_attached_zeros():
    anchors, visible, objectness, regression, targets = rpn_case("cpu", 1, (1, 1))
    losses = loss_of(1)(anchors, torch.zeros_like(visible), objectness, regression, targets)
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    sum(losses).backward()
    assert all(level.grad.eq(0).all() for level in (*objectness, *regression))


def test_sample_is_limited_and_follows_the_seed():
    anchors, visible, objectness, regression, targets = rpn_case("cpu", 1, (3, 2))
    torch.manual_seed(7)
    first = loss_of(1, 16)(anchors, visible, objectness, regression, targets)
    first[0].backward()
    touched = sum(int(level.grad.ne(0).sum()) for level in objectness)
    assert touched <= 2 * 16
    torch.manual_seed(7)
    assert loss_of(1, 16)(anchors, visible, objectness, regression, targets)[0] == first[0]


def test_half_precision_predictions_give_losses_in_full_precision():
    anchors, visible, objectness, regression, targets = rpn_case("cpu", 1, (3, 2))
    half = [[level.bfloat16() for level in levels] for levels in (objectness, regression)]
    losses = loss_of(1)(anchors, visible, *half, targets)
    assert all(loss.dtype == torch.float32 for loss in losses)
    expected = loss_of(1)(anchors, visible, objectness, regression, targets)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=2e-2, atol=1e-2)


def test_losses_divided_by_the_batch_size_and_the_absolute_difference():
    anchors, visible, objectness, regression, targets = rpn_case("cpu", 0, (3, 2))
    loss = loss_of(0)
    by_sampled = loss(anchors, visible, objectness, regression, targets)
    num_sampled = 0
    for target, is_visible in zip(targets, visible, strict=True):
        filled = torch.ones(1, len(target), dtype=torch.bool)
        labels = loss.matcher.match_boxes(target.bbox[None], filled, anchors, 0).labels[0]
        num_sampled += int((labels[is_visible] >= 0).sum())
    loss.normalizer = "batch_size"
    by_batch = loss(anchors, visible, objectness, regression, targets)
    for ours, other in zip(by_batch, by_sampled, strict=True):
        torch.testing.assert_close(ours * 2 * 10_000, other * num_sampled)
    loss.beta = 0.0
    assert loss(anchors, visible, objectness, regression, targets)[1] > by_batch[1]
