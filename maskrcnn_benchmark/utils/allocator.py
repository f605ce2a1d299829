"""Reuse of freed memory, by the C library or for large results of one kind; and the peak of the memory in use."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1
_USER_CHOICES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"}  # environment


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for the next allocation, instead of returning it to the system.

    Otherwise every tensor of more than 32 MB gets new pages, which the system maps and clears one by one. On a virtual
    machine, writing to them took ten times as long as writing to reused memory. The process stays as large as it was at
    its peak, or slightly larger if free memory is fragmented. Nothing is changed if the user has chosen another
    allocator, or has set MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ in the environment.

    Returns: is freed memory kept?
    """
    if _USER_CHOICES & set(os.environ) or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


class RecycledMemory:
    """Memory for large results of one kind, which is reused after a result is deleted.

    Args:
        max_bytes: how much unused memory to keep.
    """

    SMALLEST = 1 << 22  # bytes; for less, the C library reuses memory itself
    STEP = 1 << 25  # bytes; sizes are rounded up, so that results of varying size fit. Untouched pages cost nothing.

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        # {id: block}, oldest first. Single operations on a dictionary need no lock. Loops need a copy, because a block
        # may be returned at any moment.
        self._free: dict[int, NDArray[np.uint8]] = {}

    def take(self, shape: Sequence[int]) -> tuple[NDArray[np.uint8], bool]:
        """Get memory that is yours until the array, and every array or tensor that shares its memory, is deleted.

        Returns: uint8 array of that shape; is it known to be all zero?
        """
        size = math.prod(shape)
        if size < self.SMALLEST:
            return np.zeros(shape, dtype=np.uint8), True
        for key, block in self._free.copy().items():
            if len(block) >= size and self._free.pop(key, None) is not None:
                return self._lend(block, shape), False
        # the system clears pages of NumPy's zeros when they are first touched; PyTorch would write all of them
        return self._lend(np.zeros(-(-size // self.STEP) * self.STEP, dtype=np.uint8), shape), True

    def _lend(self, block: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
        lent = block[: math.prod(shape)].reshape(shape)
        weakref.finalize(lent, self._take_back, block).atexit = False
        return lent

    def _take_back(self, block: NDArray[np.uint8]) -> None:
        self._free[id(block)] = block
        while sum(len(free) for free in self._free.copy().values()) > self.max_bytes:
            self._free.pop(next(iter(self._free), 0), None)


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in MiB: of PyTorch on a GPU, or the resident size of the process for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
