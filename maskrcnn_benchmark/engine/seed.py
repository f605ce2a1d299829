"""Random numbers: one seed for a run, states that go into checkpoints and come back."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.utils import comm


def choose_seed(seed: int) -> int:
    """A seed that all ranks share: the given one, or where that is negative one drawn by the main rank. Collective."""
    if seed >= 0:
        return seed
    return comm.broadcast(int.from_bytes(os.urandom(3), "little"))


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and PyTorch (all devices); ranks draw different numbers."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def be_deterministic() -> None:
    """Take operations whose result does not vary from run to run; those that have no such form warn, and run."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """State of all generators of this process, as tensors and numbers that `weights_only` loading admits."""
    name, keys, position, has_gauss, cached_gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached_gauss)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `random_state` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached_gauss = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached_gauss))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextlib.contextmanager
def untouched_random_state(device: torch.device) -> Iterator[None]:
    """Put the generators back behind whatever is drawn inside, as an evaluation in the middle of a training must."""
    state = random_state(device)
    try:
        yield
    finally:
        restore_random_state(state, device)
