"""Flip tests: masks and keypoints of the mirrored image averaged with the straight ones, in the same boxes."""

from __future__ import annotations

import pytest
import torch

from maskrcnn_benchmark.modeling.detector import AugmentedDetector, find_augmentation_problems
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, LOGITS, MASK, SCORES
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.image_views import FLIP_TESTS, ImageViews, ViewSize
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.devices import DEVICES
from tests.modeling.detector.test_augmented_detector import (
    BOTH,
    in_views,
    resized,
    symmetric_detector,
    symmetrize,
    with_head,
)
from tests.modeling.detector.test_predict_on_boxes import HEADS, Age, assert_same, detector
from tests.modeling.tiny import ALL_HEADS, RETINANET, tiny_batch, tiny_cfg, tiny_detector

KEYPOINTS_ONLY, MASKS_ONLY = FLIP_TESTS[:1], FLIP_TESTS[1:]


def flip_views(images, flip_tests=FLIP_TESTS, factors=(1.0,), flips=(False,), size_divisible=0):
    views = in_views(images, factors, flips, size_divisible)
    return ImageViews(views.images, views.flips, flip_tests)


def learned_refine_head(model):
    """Corrections that are not zero, which an untrained head has."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.roi_heads["refine"].named_parameters():
            if "predictor" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def keypoints_of(boxes):
    points = boxes.get_field(KEYPOINTS)
    return points.keypoints, points.get_field(LOGITS)


@pytest.mark.parametrize("flip_tests", [FLIP_TESTS, KEYPOINTS_ONLY, MASKS_ONLY])
def test_a_symmetric_network_gives_the_same_with_and_without(flip_tests):
    model = learned_refine_head(symmetric_detector())
    symmetrize(model)
    images = [tiny_batch()[0][0], torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        expected = model(images)
    found = AugmentedDetector(model)(flip_views(images, flip_tests), "cpu")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.fields() == theirs.fields() and len(ours) > 5
        assert torch.equal(ours.bbox, theirs.bbox) and torch.equal(ours.get_field(SCORES), theirs.get_field(SCORES))
        (points, logits), (other_points, other_logits) = map(keypoints_of, (ours, theirs))
        torch.testing.assert_close(ours.get_field(MASK), theirs.get_field(MASK), rtol=0, atol=1e-4)
        torch.testing.assert_close(logits, other_logits, rtol=0, atol=1e-3)
        assert ((points - other_points).abs().amax(-1) < 0.05).float().mean() > 0.98, "ties between two cells"
        assert ours.get_field(MASK).std() > 0.01


def mirrored_by_hand(images):
    pixels = torch.zeros_like(to_image_list(images).tensors)
    for index, image in enumerate(images):
        for column in range(image.shape[2]):
            pixels[index, :, : image.shape[1], column] = image[:, :, image.shape[2] - 1 - column]
    return pixels


def other_side(name):
    side, _, part = name.partition("_")
    return {"left": f"right_{part}", "right": f"left_{part}"}.get(side, name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("heads", ["coarse", "refined", "private", "coarse dropped"])
def test_equals_the_model_run_twice(heads, offset, device):
    """The slow way: images and boxes mirrored by hand, and the last outputs of both runs averaged."""
    model = detector(*HEADS[heads], "MODEL.BOX_OFFSET", offset).to(device)
    if heads != "coarse":
        learned_refine_head(model)
    images = [image.to(device) for image in tiny_batch()[0]]
    with torch.no_grad():
        boxes = [found.copy_with_fields([SCORES, LABELS]) for found in model(images)]
        mirrored_boxes = [found.transpose(FLIP_LEFT_RIGHT) for found in boxes]
        straight, mirrored = (
            model.roi_heads.predict_logits(model.backbone(pixels), places)
            for pixels, places in ((to_image_list(images).tensors, boxes), (mirrored_by_hand(images), mirrored_boxes))
        )
    found = AugmentedDetector(model)(flip_views(images), device)
    assert [boxes_per_image.bbox.tolist() for boxes_per_image in found] == [given.bbox.tolist() for given in boxes]
    partner = [PersonKeypoints.NAMES.index(other_side(name)) for name in PersonKeypoints.NAMES]
    last = {one.kind.name: (one, other) for one, other in zip(straight, mirrored, strict=True)}
    assert len(last) == 2 and all((one.frames is None) == (heads == "coarse") for one, _ in last.values())
    one, other = last["mask"]
    expected = (one.logits.sigmoid() + other.logits.sigmoid().flip(-1)) / 2
    got = torch.cat([boxes_per_image.get_field(MASK) for boxes_per_image in found])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (expected - one.logits.sigmoid()).abs().max() > 0.01, "the network is not symmetric"
    one, other = last["keypoint"]
    maps = (one.logits + torch.stack([other.logits[:, index].flip(-1) for index in partner], dim=1)) / 2
    for ours, theirs in zip(found, one.kind.attach(maps, boxes, one.frames), strict=True):
        torch.testing.assert_close(keypoints_of(ours), keypoints_of(theirs), rtol=0, atol=1e-3)


def test_only_the_named_outputs_change():
    model, images = learned_refine_head(detector(*ALL_HEADS)), tiny_batch()[0]
    with torch.no_grad():
        plain = model(images)
    for flip_tests, kept in ((KEYPOINTS_ONLY, MASK), (MASKS_ONLY, KEYPOINTS)):
        found = AugmentedDetector(model)(flip_views(images, flip_tests), "cpu")
        assert found[0].fields() == plain[0].fields()
        same = {name: equal(found[0].get_field(name), plain[0].get_field(name)) for name in (MASK, KEYPOINTS)}
        assert same == {name: name == kept for name in same}


def equal(ours, theirs):
    return torch.equal(getattr(ours, "keypoints", ours), getattr(theirs, "keypoints", theirs))


@pytest.mark.parametrize("heads", HEADS)
def test_nothing_found(heads):
    model = detector(*HEADS[heads], "MODEL.ROI_HEADS.SCORE_THRESH", 0.99)
    images = tiny_batch()[0]
    with torch.no_grad():
        expected = model(images)
    assert_same(AugmentedDetector(model)(flip_views(images), "cpu"), expected)


def test_padding_of_the_batch_stays_at_the_right():
    """A narrow image in a wide batch: its mirrored half does not come from the padding."""
    model = learned_refine_head(detector(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.3))
    images = [torch.randn(3, 64, 96), torch.randn(3, 64, 80)]
    batch = AugmentedDetector(model)(flip_views(images), "cpu")[1]
    blank = torch.zeros(3, 64, 96)  # the same padding
    alone = AugmentedDetector(model)(flip_views([images[1], blank]), "cpu")[0]
    assert len(batch) == len(alone) > 0
    torch.testing.assert_close(alone.get_field(MASK), batch.get_field(MASK), rtol=1e-3, atol=1e-4)


def count_backbone_passes(model, views):
    passes, original = [], model.backbone.forward
    model.backbone.forward = lambda images: (passes.append(tuple(images.shape)), original(images))[1]
    AugmentedDetector(model)(views, "cpu")
    return passes


def test_one_more_pass_of_the_backbone():
    images = tiny_batch()[0]
    assert len(count_backbone_passes(detector(*ALL_HEADS), flip_views(images))) == 2
    assert len(count_backbone_passes(detector(), flip_views(images))) == 1, "no output to average"
    two_sizes = flip_views(images, factors=(1.0, 0.5))
    assert len(count_backbone_passes(detector(*ALL_HEADS), two_sizes)) == 3 + 2
    nothing = detector(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.99)
    assert len(count_backbone_passes(nothing, flip_views(images))) == 1


def test_heads_of_other_outputs_do_not_run_in_the_mirrored_image():
    model, calls = detector(*ALL_HEADS[:4]), []
    predict = model.roi_heads["mask"].predict
    model.roi_heads["mask"].predict = lambda *args: (calls.append("mask"), predict(*args))[1]
    AugmentedDetector(model)(flip_views(tiny_batch()[0], KEYPOINTS_ONLY), "cpu")
    assert calls == ["mask"]


def test_views_that_are_mirrored_already_are_not_mirrored_again():
    model, images = detector(*ALL_HEADS), tiny_batch()[0]
    with_flip_tests = AugmentedDetector(model)(flip_views(images, flips=BOTH), "cpu")
    assert_same(with_flip_tests, AugmentedDetector(model)(in_views(images, flips=BOTH), "cpu"))


def test_several_sizes_average_all_views_in_place():
    """With a size that is no multiple of the strides; frames are those of the first size."""
    model, images = learned_refine_head(symmetric_detector()), tiny_batch()[0]
    symmetrize(model)
    factors = (1.0, 1.5)
    plain = AugmentedDetector(model)(in_views([images[0]], factors), "cpu")
    found = AugmentedDetector(model)(flip_views([images[0]], factors=factors), "cpu")
    assert resized(images[:1], 1.5)[0].shape == (3, 96, 144)
    torch.testing.assert_close(found[0].get_field(MASK), plain[0].get_field(MASK), rtol=0, atol=1e-3)
    assert torch.equal(found[0].get_field("mask_boxes").bbox, plain[0].get_field("mask_boxes").bbox)


# Config


def test_keys_to_views():
    assert ViewSize.from_cfg(tiny_cfg()) == ()
    (size,) = ViewSize.from_cfg(tiny_cfg("TEST.FLIP_MASKS", True))
    assert size.flips == (False,) and size.flip_tests == MASKS_ONLY
    cfg = tiny_cfg("TEST.FLIP_MASKS", True, "TEST.FLIP_KEYPOINTS", True, "TEST.BBOX_AUG.ENABLED", True)
    assert [size.flip_tests for size in ViewSize.from_cfg(cfg)] == [FLIP_TESTS]
    assert ViewSize.from_cfg(size.applied_to(cfg)) == ()


@pytest.mark.parametrize(
    ("opts", "flip_test", "message"),
    [
        ((), "FLIP_KEYPOINTS", "TEST.FLIP_KEYPOINTS is True, but the model has no such output, it predicts boxes only"),
        (("MODEL.MASK_ON", True), "FLIP_KEYPOINTS", "it predicts 'mask'"),
        (RETINANET, "FLIP_MASKS", "it predicts boxes only"),
        (("MODEL.MASK_ON", True), "FLIP_MASKS", None),
    ],
)
def test_models_without_such_outputs_are_refused(opts, flip_test, message):
    model = tiny_detector(tiny_cfg(*opts))
    problems = find_augmentation_problems(model, ViewSize.from_cfg(tiny_cfg(f"TEST.{flip_test}", True)))
    assert problems == [] if message is None else message in "\n".join(problems)


def test_an_output_without_sides_is_refused_only_in_its_own_test():
    class Sided(Age):
        flip_test = "FLIP_MASKS"

    sizes = [ViewSize(800, 1333, (False,), MASKS_ONLY)]
    model = with_head(type("Head", (ROIHead,), {"NAME": "own"}), Sided())
    (problem,) = find_augmentation_problems(model, sizes)
    assert "TEST.FLIP_MASKS is True, but the output 'age' does not say" in problem
