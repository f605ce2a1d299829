"""The family in docs/WEIGHTS.md loads a file with its names; the families and keys of the page exist."""

import re

import torch

from maskrcnn_benchmark.config import get_cfg, load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import EXPORT_FAMILIES, WEIGHT_FAMILIES, load_state_dict
from tests.tools.runs import ROOT

DOCUMENT = (ROOT / "docs" / "WEIGHTS.md").read_text(encoding="utf-8")


def test_the_example_loads():
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    exec(block, {})  # noqa: S102 - the page of this repository
    try:
        cfg = load_config(ROOT / "configs" / "e2e_faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.WEIGHT", ""])
        model = build_detection_model(cfg)
        state = {f"their.{name}": value + 1 for name, value in model.state_dict().items() if "anchor" not in name}
        report = load_state_dict(model, state, cfg)
        assert report.family == "my project" and report.complete
        stem = model.backbone.body.stem.conv1.weight
        assert torch.equal(stem, state["their.backbone.body.stem.conv1.weight"].flip(1))  # the config reads BGR
    finally:
        del WEIGHT_FAMILIES["mine"]


def test_the_tables_are_complete():
    table = DOCUMENT.split("## Families")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` .*\| (yes|no) \|$", table, flags=re.MULTILINE))
    assert set(rows) == set(WEIGHT_FAMILIES)
    assert {name for name, is_written in rows.items() if is_written == "yes"} == set(EXPORT_FAMILIES)
    for key in set(re.findall(r"`MODEL\.(WEIGHT\w*)`", DOCUMENT)):
        assert key in get_cfg().MODEL
