"""What is wrong with the model's part of a config is found without building the model for real."""

import time

import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg, load_config
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import find_config_problems
from tests.config.test_checks import CONFIGS, FPN
from tests.modeling.tiny import tiny_cfg


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_model_can_be_built(path):
    if path.parent.name == "timm":
        pytest.importorskip("timm")
    problems = find_config_problems(load_config(path))
    if "fbnet" in path.name:
        problem = problems.pop(0)
        assert problem.startswith("MODEL.BACKBONE.CONV_BODY is 'FBNet'; registered: ")
        assert "This package does not have FBNet" in problem
    assert problems == []


def test_no_random_number_is_drawn_and_the_config_stays_as_it_is():
    cfg = load_config(FPN)
    cfg.freeze()
    before, state = cfg.dump(), torch.random.get_rng_state()
    assert find_config_problems(cfg) == []
    assert torch.equal(torch.random.get_rng_state(), state) and cfg.dump() == before


def test_a_large_model_is_checked_in_a_moment():
    cfg = load_config(CONFIGS / "e2e_mask_rcnn_R_101_FPN_1x.yaml")
    find_config_problems(cfg)  # the first use of the meta device imports a part of PyTorch
    start = time.process_time()
    find_config_problems(cfg)
    assert time.process_time() - start < 1.0


def test_problems_are_raised_together_with_those_of_other_sections():
    options = ["DTYPE", "float8", "MODEL.META_ARCHITECTURE", "GeneralisedRCNN"]
    with pytest.raises(ConfigError) as caught:
        load_config(FPN, options, checks=[find_config_problems])
    first, second = str(caught.value).splitlines()
    assert "DTYPE is 'float8'" in first and "META_ARCHITECTURE is 'GeneralisedRCNN'" in second


def test_a_users_module_that_needs_real_tensors_is_left_to_the_real_build(monkeypatch):
    monkeypatch.setitem(registry.META_ARCHITECTURES, "mine", lambda cfg: torch.zeros(1).item())
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "mine"
    assert find_config_problems(cfg) == []


def test_an_error_of_a_constructor_is_a_problem():
    cfg = tiny_cfg("MODEL.RETINANET_ON", True, "MODEL.RETINANET.ANCHOR_STRIDES", ())
    assert any("MODEL.RETINANET.ANCHOR_SIZES has 5 entries" in problem for problem in find_config_problems(cfg))
