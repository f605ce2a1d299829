"""Import paths of maskrcnn-benchmark keep working, and cost nothing until they are used."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maskrcnn_benchmark import compat
from maskrcnn_benchmark.config import load_config
from tests.modeling.roi_heads.head_cases import person_batch, small_cfg

ROOT = Path(__file__).resolve().parents[1]


def upstream_names() -> list[tuple[str, str]]:
    """(module below the package, public name of maskrcnn-benchmark in it), for all of them."""
    lines = (ROOT / "tests" / "upstream_names.txt").read_text().splitlines()
    return [(module, name) for module, _, names in (line.partition(": ") for line in lines) for name in names.split()]


def replaced_names() -> set[tuple[str, str]]:
    """The names that docs/MIGRATION.md lists with what to use instead."""
    table = (ROOT / "docs" / "MIGRATION.md").read_text().split("## Names that are not here")[1]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {(row[0].strip("| `"), name) for row in rows for name in re.findall(r"`(\w+)`", row[1])}


def import_name(module: str, name: str) -> object:
    namespace: dict[str, object] = {}
    exec(f"from maskrcnn_benchmark.{module} import {name} as found", namespace)  # as user code does it
    return namespace["found"]


@pytest.mark.parametrize(("module", "name"), upstream_names())
def test_public_names_of_upstream_are_importable_or_have_a_replacement(module, name):
    try:
        assert import_name(module, name) is not None
    except ImportError:
        assert (module, name) in replaced_names(), "say in docs/MIGRATION.md what takes its place"


def test_the_table_of_replacements_names_upstreams_names():
    assert replaced_names() <= set(upstream_names())
    assert len(upstream_names()) > 316


@pytest.mark.parametrize("name", ["nms", "roi_align", "roi_pool", "deform_conv", "modulated_deform_conv"])
def test_functions_of_layers_are_no_modules(name):
    for module in ("layers.nms", "layers.roi_pool", "layers.dcn.deform_conv_func", "layers.sigmoid_focal_loss"):
        importlib.import_module(f"maskrcnn_benchmark.{module}")
    assert inspect.isfunction(import_name("layers", name))


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in compat.NAMES.items() for name in names]
)
def test_names_of_the_table_lead_somewhere(module, name):
    assert callable(import_name(module, name))
    assert name not in vars(importlib.import_module(f"maskrcnn_benchmark.{module}")), "the module has this name itself"


def test_functions_of_upstream_build_what_the_config_says():
    make_anchor_generator = import_name("modeling.rpn.anchor_generator", "make_anchor_generator")
    generator = make_anchor_generator(load_config(opts=["MODEL.RPN.ASPECT_RATIOS", (1.0,)]))
    assert type(generator) is import_name("modeling.rpn.anchor_generator", "AnchorGenerator")
    assert set(generator.num_anchors_per_location()) == {5}  # five sizes on the one level of the default config


def test_names_in_the_config_are_looked_up():
    cfg = load_config(opts=["MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor"])
    module = "modeling.roi_heads.mask_head.roi_mask_predictors"
    predictor = import_name(module, "make_roi_mask_predictor")(cfg, 4)
    assert type(predictor) is import_name(module, "MaskRCNNConv1x1Predictor")
    cfg.MODEL.ROI_MASK_HEAD.PREDICTOR = "Nobody"
    with pytest.raises(KeyError, match="'Nobody' is not registered; registered: MaskRCNNC4Predictor"):
        import_name(module, "make_roi_mask_predictor")(cfg, 4)


@pytest.mark.parametrize("head", ["mask", "keypoint"])
def test_loss_evaluators_give_the_loss_of_the_heads_own_class(head):
    cfg = small_cfg()
    module = f"modeling.roi_heads.{head}_head"
    evaluator = import_name(f"{module}.loss", f"make_roi_{head}_loss_evaluator")(cfg)
    kind = import_name(f"{module}.output", f"{head.title()}Kind").from_cfg(cfg)
    targets, positives = person_batch()
    side = cfg.MODEL[f"ROI_{head.upper()}_HEAD"].RESOLUTION
    logits = torch.randn(len(positives.boxes), kind.num_maps, side, side, generator=torch.Generator().manual_seed(1))
    expected = kind.loss(kind.select_own(logits, positives.labels), positives, targets)
    assert evaluator(logits, positives, targets) == expected > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layers.batch_norm", "layers.norm"),
        ("data.datasets.evaluation", "data.evaluation"),
        ("data.datasets.evaluation.coco.coco_eval", "data.evaluation.coco.coco_eval"),
    ],
)
def test_a_moved_module_is_the_module_itself(old, new):
    alias = importlib.import_module(f"maskrcnn_benchmark.{old}")
    assert alias is importlib.import_module(f"maskrcnn_benchmark.{new}")
    assert alias.__name__ == f"maskrcnn_benchmark.{new}"


def test_a_name_that_does_not_exist_is_refused_as_in_any_module():
    import maskrcnn_benchmark.modeling.rpn.loss as hooked

    with pytest.raises(AttributeError, match="module 'maskrcnn_benchmark.modeling.rpn.loss' has no attribute 'nobody'"):
        _ = hooked.nobody
    with pytest.raises(ImportError, match="cannot import name 'nobody'"):
        import_name("modeling.rpn.loss", "nobody")
    with pytest.raises(ModuleNotFoundError, match="maskrcnn_benchmark.modeling.nowhere"):
        importlib.import_module("maskrcnn_benchmark.modeling.nowhere")
    with pytest.raises(ModuleNotFoundError, match="maskrcnn_benchmark.data.evaluation.nowhere"):
        importlib.import_module("maskrcnn_benchmark.data.datasets.evaluation.nowhere")


def test_modules_with_upstream_names_keep_their_source():
    module = importlib.import_module("maskrcnn_benchmark.modeling.rpn.loss")
    assert isinstance(module, ModuleType)
    assert "class RPNLossComputation" in inspect.getsource(module)


def test_the_hook_is_installed_once():
    def count() -> int:
        return sum(type(finder).__name__ == "_UpstreamFinder" for finder in sys.meta_path)

    assert count() == 1
    compat.install_import_hook()
    assert count() == 1


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, maskrcnn_benchmark\n"
        "assert not {'torch', 'numpy', 'yacs'} & set(sys.modules)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('maskrcnn_benchmark')))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["maskrcnn_benchmark", "maskrcnn_benchmark.compat"]
