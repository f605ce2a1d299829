"""Heads of a user's own: where they run, what switches them on, and what a head with several outputs hands on."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.poolers import Pooler
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind, attach_rows
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead, outputs_of, tasks_of
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.structures.fields import LABELS, MASK
from tests.modeling.roi_heads.head_cases import detection_batch, make_samples
from tests.modeling.roi_heads.test_combined_roi_heads import C4_BODY, heads_case
from tests.modeling.tiny import ALL_HEADS, CHANNELS, tiny_cfg, tiny_detector


class Number(OutputKind):
    """One column of the logits, compared with the label."""

    def __init__(self, name, column, task):
        self.name, self.column, self.task = name, column, task
        self.loss_name, self.target_field = f"loss_{name}", LABELS

    def select_own(self, logits, labels):
        return logits[:, self.column]

    def loss(self, logits, positives, targets):
        wanted = positives.matched([target.get_field(LABELS).float() for target in targets])
        return (logits - wanted).abs().sum() / max(len(wanted), 1)

    def attach(self, logits, detections):
        return attach_rows(detections, self.name, logits)


class Pooled(nn.Module):
    def __init__(self, pooler):
        super().__init__()
        self.pooler = pooler

    def forward(self, features, rois):
        return self.pooler(features, rois).mean(dim=(2, 3))


class NumbersHead(ROIHead):
    """Two numbers, with a task in common."""

    NAME = "numbers"

    @classmethod
    def outputs_from_cfg(cls, cfg):
        return [Number("low", 0, "numbers"), Number("high", 1, "numbers")]

    @classmethod
    def from_cfg(cls, cfg, in_channels, *, learns=True, shared_resolution=None):
        extractor = Pooled(Pooler.from_cfg(cfg, "ROI_BOX_HEAD"))
        outputs = cls.outputs_from_cfg(cfg)
        return cls(extractor, nn.Linear(in_channels, 2), outputs=outputs, feature_channels=in_channels, learns=learns)


@pytest.fixture
def register(monkeypatch):
    return lambda head: monkeypatch.setitem(registry.ROI_HEADS, head.NAME, head)


def test_the_packages_heads_come_first():
    assert list(registry.ROI_HEADS)[:3] == ["mask", "multi_mask", "keypoint"]


def test_a_head_runs_after_ours_and_before_the_refine_head(register):
    register(NumbersHead)
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.EXTRA", ("numbers",), "MODEL.ROI_HEADS.SCORE_THRESH", 0.2)
    heads = CombinedROIHeads.from_cfg(cfg, CHANNELS)
    assert list(heads) == ["box", "mask", "keypoint", "numbers", "refine"]
    assert "numbers.predictor.weight" in heads.state_dict()
    features, proposals, targets = heads_case()
    losses = heads(features, proposals, targets).losses
    assert list(losses)[-4:] == ["loss_low", "loss_high", "loss_refine_mask", "loss_refine_kp"]
    sum(losses.values()).backward()
    assert heads["numbers"].predictor.weight.grad.any()
    for detections in heads.eval()(features, proposals).detections:
        assert detections.has_field(MASK)
        assert detections.get_field("low").shape == detections.get_field("high").shape == (len(detections),)


def test_a_head_changes_neither_weights_nor_keys_of_the_others(register):
    def start(*opts):
        torch.manual_seed(4)
        return CombinedROIHeads.from_cfg(tiny_cfg("MODEL.MASK_ON", True, *opts), CHANNELS).state_dict()

    register(NumbersHead)
    plain, more = start(), start("MODEL.ROI_HEADS.EXTRA", "numbers")
    assert {key for key in more if not key.startswith("numbers.")} == set(plain)
    assert all(torch.equal(more[key], value) for key, value in plain.items())


def test_tasks_of_a_config_are_those_of_its_model(register):
    register(NumbersHead)
    for opts, expected in (
        ((), ("bbox",)),
        (ALL_HEADS, ("bbox", "segm", "keypoints")),
        ((*ALL_HEADS, "MODEL.RPN_ONLY", True, "MODEL.REFINE_ON", False), ("bbox",)),
        (("MODEL.KEYPOINT_ON", True, "MODEL.ROI_HEADS.EXTRA", "numbers"), ("bbox", "keypoints", "numbers")),
    ):
        cfg = tiny_cfg(*opts)
        assert tasks_of(cfg) == tiny_detector(cfg).tasks == expected
    assert list(outputs_of(tiny_cfg("MODEL.MASK_ON", True, "MODEL.ROI_HEADS.EXTRA", "numbers"))) == [
        "mask", "low", "high"
    ]  # fmt: skip


def test_a_head_may_have_a_switch_of_its_own(register):
    class Switched(NumbersHead):
        SWITCH = "MODEL.CLS_AGNOSTIC_BBOX_REG"  # any bool

    register(Switched)
    assert tasks_of(tiny_cfg("MODEL.CLS_AGNOSTIC_BBOX_REG", True)) == ("bbox", "numbers")
    assert tasks_of(get_cfg()) == ("bbox",)


def test_a_frozen_detector_leaves_the_head_without_losses(register):
    register(NumbersHead)
    features, proposals, targets = heads_case()
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.EXTRA", "numbers")
    heads = CombinedROIHeads.from_cfg(cfg, CHANNELS, learns=False)
    assert set(heads(features, proposals, targets).losses) == {"loss_refine_mask", "loss_refine_kp"}


def test_a_head_may_read_the_box_heads_features(register):
    class Sharing(NumbersHead):
        @classmethod
        def shares_box_features(cls, cfg):
            return True

        @classmethod
        def from_cfg(cls, cfg, in_channels, *, learns=True, shared_resolution=None):
            assert shared_resolution == 7  # 14 bins, halved by the last stage of the ResNet
            predictor = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, 2))
            return cls(None, predictor, outputs=cls.outputs_from_cfg(cfg), feature_channels=in_channels)

    register(Sharing)
    features, proposals, targets = heads_case(strides=(16,), channels=32)
    heads = CombinedROIHeads.from_cfg(tiny_cfg(*C4_BODY, "MODEL.ROI_HEADS.EXTRA", "numbers"), 32)
    assert not any(key.startswith("numbers.feature_extractor") for key in heads.state_dict())
    losses = heads(features, proposals, targets).losses
    assert losses["loss_low"] > 0 and losses["loss_high"] > 0


def test_rows_are_attached_to_new_boxlists():
    detections = detection_batch()
    results = attach_rows(detections, "number", torch.arange(3.0))
    assert [result.get_field("number").tolist() for result in results] == [[0.0, 1.0], [2.0]]
    assert not any(boxes.has_field("number") for boxes in detections)


def test_rows_of_the_matched_instances():
    samples = make_samples([[0, 0, 9, 9]] * 4, [1, 0, 2, 0], [1, 0, 0, 0], [(20, 20)] * 3)
    rows = samples.matched([torch.tensor([5.0]), torch.tensor([6.0, float("nan")]), torch.tensor([8.0])])
    assert rows[[1, 2, 3]].tolist() == [5.0, 8.0, 5.0] and rows[0].isnan()


def test_a_refined_kind_has_the_refine_heads_settings():
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.LOSS_WEIGHT_MASK", 2.5)
    coarse = MaskKind.from_cfg(cfg)
    refined = coarse.refined(cfg)
    assert (coarse.loss_name, coarse.loss_weight, coarse.outline_weight) == ("loss_mask", 1.0, None)
    assert (refined.loss_name, refined.loss_weight, refined.outline_weight) == ("loss_refine_mask", 2.5, 3.0)
    assert refined.num_maps == coarse.num_maps == 3 and refined.post_processor.rescore
