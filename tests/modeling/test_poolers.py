import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from maskrcnn_benchmark.config import ConfigError, get_cfg, load_config
from maskrcnn_benchmark.modeling.poolers import Pooler, fit_poolers, rois_from_boxlists
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.devices import DEVICES

SCALES = (0.25, 0.125, 0.0625)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_pooler_takes_each_region_from_its_level(device, offset):
    features = [torch.rand(2, 3, 256 // stride, 320 // stride, device=device) for stride in (4, 8, 16, 32)]
    sides = torch.tensor([5.0, 55.0, 57.0, 111.0, 112.0, 113.0, 223.0, 224.0, 240.0])
    boxes = torch.stack([torch.full_like(sides, 3.0), torch.full_like(sides, 5.0), 3 + sides, 5 + sides], dim=1)
    boxlists = [BoxList(boxes.to(device), (320, 256), offset=offset), BoxList(boxes[:4].to(device), (320, 256))]
    rois = rois_from_boxlists(boxlists)
    pooler = Pooler(3, SCALES, 2, offset=offset)
    pooled = pooler(features, rois)
    assert pooled.shape == (13, 3, 3, 3)
    torch.testing.assert_close(pooler(features, boxlists), pooled)
    for region, roi in zip(pooled, rois, strict=True):
        side = float(roi[3] - roi[1]) + offset
        level = min(max(math.floor(4 + math.log2(side / 224 + 1e-6)), 2), 4) - 2
        expected = roi_align(features[level], roi[None], 3, SCALES[level], 2)
        torch.testing.assert_close(region, expected[0])


def test_rois_from_boxlists():
    boxlists = [BoxList([[1, 2, 3, 4]], (9, 9)), BoxList([], (9, 9)), BoxList([[5, 6, 2, 1]], (9, 9), mode="xywh")]
    assert rois_from_boxlists(boxlists).tolist() == [[0, 1, 2, 3, 4], [2, 5, 6, 6, 6]]


def test_no_regions():
    features = [torch.rand(1, 3, 8, 8, requires_grad=True)]
    pooled = Pooler(7, (0.25,), 2)(features, torch.zeros(0, 5))
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert features[0].grad.eq(0).all()


@pytest.mark.parametrize("scales", [(0.25, 0.0625), (0.0625, 0.125), (0.3,), (0.0,)])
def test_scales_are_checked(scales):
    with pytest.raises(ValueError, match="POOLER_SCALES is"):
        Pooler(7, scales, 2)


def test_too_few_levels():
    with pytest.raises(ValueError, match="reads 3 levels .* the backbone gives 1"):
        Pooler(7, SCALES, 2)([torch.rand(1, 3, 8, 8)], torch.zeros(0, 5))


def test_scales_that_are_left_out_are_those_of_the_backbone():
    heads = nn.ModuleDict({"box": Pooler(7, (), 2), "mask": Pooler(7, (0.25, 0.125), 2)})
    with pytest.raises(ValueError, match="the pooler has no scales"):
        heads["box"]([torch.rand(1, 3, 8, 8)], torch.zeros(0, 5))
    fit_poolers(heads, (4, 8, 16, 32, 64))
    assert heads["box"].scales == (1 / 4, 1 / 8, 1 / 16, 1 / 32) and heads["mask"].scales == (1 / 4, 1 / 8)


@pytest.mark.parametrize(
    ("strides", "scales"), [((8, 16, 32, 64), (1 / 8, 1 / 16, 1 / 32)), ((16,), (1 / 16,)), ((64, 128), (1 / 64,))]
)
def test_pooled_levels_by_default(strides, scales):
    pooler = Pooler(7, (), 2)
    fit_poolers(nn.ModuleDict({"box": pooler}), strides)
    assert pooler.scales == scales


def test_scales_that_do_not_fit_the_backbone_are_explained():
    with pytest.raises(ConfigError, match=r"the box head's POOLER_SCALES are \(0.125,\), the backbone's levels have"):
        fit_poolers(nn.ModuleDict({"box": Pooler(7, (0.125,), 2)}), (4, 8))
    with pytest.raises(ConfigError, match=r"the box head's POOLER_SCALES is \(\), .* no attribute `strides`"):
        fit_poolers(nn.ModuleDict({"box": Pooler(7, (), 2)}), None)
    fit_poolers(nn.ModuleDict({"box": Pooler(7, (0.125,), 2)}), None)  # without strides there is nothing to compare


def test_a_pooler_of_a_config_names_its_key():
    cfg = get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SCALES = (0.3,)
    with pytest.raises(
        ConfigError, match=r"^MODEL.ROI_BOX_HEAD.POOLER_SCALES is \(0.3,\); expected 1 / a power of two"
    ):
        Pooler.from_cfg(cfg, "ROI_BOX_HEAD")
    pooler = Pooler.from_cfg(cfg, "ROI_REFINE_HEAD", offset=0)
    assert (pooler.output_size, pooler.scales, pooler.aligned, pooler.offset) == ((28, 28), (0.25,), True, 0)


def test_levels_of_torchvision_and_detectron2():
    """Regions near the limits between levels, by the rules of both projects.

    They compute in float32, here it is double. Sides within rounding errors of a limit are left out.
    """
    changes = torch.arange(-20, 21, dtype=torch.float64) / 8e6
    sides = (224 * torch.tensor([0.5, 1.0, 2.0])[:, None] * (1 + changes)).float().flatten()
    rois = torch.stack([0 * sides, 0 * sides, 0 * sides, sides, sides], dim=1)
    maps = [torch.full((1, 1, 256 >> level, 256 >> level), float(level)) for level in range(4)]
    for name, shift in (("torchvision/fasterrcnn_resnet50_fpn", 1e-6), ("detectron2/faster_rcnn_R_50_FPN_1x", 0.0)):
        pooler = Pooler.from_cfg(load_config(CONFIGS / f"{name}.yaml"), "ROI_BOX_HEAD")
        levels = pooler(maps, rois)[:, 0, 3, 3].round().long()
        exact = torch.log2(sides.double() / 224) + shift
        # Detectron2 adds 1e-8 to the ratio, which float32 rounds away
        expected = LevelMapper(2, 5)([rois[:, 1:]]) if shift else torch.floor(4 + exact).long() - 2
        decided = (exact - exact.round()).abs() > 5e-7
        decided |= exact == exact.round()  # the limit itself
        assert decided.sum() > 75 and torch.equal(levels[decided], expected[decided])


def test_levels_of_upstream_are_the_default_and_the_epsilon_is_checked():
    cfg = get_cfg()
    pooler = Pooler.from_cfg(cfg, "ROI_BOX_HEAD")
    assert (pooler.level_eps, pooler.level_eps_after_log) == (1e-6, False)
    cfg.MODEL.ROI_HEADS.LEVEL_EPS = 0.0
    with pytest.raises(ConfigError, match=r"MODEL.ROI_HEADS.LEVEL_EPS is 0.0; expected between 1e-12 and 0.01"):
        Pooler.from_cfg(cfg, "ROI_BOX_HEAD")
