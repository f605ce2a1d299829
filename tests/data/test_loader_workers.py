"""Loader workers beside other threads and signals of the training process."""

import os
import signal
import threading

import cv2
import numpy as np
import pytest

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data import make_data_loader
from tests.tools.runs import CONFIG, TINY, write_people


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path, train=4, val=1)))
    return load_config(CONFIG, [*TINY, "DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "20"])


@pytest.fixture
def time_limit():
    """A hang ends with an error, after half a minute."""

    def give_up(number, frame):
        raise TimeoutError("the loader's worker never answered")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_workers_start_beside_the_threads_of_opencv(cfg, time_limit):
    cv2.setNumThreads(2)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (4000, 3000), interpolation=cv2.INTER_CUBIC)  # starts its threads
    images, targets, _ = next(iter(make_data_loader(cfg)))
    assert len(images) == len(targets) == 2


def test_a_worker_outlives_a_foreign_sigterm_and_obeys_its_own_process(cfg, time_limit):
    batches = iter(make_data_loader(cfg))
    next(batches)
    [worker] = batches._workers
    # A shell stands for the launcher: it is not the process that loads.
    os.system(f"kill -TERM {worker.pid}")
    for _ in range(10):
        next(batches)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    assert threading.current_thread() is threading.main_thread()
