"""Memory that is freed and allocated again: the same pages, unless the user has chosen otherwise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.utils.allocator import RecycledMemory

ROOT = Path(__file__).resolve().parents[2]

# page faults of writing 64 MB, after the same has been written and freed before; glibc finds a place after a few times
FAULTS = """
import resource, torch
from maskrcnn_benchmark.utils.allocator import keep_freed_memory
print(keep_freed_memory())
torch.set_num_threads(1)
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a property of Linux and glibc")
def test_freed_memory_is_used_again():
    kept, faults = run()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 100
    kept, faults = run(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")  # the user's choice
    assert kept == "False" and int(faults) >= 2**26 // 2**21  # at least one for each huge page


def test_memory_is_lent_again_when_nothing_shares_it_any_more():
    memory = RecycledMemory(max_bytes=3 * RecycledMemory.STEP)
    first, zeroed = memory.take((3, 2**21))
    assert zeroed and first.shape == (3, 2**21) and first.dtype == np.uint8
    address, tensor = first.ctypes.data, torch.from_numpy(first)
    first[:] = 7
    part = tensor.view(torch.bool)[1:, :5]
    del first, tensor
    other, zeroed = memory.take((3, 2**21))
    assert zeroed and other.ctypes.data != address and part.numpy().view(np.uint8)[0, 0] == 7
    del part
    again, zeroed = memory.take((2**22,))  # smaller ones fit
    assert not zeroed and again.ctypes.data == address and again.sum() == 7 * 2**22


def test_no_more_memory_is_kept_than_was_agreed():
    memory = RecycledMemory(max_bytes=2 * RecycledMemory.STEP)
    lent = [memory.take((2**22,))[0] for _ in range(4)]
    addresses = [block.ctypes.data for block in lent]
    while lent:
        lent.pop(0)  # the last two stay
    kept = [memory.take((2**22,)) for _ in range(3)]
    assert [zeroed for _, zeroed in kept] == [False, False, True]
    assert [block.ctypes.data for block, _ in kept[:2]] == addresses[2:]
    huge, _ = memory.take((3 * RecycledMemory.STEP,))
    del huge, kept
    assert memory.take((3 * RecycledMemory.STEP,))[1]  # more than is kept at all
    small, zeroed = memory.take((5, 5))
    assert zeroed and not small.any()
