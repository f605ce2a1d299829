"""Checkpoints: round trips, torn writes, dishonest files, resuming."""

import logging
import os

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils.checkpoint import Checkpointer, CheckpointError
from maskrcnn_benchmark.utils.model_serialization import NameRules, PrefixRule

OPTIONS = ["SOLVER.BASE_LR", 0.1, "SOLVER.WARMUP_ITERS", 4, "SOLVER.STEPS", (6, 8), "SOLVER.WEIGHT_DECAY", 0.01]


class Run:
    """A training in small: a model with batch norm, its optimiser and schedule, data that depend on the iteration."""

    def __init__(self, folder, *options, width=4):
        torch.manual_seed(7)
        self.cfg = load_config(opts=[*OPTIONS, *options])
        self.model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2, 1))
        self.optimizer = make_optimizer(self.cfg, self.model)
        self.scheduler = make_lr_scheduler(self.cfg, self.optimizer)
        self.checkpointer = Checkpointer(self.model, self.optimizer, self.scheduler, folder)
        self.iteration = 0

    def train(self, until):
        losses = []
        for iteration in range(self.iteration + 1, until + 1):
            self.iteration = iteration
            images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(iteration))
            loss = self.model(images).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            losses.append((loss.item(), self.optimizer.param_groups[0]["lr"]))
        return losses

    def save(self):
        self.checkpointer.save(f"model_{self.iteration:07d}", iteration=self.iteration)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, optimizer, schedule):
    options = ["SOLVER.OPTIMIZER", optimizer, "SOLVER.LR_SCHEDULER", schedule, "SOLVER.MAX_ITER", 10]
    whole = Run(tmp_path / "a", *options).train(10)
    for stop in (1, 5):
        stopped = Run(tmp_path / str(stop), *options)
        stopped.train(stop)
        stopped.save()
        resumed = Run(tmp_path / str(stop), *options)
        for parameter in resumed.model.parameters():
            nn.init.ones_(parameter)
        resumed.iteration = resumed.checkpointer.load(resume=True)["iteration"]
        assert resumed.train(10) == whole[stop:]


def test_what_is_saved_comes_back(tmp_path):
    run = Run(tmp_path)
    run.train(2)
    extra = {
        "random_states": [{"torch": torch.get_rng_state(), "python": (3, (1, 2**40), None)}],
        "categories": {1: "person", 2: "car"},
        "best": {"bbox/AP": 0.25},
    }
    run.checkpointer.save("model_final", iteration=2, **extra)
    assert sorted(torch.load(tmp_path / "model_final.pth", weights_only=True)) == sorted(
        ["model", "optimizer", "scheduler", "iteration", *extra]
    )
    fresh = Run(tmp_path)
    returned = fresh.checkpointer.load(resume=True)
    assert (
        returned["iteration"] == 2
        and returned["categories"] == extra["categories"]
        and returned["best"] == extra["best"]
    )
    assert returned["random_states"][0]["python"] == (3, (1, 2**40), None)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, fresh.model.state_dict()[name]), name


def test_loading_weights_is_not_resuming(tmp_path):
    run = Run(tmp_path / "old")
    run.train(3)
    run.checkpointer.save("model_final", iteration=3, categories={1: "person"})
    new = Run(tmp_path / "new")
    assert new.checkpointer.load(tmp_path / "old" / "model_final.pth") == {"categories": {1: "person"}}
    assert new.scheduler.last_epoch == 0 and not new.optimizer.state
    assert torch.equal(new.model[0].weight, run.model[0].weight)


def test_a_checkpoint_in_the_folder_does_not_override_weights_that_are_asked_for(tmp_path):
    stale, wanted = Run(tmp_path), Run(tmp_path / "wanted")
    stale.train(1)
    stale.save()
    wanted.train(2)
    wanted.save()
    run = Run(tmp_path)
    run.checkpointer.load(wanted.checkpointer.get_checkpoint_file())
    assert torch.equal(run.model[0].weight, wanted.model[0].weight)


def test_resuming_without_a_checkpoint_loads_the_weights(tmp_path, caplog):
    run = Run(tmp_path / "a")
    run.save()
    fresh = Run(tmp_path / "b", width=4)
    nn.init.zeros_(fresh.model[0].weight)
    with caplog.at_level(logging.INFO):
        assert fresh.checkpointer.load(tmp_path / "a" / "model_0000000.pth", resume=True) == {}
        assert torch.equal(fresh.model[0].weight, run.model[0].weight)
        assert fresh.checkpointer.load("", resume=True) == {}
    assert "the model starts from its initialisation" in caplog.text


def test_the_last_checkpoint_is_found_also_after_a_move(tmp_path):
    run = Run(tmp_path / "before")
    assert not run.checkpointer.has_checkpoint() and run.checkpointer.get_checkpoint_file() == ""
    run.save()
    run.checkpointer.save("model_final", iteration=1)
    assert (tmp_path / "before" / "last_checkpoint").read_text() == str(tmp_path / "before" / "model_final.pth")
    (tmp_path / "before").rename(tmp_path / "after")
    moved = Run(tmp_path / "after").checkpointer
    assert moved.has_checkpoint() and moved.get_checkpoint_file() == str(tmp_path / "after" / "model_final.pth")
    (tmp_path / "after" / "model_final.pth").unlink()
    assert not moved.has_checkpoint()


def test_without_a_folder_nothing_is_saved_or_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    (tmp_path / "model_final.pth").write_text("")
    checkpointer = Checkpointer(nn.Linear(1, 1))
    checkpointer.save("x")
    assert not checkpointer.has_checkpoint()
    assert len(list(tmp_path.iterdir())) == 2


def test_other_processes_write_nothing(tmp_path):
    Checkpointer(nn.Linear(1, 1), save_dir=tmp_path, save_to_disk=False).save("model_final")
    assert not list(tmp_path.iterdir())


def test_only_the_last_numbered_checkpoints_stay(tmp_path):
    checkpointer = Checkpointer(nn.Linear(1, 1), save_dir=tmp_path, keep_last=2)
    for name in ("model_best", "model_0000009", "model_0000010", "model_0000100", "model_final"):
        checkpointer.save(name)
    names = {path.stem for path in tmp_path.glob("*.pth")}
    assert names == {"model_best", "model_0000010", "model_0000100", "model_final"}
    checkpointer.save("model_0000001")  # a run begun anew in the same folder: its own checkpoint is never the one to go
    assert (tmp_path / "model_0000001.pth").exists()


def test_wrappers_around_the_model_leave_no_trace(tmp_path):
    model = nn.Linear(1, 1)
    Checkpointer(nn.DataParallel(torch.compile(model, backend="eager")), save_dir=tmp_path).save("a")
    assert sorted(torch.load(tmp_path / "a.pth")["model"]) == ["bias", "weight"]
    Checkpointer(nn.DataParallel(model)).load(tmp_path / "a.pth")


# ---- writes that fail ----


def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.save()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    original = torch.save

    def torn(content, file):
        original(content, file)
        file.flush()
        raise RuntimeError("unexpected pos 64 vs 0")  # what PyTorch says when the disk is full

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*model_0000000.pth.*Is the disk full"):
        run.save()
    with pytest.raises(CheckpointError):
        run.checkpointer.save("model_final")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupt_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Checkpointer(nn.Linear(1, 1), save_dir=tmp_path).save("model_final")
    assert not list(tmp_path.iterdir())


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    Checkpointer(nn.Linear(1, 1), save_dir=tmp_path).save("model_final")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("value", [np.float64(1.0), np.ones(2), object(), {"a": [np.int64(3)]}, b"bytes"])
def test_what_loading_would_refuse_is_refused_when_saving(tmp_path, value):
    with pytest.raises(TypeError, match=r"^state(\['a'\]\[0\])? is a \w+; a checkpoint holds tensors, numbers, text"):
        Checkpointer(nn.Linear(1, 1), save_dir=tmp_path).save("x", state=value)
    assert not list(tmp_path.iterdir())


# ---- files that are not what they should be ----


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_that_asks_for_code_is_refused_and_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"model": {"weight": Runs(str(marker))}}, tmp_path / "evil.pth")
    checkpointer = Checkpointer(nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"cannot read .*evil.pth: it asks for (_?io|builtins).open"):
        checkpointer.load(tmp_path / "evil.pth")
    assert not marker.exists()


def test_a_truncated_checkpoint_is_named(tmp_path):
    torch.save({"model": nn.Linear(50, 50).state_dict()}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cannot read .*half.pth: .*or is damaged"):
        Checkpointer(nn.Linear(50, 50)).load(tmp_path / "half.pth")


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is no weights file .*{name}"):
        Checkpointer(nn.Linear(1, 1)).load(tmp_path / name)


@pytest.mark.parametrize("content", [{"iteration": 3}, [1, 2], {"model": 5}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="x.pth holds no weights"):
        Checkpointer(nn.Linear(1, 1)).load(tmp_path / "x.pth")


def test_weights_of_which_nothing_fits_are_refused(tmp_path):
    torch.save({"encoder.kernel": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors fits the model; their names are encoder.kernel"):
        Checkpointer(nn.Linear(1, 1)).load(tmp_path / "x.pth")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "iteration": 9}])
def test_bare_and_wrapped_state_dicts_load(tmp_path, wrap):
    state = {f"module.{name}": torch.full_like(value, 2.0) for name, value in nn.Linear(2, 2).state_dict().items()}
    torch.save(wrap(state), tmp_path / "x.pth")
    model = nn.Linear(2, 2)
    Checkpointer(model).load(tmp_path / "x.pth")
    assert model.weight.eq(2).all()


def test_names_in_the_file_may_differ_by_rules(tmp_path):
    torch.save({"old.weight": torch.full((2, 2), 2.0), "old.bias": torch.ones(2)}, tmp_path / "x.pth")
    model = nn.ModuleDict({"new": nn.Linear(2, 2)})
    Checkpointer(model, names=NameRules(prefixes=(PrefixRule("old.", "new."),))).load(tmp_path / "x.pth")
    assert model["new"].weight.eq(2).all()


def test_files_of_the_old_format_load(tmp_path):
    torch.save({"model": nn.Linear(2, 2).state_dict()}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert Checkpointer(nn.Linear(2, 2)).load(tmp_path / "x.pth") == {}


# ---- resuming into something else ----


def test_another_model_cannot_be_resumed(tmp_path):
    run = Run(tmp_path)
    run.save()
    with pytest.raises(
        CheckpointError, match=r"cannot resume from .*0 tensors missing, 7 of a different shape.*OUTPUT_DIR"
    ):
        Run(tmp_path, width=5).checkpointer.load(resume=True)


def test_settings_of_the_config_win_over_those_of_the_checkpoint(tmp_path, caplog):
    run = Run(tmp_path)
    run.train(5)
    run.save()
    changed = Run(
        tmp_path, "SOLVER.BASE_LR", 0.2, "SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.STEPS", (5,), "SOLVER.MOMENTUM", 0.5
    )
    with caplog.at_level(logging.WARNING):
        changed.checkpointer.load(resume=True)
    group = changed.optimizer.param_groups[0]
    assert (group["weight_decay"], group["momentum"]) == (0.5, 0.5)
    assert group["lr"] == pytest.approx(0.2 * 0.1)
    assert "weight_decay of the weights 0.01 -> 0.5" in caplog.text
    assert "milestones (6, 8) -> (5,)" in caplog.text


def test_momenta_follow_their_parameter_into_other_groups(tmp_path):
    run = Run(tmp_path)
    run.train(3)
    run.save()
    regrouped = Run(tmp_path, "SOLVER.WEIGHT_DECAY_NORM", 0.0)
    assert len(regrouped.optimizer.param_groups) != len(run.optimizer.param_groups)
    regrouped.checkpointer.load(resume=True)
    for own, old in zip(regrouped.model.parameters(), run.model.parameters(), strict=True):
        expected = run.optimizer.state[old]["momentum_buffer"]
        assert torch.equal(regrouped.optimizer.state[own]["momentum_buffer"], expected)


def test_state_of_an_optimizer_with_a_group_per_parameter_is_read(tmp_path):
    run = Run(tmp_path)
    old = torch.optim.SGD([{"params": [parameter], "lr": 0.1} for parameter in run.model.parameters()], momentum=0.9)
    for number, parameter in enumerate(run.model.parameters()):
        old.state[parameter]["momentum_buffer"] = torch.full_like(parameter, float(number))
    content = {
        "model": run.model.state_dict(),
        "optimizer": old.state_dict(),
        "scheduler": {"milestones": (6, 8), "gamma": 0.1, "last_epoch": 3, "base_lrs": [0.1] * 6},
        "iteration": 3,
    }
    torch.save(content, tmp_path / "model_0000003.pth")
    (tmp_path / "last_checkpoint").write_text(os.fspath(tmp_path / "model_0000003.pth"))
    assert run.checkpointer.load(resume=True) == {"iteration": 3}
    buffers = [run.optimizer.state[parameter]["momentum_buffer"] for parameter in run.model.parameters()]
    assert [buffer.unique().item() for buffer in buffers] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert run.scheduler.last_epoch == 3


def test_parameters_without_state_start_afresh_with_a_word(tmp_path, caplog):
    run = Run(tmp_path)
    run.model[0].requires_grad_(False)
    run.optimizer = make_optimizer(run.cfg, run.model)
    run.scheduler = make_lr_scheduler(run.cfg, run.optimizer)
    run.checkpointer = Checkpointer(run.model, run.optimizer, run.scheduler, tmp_path)
    run.train(2)
    run.save()
    thawed = Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        thawed.checkpointer.load(resume=True)
    assert (
        "2 parameters have no optimizer state in the checkpoint and start without one: 0.weight, 0.bias" in caplog.text
    )
    assert len(thawed.optimizer.state) == 4


def test_an_optimizer_without_names_is_restored_by_position(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    Checkpointer(model, optimizer, save_dir=tmp_path).save("model_final")
    fresh = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    Checkpointer(model, fresh, save_dir=tmp_path).load(resume=True)
    assert torch.equal(fresh.state[model.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
