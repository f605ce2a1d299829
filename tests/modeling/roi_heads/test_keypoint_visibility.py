"""Visibility of keypoints: what it learns, where it is written, and that nothing changes without it."""

from __future__ import annotations

import math

import pytest
import torch

from maskrcnn_benchmark.modeling.detector import AugmentedDetector
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.visibility import (
    KeypointVisibilityPredictor,
    VisibilityKind,
    visibility_loss,
)
from maskrcnn_benchmark.structures.fields import COARSE_KEYPOINTS, KEYPOINT_VISIBILITY, KEYPOINTS
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints, visibility_of
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from tests.devices import DEVICES
from tests.modeling.tiny import ALL_HEADS, tiny_batch, tiny_cfg, tiny_detector

ON = ("MODEL.ROI_KEYPOINT_HEAD.PREDICT_VISIBILITY", True)
PREFIX = "roi_heads.keypoint.own_predictors.keypoint_visibility.evidence."


def detector(*opts):
    torch.manual_seed(0)
    return tiny_detector(tiny_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.2, *ALL_HEADS, *opts))


def loss_reference(logits, keypoints, boxes):
    losses = []
    for row, points, (x1, y1, x2, y2) in zip(logits.tolist(), keypoints.tolist(), boxes.tolist(), strict=True):
        if not any(v > 0 for _, _, v in points):
            continue
        for logit, (x, y, v) in zip(row, points, strict=True):
            probability = 1 / (1 + math.exp(-logit))
            if v == 0:
                losses.append(-math.log(1 - probability))
            elif x1 <= x <= x2 and y1 <= y <= y2:
                losses.append(-math.log(probability))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("device", DEVICES)
def test_loss_is_the_cross_entropy_of_labelled_keypoints_in_the_box(device):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 10, 50, 60], [0, 0, 30, 30], [5, 5, 20, 20]])
    keypoints = 70 * torch.rand(3, 7, 3, generator=generator)
    keypoints[..., 2] = torch.randint(0, 3, (3, 7), generator=generator)
    keypoints[2, :, 2] = 0  # an instance without labels
    logits = torch.randn(3, 7, generator=generator)
    outside = keypoints[..., 0] > boxes[:, None, 2]
    assert (outside & (keypoints[..., 2] > 0)).any() and (keypoints[:2, :, 2] == 1).any()
    given = [value.to(device) for value in (logits, keypoints, boxes)]
    given[0].requires_grad_()
    loss = visibility_loss(*given)
    assert loss.item() == pytest.approx(loss_reference(logits, keypoints, boxes), rel=1e-5)
    loss.backward()
    counted = (given[0].grad != 0).cpu()
    assert not counted[2].any() and not counted[outside & (keypoints[..., 2] > 0)].any() and counted[:2].any()


def test_loss_of_nothing_is_a_zero_in_the_graph():
    for count in (0, 2):
        logits = torch.zeros(count, 5, requires_grad=True)
        loss = visibility_loss(logits, torch.zeros(count, 5, 3), torch.zeros(count, 4))
        loss.backward()
        assert loss == 0 and torch.equal(logits.grad, torch.zeros(count, 5))


def test_predictor_is_a_smooth_maximum_over_the_cells():
    predictor = KeypointVisibilityPredictor(3, num_keypoints=2)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    evidence = predictor.evidence(x)
    expected = evidence.exp().mean(dim=(2, 3)).log()
    torch.testing.assert_close(predictor(x), expected)
    with torch.no_grad():
        predictor.evidence.weight.mul_(1e4)  # one cell decides
    largest = predictor.evidence(x).amax(dim=(2, 3))
    torch.testing.assert_close(predictor(x), largest - math.log(25), rtol=1e-3, atol=0)
    assert predictor(x[:0]).shape == (0, 2)


def test_off_by_default_and_other_weights_are_the_same():
    plain, seeing = detector().state_dict(), detector(*ON).state_dict()
    assert set(seeing) - set(plain) == {PREFIX + "weight", PREFIX + "bias"}
    before_it = [name for name in plain if not name.startswith("roi_heads.refine")]
    assert all(torch.equal(plain[name], seeing[name]) for name in before_it)


def test_trains_and_gradients_reach_the_features():
    model = detector(*ON, "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT_VISIBILITY", 0.5).train()
    images, targets = tiny_batch()
    for target in targets:
        target.get_field(KEYPOINTS).keypoints[:, ::2] = 0
    losses = model(images, targets)
    assert 0.25 < losses["loss_kp_visibility"] < 0.45, "half of log 2"
    losses["loss_kp_visibility"].backward()
    names = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {PREFIX + "weight", PREFIX + "bias", "backbone.body.weight"} <= names


def test_learns_which_keypoints_are_labelled():
    torch.manual_seed(0)
    model = detector(*ON, "MODEL.REFINE_ON", False).train()
    images, targets = tiny_batch()
    for target in targets:
        target.get_field(KEYPOINTS).keypoints[:, ::2] = 0
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
    model.eval()
    boxes = [target.copy_with_fields(["labels"]) for target in targets]
    found = torch.cat([result.get_field(KEYPOINT_VISIBILITY) for result in model.predict_on_boxes(images, boxes)])
    assert found[:, ::2].max() < 0.3 < 0.7 < found[:, 1::2].min()


@pytest.mark.parametrize("refine", [True, False])
def test_is_the_third_number_of_coarse_and_refined_keypoints(refine):
    model, images = detector(*ON, "MODEL.REFINE_ON", refine).eval(), tiny_batch()[0]
    with torch.no_grad():
        found = model(images)
        plain = detector("MODEL.REFINE_ON", refine).eval()
        missing = plain.load_state_dict(model.state_dict(), strict=False)
        expected = plain(images)
    assert not missing.missing_keys
    for boxes, without in zip(found, expected, strict=True):
        visibility = boxes.get_field(KEYPOINT_VISIBILITY)
        assert visibility.shape == (len(boxes), 17) and ((visibility > 0) & (visibility < 1)).all() and len(boxes)
        for name in (KEYPOINTS, COARSE_KEYPOINTS) if refine else (KEYPOINTS,):
            points, other = boxes.get_field(name).keypoints, without.get_field(name).keypoints
            assert torch.equal(points[..., 2], visibility) and (other[..., 2] == 1).all()
            assert torch.equal(points[..., :2], other[..., :2])
        assert set(boxes.fields()) - set(without.fields()) == {KEYPOINT_VISIBILITY}


@pytest.mark.parametrize("flips", [(False,), (False, True)])
def test_flip_tests_and_views_average_it_and_swap_sides(flips):
    """The keypoints of left and right change places."""
    model, images = detector(*ON).eval(), tiny_batch()[0]
    with torch.no_grad():
        model.get_submodule(PREFIX[: -len(".evidence.")]).evidence.weight.normal_(std=1.0)
    views = ImageViews((to_image_list(images),), (flips,), ("FLIP_KEYPOINTS",))
    found = AugmentedDetector(model)(views, "cpu")
    boxes = [detections.copy_with_fields(["labels", "scores"]) for detections in found]
    mirrored_boxes = [detections.transpose(0) for detections in boxes]
    mirrored_images = [image.flip(-1) for image in images]
    straight, mirrored = model.predict_on_boxes(images, boxes), model.predict_on_boxes(mirrored_images, mirrored_boxes)
    order = list(PersonKeypoints.FLIP_INDS)
    for detections, one, other in zip(found, straight, mirrored, strict=True):
        logits, other_logits = (result.get_field(KEYPOINT_VISIBILITY).logit() for result in (one, other))
        expected = ((logits + other_logits[:, order]) / 2).sigmoid()
        torch.testing.assert_close(detections.get_field(KEYPOINTS).keypoints[..., 2], expected, rtol=1e-3, atol=1e-4)
        assert (logits - other_logits[:, order]).abs().max() > 0.05


def test_unknown_sides_cannot_be_mirrored():
    kind = VisibilityKind(KeypointKind(5, spec=KeypointSpec(("a", "b", "c", "d", "e"))))
    assert kind.mirror_problem is not None and kind.mirror_problem == kind.keypoints.mirror_problem
    with pytest.raises(ValueError, match="change places"):
        kind.mirror(torch.zeros(1, 5))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="LOSS_WEIGHT_VISIBILITY is -1"):
        detector(*ON, "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT_VISIBILITY", -1.0)


def test_nothing_found():
    model = detector(*ON, "MODEL.ROI_HEADS.SCORE_THRESH", 0.99).eval()
    with torch.no_grad():
        found = model(tiny_batch()[0])
    assert [boxes.get_field(KEYPOINT_VISIBILITY).shape for boxes in found] == [(0, 17)] * 2
    assert [boxes.get_field(KEYPOINTS).keypoints.shape for boxes in found] == [(0, 17, 3)] * 2


def test_probabilities_as_flags_of_pictures():
    given = torch.tensor([0.0, 0.1999, 0.2, 0.4999, 0.5, 1.0])
    assert visibility_of(given).tolist() == [0, 0, 1, 1, 2, 2] and visibility_of(given.double()).dtype == torch.float64
