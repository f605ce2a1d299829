"""The seed of a run, and PyTorch's deterministic mode."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from maskrcnn_benchmark.utils import comm


def choose_seed(seed: int) -> int:
    """Return `seed`, or if it is negative, a seed that the main rank draws and all ranks share. Collective."""
    if seed >= 0:
        return seed
    return comm.broadcast(int.from_bytes(os.urandom(3), "little"))


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and PyTorch on all devices. Each rank draws different numbers."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def be_deterministic() -> None:
    """Use deterministic operations; PyTorch warns about those that have no deterministic version, and runs them."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
