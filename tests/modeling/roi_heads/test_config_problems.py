"""All problems in the keys of the RoI heads are found together, before the model is built."""

import pytest
from torch import nn

from maskrcnn_benchmark.config import ConfigError, load_config
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import find_config_problems
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import PrivateRefineHeads
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from tests.config.test_checks import BOXES, FPN, HRNET, KEYPOINTS, REFINE
from tests.modeling.tiny import ALL_HEADS, CHANNELS, tiny_cfg


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (FPN, ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", 1], "MODEL.ROI_BOX_HEAD.NUM_CLASSES is 1; expected at least 2"),
        (FPN, ["MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictr"], "expected one of 'FPNPredictor', 'FastRCNNPredictor'"),
        (FPN, ["MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.5], "expected between 0 and 1"),
        (FPN, ["MODEL.ROI_HEADS.NMS", 2.0], "MODEL.ROI_HEADS.NMS is 2.0"),
        (FPN, ["MODEL.ROI_HEADS.DETECTIONS_PER_IMG", -2], "expected at least -1"),
        (FPN, ["MODEL.ROI_HEADS.BG_IOU_THRESHOLD", 0.6], "BG_IOU_THRESHOLD is 0.6, above FG_IOU_THRESHOLD 0.5"),
        (
            FPN,
            ["MODEL.ROI_HEADS.EXTRA", "age"],
            "MODEL.ROI_HEADS.EXTRA has 'age'; registered: 'mask', 'multi_mask', 'keypoint'",
        ),
        (FPN, ["MODEL.ROI_HEADS.EXTRA", "mask"], "which MODEL.MASK_ON switches on; use that key"),
        (FPN, ["MODEL.ROI_MASK_HEAD.RESOLUTION", 14], "turns 14 cells per side into 28; set RESOLUTION to 28"),
        (FPN, ["MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor"], "14 cells per side into 14"),
        (
            FPN,
            ["MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True],
            "the box head's extractor is FPN2MLPFeatureExtractor and the mask head's MaskRCNNFPN",
        ),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 28], "set RESOLUTION to 56"),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True], "ROI_KEYPOINT_HEAD.SHARE_BOX"),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.DECODE", "mean"], "MODEL.ROI_KEYPOINT_HEAD.DECODE is 'mean'"),
        (KEYPOINTS, ["TEST.KEYPOINT_OKS_SIGMAS", [0.1, 0.1]], "expected a number for each keypoint"),
        (
            REFINE,
            ["MODEL.KEYPOINT_ON", False],
            "MODEL.ROI_REFINE_HEAD.OUTPUTS has 'keypoint', but MODEL.KEYPOINT_ON is",
        ),
        (REFINE, ["MODEL.MASK_ON", False], "switch it on, or set INDICATORS to ('keypoint',)"),
        (REFINE, ["MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False], "no head is on whose output can be refined"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ()], "OUTPUTS is empty"),
        (
            REFINE,
            ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ("masks",)],
            "OUTPUTS has 'masks'; expected one or more of 'mask', 'keypoint'",
        ),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ("mask", "mask")], "names an output twice"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.NORM", "XN"], "MODEL.ROI_REFINE_HEAD.NORM is 'XN'"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.ROI_EXPAND", 0.9], "expected 1 or more"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT", -0.5], "OUTLINE_WEIGHT is -0.5; expected at least 0"),
        (
            REFINE,
            ["MODEL.ROI_REFINE_HEAD.INDICATOR_FORM", "logits"],
            "expected one of 'probability', 'logit', 'features'",
        ),
        (BOXES, ["MODEL.REFINE_ON", True], "switch one on (MODEL.MASK_ON, MODEL.MULTI_MASK_ON, MODEL.KEYPOINT_ON"),
    ],
)
def test_problems_of_the_heads_are_named(path, options, expected):
    problems = find_config_problems(load_config(path, options))
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (REFINE, ["MODEL.ROI_REFINE_HEAD.INDICATORS", ()]),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.INDICATORS", ("mask",), "MODEL.ROI_REFINE_HEAD.OUTPUTS", ("keypoint",)]),
        (HRNET, ["MODEL.REFINE_ON", True, "MODEL.ROI_REFINE_HEAD.INDICATORS", "mask",
                 "MODEL.ROI_REFINE_HEAD.OUTPUTS", "mask"]),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5, "MODEL.ROI_KEYPOINT_HEAD.RESCORE", True]),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 2, "MODEL.ROI_KEYPOINT_HEAD.RESCORE", True,
                     "TEST.KEYPOINT_OKS_SIGMAS", [0.1, 0.1]]),
        (REFINE, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5]),
        (REFINE, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5, "MODEL.ROI_REFINE_HEAD.OUTPUTS", "mask"]),
    ],
)  # fmt: skip
def test_what_can_work_is_let_through(path, options):
    assert find_config_problems(load_config(path, options)) == []


def test_a_predictor_that_does_not_tell_its_size_is_let_through(monkeypatch):
    monkeypatch.setitem(registry.ROI_MASK_PREDICTOR, "MyPredictor", lambda cfg, in_channels: nn.Identity())
    options = ["MODEL.ROI_MASK_HEAD.PREDICTOR", "MyPredictor", "MODEL.ROI_MASK_HEAD.RESOLUTION", 99]
    assert find_config_problems(load_config(FPN, options)) == []


def test_problems_of_all_heads_are_listed_together():
    options = [
        *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "nothing", "MODEL.ROI_MASK_HEAD.PREDICTOR", "nothing"),
        *("MODEL.ROI_KEYPOINT_HEAD.DECODE", "mean", "MODEL.ROI_REFINE_HEAD.ROI_EXPAND", 0.5),
        *("MODEL.ROI_REFINE_HEAD.NUM_STACKS", 0),
    ]
    problems = find_config_problems(load_config(REFINE, options))
    for key in (
        "ROI_BOX_HEAD.FEATURE",
        "ROI_MASK_HEAD.PRED",
        "DECODE is 'mean'",
        "ROI_EXPAND is 0.5",
        "NUM_STACKS is 0",
    ):
        assert any(key in problem for problem in problems), (key, problems)


def test_a_build_raises_the_first_problem():
    with pytest.raises(ConfigError, match="NUM_CLASSES is 1"):
        CombinedROIHeads.from_cfg(tiny_cfg("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 1), CHANNELS)
    with pytest.raises(ConfigError, match="OUTPUTS is empty"):
        CombinedROIHeads.from_cfg(
            tiny_cfg(*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.OUTPUTS", (), "MODEL.ROI_REFINE_HEAD.SHARED", False), CHANNELS
        )


def test_private_refine_heads_need_one():
    with pytest.raises(ValueError, match=r"at least one head; name the outputs to refine in MODEL\.ROI_REFINE_HEAD"):
        PrivateRefineHeads({})


def test_a_head_without_its_class_methods_is_explained(monkeypatch):
    class Unfinished(ROIHead):
        NAME = "unfinished"

    monkeypatch.setitem(registry.ROI_HEADS, "unfinished", Unfinished)
    with pytest.raises(NotImplementedError, match="Unfinished needs a classmethod `from_cfg"):
        CombinedROIHeads.from_cfg(tiny_cfg("MODEL.ROI_HEADS.EXTRA", "unfinished"), CHANNELS)
    with pytest.raises(NotImplementedError, match="Unfinished needs a classmethod `outputs_from_cfg"):
        Unfinished.outputs_from_cfg(tiny_cfg())
