"""Private refine heads, one per output: they share nothing and are used like a single head."""

import pytest
import torch

from maskrcnn_benchmark.structures.fields import COARSE_KEYPOINTS, COARSE_MASK, KEYPOINTS, MASK, MASK_BOXES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    person_batch,
)
from tests.modeling.roi_heads.test_refine_head import REFINE, Heads, wake

PRIVATE = (REFINE + "SHARED", False)


def stem_channels(head):
    return head.feature_extractor.stem.conv.in_channels


@pytest.mark.parametrize(
    ("indicators", "added"),
    [((), (0, 0)), (("mask",), (1, 0)), (("keypoint",), (0, 17)), (("mask", "keypoint"), (1, 17))],
)
def test_each_sees_the_indicator_of_its_kind_alone(indicators, added):
    refine = Heads(*PRIVATE, REFINE + "INDICATORS", indicators).refine
    assert tuple(stem_channels(refine[name]) - CHANNELS for name in ("mask", "keypoint")) == added
    assert {key.split(".")[0] for key in refine.state_dict()} == {"mask", "keypoint"}
    assert not any("outputs.keypoint" in key for key in refine["mask"].state_dict())


@pytest.mark.parametrize("outputs", [("mask",), ("keypoint",), ("mask", "keypoint")])
def test_training_gives_the_losses_of_the_outputs_and_teaches_every_weight(outputs):
    heads = Heads(*PRIVATE, REFINE + "OUTPUTS", outputs)
    wake(heads.refine)
    targets, samples = person_batch()
    output = heads(feature_pyramid(2, (96, 64)), samples, targets)[2]
    names = {"mask": "loss_refine_mask", "keypoint": "loss_refine_kp"}
    assert set(output.losses) == {names[name] for name in outputs} and set(output.logits) == set(outputs)
    assert not output.detections
    sum(output.losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in heads.refine.parameters())


def test_one_loss_does_not_reach_the_other_head():
    heads = Heads(*PRIVATE)
    wake(heads.refine)
    targets, samples = person_batch()
    losses = heads(feature_pyramid(2, (96, 64)), samples, targets)[2].losses
    losses["loss_refine_mask"].backward()
    assert any(p.grad is not None for p in heads.refine["mask"].parameters())
    assert all(p.grad is None for p in heads.refine["keypoint"].parameters())


def test_detections_carry_what_each_single_head_would_add():
    features = feature_pyramid(2, (96, 64))
    both = Heads(*PRIVATE).eval()
    wake(both.refine)
    results = both(features, detection_batch())[2].detections
    for kind, names in {"mask": (MASK, COARSE_MASK), "keypoint": (KEYPOINTS, COARSE_KEYPOINTS)}.items():
        alone = Heads(REFINE + "INDICATORS", (kind,), REFINE + "OUTPUTS", (kind,)).eval()
        state = {k.replace(f"refine.{kind}.", "refine."): v for k, v in both.state_dict().items()}
        alone.load_state_dict({k: v for k, v in state.items() if k in alone.state_dict()})
        for result, expected in zip(results, alone(features, detection_batch())[2].detections, strict=True):
            for name in names:
                ours, theirs = result.get_field(name), expected.get_field(name)
                if kind == "keypoint":
                    ours, theirs = ours.keypoints, theirs.keypoints
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            assert result.has_field(MASK_BOXES)


def test_nothing_found():
    heads = Heads(*PRIVATE)
    targets, _ = person_batch()
    losses = heads(feature_pyramid(2, (96, 64)), empty_samples([(96, 64)] * 2), targets)[2].losses
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.refine.parameters())
    for result in heads.eval()(feature_pyramid(2, (96, 64)), [b[[]] for b in detection_batch()])[2].detections:
        assert len(result.get_field(MASK)) == len(result.get_field(MASK_BOXES)) == 0
