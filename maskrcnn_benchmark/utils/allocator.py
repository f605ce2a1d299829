"""What becomes of memory that a program frees: kept by the C library, or for results of one kind."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import weakref
from collections.abc import Sequence

import numpy as np

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation instead of handing it back to the system. Returns: whether it will.

    A tensor of more than 32 MB otherwise gets new pages at every allocation, which the system maps and clears one by
    one: on a virtual machine writing to them took ten times as long as writing to memory that was used before. The
    process stays as large as it has ever been, and a little larger where free memory lies in pieces.
    MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ in the environment is the user's own choice and stays; so does
    another allocator.
    """
    own_choice = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"} & set(os.environ)
    if own_choice or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


class RecycledMemory:
    """Bytes for large results of one kind; those of results that are gone are lent again.

    Args:
        most_bytes: how much memory, that nobody uses, is kept at most.
    """

    SMALLEST = 1 << 22  # below this the C library has memory at hand
    STEP = (
        1 << 25
    )  # sizes are rounded up to this, so that results of varying size fit; what is not touched costs nothing

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        # By identity, oldest first. Single operations of a dictionary need no lock; to look at all, a copy: memory may
        # be given back at any moment, in a loop over the dictionary too.
        self._free: dict[int, np.ndarray] = {}

    def take(self, shape: Sequence[int]) -> tuple[np.ndarray, bool]:
        """Memory until the array, and every tensor and array that shares its memory, is gone.

        Returns: uint8 of that shape, and whether all of it is known to be zero.
        """
        size = math.prod(shape)
        if size < self.SMALLEST:
            return np.zeros(shape, dtype=np.uint8), True
        for key, block in self._free.copy().items():
            if len(block) >= size and self._free.pop(key, None) is not None:
                return self._lend(block, shape), False
        # NumPy's zeros are pages that the system clears when they are touched; PyTorch's would be written
        return self._lend(np.zeros(-(-size // self.STEP) * self.STEP, dtype=np.uint8), shape), True

    def _lend(self, block: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        lent = block[: math.prod(shape)].reshape(shape)
        weakref.finalize(lent, self._give_back, block).atexit = False
        return lent

    def _give_back(self, block: np.ndarray) -> None:
        self._free[id(block)] = block
        while sum(len(free) for free in self._free.copy().values()) > self.most_bytes:
            self._free.pop(next(iter(self._free), 0), None)
