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
        (HRNET, ["MODEL.NECK.IN_CHANNELS", (18, 36, 72, 144)], "the body's branches have (32, 64, 128, 256) channels"),
        (HRNET, ["MODEL.HRNET.STAGE3.NUM_BLOCKS", [4, 4]], "MODEL.HRNET.STAGE3.NUM_BLOCKS is [4, 4]; expected 3"),
        (HRNET, ["MODEL.BACKBONE.OUT_CHANNELS", 128], "set both to the same number"),
        (HRNET, ["MODEL.NECK.NUM_OUTS", 4], "have the strides (4, 8, 16, 32)"),
        (REFINE, ["MODEL.RPN_ONLY", True], "without RoI heads nothing can be refined"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.POOLER_SCALES", ()], "ROI_REFINE_HEAD.POOLER_SCALES is ()"),
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
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.125)]),
        (FPN, ["MODEL.BACKBONE.CONV_BODY", "MY-BODY", "MODEL.RPN.ANCHOR_STRIDE", (2, 4, 8, 16, 32)]),
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
