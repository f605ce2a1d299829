"""The processes of a run and their devices."""

import pytest
import torch

from maskrcnn_benchmark.engine.run import processes
from maskrcnn_benchmark.engine.run.processes import (
    LaunchError,
    Process,
    distribute,
    join_process_group,
    select_device,
)


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_there_is_one_process(no_launcher):
    assert join_process_group("cpu") == Process(0, 0, 1, 1, torch.device("cpu"))
    assert not join_process_group("cpu", local_rank=0).distributed


def test_a_local_rank_without_a_launcher_is_refused(no_launcher):
    with pytest.raises(LaunchError, match="--local_rank is 1, but WORLD_SIZE is not set.*torchrun"):
        join_process_group("cpu", local_rank=1)


def test_the_environment_of_a_launcher_is_read(no_launcher):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "3"}.items():
        no_launcher.setenv(name, value)
    joined = {}
    no_launcher.setattr(processes.dist, "is_initialized", lambda: bool(joined))
    no_launcher.setattr(processes.dist, "init_process_group", lambda **options: joined.update(options))
    no_launcher.setattr(processes.dist, "get_rank", lambda: 3)
    threads = []
    no_launcher.setattr(torch, "set_num_threads", threads.append)
    no_launcher.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert join_process_group("cpu", local_rank=0) == Process(3, 1, 4, 2, torch.device("cpu"))
    assert joined["backend"] == "gloo" and joined["init_method"] == "env://"
    assert threads == [3], "six cores for two processes"
    no_launcher.setenv("OMP_NUM_THREADS", "1")
    join_process_group("cpu")
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
