"""Keys, defaults and types against the lists of maskrcnn-benchmark's and its HRNet fork's."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import yaml
from yacs.config import CfgNode as YacsNode

from maskrcnn_benchmark.config import cfg as global_cfg
from maskrcnn_benchmark.config import get_cfg, load_config
from tests.contracts.contract import NAMES, read_contract

UPSTREAM = json.loads((Path(__file__).parent / "upstream_defaults.json").read_text())


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def as_lists(value):
    return [as_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def test_every_upstream_key_has_its_default_and_type():
    cfg = get_cfg()
    assert len(UPSTREAM) == 215
    for key, (kind, default) in UPSTREAM.items():
        value = value_of(cfg, key)
        assert as_lists(value) == default, key
        assert type(value).__name__ == kind, key


def test_the_tree_of_defaults_is_usable_and_each_copy_is_its_own():
    first, second = load_config(), get_cfg()
    first.MODEL.MASK_ON = True
    first.MODEL.HRNET.STAGE2.NUM_CHANNELS.append(7)
    assert not second.MODEL.MASK_ON
    assert second.MODEL.HRNET.STAGE2.NUM_CHANNELS == [24, 48]
    assert get_cfg() == global_cfg


def test_a_copied_or_pickled_tree_keeps_its_rules():
    for copied in (copy.deepcopy(get_cfg()), pickle.loads(pickle.dumps(get_cfg())), get_cfg().clone()):
        copied.merge_from_list(["INPUT.MAX_SIZE_TRAIN", (1000, 1200), "MODEL.BACKBONE.OUT_CHANNELS", 256])
        assert copied.INPUT.MAX_SIZE_TRAIN == (1000, 1200)
        assert copied.MODEL.RESNETS.BACKBONE_OUT_CHANNELS == 256


def test_a_dump_reads_back_as_the_same_config(tmp_path):
    cfg = load_config(opts=["MODEL.WEIGHT", "w.pth", "INPUT.MAX_SIZE_TRAIN", (1000,), "SOLVER.STEPS", (10, 20)])
    path = tmp_path / "config.yml"
    path.write_text(cfg.dump())
    assert load_config(path) == cfg
    plain = YacsNode(yaml.safe_load(path.read_text()))  # yacs without this project reads it too
    assert plain.MODEL.WEIGHT == "w.pth"


@pytest.mark.parametrize("as_text", [False, True], ids=["values", "command line"])
@pytest.mark.parametrize("name", NAMES)
def test_options_of_the_released_models_merge(name, as_text):
    contract = read_contract(name)
    cfg = load_config(opts=[str(word) if as_text else word for word in contract.opts_list])
    for key, value in contract.opts.items():
        assert as_lists(value_of(cfg, key)) == value, key
