"""Processes, devices and random numbers of a run."""

import random

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.engine import launch as launching
from maskrcnn_benchmark.engine.defaults import distribute
from maskrcnn_benchmark.engine.launch import LaunchError, Process, launch, select_device
from maskrcnn_benchmark.engine.seed import (
    be_deterministic,
    choose_seed,
    random_state,
    restore_random_state,
    seed_everything,
    untouched_random_state,
)
from tests.devices import DEVICES


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_there_is_one_process(no_launcher):
    assert launch("cpu") == Process(0, 0, 1, 1, torch.device("cpu"))
    assert not launch("cpu", local_rank=0).distributed


def test_a_local_rank_without_a_launcher_is_refused(no_launcher):
    with pytest.raises(LaunchError, match="--local_rank is 1, but WORLD_SIZE is not set.*torchrun"):
        launch("cpu", local_rank=1)


def test_the_environment_of_a_launcher_is_read(no_launcher):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "3"}.items():
        no_launcher.setenv(name, value)
    joined = {}
    no_launcher.setattr(launching.dist, "is_initialized", lambda: bool(joined))
    no_launcher.setattr(launching.dist, "init_process_group", lambda **options: joined.update(options))
    no_launcher.setattr(launching.dist, "get_rank", lambda: 3)
    threads = []
    no_launcher.setattr(torch, "set_num_threads", threads.append)
    no_launcher.setattr(launching.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert launch("cpu", local_rank=0) == Process(3, 1, 4, 2, torch.device("cpu"))
    assert joined["backend"] == "gloo" and joined["init_method"] == "env://"
    assert threads == [3], "six cores for two processes"
    no_launcher.setenv("OMP_NUM_THREADS", "1")
    launch("cpu")
    assert threads == [3], "the user's choice stays"


def test_gpus_of_this_machine(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("cuda", 1, 2) == torch.device("cpu")
    assert "MODEL.DEVICE is 'cuda', but PyTorch sees no GPU: using the CPU" in caplog.text
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert select_device("cuda", 1, 2) == torch.device("cuda", 1)
    assert select_device("cuda:0", 1, 2) == torch.device("cuda", 0)
    assert current == [torch.device("cuda", 1), torch.device("cuda", 0)]
    with pytest.raises(LaunchError, match="4 processes were started on this machine, but PyTorch sees 2 GPUs"):
        select_device("cuda", 3, 4)


def test_a_single_process_is_not_wrapped():
    model = torch.nn.Linear(2, 2)
    assert distribute(model, Process(0, 0, 1, 1, torch.device("cpu"))) is model


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.randn(()))


def test_seeds_decide_everything_and_ranks_differ():
    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seed_everything(7, rank=1)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert choose_seed(11) == 11
    chosen = {choose_seed(-1) for _ in range(5)}
    assert len(chosen) > 1 and all(seed >= 0 for seed in chosen)


@pytest.mark.parametrize("device", DEVICES)
def test_random_state_survives_a_file(device, tmp_path):
    device = torch.device(device)
    np.random.randn(1)  # leaves a second number cached
    torch.save(random_state(device), tmp_path / "state.pth")
    expected = draws(), torch.rand(2, device=device).tolist(), np.random.randn()
    restore_random_state(torch.load(tmp_path / "state.pth", weights_only=True), device)
    assert (draws(), torch.rand(2, device=device).tolist(), np.random.randn()) == expected


def test_random_numbers_drawn_aside_leave_no_trace():
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    with pytest.raises(KeyError), untouched_random_state(torch.device("cpu")):
        draws()
        raise KeyError
    assert draws() == expected


def test_be_deterministic():
    try:
        be_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
