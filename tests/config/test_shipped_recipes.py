"""The shipped recipes against the settings with which the released models were built."""

from pathlib import Path

import pytest

from maskrcnn_benchmark.config import load_config
from tests.contracts.contract import read_contract

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "e2e_faster_rcnn_R_50_C4_1x": "e2e_faster_rcnn_R_50_C4_1x.yaml",
    "e2e_mask_rcnn_R_50_FPN_1x": "e2e_mask_rcnn_R_50_FPN_1x.yaml",
    "e2e_keypoint_rcnn_R_50_FPN_1x": "e2e_keypoint_rcnn_R_50_FPN_1x.yaml",
    "e2e_faster_rcnn_hrnet_w32_1x": "hrnet/faster_rcnn_hrnet_w32_1x.yaml",
    "mask_rcnn_hrnet_w18_1x": "hrnet/mask_rcnn_hrnet_w18_1x.yaml",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_the_released_model(name):
    released = load_config(opts=read_contract(name).opts_list)
    shipped = load_config(ROOT / "configs" / RECIPES[name])
    released.MODEL.WEIGHT = shipped.MODEL.WEIGHT
    for section in ("MODEL", "INPUT", "DATALOADER"):
        assert shipped[section] == released[section], section


@pytest.mark.parametrize("width", [18, 32, 40, 48])
@pytest.mark.parametrize("kind", ["faster", "mask"])
def test_hrnet_widths_and_schedules(kind, width):
    short, long = (
        load_config(ROOT / "configs" / "hrnet" / f"{kind}_rcnn_hrnet_w{width}_{s}.yaml") for s in ("1x", "2x")
    )
    channels = [width * 2**branch for branch in range(4)]
    for cfg in (short, long):
        stages = [cfg.MODEL.HRNET[f"STAGE{number}"].NUM_CHANNELS for number in (2, 3, 4)]
        assert stages == [channels[:2], channels[:3], channels]
        assert list(cfg.MODEL.NECK.IN_CHANNELS) == channels
        assert cfg.MODEL.MASK_ON is (kind == "mask")
        assert f"w{width}_" in cfg.MODEL.WEIGHT
        assert (cfg.MODEL.HRNET.STAGE3.NUM_MODULES, cfg.MODEL.HRNET.STAGE4.NUM_MODULES) == (4, 3)
    assert (short.SOLVER.STEPS, short.SOLVER.MAX_ITER) == ((60000, 80000), 90000)
    assert (long.SOLVER.STEPS, long.SOLVER.MAX_ITER) == ((150000, 170000), 180000)


def test_bigger_bodies_differ_from_smaller_ones_in_the_body_alone():
    for kind in ("faster", "mask", "keypoint"):
        small = load_config(ROOT / "configs" / f"e2e_{kind}_rcnn_R_50_FPN_1x.yaml")
        large = load_config(ROOT / "configs" / f"e2e_{kind}_rcnn_R_101_FPN_1x.yaml")
        assert large.MODEL.BACKBONE.CONV_BODY == "R-101-FPN"
        assert large.MODEL.WEIGHT == "catalog://ImageNetPretrained/MSRA/R-101"
        large.MODEL.WEIGHT, large.MODEL.BACKBONE.CONV_BODY = small.MODEL.WEIGHT, small.MODEL.BACKBONE.CONV_BODY
        assert large == small
