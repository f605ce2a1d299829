"""RetinaNet's losses against loops over images, levels, cells, anchors and classes."""

import math

import pytest
import torch

from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.retinanet.loss import RetinaNetLossComputation
from tests.devices import DEVICES
from tests.modeling.box_reference import boxlist, encode_reference, iou_reference, random_boxes, smooth_l1_reference

SIZES = [(60, 44), (52, 48)]
GRIDS = [(12, 15), (6, 8)]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
ANCHORS, CLASSES = 2, 3


def loss_case(device, offset, counts):
    anchors = torch.cat(AnchorGenerator((12, 24), (0.5, 1.0), (4, 8), -1, offset=offset).to(device)(GRIDS))
    logits = [torch.randn(2, ANCHORS * CLASSES, *grid, device=device, requires_grad=True) for grid in GRIDS]
    regression = [torch.randn(2, ANCHORS * 4, *grid, device=device, requires_grad=True) for grid in GRIDS]
    targets = [
        boxlist(random_boxes(count, size, min_side=8), size, offset, labels=torch.randint(1, CLASSES + 1, (count,))).to(
            device
        )
        for count, size in zip(counts, SIZES, strict=True)
    ]
    return anchors, logits, regression, targets


def loss_of(offset, **settings):
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return RetinaNetLossComputation(matcher, BoxCoder(WEIGHTS, offset=offset), **settings)


def reference(anchors, logits, regression, targets, offset, alpha=0.25, gamma=2.0, beta=0.11, divisor=4.0):
    class_sum = box_sum = 0.0
    num_foreground = 0
    for image, target in enumerate(targets):
        gt, labels = target.bbox.tolist(), target.get_field("labels").tolist()
        quality = [[iou_reference(box, anchor, offset) for anchor in anchors.tolist()] for box in gt]
        index = -1
        for logits_l, deltas_l in zip(logits, regression, strict=True):
            for y in range(logits_l.shape[2]):
                for x in range(logits_l.shape[3]):
                    for a in range(ANCHORS):
                        index += 1
                        column = [row[index] for row in quality]
                        best = max(column, default=0.0)
                        positive = best >= 0.5 or any(row[index] > 0 and row[index] == max(row) for row in quality)
                        if not positive and best >= 0.4:
                            continue
                        label = labels[column.index(best)] if positive else 0
                        for category in range(1, CLASSES + 1):
                            logit = logits_l[image, a * CLASSES + category - 1, y, x].item()
                            p = 1 / (1 + math.exp(-logit))
                            if category == label:
                                class_sum -= alpha * (1 - p) ** gamma * math.log(p)
                            else:
                                class_sum -= (1 - alpha) * p**gamma * math.log(1 - p)
                        if positive:
                            num_foreground += 1
                            wanted = encode_reference(gt[column.index(best)], anchors[index].tolist(), WEIGHTS, offset)
                            given = deltas_l[image, 4 * a : 4 * a + 4, y, x].tolist()
                            box_sum += smooth_l1_reference([g - w for g, w in zip(given, wanted, strict=True)], beta)
    return class_sum / (num_foreground + len(targets)), box_sum / max(1, num_foreground * divisor)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("counts", [(3, 2), (2, 0), (0, 0)])
def test_losses_equal_loops(device, offset, counts):
    case = loss_case(device, offset, counts)
    losses = loss_of(offset)(*case)
    torch.testing.assert_close(torch.stack(losses).cpu(), torch.tensor(reference(*case, offset)), rtol=1e-4, atol=1e-5)


def test_losses_of_other_settings_equal_loops():
    case = loss_case("cpu", 1, (3, 2))
    losses = loss_of(1, alpha=0.6, gamma=0.5, beta=1.0, box_divisor=0.25)(*case)
    expected = reference(*case, 1, alpha=0.6, gamma=0.5, beta=1.0, divisor=0.25)
    torch.testing.assert_close(torch.stack(losses), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_batch_has_the_sums_of_its_images():
    anchors, logits, regression, targets = loss_case("cpu", 1, (3, 2))
    together = loss_of(1)(anchors, logits, regression, targets)
    matcher, sums, foreground = loss_of(1).matcher, torch.zeros(2), []
    for image, target in enumerate(targets):
        own = [[level[image : image + 1] for level in levels] for levels in (logits, regression)]
        count = matcher.match_boxes(target.bbox[None], torch.ones(1, len(target), dtype=torch.bool), anchors, 1)
        foreground.append(int((count.labels == 1).sum()))
        losses = loss_of(1)(anchors, *own, [target])
        sums += torch.stack([losses[0] * (foreground[-1] + 1), losses[1] * foreground[-1]])
    expected = sums / torch.tensor([sum(foreground) + 2, sum(foreground)])
    torch.testing.assert_close(torch.stack(together), expected)


def test_without_ground_truth_both_predictions_have_gradients():
    anchors, logits, regression, targets = loss_case("cpu", 1, (0, 0))
    class_loss, box_loss = loss_of(1)(anchors, logits, regression, targets)
    assert class_loss > 0 and box_loss == 0
    (class_loss + box_loss).backward()
    assert all(level.grad.abs().min() > 0 for level in logits)
    assert all(level.grad.eq(0).all() for level in regression)


def test_only_foreground_has_a_gradient_of_the_box_loss_and_anchors_between_have_none():
    anchors, logits, regression, targets = loss_case("cpu", 1, (3, 2))
    sum(loss_of(1)(anchors, logits, regression, targets)).backward()
    filled = torch.tensor([[True, True, True], [True, True, False]])
    boxes = torch.stack([targets[0].bbox, torch.cat([targets[1].bbox, torch.zeros(1, 4)])])
    labels = loss_of(1).matcher.match_boxes(boxes, filled, anchors, 1).labels
    assert set(labels.unique().tolist()) == {-1, 0, 1}
    in_order = {
        name: torch.cat(
            [g.grad.unflatten(1, (ANCHORS, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for g in levels], dim=1
        )
        for name, levels in (("logits", logits), ("regression", regression))
    }
    assert torch.equal(in_order["logits"].abs().sum(2) > 0, labels >= 0)
    assert torch.equal(in_order["regression"].abs().sum(2) > 0, labels == 1)


def test_half_precision_predictions_give_losses_in_full_precision():
    anchors, logits, regression, targets = loss_case("cpu", 1, (3, 2))
    half = [[level.bfloat16() for level in levels] for levels in (logits, regression)]
    losses = loss_of(1)(anchors, *half, targets)
    assert all(loss.dtype == torch.float32 for loss in losses)
    expected = loss_of(1)(anchors, logits, regression, targets)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=2e-2, atol=1e-2)


def test_certain_logits_give_finite_losses_and_gradients():
    anchors, logits, regression, targets = loss_case("cpu", 1, (3, 2))
    certain = [(level.detach().sign() * 200).requires_grad_() for level in logits]
    loss, _ = loss_of(1)(anchors, certain, regression, targets)
    loss.backward()
    assert loss.isfinite() and all(level.grad.isfinite().all() for level in certain)


def test_layout_of_the_maps_does_not_matter():
    anchors, logits, regression, targets = loss_case("cpu", 1, (3, 2))
    last = [
        [level.contiguous(memory_format=torch.channels_last) for level in levels] for levels in (logits, regression)
    ]
    expected = loss_of(1)(anchors, logits, regression, targets)
    torch.testing.assert_close(loss_of(1)(anchors, *last, targets), expected)
