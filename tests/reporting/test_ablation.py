"""The library of ablations: files of variants, their configs, what refine heads cost, and tables."""

import logging
import re
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import StartupError
from maskrcnn_benchmark.reporting.ablation.cost import refine_operations, width_of_equal_cost
from maskrcnn_benchmark.reporting.ablation.runs import flat_config, plan_runs, variant_options
from maskrcnn_benchmark.reporting.ablation.tables import format_tables
from maskrcnn_benchmark.reporting.ablation.variants import read_ablation

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "quick" / "hrnet_refine_people.yaml")
REFINE = read_ablation(ROOT / "tools" / "ablations" / "refine.yaml")
KEYPOINTS = read_ablation(ROOT / "tools" / "ablations" / "keypoints.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "tools" / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_variant_of_the_shipped_files_can_be_built(path, tmp_path):
    ablation = read_ablation(path)
    runs = plan_runs(ablation, list(ablation.variants), [1], tmp_path, iterations=9, opts=[])
    assert [run.variant for run in runs] == list(ablation.variants)


def test_variants_differ_in_the_refine_head_alone():
    opts = ["TEST.PICTURES", "3"]
    configs = {name: load_config(CONFIG, variant_options(REFINE, name, 9, opts)) for name in REFINE.variants}
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
    retested = {name: variant.weights_of for name, variant in REFINE.variants.items() if variant.weights_of}
    assert retested == {"none-rescored": "none", "both-by-box-score": "both-to-both"}
    for name, trained in retested.items():  # the weights of one fit the other
        differing = {key for key, value in flat[name].items() if value != flat[trained][key]}
        assert differing and differing <= {*ranking, "MODEL.ROI_REFINE_HEAD.RESCORE"}


def test_keypoint_variants_say_what_they_change():
    configs = {name: load_config(CONFIG, variant_options(KEYPOINTS, name, 9, [])) for name in KEYPOINTS.variants}
    flat = {name: dict(flat_config(cfg)) for name, cfg in configs.items()}
    heads = ("MODEL.ROI_KEYPOINT_HEAD", "MODEL.ROI_REFINE_HEAD")
    targets = {f"{heads[0]}.TARGET", f"{heads[0]}.LOSS"}
    at_test = {f"{head}.{key}" for head in heads for key in ("DECODE", "RESCORE")} | {"TEST.FLIP_KEYPOINTS"}
    for name, values in flat.items():
        kind, _, change = name.partition("-")
        base, retested = flat[kind], KEYPOINTS.variants[name].weights_of
        differing = {key for key, value in values.items() if value != base[key]}
        assert bool(differing) == bool(change)
        assert (
            (differing <= at_test and retested == kind)
            if retested
            else differing <= {"MODEL.ROI_HEADS.GT_PROPOSALS_FOR"}
        )
        assert {key for key in base if base[key] != flat["onehot"][key]} <= targets
        for key in ("DECODE", "RESCORE"):
            assert values[f"{heads[0]}.{key}"] == values[f"{heads[1]}.{key}"]
        node = configs[name].MODEL.ROI_KEYPOINT_HEAD
        assert {
            "onehot": ("onehot", "cross_entropy"),
            "gaussian": ("gaussian", "cross_entropy"),
            "mse": ("gaussian", "mse"),
        }[kind] == (node.TARGET, node.LOSS)
    assert len(configs) == 18


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

    width = ["MODEL.ROI_REFINE_HEAD.CONV_DIM", "16"]

    def counted(variant):
        return refine_operations(load_config(CONFIG, [*variant_options(REFINE, variant), *width]))

    mask, keypoint = 48, 64  # channels of what the branches' predictors read
    assert counted("both-to-both") == by_hand(16, [mask, keypoint], [2, 17])
    assert counted("mask-to-mask") == by_hand(16, [mask], [2])
    assert counted("private") == by_hand(16, [mask], [2]) + by_hand(16, [keypoint], [17])


def test_private_heads_cost_what_the_shared_one_costs(caplog):
    caplog.set_level(logging.INFO)
    *_, key, width = variant_options(REFINE, "private", opts=["MODEL.ROI_REFINE_HEAD.CONV_DIM", "12"])
    assert key == "MODEL.ROI_REFINE_HEAD.CONV_DIM" and 7 <= int(width) <= 10
    assert "private: refine heads of CONV_DIM" in caplog.text


FILE = """
config: ../base.yaml
common: {MODEL: {MASK_ON: True}, TEST.BOUNDARY_AP: True}
metrics: {first: segm AP, second: segm_amodal AP}
variants:
  both: {}
  swapped:
    weights_of: both
    metrics: {second: segm_visible AP50}
  wide:
    set: {MODEL: {ROI_MASK_HEAD: {CONV_LAYERS: [8, 8]}}, SOLVER.BASE_LR: 0.5}
"""


def test_file_of_variants(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(FILE)
    ablation = read_ablation(path)
    assert Path(ablation.config_file).resolve() == (tmp_path.parent / "base.yaml").resolve()
    assert ablation.settings == ("MODEL.MASK_ON", True, "TEST.BOUNDARY_AP", True)
    assert ablation.variants["wide"].settings == ("MODEL.ROI_MASK_HEAD.CONV_LAYERS", [8, 8], "SOLVER.BASE_LR", 0.5)
    words = variant_options(ablation, "wide", 7, ["SOLVER.BASE_LR", "0.1"])
    assert words[-6:] == ["SOLVER.BASE_LR", "0.1", *ablation.variants["wide"].settings]
    assert words[words.index("SOLVER.MAX_ITER") + 1] == 7


def test_tables_choose_metrics_by_name_and_compare_with_the_first_variant(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(FILE)
    metrics = {"segm": {"AP": 0.5}, "segm_amodal": {"AP": 0.25}, "segm_visible": {"AP50": 0.125}}
    finished = {"swapped": {1: metrics}, "both": {1: metrics, 2: {"segm": {"AP": 0.75}, "bbox": {"AP": 1.0}}}}
    assert format_tables(read_ablation(path), finished).splitlines()[2:] == [
        "| variant | seeds | first | second |",
        "| --- | ---: | ---: | ---: |",
        "| both | 2 | 62.5 ± 17.7 | 25.0 |",
        "| swapped | 1 | 50.0 | 12.5 |",
        "",
        "Gains over `both` with the same seed.",
        "",
        "| variant | seeds | first | second |",
        "| --- | ---: | ---: | ---: |",
        "| swapped | 1 | +0.0 | -12.5 |",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("config: ../base.yaml", ""), "needs `config`"),
        (("metrics: {first: segm AP, second: segm_amodal AP}", ""), "needs `metrics`"),
        (("segm_amodal AP", "segm_amodal"), "'second' is 'segm_amodal'; expected a task and its metric"),
        (("weights_of: both", "weights_of: none"), "variant swapped refers to 'none', which is not another variant"),
        (("weights_of: both", "weights_of: swapped"), "variant swapped refers to 'swapped', which is not another"),
        (("metrics: {second: seg", "metrics: {third: seg"), "columns third; the columns are first, second"),
        (
            ("  both: {}", "  both: {MODEL.MASK_ON: False}"),
            "variant both: unknown 'MODEL.MASK_ON'; expected some of set,",
        ),
        (("  both: {}", "  both: 3"), "variant both: got 3; expected keys with values"),
        (("set: {MODEL", "weights_of: swapped\n    set: {MODEL"), "no weights of its own. Write weights_of: both"),
        (("common: {", "common: {{"), "not valid YAML"),
    ],
)
def test_mistakes_in_a_file_of_variants(tmp_path, change, message):
    assert change[0] in FILE
    path = tmp_path / "own.yaml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(StartupError, match=re.escape(message)):
        read_ablation(path)
