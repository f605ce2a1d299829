import logging

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.modeling.rpn.anchor_generator import CACHED_GRIDS, AnchorGenerator, generate_anchors
from maskrcnn_benchmark.utils.model_serialization import load_state_dict
from tests.devices import DEVICES

# The table of the first Faster R-CNN in Python: stride 16, ratios 0.5, 1, 2 and sizes 128, 256, 512. (That of its
# MATLAB original, -83 -39 100 56 and so on, counts pixels from 1.)
NINE_ANCHORS = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def test_nine_and_fifteen_anchors_of_stride_16():
    assert generate_anchors(16, (128, 256, 512), (0.5, 1, 2)).tolist() == NINE_ANCHORS
    fifteen = generate_anchors(16, (32, 64, 128, 256, 512), (0.5, 1, 2))
    assert fifteen.shape == (15, 4)
    assert [fifteen[index].tolist() for index in (2, 3, 4, 7, 8, 9, 12, 13, 14)] == NINE_ANCHORS
    assert fifteen[5].tolist() == [-8, -8, 23, 23]
    assert fifteen[0].tolist() == [-15, -4, 30, 19]  # 23 x 12 on the base box, twice as large


@pytest.mark.parametrize(
    ("stride", "size", "expected"),
    [  # by hand: the base box of the ratio 0.5 is 6 x 3, 45 x 22 (22.5 to even) ...; of 2 it is 3 x 6, 23 x 46
        (4, 32, [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]]),
        (32, 256, [[-164, -72, 195, 103], [-112, -112, 143, 143], [-76, -168, 107, 199]]),
        (64, 512, [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]]),
    ],
)
def test_pyramid_levels_by_hand(stride, size, expected):
    anchors = generate_anchors(stride, (size,), (0.5, 1.0, 2.0))
    assert anchors.tolist() == expected


def test_half_open_anchors_have_the_exact_area_and_ratio_about_the_cells_centre():
    anchors = generate_anchors(16, (100, 300), (0.5, 1.0, 3.0), offset=0)
    widths, heights = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    torch.testing.assert_close(widths * heights, torch.tensor([100.0, 300.0] * 3) ** 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(heights / widths, torch.tensor([0.5, 0.5, 1, 1, 3, 3]), rtol=1e-5, atol=0)
    torch.testing.assert_close((anchors[:, :2] + anchors[:, 2:]) / 2, torch.full((6, 2), 8.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_grid_goes_row_by_row_with_the_anchors_of_a_cell_together(device):
    generator = AnchorGenerator((32, 64), (0.5, 1.0), (4, 8)).to(device)
    levels = generator([(3, 2), (2, 1)])
    for level, (height, width), stride in zip(levels, [(3, 2), (2, 1)], (4, 8), strict=True):
        cell = list(generator.cell_anchors)[stride // 8]
        expected = [
            (anchor + torch.tensor([x, y, x, y], device=device) * stride).tolist()
            for y in range(height)
            for x in range(width)
            for anchor in cell
        ]
        assert level.tolist() == expected


def test_state_dict_keys_and_shapes():
    pyramid = AnchorGenerator((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64))
    assert {k: tuple(v.shape) for k, v in pyramid.state_dict().items()} == {
        f"cell_anchors.{i}": (3, 4) for i in range(5)
    }
    single = AnchorGenerator(((32, 64, 128, 256, 512),), (0.5, 1.0, 2.0), (16,))
    assert {k: tuple(v.shape) for k, v in single.state_dict().items()} == {"cell_anchors.0": (15, 4)}
    assert single.num_anchors_per_location() == [15] and pyramid.num_anchors_per_location() == [3] * 5


def test_grids_are_kept_but_not_without_end_nor_in_another_dtype():
    generator = AnchorGenerator((32,), (1.0,), (8,))
    assert generator([(3, 4)])[0] is generator([(3, 4)])[0]
    for height in range(1, 2 * CACHED_GRIDS):
        generator([(height, 3)])
    assert len(generator._grids) == CACHED_GRIDS
    assert generator.bfloat16()([(2, 2)])[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("offset", "straddle", "expected"),
    [
        (1, 0, [True, False, False, True, False]),
        (0, 0, [True, True, False, True, False]),
        (1, 5, [True, True, True, True, False]),
        (1, -1, [True] * 5),
    ],
)
def test_visible(offset, straddle, expected):
    generator = AnchorGenerator((32,), (1.0,), (8,), straddle, offset=offset)
    anchors = torch.tensor([[0, 0, 19, 9], [0, 0, 20, 10], [-1, 0, 5, 5], [3, 3, 4, 4], [0, 0, 19, 19.0]])
    visible = generator.visible(anchors, torch.tensor([[20.0, 10.0], [100.0, 100.0]]))
    assert visible[0].tolist() == expected
    assert visible[1].tolist() == [True, True, straddle != 0, True, True]


def test_errors_name_the_keys():
    with pytest.raises(ValueError, match=r"ANCHOR_SIZES has 2 entries .*ANCHOR_STRIDE 1 \("):
        AnchorGenerator((32, 64), (1.0,), (8,))
    with pytest.raises(ValueError, match="expected positive numbers"):
        AnchorGenerator((32,), (0.0,), (8,))
    with pytest.raises(ValueError, match="gives 2 feature levels, MODEL.RPN.ANCHOR_STRIDE names 1"):
        AnchorGenerator((32,), (1.0,), (8,))([(2, 2), (1, 1)])


def other_anchors(sizes=(32, 64), ratios=(0.5, 1.0), offset=1):
    return AnchorGenerator(sizes, ratios, tuple(8 * 2**level for level in range(len(sizes))), offset=offset)


@pytest.mark.parametrize(
    "other",
    [
        other_anchors(sizes=(32, 65)),
        other_anchors(ratios=(0.5, 2.0)),
        other_anchors(ratios=(0.5, 1.0, 2.0)),
        other_anchors(sizes=(32,)),
        other_anchors(sizes=(32, 64, 128)),
        other_anchors(offset=0),
    ],
    ids=["a size", "a ratio", "a ratio more", "a level less", "a level more", "the offset"],
)
@pytest.mark.parametrize("load", [nn.Module.load_state_dict, load_state_dict], ids=["strictly", "by name"])
def test_the_configs_anchors_win_and_a_difference_is_warned_about_once(other, load, caplog):
    generator = other_anchors()
    expected = [anchors.clone() for anchors in generator([(2, 3), (1, 2)])]
    with caplog.at_level(logging.WARNING):
        load(nn.ModuleDict({"rpn": generator}), {f"rpn.{key}": value for key, value in other.state_dict().items()})
    assert len(caplog.records) == 1
    assert "which are used" in caplog.text and "compare MODEL.RPN.ANCHOR_SIZES, ASPECT_RATIOS" in caplog.text
    assert all(map(torch.equal, generator([(2, 3), (1, 2)]), expected))


def test_equal_and_missing_anchors_load_in_silence(caplog):
    generator = other_anchors()
    with caplog.at_level(logging.WARNING):
        generator.load_state_dict(other_anchors().half().state_dict())
        generator.load_state_dict({})
        report = load_state_dict(generator, {})
    assert report.complete and not caplog.records


def test_anchors_without_values_are_taken_from_the_file():
    with torch.device("meta"):
        generator = other_anchors()
    generator.load_state_dict(other_anchors().state_dict(), assign=True)
    assert all(map(torch.equal, generator.cell_anchors, other_anchors().cell_anchors))


@pytest.mark.parametrize(
    ("opts", "backbone", "message"),
    [
        (("USE_FPN", True), None, "each level has a stride and a size"),
        (("ANCHOR_STRIDE", (8, 16)), None, "set USE_FPN to True, or name one stride"),
        (("ANCHOR_STRIDE", (8,)), (16,), r"ANCHOR_STRIDE is \(8,\), the backbone's levels have the strides \(16,\)"),
        (("ANCHOR_STRIDE", ()), None, "the backbone has no attribute `strides`"),
        (("ANCHOR_STRIDE", ()), (8, 16), "set USE_FPN to True, or name one stride"),
    ],
)
def test_strides_that_do_not_fit_are_explained(opts, backbone, message):
    cfg = get_cfg()
    cfg.MODEL.RPN.merge_from_list(list(opts))
    with pytest.raises(ConfigError, match=message):
        AnchorGenerator.from_cfg(cfg, backbone)


def test_strides_that_are_left_out_are_the_backbones():
    cfg = get_cfg()
    cfg.MODEL.RPN.merge_from_list(["USE_FPN", True, "ANCHOR_STRIDE", (), "ANCHOR_SIZES", (32, 64)])
    assert AnchorGenerator.from_cfg(cfg, [8, 16]).strides == (8, 16)
