"""Keypoints on some classes of many: which RoIs the head computes, what they learn, and what detections get."""

import pytest
import torch

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.structures.fields import (
    COARSE_KEYPOINTS,
    KEYPOINT_SCORES,
    KEYPOINT_VISIBILITY,
    KEYPOINTS,
    LABELS,
    LOGITS,
    SCORES,
)
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.modeling import tiny
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    make_samples,
    person_batch,
    small_cfg,
)
from tests.modeling.tiny import ALL_HEADS, tiny_batch, tiny_cfg

CLASSES = "MODEL.ROI_KEYPOINT_HEAD.CLASSES"


def heads(*opts):
    """The keypoint head of all classes, and that of `opts`, with the same weights."""
    built = []
    for extra in ((), opts):
        torch.manual_seed(0)
        built.append(KeypointHead.from_cfg(small_cfg(*extra), CHANNELS))
    return built


def test_rois_of_other_classes_are_not_computed_and_learn_nothing():
    every, some = heads(CLASSES, (1, 3))
    features, (targets, samples) = feature_pyramid(2, (96, 64)), person_batch()
    for target in targets:  # instances of class 2 have no keypoints
        target.get_field(KEYPOINTS).keypoints[target.get_field(LABELS) == 2] = 0
    counted = []
    some.predictor.register_forward_hook(lambda module, inputs, output: counted.append(len(output)))
    expected, found = every(features, samples, targets), some(features, samples, targets)
    others = samples.labels == 2
    assert counted == [3] and others.sum() == 2
    torch.testing.assert_close(found.losses["loss_kp"], expected.losses["loss_kp"])
    torch.testing.assert_close(found.logits[~others], expected.logits[~others])
    assert not found.logits[others].any() and not found.features[others].any()
    gradients = []
    for head, output in ((every, expected), (some, found)):
        output.losses["loss_kp"].backward()
        gradients.append([parameter.grad for parameter in head.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    "samples",
    [empty_samples([(96, 64)] * 2), make_samples([[18, 12, 72, 50]], [1], [0], [(96, 64)] * 2, labels=[2])],
)
def test_without_rois_of_the_classes_the_loss_is_zero_and_reaches_all_parameters(samples):
    head = heads(CLASSES, (1,))[1]
    targets, _ = person_batch()
    targets[1].get_field(KEYPOINTS).keypoints[:] = 0
    loss = head(feature_pyramid(2, (96, 64)), samples, targets).losses["loss_kp"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in head.parameters())


def test_only_detections_of_the_classes_carry_keypoints():
    rescore = ("MODEL.ROI_KEYPOINT_HEAD.RESCORE", True, "MODEL.ROI_KEYPOINT_HEAD.PREDICT_VISIBILITY", True)
    every, some = heads(*rescore)[1], heads(*rescore, CLASSES, (3,))[1]
    features, detections = feature_pyramid(2, (96, 64)), detection_batch()
    with torch.no_grad():
        expected = every.eval()(features, detections).detections
        found = some.eval()(features, detections).detections
    for theirs, ours in zip(expected, found, strict=True):
        has_keypoints = ours.get_field(LABELS) == 3
        for name in (KEYPOINTS, KEYPOINT_SCORES, KEYPOINT_VISIBILITY):
            ours_values, theirs_values = ours.get_field(name), theirs.get_field(name)
            if name == KEYPOINTS:
                assert not ours_values.get_field(LOGITS)[~has_keypoints].any()
                ours_values, theirs_values = ours_values.keypoints, theirs_values.keypoints
            torch.testing.assert_close(ours_values[has_keypoints], theirs_values[has_keypoints])
            assert not ours_values[~has_keypoints].any()
        assert torch.equal(ours.get_field(SCORES), theirs.get_field(SCORES))
    with torch.no_grad():
        nothing = some(features, [boxes[[]] for boxes in detections]).detections
    assert [len(boxes.get_field(KEYPOINTS)) for boxes in nothing] == [0, 0]


def test_all_heads_together_with_the_refine_head():
    torch.manual_seed(0)
    model = CombinedROIHeads.from_cfg(tiny_cfg(*ALL_HEADS, CLASSES, (1,)), tiny.CHANNELS)
    _, targets = tiny_batch()
    for target in targets:
        target.add_field(LABELS, torch.arange(len(target)) % 2 + 1)
        target.get_field(KEYPOINTS).keypoints[target.get_field(LABELS) != 1] = 0
    features = [torch.randn(2, tiny.CHANNELS, 80 // stride, 96 // stride) for stride in tiny.STRIDES]
    proposals = [target.copy_with_fields([]) for target in targets]
    losses = model(features, proposals, targets).losses
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values()) and losses["loss_refine_kp"] > 0
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    boxes = [target.copy_with_fields(LABELS) for target in targets]
    for boxes_per_image in boxes:
        boxes_per_image.add_field(SCORES, torch.ones(len(boxes_per_image)))
    with torch.no_grad():
        found = model.eval().predict_on_boxes(features, boxes)
    assert {label for boxes_per_image in found for label in boxes_per_image.get_field(LABELS).tolist()} == {1, 2}
    for boxes_per_image in found:
        others = boxes_per_image.get_field(LABELS) != 1
        for name in (KEYPOINTS, COARSE_KEYPOINTS):
            points = boxes_per_image.get_field(name).keypoints
            assert not points[others].any() and (points[~others][..., 2] == 1).all()


@pytest.mark.parametrize("classes", [(0,), (5,), (1, 1)])
def test_labels_that_do_not_exist_are_refused(classes):
    with pytest.raises(ConfigError, match=r"CLASSES is .*expected different labels from 1 to 4"):
        KeypointHead.from_cfg(small_cfg(CLASSES, classes), CHANNELS)
