"""The hook and the schedule of docs/EXTENDING.md, run in a training."""

import sys

import pytest

from maskrcnn_benchmark.config import ConfigError, load_config, plugins
from maskrcnn_benchmark.engine.hooks import HOOKS, find_hook_problems
from maskrcnn_benchmark.solver import LR_SCHEDULERS, find_solver_problems
from tests.docs.test_extending import code
from tests.engine.test_do_train import recorded_losses, run, toy_cfg


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """A function that writes a module of the document where IMPORTS finds it; the registries forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(plugins, "_declared", {})
    written = []

    def write(name):
        (tmp_path / f"{name}.py").write_text(code(f"{name}.py"))
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)
    for registry, name in ((HOOKS, "EarlyStop"), (LR_SCHEDULERS, "Polynomial")):
        registry.pop(name, None)


def test_the_hook_ends_the_training_and_gets_its_checkpoint(tmp_path, write_module):
    write_module("early_stop")
    own = ["IMPORTS", "early_stop", "CUSTOM.EARLY_STOP.PERIOD", "3", "CUSTOM.EARLY_STOP.LOSS", "1e9"]
    cfg = toy_cfg(tmp_path / "run")
    cfg.merge_from_list([*own, "SOLVER.HOOKS", "EarlyStop"])
    assert find_hook_problems(cfg) == []
    trainer, _ = run(cfg)
    assert trainer.iteration == 3 and trainer.stop_reason.startswith("the loss ")
    assert (tmp_path / "run" / "model_0000003.pth").is_file()
    with pytest.raises(ConfigError, match=r"did you mean CUSTOM\.EARLY_STOP\.PERIOD\?"):
        load_config(None, ["IMPORTS", "early_stop", "CUSTOM.EARLY_STOP.PERIODS", "3"])


def test_the_schedule_continues_exactly_after_a_stop(tmp_path, write_module):
    write_module("polynomial")
    whole, parts = toy_cfg(tmp_path / "whole"), toy_cfg(tmp_path / "parts")
    for cfg in (whole, parts):
        cfg.merge_from_list(["IMPORTS", "polynomial", "SOLVER.LR_SCHEDULER", "Polynomial"])
    assert find_solver_problems(whole) == []
    run(whole)
    assert run(parts, terminate_at=3)[0].iteration == 4
    run(parts, resume=True, seed=99)
    assert recorded_losses(tmp_path / "parts") == recorded_losses(tmp_path / "whole")
    rates = [line["lr"] for line in recorded_losses(tmp_path / "whole")]
    assert rates == pytest.approx([0.05 * (1 - iteration / 8) ** 0.9 for iteration in range(1, 9)])
