"""The library of the refine ablation: variants, their configs, and what their heads cost."""

import logging
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.reporting.ablation.cost import refine_operations, width_of_equal_cost
from maskrcnn_benchmark.reporting.ablation.variants import (
    RETESTED,
    VARIANTS,
    common_options,
    flat_config,
    private_width,
)

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "quick" / "hrnet_refine_people.yaml")


def test_variants_differ_in_the_refine_head_alone():
    common = common_options(CONFIG, 9, ["TEST.PICTURES", "3"])
    configs = {name: load_config(CONFIG, [*common, *opts]) for name, opts in VARIANTS.items()}
    flat = {name: dict(flat_config(cfg)) for name, cfg in configs.items()}
    ranking = {"MODEL.ROI_MASK_HEAD.RESCORE", "MODEL.ROI_KEYPOINT_HEAD.RESCORE"}
    for name, values in flat.items():
        differing = {key for key, value in values.items() if value != flat["none"][key]}
        assert all(key == "MODEL.REFINE_ON" or key.startswith("MODEL.ROI_REFINE_HEAD.") or key in ranking
                   for key in differing), name  # fmt: skip
        assert values["SOLVER.MAX_ITER"] == "9" and values["TEST.BOUNDARY_AP"] == "True"
        assert configs[name].TEST.PICTURES == 3
        assert values["MODEL.ROI_KEYPOINT_HEAD.DECODE"] == values["MODEL.ROI_REFINE_HEAD.DECODE"]
    nodes = {name: cfg.MODEL.ROI_REFINE_HEAD for name, cfg in configs.items() if cfg.MODEL.REFINE_ON}
    heads = {name: (node.INDICATORS, node.OUTPUTS, node.SHARED) for name, node in nodes.items()}
    both = ("mask", "keypoint")
    assert heads == {
        "no-indicators": ((), both, True),
        "mask-to-mask": (("mask",), ("mask",), True),
        "keypoint-to-keypoint": (("keypoint",), ("keypoint",), True),
        "both-to-both": (both, both, True),
        "private": (both, both, False),
        "both-by-box-score": (both, both, True),
    }
    for name, trained in RETESTED.items():  # the weights of one fit the other
        differing = {key for key, value in flat[name].items() if value != flat[trained][key]}
        assert differing and differing <= {*ranking, "MODEL.ROI_REFINE_HEAD.RESCORE"}


@pytest.mark.parametrize(
    ("target", "largest", "expected"),
    [
        (2 * 50**2, 50, 50),  # the largest is too cheap
        (1000, 50, 22),  # 2 * 22**2 = 968, 2 * 23**2 = 1058
        (1200, 50, 24),  # 1152 at four percent less, against 1250 at four percent more
        (1570, 50, 28),  # exact at 28
        (1600, 50, 28),  # two percent less, but even
        (3, 50, 1),
        (0.1, 1, 1),
    ],
)
def test_width_of_equal_cost(target, largest, expected):
    width, ratio = width_of_equal_cost(lambda width: 2 * width**2, target, largest)
    assert (width, ratio) == (expected, 2 * expected**2 / target)


def test_operations_equal_those_by_hand():
    """Multiply-adds for each of the 28 x 28 cells, of a trunk that is twice as wide at each of two halvings."""

    def by_hand(width, branches, outputs):
        projections = sum(branches) * width / 4  # at 14 x 14 cells
        stem = (48 + len(branches) * width) * width
        downs = sum(9 * w * 2 * w + 9 * (2 * w) ** 2 + 2 * w**2 for w in (width, width)) / 4  # second: 4 w^2, a quarter
        laterals = 2 * width**2 / 4 + 8 * width**2 / 16
        ups = 18 * (2 * width) ** 2 / 4 + 18 * width**2
        return 2 * 28**2 * (projections + stem + downs + laterals + ups + 16 * width * sum(outputs))

    common = common_options(CONFIG, opts=["MODEL.ROI_REFINE_HEAD.CONV_DIM", "16"])

    def counted(variant):
        return refine_operations(load_config(CONFIG, [*common, *VARIANTS[variant]]))

    mask, keypoint = 48, 64  # channels of what the branches' predictors read
    assert counted("both-to-both") == by_hand(16, [mask, keypoint], [2, 17])
    assert counted("mask-to-mask") == by_hand(16, [mask], [2])
    assert counted("private") == by_hand(16, [mask], [2]) + by_hand(16, [keypoint], [17])


def test_private_heads_cost_what_the_shared_one_costs(caplog):
    caplog.set_level(logging.INFO)
    common = common_options(CONFIG, opts=["MODEL.ROI_REFINE_HEAD.CONV_DIM", "12"])
    key, width = private_width(CONFIG, common)
    assert key == "MODEL.ROI_REFINE_HEAD.CONV_DIM" and 7 <= int(width) <= 10
    assert "two heads of CONV_DIM" in caplog.text
