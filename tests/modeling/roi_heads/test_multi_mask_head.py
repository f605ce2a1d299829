"""Several named masks per instance: against single mask heads, presence, the inside loss, names, the refine head."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import mask_loss, matched_mask_targets
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.loss import inside_loss, select_masks
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.multi_mask_head import MultiMaskHead
from maskrcnn_benchmark.modeling.roi_heads.roi_head import tasks_of
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.fields import MASK, MASK_SCORES, mask_fields
from maskrcnn_benchmark.utils.problems import ConfigError, collect_config_problems
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    MULTI_MASK,
    detection_batch,
    empty_samples,
    feature_pyramid,
    multi_mask_cfg,
    small_cfg,
    two_mask_batch,
)
from tests.modeling.roi_heads.test_mask_head import on_device
from tests.modeling.roi_heads.test_refine_head import REFINE, wake

PYRAMID_SIZE = (96, 64)
NAMES = ("visible", "amodal")


def multi_mask_head(*opts):
    torch.manual_seed(0)
    return MultiMaskHead.from_cfg(multi_mask_cfg(*opts), CHANNELS)


def single_heads(head):
    """A mask head for each mask, with the same weights."""
    heads = {}
    for kind in head.kinds:
        heads[kind.name] = single = MaskHead.from_cfg(small_cfg(), CHANNELS)
        state = dict(head.state_dict())
        for layer in ("weight", "bias"):
            key = f"predictor.mask_fcn_logits.{layer}"
            state[key] = state[key][kind.first_map : kind.first_map + kind.num_maps]
        single.load_state_dict(state)
    return heads


# ---- against single mask heads ----


@pytest.mark.parametrize("device", DEVICES)
def test_it_equals_a_mask_head_for_each_name(device):
    head = multi_mask_head()
    singles = {name: single.to(device) for name, single in single_heads(head).items()}
    head = head.to(device)
    targets, samples = two_mask_batch()
    targets, samples = [target.to(device) for target in targets], on_device(samples, device)
    features = [level.to(device) for level in feature_pyramid(2, PYRAMID_SIZE)]
    output = head(features, samples, targets)
    assert output.logits.shape == (5, 2 * 5, 14, 14)
    assert set(output.losses) == {"loss_mask_visible", "loss_mask_amodal"}
    for name, single in singles.items():
        for target in targets:
            target.add_field(fields.MASKS, target.get_field(mask_fields(name).truth))
        expected = single(features, samples, targets)
        first = head.outputs[name].first_map
        torch.testing.assert_close(output.logits[:, first : first + 5], expected.logits)
        torch.testing.assert_close(output.losses[f"loss_mask_{name}"], expected.losses["loss_mask"])

    detections = [boxes.to(device) for boxes in detection_batch()]
    found = head.eval()(features, detections).detections
    for name, single in singles.items():
        for result, alone in zip(found, single.eval()(features, detections).detections, strict=True):
            torch.testing.assert_close(result.get_field(mask_fields(name).mask), alone.get_field(MASK))


def test_a_single_name_is_a_mask_head():
    head = multi_mask_head(MULTI_MASK + "MASKS", ("only",))
    plain = MaskHead.from_cfg(small_cfg(), CHANNELS)
    assert {key: value.shape for key, value in head.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }


def test_the_maps_of_the_labelled_classes_are_selected():
    head = multi_mask_head()
    logits, labels = torch.randn(4, 10, 3, 3), torch.tensor([1, 4, 2, 1])
    own = select_masks(logits, labels, head.kinds)
    for roi, label in enumerate(labels.tolist()):
        assert torch.equal(own[roi, 0], logits[roi, label]) and torch.equal(own[roi, 1], logits[roi, 5 + label])
    for position, kind in enumerate(head.kinds):
        assert torch.equal(kind.select_own(logits, labels), own[:, position : position + 1])


def test_maps_that_do_not_depend_on_the_class():
    head = multi_mask_head(MULTI_MASK + "CLS_AGNOSTIC_MASK", True)
    targets, samples = two_mask_batch()
    features = feature_pyramid(2, PYRAMID_SIZE)
    output = head(features, samples, targets)
    assert output.logits.shape == (5, 2, 14, 14)
    for position, name in enumerate(NAMES):
        drawn = matched_mask_targets(samples, targets, samples.boxes, 14, truth=mask_fields(name).truth)
        expected = mask_loss(output.logits[:, position : position + 1], drawn)
        torch.testing.assert_close(output.losses[f"loss_mask_{name}"], expected)
    detected = head.eval()(features, detection_batch())
    masks = torch.cat([found.get_field("mask_amodal") for found in detected.detections])
    torch.testing.assert_close(masks, detected.logits[:, 1:].sigmoid())


@pytest.mark.parametrize("agnostic", [False, True])
def test_every_weight_learns_from_each_loss(agnostic):
    for loss in ("loss_mask_visible", "loss_mask_amodal"):
        head = multi_mask_head(MULTI_MASK + "CLS_AGNOSTIC_MASK", agnostic)
        targets, samples = two_mask_batch()
        head(feature_pyramid(2, PYRAMID_SIZE), samples, targets).losses[loss].backward()
        assert all(p.grad is not None and p.grad.any() for p in head.parameters())
        rows = head.predictor.mask_fcn_logits.bias.grad.view(2, -1).any(dim=1).tolist()
        assert rows == [loss.endswith("visible"), loss.endswith("amodal")]


def test_the_last_stage_of_a_c4_body_pools_with_the_keys_of_this_head():
    cfg = multi_mask_cfg(MULTI_MASK + "FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor")
    cfg.merge_from_list([MULTI_MASK + "POOLER_SCALES", (0.0625,), "MODEL.RESNETS.RES2_OUT_CHANNELS", 16])
    cfg.merge_from_list([MULTI_MASK + "POOLER_RESOLUTION", 10, MULTI_MASK + "RESOLUTION", 10])
    assert MultiMaskHead.from_cfg(cfg, 64).feature_extractor.pooler.output_size == (10, 10)


def test_an_extractor_that_reads_another_section_is_refused(monkeypatch):
    monkeypatch.setitem(registry.ROI_MASK_FEATURE_EXTRACTORS, "mine", lambda cfg, in_channels: nn.Identity())
    with pytest.raises(ConfigError, match="'mine', which reads MODEL.ROI_MASK_HEAD; give its entry"):
        multi_mask_head(MULTI_MASK + "FEATURE_EXTRACTOR", "mine")


# ---- presence and weights ----


def test_absent_masks_weigh_nothing():
    head = multi_mask_head(MULTI_MASK + "LOSS_WEIGHTS", (0.5, 3.0))
    targets, samples = two_mask_batch([[(True, False), (False, True)], [(True, True)]])
    output = head(feature_pyramid(2, PYRAMID_SIZE), samples, targets)
    own = select_masks(output.logits, samples.labels, head.kinds)
    instance = 2 * samples.image_ids + samples.matched_idxs
    for position, (name, weight, has_mask) in enumerate(
        [("visible", 0.5, [True, False, True]), ("amodal", 3.0, [False, True, True])]
    ):
        rows = torch.tensor(has_mask)[instance]
        assert 0 < rows.sum() < len(rows)
        drawn = matched_mask_targets(samples, targets, samples.boxes, 14, truth=mask_fields(name).truth)
        expected = weight * mask_loss(own[rows, position : position + 1], drawn[rows])
        torch.testing.assert_close(output.losses[f"loss_mask_{name}"], expected)
        (gradient,) = torch.autograd.grad(output.losses[f"loss_mask_{name}"], output.logits, retain_graph=True)
        assert gradient.flatten(1).any(dim=1).tolist() == rows.tolist()


@pytest.mark.parametrize("target", ["binary", "soft"])
def test_a_mask_that_no_instance_has_is_a_zero_on_the_graph(target):
    head = multi_mask_head(MULTI_MASK + "TARGET", target)
    targets, samples = two_mask_batch([[(True, False)] * 2, [(True, False)]])
    loss = head(feature_pyramid(2, PYRAMID_SIZE), samples, targets).losses["loss_mask_amodal"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_masks_that_are_all_present_change_nothing():
    head = multi_mask_head()
    features = feature_pyramid(2, PYRAMID_SIZE)
    targets, samples = two_mask_batch()
    expected = head(features, samples, targets).losses
    targets, samples = two_mask_batch([[(True, True)] * 2, [(True, True)]])
    assert head(features, samples, targets).losses == expected


def test_presence_of_the_plain_mask():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS)
    targets, samples = two_mask_batch()
    targets[0].add_field(fields.MASKS_PRESENT, torch.tensor([True, False]))
    targets[1].add_field(fields.MASKS_PRESENT, torch.tensor([False]))
    output = head(feature_pyramid(2, PYRAMID_SIZE), samples, targets)
    rows = torch.tensor([True, False, False, True, False])
    drawn = matched_mask_targets(samples, targets, samples.boxes, 14)
    own = head.outputs["mask"].select_own(output.logits, samples.labels)
    torch.testing.assert_close(output.losses["loss_mask"], mask_loss(own[rows], drawn[rows]))


def test_nothing_positive_is_a_zero_on_the_graph():
    inside = (MULTI_MASK + "INSIDE", (("visible", "amodal"),), MULTI_MASK + "LOSS_WEIGHT_INSIDE", 1.0)
    head = multi_mask_head(*inside)
    targets, _ = two_mask_batch()
    losses = head(feature_pyramid(2, PYRAMID_SIZE), empty_samples([PYRAMID_SIZE] * 2), targets).losses
    assert set(losses) == {"loss_mask_visible", "loss_mask_amodal", "loss_mask_inside"}
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_a_target_without_a_mask_of_a_name_is_explained():
    head = multi_mask_head()
    targets, samples = two_mask_batch()
    targets = [target.copy_with_fields([fields.LABELS, "masks_visible"]) for target in targets]
    with pytest.raises(KeyError, match="no field 'masks_amodal'"):
        head(feature_pyramid(2, PYRAMID_SIZE), samples, targets)


# ---- one mask inside another ----


def test_inside_loss_by_hand():
    probabilities = torch.tensor([[[0.9, 0.2]], [[0.5, 0.6]], [[0.1, 0.1]]])[None]  # masks a, b, c of one RoI, 1 x 2
    own = probabilities.logit().requires_grad_()
    loss = inside_loss(own, [(0, 1)])
    assert loss.item() == pytest.approx((0.9 - 0.5) / 2)
    loss.backward()
    slopes = probabilities * (1 - probabilities) / 2
    expected = torch.zeros_like(slopes)
    expected[0, 0, 0, 0], expected[0, 1, 0, 0] = slopes[0, 0, 0, 0], -slopes[0, 1, 0, 0]
    torch.testing.assert_close(own.grad, expected)
    two = inside_loss(own, [(0, 1), (1, 2)])
    assert two.item() == pytest.approx((0.4 / 2 + (0.4 + 0.5) / 2) / 2)


def test_inside_loss_has_its_weight_and_needs_no_target():
    pairs = (MULTI_MASK + "INSIDE", (("visible", "amodal"),))
    head = multi_mask_head(*pairs, MULTI_MASK + "LOSS_WEIGHT_INSIDE", 2.0)
    features = feature_pyramid(2, PYRAMID_SIZE)
    targets, samples = two_mask_batch([[(False, False)] * 2, [(False, False)]])
    output = head(features, samples, targets)
    own = select_masks(output.logits, samples.labels, head.kinds)
    assert output.losses["loss_mask_inside"].item() == pytest.approx(2 * inside_loss(own, [(0, 1)]).item())
    assert output.losses["loss_mask_inside"].item() > 0
    assert set(multi_mask_head(*pairs)(features, samples, targets).losses) == {"loss_mask_visible", "loss_mask_amodal"}


# ---- the config ----


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ((MULTI_MASK + "MASKS", ()), "MASKS is (); expected one or more names"),
        ((MULTI_MASK + "MASKS", ("a", "a")), "MASKS has 'a': it is there twice"),
        ((MULTI_MASK + "MASKS", ("a", "b c")), "MASKS has 'b c': The name of a mask is 'b c'; names have letters"),
        ((MULTI_MASK + "MASKS", ("mask",)), "MASKS has 'mask': that is the name of the mask head's only mask"),
        ((MULTI_MASK + "MASKS", ("a", "")), "MASKS has '': a name is a text that is not empty"),
        ((MULTI_MASK + "MASKS", ("a", "keypoint")), "both have an output called 'keypoint'"),
        ((MULTI_MASK + "LOSS_WEIGHTS", (1.0,)), "LOSS_WEIGHTS has 1 numbers, MASKS 2 names"),
        ((MULTI_MASK + "LOSS_WEIGHTS", (1.0, -1.0)), "LOSS_WEIGHTS is -1.0; expected at least 0"),
        ((MULTI_MASK + "LOSS_WEIGHT_INSIDE", 1.0), "LOSS_WEIGHT_INSIDE is 1.0, but INSIDE is empty"),
        (
            (MULTI_MASK + "INSIDE", (("visible", "amodul"),)),
            "'amodul', which is not in MASKS; expected two of 'visible'",
        ),
        ((MULTI_MASK + "INSIDE", (("visible", "visible"),)), "with 'visible' twice"),
        ((MULTI_MASK + "INSIDE", ("visible", "amodal")), "an entry of MODEL.ROI_MULTI_MASK_HEAD.INSIDE is 'visible'"),
        ((MULTI_MASK + "PREDICTOR", "MaskRCNNC4Predictor"), "expected one of 'MultiMaskRCNNPredictor'"),
        ((MULTI_MASK + "RESOLUTION", 28), "ROI_MULTI_MASK_HEAD.RESOLUTION is 28, but MultiMaskRCNNPredictor turns 7"),
        ((MULTI_MASK + "PASTE", "round"), "MODEL.ROI_MULTI_MASK_HEAD.PASTE is 'round'"),
        (
            (REFINE + "OUTPUTS", ("hidden",)),
            "OUTPUTS has 'hidden'; expected one or more of 'visible', 'amodal', 'keypoint'",
        ),
        ((REFINE + "OUTPUTS", ("mask", "visible")), "names an output twice"),
        (
            (MULTI_MASK + "FIRST_IS_MASK", False, REFINE + "OUTPUTS", ("mask",)),
            "OUTPUTS has 'mask', but MODEL.MASK_ON is False",
        ),
        (
            ("MODEL.MULTI_MASK_ON", False, "MODEL.MASK_ON", True, REFINE + "OUTPUTS", ("visible", "mask")),
            "OUTPUTS has 'visible', but MODEL.MULTI_MASK_ON is False",
        ),
    ],
)
def test_problems_of_the_config_are_named(opts, expected):
    with collect_config_problems() as problems:
        CombinedROIHeads.from_cfg(multi_mask_cfg(*opts), CHANNELS)
    assert any(expected in problem for problem in problems), problems


def test_tasks():
    assert tasks_of(multi_mask_cfg()) == ("bbox", "segm_visible", "segm", "segm_amodal", "keypoints")
    alone = multi_mask_cfg(MULTI_MASK + "FIRST_IS_MASK", False)
    assert tasks_of(alone) == ("bbox", "segm_visible", "segm_amodal", "keypoints")
    beside = multi_mask_cfg("MODEL.MASK_ON", True)
    assert tasks_of(beside) == ("bbox", "segm", "segm_visible", "segm_amodal", "keypoints")


@pytest.mark.parametrize("first_is_mask", [True, False])
def test_the_first_mask_is_the_mask_if_asked(first_is_mask):
    opts = (MULTI_MASK + "FIRST_IS_MASK", first_is_mask, MULTI_MASK + "RESCORE", True, MULTI_MASK + "PASTE", "pixels")
    head = multi_mask_head(*opts).eval()
    for found in head(feature_pyramid(2, PYRAMID_SIZE), detection_batch()).detections:
        for name in NAMES:
            names = mask_fields(name)
            assert all(found.has_field(field) for field in (names.mask, names.scores, names.in_pixels))
        plain = (MASK, MASK_SCORES, fields.MASK_IN_PIXELS)
        assert [found.has_field(field) for field in plain] == [first_is_mask] * 3
        if first_is_mask:
            assert found.get_field(MASK) is found.get_field("mask_visible")
            assert found.get_field(MASK_SCORES) is found.get_field("mask_visible_scores")


def test_masks_can_be_pasted_inside_the_model():
    head = multi_mask_head(MULTI_MASK + "POSTPROCESS_MASKS", True).eval()
    for found in head(feature_pyramid(2, PYRAMID_SIZE), detection_batch()).detections:
        for name in NAMES:
            pasted = found.get_field(mask_fields(name).mask)
            assert pasted.dtype == torch.bool and pasted.shape == (len(found), 1, 64, 96)
        assert not found.has_field(fields.MASK_BOXES)


def test_state_dict_keys():
    heads = CombinedROIHeads.from_cfg(multi_mask_cfg(), CHANNELS)
    keys = {key for key in heads.state_dict() if key.startswith("multi_mask.")}
    assert keys == {
        f"multi_mask.{layer}.{kind}"
        for layer in (
            *("feature_extractor.mask_fcn1", "feature_extractor.mask_fcn2"),
            *("predictor.conv5_mask", "predictor.mask_fcn_logits"),
        )
        for kind in ("weight", "bias")
    }


# ---- the refine head ----


class RefinedHeads:
    """A multi-mask head and the refine head after it."""

    def __init__(self, *opts):
        torch.manual_seed(0)
        options = (REFINE + "OUTPUTS", NAMES, REFINE + "INDICATORS", NAMES)
        self.heads = CombinedROIHeads.from_cfg(multi_mask_cfg("MODEL.KEYPOINT_ON", False, *options, *opts), CHANNELS)
        self.masks, self.refine = self.heads["multi_mask"], self.heads["refine"]
        wake(self.refine)

    def train(self, targets, samples):
        features = feature_pyramid(2, PYRAMID_SIZE)
        result = self.masks(features, samples, targets)
        branches = dict.fromkeys(self.masks.outputs, result)
        return self.refine(features, samples, targets, branches=branches)

    def detect(self):
        features = feature_pyramid(2, PYRAMID_SIZE)
        self.heads.eval()
        with torch.no_grad():
            return self.heads.predict_on_boxes(features, detection_batch())


@pytest.mark.parametrize("form", ["probability", "logit", "features"])
@pytest.mark.parametrize("shared", [True, False])
def test_named_masks_are_refined(form, shared):
    heads = RefinedHeads(REFINE + "INDICATOR_FORM", form, REFINE + "SHARED", shared)
    targets, samples = two_mask_batch()
    output = heads.train(targets, samples)
    assert set(output.losses) == {"loss_refine_mask_visible", "loss_refine_mask_amodal"}
    sum(output.losses.values()).backward()
    for name, parameter in heads.refine.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    for found in heads.detect():
        for name in NAMES:
            names = mask_fields(name)
            assert found.get_field(names.mask).shape[-1] == 16 and found.get_field(names.coarse).shape[-1] == 14
            assert found.has_field(names.boxes) and found.has_field(names.scores)
        assert found.get_field(MASK) is found.get_field("mask_visible")
        assert found.get_field(fields.COARSE_MASK) is found.get_field("coarse_mask_visible")
        assert found.get_field(fields.MASK_BOXES) is found.get_field("mask_visible_boxes")


def test_features_of_a_head_are_drawn_once():
    both = RefinedHeads(REFINE + "INDICATOR_FORM", "features").refine
    one = RefinedHeads(REFINE + "INDICATOR_FORM", "features", REFINE + "INDICATORS", ("amodal",)).refine
    assert list(both.projections) == ["visible"] and list(one.projections) == ["amodal"]
    assert both.feature_extractor.stem.conv.in_channels == one.feature_extractor.stem.conv.in_channels
    assert set(both.indicators) == set(NAMES)  # both outputs start from the coarse logits


def test_mask_means_the_first_of_the_masks():
    by_alias = RefinedHeads(REFINE + "OUTPUTS", ("mask",), REFINE + "INDICATORS", ("mask",)).refine
    by_name = RefinedHeads(REFINE + "OUTPUTS", ("visible",), REFINE + "INDICATORS", ("visible",)).refine
    assert list(by_alias.outputs) == list(by_name.outputs) == ["visible"]
    assert by_alias.state_dict().keys() == by_name.state_dict().keys()
    assert "predictor.outputs.visible.logits.weight" in by_alias.state_dict()


def test_only_the_refined_mask_is_replaced():
    heads = RefinedHeads(REFINE + "OUTPUTS", ("amodal",), REFINE + "KEEP_COARSE", False)
    for found in heads.detect():
        assert found.get_field("mask_amodal").shape[-1] == 16 and not found.has_field("coarse_mask_amodal")
        assert found.get_field("mask_visible").shape[-1] == 14 and found.get_field(MASK).shape[-1] == 14


def test_refined_losses_leave_out_absent_masks():
    heads = RefinedHeads()
    targets, samples = two_mask_batch([[(True, False)] * 2, [(True, False)]])
    losses = heads.train(targets, samples).losses
    assert losses["loss_refine_mask_amodal"].item() == 0 < losses["loss_refine_mask_visible"].item()


def test_the_mask_head_may_stand_beside():
    cfg = multi_mask_cfg("MODEL.MASK_ON", True, REFINE + "OUTPUTS", ("mask", "amodal", "keypoint"))
    heads = CombinedROIHeads.from_cfg(cfg, CHANNELS)
    assert list(heads) == ["box", "mask", "multi_mask", "keypoint", "refine"]
    assert list(heads["refine"].outputs) == ["mask", "amodal", "keypoint"]
    heads.eval()
    with torch.no_grad():
        detections = heads.predict_on_boxes(feature_pyramid(2, PYRAMID_SIZE), detection_batch())
    for found in detections:
        assert found.get_field(MASK) is not found.get_field("mask_visible")
        assert found.has_field(fields.COARSE_MASK) and found.has_field("coarse_mask_amodal")
        assert not found.has_field("coarse_mask_visible")


def test_kinds_of_named_masks():
    kind = MaskKind(3, offset=1, fields=mask_fields("crown"))
    assert (kind.name, kind.task, kind.loss_name) == ("crown", "segm_crown", "loss_mask_crown")
    assert not kind.aliases and not kind.more_tasks and kind.target_field == "masks_crown"
    plain = MaskKind(3, offset=1)
    assert (plain.name, plain.task, plain.loss_name) == ("mask", "segm", "loss_mask")
    assert dict(plain.refined_fields) == {"mask": "coarse_mask", "mask_scores": "coarse_mask_scores"}


def test_it_fits_two_masks_of_each_instance():
    head = multi_mask_head(MULTI_MASK + "INSIDE", (NAMES,), MULTI_MASK + "LOSS_WEIGHT_INSIDE", 1.0)
    targets, samples = two_mask_batch()
    features = feature_pyramid(2, PYRAMID_SIZE)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(60):
        output = head(features, samples, targets)
        optimizer.zero_grad()
        sum(output.losses.values()).backward()
        optimizer.step()
    masks = select_masks(head(features, samples, targets).logits, samples.labels, head.kinds) > 0
    for position, name in enumerate(NAMES):
        drawn = matched_mask_targets(samples, targets, samples.boxes, 14, truth=mask_fields(name).truth).bool()
        found = masks[:, position]
        overlaps = (found & drawn).flatten(1).sum(1) / (found | drawn).flatten(1).sum(1)
        assert (overlaps > 0.85).all(), (name, overlaps)
