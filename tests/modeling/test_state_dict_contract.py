"""State-dict keys are a file format: tests/contracts has upstream's, tests/golden has ours."""

import pytest
import torch

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import load_state_dict
from tests.contracts.contract import NAMES as CONTRACTS
from tests.contracts.contract import Contract, read_contract
from tests.golden.regenerate import NAMES, keys_file, keys_of_config


def build(contract: Contract, device: str) -> torch.nn.Module:
    cfg = get_cfg()
    cfg.merge_from_list(contract.opts_list)
    with torch.device(device):
        return build_detection_model(cfg)


@pytest.mark.parametrize("name", CONTRACTS)
def test_keys_shapes_and_order_are_upstreams(name):
    contract = read_contract(name)
    model = build(contract, "meta")
    # The fork's files carry an epsilon in each frozen norm; it is read, and not written.
    expected = {key: shape for key, shape in contract.shapes.items() if not key.endswith(".eps")}
    actual = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert sorted(expected.items() - actual.items()) == [], "in upstream's files and not (so) in the model"
    assert sorted(actual.items() - expected.items()) == [], "in the model and not (so) in upstream's files"
    assert list(actual) == list(expected), "the order of parameters is that of the optimiser's state"
    assert sum(parameter.numel() for parameter in model.parameters()) == contract.num_parameters


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_same_parameters_learn(name):
    contract = read_contract(name)
    kinds = {key: kind for key, kind in contract.kinds.items() if not key.endswith(".eps")}
    model = build(contract, "meta")
    actual = dict.fromkeys(model.state_dict(), "buffer")
    for key, parameter in model.named_parameters():
        actual[key] = "param" if parameter.requires_grad else "frozen"
    assert actual == kinds


@pytest.mark.parametrize("name", ["e2e_faster_rcnn_R_50_C4_1x", "mask_rcnn_hrnet_w18_1x"])
def test_a_file_in_upstreams_format_loads_completely(name):
    contract = read_contract(name)
    file = {f"module.{key}": torch.rand(shape) for key, shape in contract.shapes.items()}
    for key in file:
        if key.endswith(".eps"):
            file[key].fill_(1e-5)
    model = build(contract, "cpu")
    report = load_state_dict(model, file)
    assert report.complete and not report.unused
    for key, value in model.state_dict().items():
        if "cell_anchors" not in key:  # the config decides these
            assert torch.equal(value, file[f"module.{key}"]), key


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_our_configs(name):
    expected, actual = keys_file(name).read_text(), keys_of_config(name)
    changed = sorted(set(expected.splitlines()) ^ set(actual.splitlines()))
    assert not changed and actual == expected, (
        f"{len(changed)} lines of {name}.keys differ or moved, e.g. {changed[:5]}. If the file format is meant to "
        "change, read the old names in _load_from_state_dict and run python -m tests.golden.regenerate"
    )
