"""Refine head: every combination trains, gradients stop at the coarse heads, an untrained head changes nothing."""

import itertools

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.layers.boxes import box_extents
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import keypoint_loss, matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import (
    mask_loss,
    matched_mask_targets,
    matched_presence,
    outline_weights,
)
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.refine_head.freeze import freeze_detector, hold_frozen_norms
from maskrcnn_benchmark.modeling.roi_heads.refine_head.indicators import enlarge_extents
from maskrcnn_benchmark.modeling.roi_heads.refine_head.loss import refine_losses
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import build_roi_refine_head
from maskrcnn_benchmark.modeling.roi_heads.refine_head.roi_refine_feature_extractors import (
    ConvRefineFeatureExtractor,
    HourglassRefineFeatureExtractor,
    UNetRefineFeatureExtractor,
)
from maskrcnn_benchmark.structures.fields import (
    COARSE_KEYPOINTS,
    COARSE_MASK,
    KEYPOINTS,
    MASK,
    MASK_BOXES,
    MASKS_PRESENT,
    SCORES,
)
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    make_samples,
    make_target,
    person_batch,
    small_cfg,
)

SUBSETS = [(), ("mask",), ("keypoint",), ("mask", "keypoint")]
COMBINATIONS = list(itertools.product(SUBSETS, SUBSETS[1:]))
REFINE = "MODEL.ROI_REFINE_HEAD."


class Heads(nn.Module):
    """Mask, keypoint and refine heads in a row, as in the detector, for given RoIs."""

    def __init__(self, *opts: object) -> None:
        super().__init__()
        cfg = small_cfg(*opts)
        self.mask = MaskHead.from_cfg(cfg, CHANNELS)
        self.keypoint = KeypointHead.from_cfg(cfg, CHANNELS)
        channels = {"mask": self.mask.feature_channels, "keypoint": self.keypoint.feature_channels}
        self.refine = build_roi_refine_head(cfg, CHANNELS, channels)

    def forward(self, features, rois, targets=None):
        mask = self.mask(features, rois, targets)
        keypoint = self.keypoint(features, rois if self.training else mask.detections, targets)
        rois = rois if self.training else keypoint.detections
        return mask, keypoint, self.refine(features, rois, targets, branches={"mask": mask, "keypoint": keypoint})


def wake(head: nn.Module) -> None:
    """Give the corrections' last layers weights other than zero."""
    generator = torch.Generator().manual_seed(9)
    for name, parameter in head.named_parameters():
        if ".logits." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("indicators", "outputs"), COMBINATIONS)
def test_every_combination_trains(indicators, outputs, device):
    heads = Heads(REFINE + "INDICATORS", indicators, REFINE + "OUTPUTS", outputs).to(device)
    targets, samples = person_batch()
    samples = type(samples)(**{k: v.to(device) if torch.is_tensor(v) else v for k, v in vars(samples).items()})
    targets = [target.to(device) for target in targets]
    features = [level.to(device) for level in feature_pyramid(2, (96, 64))]
    optimizer = torch.optim.SGD(heads.refine.parameters(), lr=0.01)
    totals = []
    for _ in range(4):
        _, _, output = heads(features, samples, targets)
        names = {"mask": "loss_refine_mask", "keypoint": "loss_refine_kp"}
        assert set(output.losses) == {names[name] for name in outputs}
        assert {name: tuple(value.shape) for name, value in output.logits.items()} == {
            name: {"mask": (5, 1, 16, 16), "keypoint": (5, 17, 16, 16)}[name] for name in outputs
        }
        total = sum(output.losses.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < totals[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads.refine.parameters())

    detections = [boxes.to(device) for boxes in detection_batch()]
    for result, given in zip(heads.eval()(features, detections)[2].detections, detections, strict=True):
        assert torch.equal(result.bbox, given.bbox) and result.has_field(SCORES)
        assert result.get_field(MASK).shape[-1] == (16 if "mask" in outputs else 14)
        assert result.has_field(MASK_BOXES) == result.has_field(COARSE_MASK) == ("mask" in outputs)
        assert result.has_field(COARSE_KEYPOINTS) == ("keypoint" in outputs)
        assert result.get_field(KEYPOINTS).keypoints.shape == (len(given), 17, 3)


@pytest.mark.parametrize("form", ["probability", "logit", "features"])
@pytest.mark.parametrize("extractor", ["Hourglass", "Conv", "UNet"])
@pytest.mark.parametrize("norm", ["GN", "BN", ""])
def test_forms_extractors_and_norms_train(form, extractor, norm):
    opts = (REFINE + "INDICATOR_FORM", form, REFINE + "FEATURE_EXTRACTOR", f"{extractor}RefineFeatureExtractor")
    heads = Heads(*opts, REFINE + "NORM", norm)
    wake(heads.refine)
    targets, samples = person_batch()
    sum(heads(feature_pyramid(2, (96, 64)), samples, targets)[2].losses.values()).backward()
    for name, parameter in heads.refine.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_losses_are_those_of_the_enlarged_regions():
    heads = Heads(REFINE + "LOSS_WEIGHT_MASK", 2.0, REFINE + "LOSS_WEIGHT_KEYPOINT", 0.25)
    wake(heads.refine)
    targets, samples = person_batch()
    _, _, output = heads(feature_pyramid(2, (96, 64)), samples, targets)
    extents = enlarge_extents(box_extents(samples.boxes, 1), 1.3, torch.tensor([[96.0, 64.0]]).expand(5, 2))
    torch.testing.assert_close(output.extents, extents)
    drawn = matched_mask_targets(samples, targets, extents, 16)
    weights = outline_weights(drawn, 3.0)
    torch.testing.assert_close(
        output.losses["loss_refine_mask"], 2.0 * mask_loss(output.logits["mask"], drawn, weights)
    )
    loss = keypoint_loss(output.logits["keypoint"], matched_keypoints(samples, targets), extents)
    torch.testing.assert_close(output.losses["loss_refine_kp"], 0.25 * loss)


def test_an_instance_without_a_mask_is_not_refined_towards_background():
    heads = Heads(REFINE + "LOSS_WEIGHT_MASK", 1.0)
    wake(heads.refine)
    targets, samples = person_batch()
    for target in targets:
        target.add_field(MASKS_PRESENT, torch.arange(len(target)) % 2 == 0)
    _, _, output = heads(feature_pyramid(2, (96, 64)), samples, targets)
    present = matched_presence(samples, targets)
    assert present.any() and not present.all()
    drawn = matched_mask_targets(samples, targets, output.extents, 16)[present]
    expected = mask_loss(output.logits["mask"][present], drawn, outline_weights(drawn, 3.0))
    torch.testing.assert_close(output.losses["loss_refine_mask"], expected)


def test_cells_near_the_outline_weigh_more():
    masks = (torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.97).float()
    masks[0, 2:9, 3:10], masks[1], masks[2] = 1, 0, 1  # a square in the clutter; nothing; nothing but mask
    weights = outline_weights(masks, 1.5)
    for mask, found in zip(masks.numpy(), weights.numpy(), strict=True):
        for row in range(12):
            for column in range(12):
                near = mask[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
                assert found[row, column] == (2.5 if near.min() < near.max() else 1.0)
    assert (weights[1:3] == 1).all() and weights[0].max() == 2.5
    logits = torch.randn(4, 1, 12, 12, requires_grad=True)
    cells = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], masks, reduction="none")
    torch.testing.assert_close(mask_loss(logits, masks, weights), (cells * weights).sum() / weights.sum())
    torch.testing.assert_close(mask_loss(logits, masks, outline_weights(masks, 0.0)), mask_loss(logits, masks))


def test_targets_reach_beyond_the_coarse_region():
    """A RoI over the left half of an object: its mask continues to the right, and a keypoint out there is a target."""
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 4] = torch.tensor([44.0, 30.0, 2.0])
    target = make_target([[20, 20, 59, 39]], [[[20, 20, 60, 20, 60, 40, 20, 40]]], keypoints, (96, 64))
    samples = make_samples([[20, 20, 39, 39]], [0], [0], [(96, 64)])
    heads = Heads(REFINE + "ROI_EXPAND", 2.0, REFINE + "INDICATORS", ())
    logits = heads(feature_pyramid(1, (96, 64)), samples, [target])[2].logits
    assert all(not values.any() for values in logits.values())  # neither is an indicator: they start from zero
    extents = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    drawn = matched_mask_targets(samples, [target], extents, 16)[0]
    expected = torch.zeros(16, 16)
    expected[4:12, 4:] = 1
    assert torch.equal(drawn, expected)
    losses = refine_losses(heads.refine.outputs, [logits], extents, samples, [target], extents)
    assert losses["loss_refine_kp"].item() == pytest.approx(torch.log(torch.tensor(256.0)).item())
    assert heads.keypoint(feature_pyramid(1, (96, 64)), samples, [target]).losses["loss_kp"].item() == 0


def test_roi_without_keypoints_trains_the_mask_alone():
    heads = Heads()
    wake(heads.refine)
    targets, samples = person_batch()
    for target in targets:
        target.get_field(KEYPOINTS).keypoints.zero_()
    losses = heads(feature_pyramid(2, (96, 64)), samples, targets)[2].losses
    assert losses["loss_refine_kp"].item() == 0 and losses["loss_refine_mask"].item() > 0
    sum(losses.values()).backward()
    outputs = heads.refine.predictor.outputs
    assert outputs["mask"].logits.weight.grad.any() and not outputs["keypoint"].logits.weight.grad.any()


def coarse_gradients(detach: bool, indicators, outputs, form: str = "probability") -> dict[str, bool]:
    """Does any parameter of each coarse branch get a gradient from the refine losses?"""
    opts = (REFINE + "INDICATORS", indicators, REFINE + "OUTPUTS", outputs, REFINE + "INDICATOR_FORM", form)
    heads = Heads(*opts, REFINE + "DETACH_INDICATORS", detach)
    wake(heads.refine)
    targets, samples = person_batch()
    sum(heads(feature_pyramid(2, (96, 64)), samples, targets)[2].losses.values()).backward()
    return {
        name: any(p.grad is not None and p.grad.any() for p in getattr(heads, name).parameters())
        for name in ("mask", "keypoint")
    }


@pytest.mark.parametrize(("indicators", "outputs"), COMBINATIONS)
def test_detached_indicators_leave_the_coarse_branches_alone(indicators, outputs):
    assert coarse_gradients(True, indicators, outputs) == {"mask": False, "keypoint": False}


@pytest.mark.parametrize(("indicators", "outputs"), COMBINATIONS)
def test_attached_indicators_teach_the_coarse_branches(indicators, outputs):
    expected = {"mask": "mask" in indicators, "keypoint": "keypoint" in indicators}
    assert coarse_gradients(False, indicators, outputs) == expected


@pytest.mark.parametrize("form", ["logit", "features"])
def test_detaching_holds_for_every_form(form):
    both = ("mask", "keypoint")
    assert coarse_gradients(True, both, both, form) == {"mask": False, "keypoint": False}
    assert coarse_gradients(False, both, both, form) == {"mask": True, "keypoint": True}


def test_features_still_learn_from_refinement():
    heads = Heads()
    wake(heads.refine)
    targets, samples = person_batch()
    features = [level.requires_grad_() for level in feature_pyramid(2, (96, 64))]
    mask, keypoint, output = heads(features, samples, targets)
    sum(output.losses.values()).backward()
    assert any(level.grad is not None and level.grad.any() for level in features)


def test_untrained_head_returns_the_coarse_mask_in_the_coarse_frame():
    """Without enlargement, at the coarse resolution, and with half-open boxes, nothing may change at all."""
    opts = (REFINE + "ROI_EXPAND", 1.0, REFINE + "POOLER_RESOLUTION", 7, "MODEL.BOX_OFFSET", 0)
    heads = Heads(*opts).eval()
    for result in heads(feature_pyramid(2, (96, 64)), detection_batch(offset=0))[2].detections:
        torch.testing.assert_close(result.get_field(MASK), result.get_field(COARSE_MASK), rtol=0, atol=1e-6)
        assert torch.equal(result.get_field(MASK_BOXES).bbox, result.bbox)


def test_untrained_head_changes_nothing_inside_the_coarse_region():
    heads = Heads(REFINE + "POOLER_RESOLUTION", 28, REFINE + "DECODE", "argmax").eval()
    detections = detection_batch()
    mask, keypoint, output = heads(feature_pyramid(2, (96, 64)), detections)
    labels = torch.tensor([1, 3, 2])
    boxes = torch.cat([boxes.bbox for boxes in detections])
    steps = (torch.arange(56) + 0.5) / 56
    for roi in range(3):
        x1, y1, x2, y2 = output.extents[roi]
        x, y = x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps
        for refined, coarse, reach in (
            (output.logits["mask"][roi], mask.logits[roi, labels[roi]][None], 1),
            (output.logits["keypoint"][roi], keypoint.logits[roi], 0),
        ):
            left, top = boxes[roi, :2]
            right, bottom = boxes[roi, 2:] + reach
            inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
            u, v = (x - left) / (right - left) * 2 - 1, (y - top) / (bottom - top) * 2 - 1
            grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)[None]
            expected = nn.functional.grid_sample(coarse[None], grid, padding_mode="border", align_corners=False)[0]
            torch.testing.assert_close(refined[:, inside], expected[:, inside], atol=1e-4, rtol=1e-4)
            assert (refined[:, ~inside].amax(1) <= coarse.flatten(1).amax(1)).all()


def test_empty_batch_gives_zeros_on_the_graph_and_empty_fields():
    heads = Heads()
    targets, _ = person_batch()
    losses = heads(feature_pyramid(2, (96, 64)), empty_samples([(96, 64)] * 2), targets)[2].losses
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.refine.parameters())

    detections = [boxes[[]] for boxes in detection_batch()]
    for result in heads.eval()(feature_pyramid(2, (96, 64)), detections)[2].detections:
        assert result.get_field(MASK).shape == (0, 1, 16, 16) and len(result.get_field(MASK_BOXES)) == 0
        assert result.get_field(KEYPOINTS).keypoints.shape == (0, 17, 3)
        assert result.get_field(COARSE_MASK).shape == (0, 1, 14, 14)


def test_batch_equals_single_images():
    heads = Heads().eval()
    wake(heads.refine)
    features, detections = feature_pyramid(2, (96, 64)), detection_batch()
    together = heads(features, detections)[2].detections
    for image in range(2):
        alone = heads([level[image : image + 1] for level in features], [detections[image]])[2].detections[0]
        for name in (MASK, COARSE_MASK):
            torch.testing.assert_close(alone.get_field(name), together[image].get_field(name), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.get_field(MASK_BOXES).bbox, together[image].get_field(MASK_BOXES).bbox)
        torch.testing.assert_close(
            alone.get_field(KEYPOINTS).keypoints, together[image].get_field(KEYPOINTS).keypoints, atol=1e-3, rtol=1e-4
        )


def test_coarse_predictions_are_dropped_on_request_and_equal_the_plain_ones_otherwise():
    features = feature_pyramid(2, (96, 64))
    kept = Heads().eval()
    dropped = Heads(REFINE + "KEEP_COARSE", False).eval()
    dropped.load_state_dict(kept.state_dict())
    _, plain, output = kept(features, detection_batch())
    for result, coarse in zip(output.detections, plain.detections, strict=True):
        assert torch.equal(result.get_field(COARSE_MASK), coarse.get_field(MASK))
        assert result.get_field(COARSE_KEYPOINTS) is coarse.get_field(KEYPOINTS)
        assert not coarse.has_field(COARSE_MASK)
    for result in dropped(features, detection_batch())[2].detections:
        assert not result.has_field(COARSE_MASK) and not result.has_field(COARSE_KEYPOINTS)


def test_masks_pasted_inside_the_model():
    heads = Heads("MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS", True).eval()
    for result in heads(feature_pyramid(2, (96, 64)), detection_batch())[2].detections:
        assert result.get_field(MASK).shape == (len(result), 1, 64, 96) and result.get_field(MASK).dtype == torch.bool
        assert not result.has_field(MASK_BOXES) and result.get_field(COARSE_MASK).dtype == torch.bool


@pytest.mark.parametrize("supervised", [False, True])
def test_stacked_hourglasses(supervised):
    opts = (REFINE + "NUM_STACKS", 3, REFINE + "INTERMEDIATE_SUPERVISION", supervised)
    heads = Heads(*opts)
    wake(heads.refine)
    targets, samples = person_batch()
    losses = heads(feature_pyramid(2, (96, 64)), samples, targets)[2].losses
    names = {f"loss_refine_{name}{suffix}" for name in ("mask", "kp") for suffix in ("", "_stack1", "_stack2")}
    assert set(losses) == (names if supervised else {"loss_refine_mask", "loss_refine_kp"})
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in heads.refine.parameters())
    assert len(heads.refine.intermediate_predictors) == (2 if supervised else 0)


def test_half_precision_trunk_has_float32_losses_and_logits():
    heads = Heads()
    targets, samples = person_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = heads(feature_pyramid(2, (96, 64)), samples, targets)[2]
    assert {loss.dtype for loss in output.losses.values()} == {torch.float32}
    assert {values.dtype for values in output.logits.values()} == {torch.float32}
    sum(output.losses.values()).backward()


@pytest.mark.parametrize("side", [1, 5, 7, 8])
@pytest.mark.parametrize(
    "trunk",
    [
        lambda: HourglassRefineFeatureExtractor(6, width=4, depth=2, num_stacks=2),
        lambda: ConvRefineFeatureExtractor(6, width=4, num_convs=2),
        lambda: UNetRefineFeatureExtractor(6, width=4, depth=2),
    ],
)
def test_trunks_keep_any_size(trunk, side):
    trunk = trunk()
    found = trunk(torch.randn(2, 6, side, side))
    assert len(found) == trunk.num_stacks and trunk.out_channels == 4
    assert all(level.shape == (2, 4, side, side) for level in found)


def test_trunks_refuse_to_be_empty():
    with pytest.raises(ValueError, match="DEPTH is 0"):
        HourglassRefineFeatureExtractor(6, depth=0)
    with pytest.raises(ValueError, match="NUM_STACKS is 0"):
        HourglassRefineFeatureExtractor(6, num_stacks=0)
    with pytest.raises(ValueError, match="NUM_CONVS is 0"):
        ConvRefineFeatureExtractor(6, num_convs=0)
    with pytest.raises(ValueError, match="DEPTH is 0"):
        UNetRefineFeatureExtractor(6, depth=0)


def test_keys_are_of_their_own():
    for extractor in ("Hourglass", "Conv", "UNet"):
        keys = list(Heads(REFINE + "FEATURE_EXTRACTOR", f"{extractor}RefineFeatureExtractor").refine.state_dict())
        assert {"predictor.outputs.mask.logits.weight", "predictor.outputs.keypoint.logits.weight"} <= set(keys)
        # names that end so are taken for an ImageNet stem by loaders that guess by suffix
        assert not any(part in ("conv1", "bn1") for key in keys for part in key.split("."))


def test_missing_inputs_are_explained():
    heads = Heads()
    targets, samples = person_batch()
    features = feature_pyramid(2, (96, 64))
    mask, keypoint, _ = heads(features, samples, targets)
    with pytest.raises(ValueError, match="no output of the keypoint branch"):
        heads.refine(features, samples, targets, branches={"mask": mask})
    with pytest.raises(ValueError, match="needs `targets`"):
        heads.refine(features, samples, branches={"mask": mask, "keypoint": keypoint})
    with pytest.raises(ValueError, match="branch_channels"):
        build_roi_refine_head(small_cfg(REFINE + "INDICATOR_FORM", "features"), CHANNELS)


def test_freezing_a_detector():
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.roi_heads = nn.ModuleDict({"mask": nn.Linear(2, 2), "refine": nn.Sequential(nn.Conv2d(4, 4, 1))})
    model.roi_heads["refine"].append(nn.BatchNorm2d(4))
    freeze_detector(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"roi_heads.refine.{index}.{name}" for index in (0, 1) for name in ("weight", "bias")}
    model.train()
    hold_frozen_norms(model)
    assert not model.backbone[1].training and model.roi_heads["refine"][1].training and model.backbone.training
    with pytest.raises(ValueError, match="MODEL.REFINE_ON"):
        freeze_detector(nn.Linear(2, 2))
