"""Contradictions are refused with a reason and a remedy."""

from pathlib import Path

import pytest

from maskrcnn_benchmark.config import ConfigError, check_config, load_config
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import find_config_problems
from tests.modeling.tiny import TinyBackbone

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
    assert cfg.DATASETS.TRAIN or cfg.MODEL.WEIGHT.startswith("catalog://Caffe2Detectron/COCO/")  # only to be tested
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
        (None, ["MODEL.RPN.ANCHOR_STRIDE", (8,)], "the backbone's levels have the strides (16,)"),
        (None, ["MODEL.RPN.BG_IOU_THRESHOLD", 0.8], "MODEL.RPN.BG_IOU_THRESHOLD is 0.8, above FG_IOU_THRESHOLD 0.7"),
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.0625)], "each half the one before"),
        (FPN, ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.125, 0.0625)], "expected 1 / stride of the first of them"),
        (HRNET, ["MODEL.NECK.IN_CHANNELS", (18, 36, 72, 144)], "the body's branches have (32, 64, 128, 256) channels"),
        (HRNET, ["MODEL.HRNET.STAGE3.NUM_BLOCKS", [4, 4]], "MODEL.HRNET.STAGE3.NUM_BLOCKS is [4, 4]; expected 3"),
        (HRNET, ["MODEL.BACKBONE.OUT_CHANNELS", 128], "set both to the same number"),
        (HRNET, ["MODEL.NECK.NUM_OUTS", 4], "have the strides (4, 8, 16, 32)"),
        (REFINE, ["MODEL.RPN_ONLY", True], "without RoI heads nothing can be refined"),
        (REFINE, ["MODEL.ROI_REFINE_HEAD.POOLER_SCALES", (0.3,)], "ROI_REFINE_HEAD.POOLER_SCALES is (0.3,)"),
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
        (FPN, ["MODEL.RPN.ANCHOR_STRIDE", (), "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (),
               "MODEL.ROI_MASK_HEAD.POOLER_SCALES", ()]),
        (HRNET, ["MODEL.NECK.IN_CHANNELS", (), "MODEL.NECK.NORM", "LN", "MODEL.HRNET.NORM", "LN"]),
        (FPN, ["INPUT.MIN_SIZE_TRAIN", (640, 800), "INPUT.MAX_SIZE_TRAIN", (1333,)]),
        (CONFIGS / "e2e_mask_rcnn_R_50_C4_1x.yaml", []),
        (None, ["MODEL.BACKBONE.CONV_BODY", "R-50-C5", "MODEL.RPN.ANCHOR_STRIDE", (32,),
                "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.03125,),
                "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"]),
    ],
)  # fmt: skip
def test_what_can_work_is_let_through(path, options):
    load_config(path, options, checks=[find_config_problems])


def test_the_keys_of_a_users_entries_are_left_to_them(monkeypatch):
    """They know what they need: no list of names or strides here forbids them."""
    monkeypatch.setitem(registry.BACKBONES, "mine", lambda cfg: TinyBackbone())
    options = ["MODEL.BACKBONE.CONV_BODY", "mine", "MODEL.RPN.ANCHOR_SIZES", (16, 32, 64)]
    for section in ("ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        options += [f"MODEL.{section}.POOLER_SCALES", ()]
    load_config(FPN, [*options, "MODEL.RPN.ANCHOR_STRIDE", ()], checks=[find_config_problems])
    with pytest.raises(ConfigError, match=r"levels have the strides \(4, 8, 16\)"):
        load_config(FPN, [*options, "MODEL.RPN.ANCHOR_STRIDE", (2, 4, 8)], checks=[find_config_problems])


def test_all_contradictions_are_listed():
    """One of each file that checks: simple ranges, body, neck, RPN, samplers, heads."""
    options = [
        *("DTYPE", "float8", "SOLVER.LOG_PERIOD", 0, "MODEL.HRNET.NORM", "XN", "MODEL.NECK.IN_CHANNELS", (1, 2, 3, 4)),
        *("MODEL.RPN.ANCHOR_STRIDE", (4, 8), "MODEL.RPN.BG_IOU_THRESHOLD", 0.8),
        *("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", 0.8),
        *("MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.3,), "MODEL.ROI_MASK_HEAD.RESOLUTION", 14),
    ]
    with pytest.raises(ConfigError) as caught:
        load_config(HRNET, options, checks=[find_config_problems])
    problems = str(caught.value).splitlines()
    assert len(problems) == len(options) // 2
    for key in options[::2]:
        assert sum(key in problem for problem in problems) == 1, key
