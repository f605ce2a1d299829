"""The refine head inside the detector: off it is not there, on it leaves everything before it as it was."""

import pytest
import torch

from maskrcnn_benchmark.structures.fields import COARSE_KEYPOINTS, COARSE_MASK, KEYPOINTS, LABELS, MASK, SCORES
from tests.modeling.tiny import ALL_HEADS, tiny_batch, tiny_cfg, tiny_detector

PLAIN = ("MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True)
EVERYTHING_IS_FOUND = ("MODEL.ROI_HEADS.SCORE_THRESH", 0.0, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 5)


def build(*opts: object) -> torch.nn.Module:
    """A detector whose start values depend on nothing but the seed and what is built."""
    torch.manual_seed(7)
    return tiny_detector(tiny_cfg(*opts, *EVERYTHING_IS_FOUND))


def test_off_there_are_no_weights_of_it_and_on_the_others_are_the_same():
    plain, refined = build(*PLAIN).state_dict(), build(*ALL_HEADS).state_dict()
    assert not any("refine" in key for key in plain)
    assert {key for key in refined if not key.startswith("roi_heads.refine.")} == set(plain)
    assert all(torch.equal(refined[key], value) for key, value in plain.items())


def test_coarse_results_and_losses_are_those_of_the_plain_model_bit_for_bit():
    plain, refined = build(*PLAIN), build(*ALL_HEADS)
    images, targets = tiny_batch()
    losses = []
    for model in (plain, refined):
        torch.manual_seed(3)
        losses.append(model(images, targets))
    for name, value in losses[0].items():
        assert torch.equal(losses[1][name], value), name
    assert set(losses[1]) - set(losses[0]) == {"loss_refine_mask", "loss_refine_kp"}

    with torch.no_grad():
        results = [model.eval()(images) for model in (plain, refined)]
    for without, with_refinement in zip(*results, strict=True):
        assert len(without) == 5
        assert torch.equal(with_refinement.bbox, without.bbox)
        for name in (SCORES, LABELS):
            assert torch.equal(with_refinement.get_field(name), without.get_field(name))
        assert torch.equal(with_refinement.get_field(COARSE_MASK), without.get_field(MASK))
        coarse, keypoints = with_refinement.get_field(COARSE_KEYPOINTS), without.get_field(KEYPOINTS)
        assert torch.equal(coarse.keypoints, keypoints.keypoints)


def test_weights_of_the_plain_model_load_but_for_the_refine_head():
    refined = build(*ALL_HEADS)
    report = refined.load_state_dict(build(*PLAIN).state_dict(), strict=False)
    assert not report.unexpected_keys
    assert report.missing_keys and all(key.startswith("roi_heads.refine.") for key in report.missing_keys)


@pytest.mark.parametrize("indicators", [(), ("mask", "keypoint")])
def test_frozen_detector_trains_the_refine_head_alone(indicators):
    opts = ("MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR", True, "MODEL.ROI_REFINE_HEAD.INDICATORS", indicators)
    model = build(*ALL_HEADS, *opts, "MODEL.ROI_REFINE_HEAD.DETACH_INDICATORS", False).train()
    images, targets = tiny_batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        losses = model(images, targets)
        assert set(losses) == {"loss_refine_mask", "loss_refine_kp"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("roi_heads.refine."))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    assert changed and all(key.startswith("roi_heads.refine.") for key in changed)


def test_every_parameter_learns():
    model = build(*ALL_HEADS)
    for name, parameter in model.named_parameters():
        if name.startswith("roi_heads.refine.predictor") and ".logits." in name:
            torch.nn.init.normal_(parameter)
    images, targets = tiny_batch()
    sum(model(images, targets).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if "refine" in name:
            assert parameter.grad.any(), name


def test_images_without_anything_give_zeros_on_the_graph():
    model = build(*ALL_HEADS)
    images, targets = tiny_batch()
    losses = model(images, [target[[]] for target in targets])
    assert losses["loss_refine_mask"].item() == losses["loss_refine_kp"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads["refine"].parameters())
