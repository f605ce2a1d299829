"""Contradictions are refused with a reason and a remedy."""

from pathlib import Path

import pytest

from maskrcnn_benchmark.config import ConfigError, check_config, load_config
from maskrcnn_benchmark.modeling.detector import find_config_problems

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FPN = CONFIGS / "e2e_mask_rcnn_R_50_FPN_1x.yaml"
KEYPOINTS = CONFIGS / "e2e_keypoint_rcnn_R_50_FPN_1x.yaml"
HRNET = CONFIGS / "hrnet" / "mask_rcnn_hrnet_w32_1x.yaml"
REFINE = CONFIGS / "hrnet_refine.yaml"
BOXES = CONFIGS / "e2e_faster_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_is_usable(path):
    cfg = load_config(path)
    check_config(cfg)
    assert cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST


def test_there_are_configs():
    assert len(list(CONFIGS.rglob("*.yaml"))) > 25


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (None, ["DTYPE", "float8"], "DTYPE is 'float8'; expected one of 'float32', 'float16', 'bfloat16'"),
        (None, ["MODEL.BOX_OFFSET", 2], "MODEL.BOX_OFFSET is 2; expected one of 0, 1"),
        (HRNET, ["MODEL.HRNET.NORM", ""], "MODEL.HRNET.NORM is ''; expected one of 'FrozenBN'"),
        (None, ["INPUT.FORMAT", "HSV"], "INPUT.FORMAT is 'HSV'"),
        (None, ["INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 1.5], "expected between 0 and 1"),
        (None, ["INPUT.PIXEL_MEAN", [1.0, 2.0]], "expected three numbers"),
        (None, ["INPUT.PIXEL_STD", [1.0, 0.0, 1.0]], "none of its numbers can be 0"),
        (None, ["INPUT.MIN_SIZE_TRAIN", ()], "INPUT.MIN_SIZE_TRAIN is empty"),
        (None, ["INPUT.MIN_SIZE_TRAIN", (1, 2, 3), "INPUT.MAX_SIZE_TRAIN", (4, 5)], "one cap for all"),
        (None, ["SOLVER.IMS_PER_BATCH", 0], "SOLVER.IMS_PER_BATCH is 0; expected at least 1"),
        (None, ["MODEL.RPN.USE_FPN", True], "each level has a stride and a size"),
        (None, ["MODEL.RPN.ANCHOR_STRIDE", (8, 16)], "set USE_FPN to True, or name one stride"),
        (None, ["MODEL.RPN.ANCHOR_STRIDE", (8,)], "the levels of R-50-C4 have the strides (16,)"),
        (None, ["MODEL.RPN.BG_IOU_THRESHOLD", 0.8], "MODEL.RPN.BG_IOU_THRESHOLD is 0.8, above FG_IOU_THRESHOLD 0.7"),
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.0625)], "each half the one before"),
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.125, 0.0625)], "expected 1 / stride of the first of them"),
        (FPN, ["MODEL.ROI_MASK_HEAD.RESOLUTION", 14], "turns 14 cells per side into 28; set RESOLUTION to 28"),
        (FPN, ["MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor"], "14 cells per side into 14"),
        (FPN, ["MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True], "ends in vectors and the head needs maps"),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 28], "set RESOLUTION to 56"),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True], "ROI_KEYPOINT_HEAD.SHARE_BOX"),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.DECODE", "mean"], "MODEL.ROI_KEYPOINT_HEAD.DECODE is 'mean'"),
        (KEYPOINTS, ["TEST.KEYPOINT_OKS_SIGMAS", [0.1, 0.1]], "expected a number for each keypoint"),
        (
            KEYPOINTS,
            ["MODEL.ROI_KEYPOINT_HEAD.RESCORE", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5],
            "MODEL.ROI_KEYPOINT_HEAD.RESCORE is True, but TEST.KEYPOINT_OKS_SIGMAS is empty",
        ),
        (REFINE, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5], "MODEL.ROI_REFINE_HEAD.RESCORE is True, but TEST.KEYP"),
        (HRNET, ["MODEL.NECK.IN_CHANNELS", (18, 36, 72, 144)], "the body's branches have (32, 64, 128, 256) channels"),
        (HRNET, ["MODEL.HRNET.STAGE3.NUM_BLOCKS", [4, 4]], "MODEL.HRNET.STAGE3.NUM_BLOCKS is [4, 4]; expected 3"),
        (HRNET, ["MODEL.BACKBONE.OUT_CHANNELS", 128], "set both to the same number"),
        (HRNET, ["MODEL.NECK.NUM_OUTS", 4], "have the strides (4, 8, 16, 32)"),
        (
            REFINE,
            ["MODEL.KEYPOINT_ON", False],
            "MODEL.ROI_REFINE_HEAD.OUTPUTS has 'keypoint', but MODEL.KEYPOINT_ON is",
        ),
        (REFINE, ["MODEL.MASK_ON", False], "switch it on, or set INDICATORS to ('keypoint',)"),
        (REFINE, ["MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False], "there is nothing to refine"),
        (REFINE, ["MODEL.RPN_ONLY", True], "without RoI heads nothing can be refined"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ()], "OUTPUTS is empty"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ("masks",)], "OUTPUTS has 'masks'; expected 'mask' or 'keypoint'"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTPUTS", ("mask", "mask")], "names a branch twice"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.ROI_EXPAND", 0.9], "expected 1 or more"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT", -0.5], "expected 0, for cells that weigh the same, or more"),
        (
            REFINE,
            ["MODEL.ROI_REFINE_HEAD.INDICATOR_FORM", "logits"],
            "expected one of 'probability', 'logit', 'features'",
        ),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.POOLER_SCALES", ()], "ROI_REFINE_HEAD.POOLER_SCALES is ()"),
        (BOXES, ["MODEL.REFINE_ON", True], "MODEL.MASK_ON and MODEL.KEYPOINT_ON are False"),
        (BOXES, ["MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR", True], "nothing would learn"),
    ],
)
def test_contradictions_are_refused(path, options, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(path, options, checks=[find_config_problems])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (REFINE, ["MODEL.ROI_REFINE_HEAD.INDICATORS", ()]),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.INDICATORS", ("mask",), "MODEL.ROI_REFINE_HEAD.OUTPUTS", ("keypoint",)]),
        (HRNET, ["MODEL.REFINE_ON", True, "MODEL.ROI_REFINE_HEAD.INDICATORS", "mask",
                 "MODEL.ROI_REFINE_HEAD.OUTPUTS", "mask"]),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5]),
        (KEYPOINTS, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 2, "MODEL.ROI_KEYPOINT_HEAD.RESCORE", True,
                     "TEST.KEYPOINT_OKS_SIGMAS", [0.1, 0.1]]),
        (REFINE, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5, "MODEL.ROI_REFINE_HEAD.RESCORE", False]),
        (REFINE, ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5, "MODEL.ROI_REFINE_HEAD.OUTPUTS", "mask"]),
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.125)]),
        (FPN, ["MODEL.BACKBONE.CONV_BODY", "MY-BODY", "MODEL.RPN.ANCHOR_STRIDE", (2, 4, 8, 16, 32)]),
        (FPN, ["MODEL.ROI_MASK_HEAD.PREDICTOR", "MyPredictor", "MODEL.ROI_MASK_HEAD.RESOLUTION", 99]),
        (FPN, ["INPUT.MIN_SIZE_TRAIN", (640, 800), "INPUT.MAX_SIZE_TRAIN", (1333,)]),
        (CONFIGS / "e2e_mask_rcnn_R_50_C4_1x.yaml", []),
        (None, ["MODEL.BACKBONE.CONV_BODY", "R-50-C5", "MODEL.RPN.ANCHOR_STRIDE", (32,),
                "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.03125,)]),
        (None, ["MODEL.RETINANET_ON", True, "MODEL.RPN_ONLY", True, "MODEL.RPN.USE_FPN", True]),
    ],
)  # fmt: skip
def test_what_can_work_is_let_through(path, options):
    load_config(path, options)


def test_all_contradictions_are_listed():
    with pytest.raises(ConfigError) as caught:
        load_config(opts=["DTYPE", "float8", "INPUT.FORMAT", "HSV"])
    assert len(str(caught.value).splitlines()) == 2
