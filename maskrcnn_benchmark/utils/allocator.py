"""What the C library does with memory that a program frees."""

from __future__ import annotations

import ctypes
import os
import sys

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
