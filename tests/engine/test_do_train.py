"""`do_train` with real checkpoints, schedules and writers around a toy model: above all, that resuming changes
nothing."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.engine.hooks import HOOKS, Hook, NonFiniteLossError, find_hook_problems
from maskrcnn_benchmark.engine.run import seed_everything
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from tests.engine.toy import ToyDetector, ToyLoader

MAX_ITER = 8


def toy_cfg(folder, **solver):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.SEED = 5
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.MAX_ITER = MAX_ITER
    cfg.SOLVER.LOG_PERIOD = 1
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.STEPS = (6,)
    cfg.DTYPE = solver.pop("DTYPE", "float32")
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    Path(folder).mkdir(exist_ok=True)
    return cfg


class TerminatedLoader(ToyLoader):
    """Sends SIGTERM to this process while it loads the batch at a position."""

    def __init__(self, *args, position=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.position = position

    def batches(self):
        for position, batch in enumerate(super().batches(), start=self.start_iter):
            if position == self.position:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def run(cfg, *, resume=False, terminate_at=None, seed=0, checkpoint_period=100, bad=None, hooks=()):
    """A run as train_net.py makes it; `seed` is that of the initial weights and of dropout."""
    seed_everything(seed)
    model = ToyDetector(dropout=0.5)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR)
    arguments = {"iteration": 0, **checkpointer.load(resume=resume)}
    steps = cfg.SOLVER.ACCUMULATE
    loader = TerminatedLoader(
        MAX_ITER * steps, start_iter=arguments["iteration"] * steps, position=terminate_at, bad=bad
    )
    trainer = do_train(
        cfg, model, loader, None, optimizer, scheduler, checkpointer, "cpu", checkpoint_period, 0, arguments, hooks
    )
    return trainer, model


def recorded_losses(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    return [{key: line[key] for key in ("loss_first", "loss_second", "lr")} for line in lines]


@pytest.mark.parametrize(
    "solver",
    [
        {},
        {"EMA_DECAY": 0.9, "OPTIMIZER": "AdamW", "BASE_LR": 0.01},
        {"ACCUMULATE": 2, "DTYPE": "float16", "LR_SCHEDULER": "WarmupCosineLR"},
    ],
    ids=["sgd", "adamw-mean", "accumulate-float16-cosine"],
)
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_run_that_was_stopped_and_continued_equals_one_that_was_not(tmp_path, solver, stop):
    whole, parts = toy_cfg(tmp_path / "whole", **dict(solver)), toy_cfg(tmp_path / "parts", **dict(solver))
    _, expected = run(whole)
    position = stop * whole.SOLVER.ACCUMULATE - 1
    trainer, _ = run(parts, terminate_at=position)
    assert (trainer.iteration, trainer.stop_reason) == (stop, "SIGTERM")
    assert (tmp_path / "parts" / f"model_{stop:07d}.pth").is_file()
    trainer, model = run(parts, resume=True, seed=99)  # other initial weights, other random numbers: all are restored
    assert (trainer.start_iter, trainer.iteration) == (stop, MAX_ITER)
    assert recorded_losses(tmp_path / "parts") == recorded_losses(tmp_path / "whole")
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    files = [
        torch.load(folder / "model_final.pth", weights_only=True) for folder in (tmp_path / "whole", tmp_path / "parts")
    ]
    for name, value in files[0]["model"].items():
        assert torch.equal(files[1]["model"][name], value), name
    assert files[0]["random_states"][0]["torch"].equal(files[1]["random_states"][0]["torch"])


def test_dropout_makes_the_comparison_meaningful(tmp_path):
    first, second = toy_cfg(tmp_path / "first"), toy_cfg(tmp_path / "second")
    run(first, seed=0)
    run(second, seed=1)
    assert recorded_losses(tmp_path / "first") != recorded_losses(tmp_path / "second")


def test_a_finished_run_has_nothing_left_to_do(tmp_path, caplog):
    cfg = toy_cfg(tmp_path)
    run(cfg)
    before = recorded_losses(tmp_path)
    trainer, _ = run(cfg, resume=True)
    assert trainer.iteration == MAX_ITER
    assert recorded_losses(tmp_path) == before


def test_the_mean_weights_are_what_a_checkpoint_offers(tmp_path):
    cfg = toy_cfg(tmp_path, EMA_DECAY=0.9)
    _, model = run(cfg)
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    for name, value in model.state_dict().items():
        assert torch.equal(content["model"][name], value), "the model is left with what was saved"
        assert not torch.equal(content["training_weights"][name], value)
    assert content["ema_updates"] == MAX_ITER


def test_what_a_run_leaves_behind(tmp_path, caplog):
    cfg = toy_cfg(tmp_path, LOG_PERIOD=3)
    with caplog.at_level("INFO"):
        run(cfg, checkpoint_period=3)
    names = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("events"))
    assert names == ["last_checkpoint", "metrics.jsonl", "model_0000003.pth", "model_0000006.pth", "model_final.pth"]
    assert any(path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir())
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("eta: ")]
    assert len(lines) == 3
    parts = lines[0].split("  ")
    assert parts[0].startswith("eta: 0:00:") and parts[1] == "iter: 3" and parts[2].startswith("loss: ")
    assert parts[-2].startswith("lr: 0.0") and parts[-1].startswith("max mem: ")
    assert [part.split(":")[0] for part in parts[3:7]] == ["loss_first", "loss_second", "time", "data"]


def test_nan_keeps_the_last_good_checkpoint(tmp_path):
    cfg = toy_cfg(tmp_path, LOG_PERIOD=20)
    with pytest.raises(NonFiniteLossError) as caught:
        run(cfg, checkpoint_period=2, bad={4: float("nan")})
    message = str(caught.value)
    assert "iteration 5" in message
    assert "1008 (0008.jpg), 1009 (0009.jpg)" in message, "image ids and file names"
    assert "SOLVER.BASE_LR (0.05 for batches of 16 images)" in message
    assert (tmp_path / "last_checkpoint").read_text().endswith("model_0000004.pth")
    trainer, _ = run(cfg, resume=True)
    assert (trainer.start_iter, trainer.iteration) == (4, MAX_ITER)


def test_metrics_of_a_fresh_run_replace_those_of_an_older_one(tmp_path):
    cfg = toy_cfg(tmp_path)
    run(cfg)
    run(cfg)
    assert len(recorded_losses(tmp_path)) == MAX_ITER


class CallLog(Hook):
    """Notes what it sees, and asks for the end after an iteration."""

    def __init__(self, notes, name, stop_at=None):
        self.notes, self.name, self.stop_at = notes, name, stop_at

    def after_step(self, trainer):
        self.notes.append((self.name, trainer.iteration, trainer.stop_reason))
        if trainer.iteration == self.stop_at:
            trainer.stop_reason = self.name


def test_hooks_of_a_user_come_before_the_checkpoint(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setitem(HOOKS, "Named", lambda cfg: CallLog(notes, f"named, of seed {cfg.SEED}"))
    cfg = toy_cfg(tmp_path, HOOKS=("Named",))
    trainer, _ = run(cfg, hooks=[CallLog(notes, "given", stop_at=2)])
    assert notes == [
        ("named, of seed 5", 1, None), ("given", 1, None), ("named, of seed 5", 2, None), ("given", 2, None),
    ]  # fmt: skip
    assert (trainer.iteration, trainer.stop_reason) == (2, "given")
    assert (tmp_path / "last_checkpoint").read_text().endswith("model_0000002.pth")
    assert len(recorded_losses(tmp_path)) == 2, "the log was written before"


def test_an_unknown_hook_is_refused(tmp_path):
    cfg = toy_cfg(tmp_path, HOOKS=("Absent",))
    (problem,) = find_hook_problems(cfg)
    assert problem.startswith("SOLVER.HOOKS has 'Absent'; registered: none. A module that IMPORTS lists")
    with pytest.raises(ConfigError, match="SOLVER.HOOKS has 'Absent'"):
        run(cfg)
