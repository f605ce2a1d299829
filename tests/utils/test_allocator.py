"""Memory that is freed and allocated again: the same pages, unless the user has chosen otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a property of Linux and glibc")
def test_freed_memory_is_used_again():
    kept, faults = run()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert int(faults) < 100
    kept, faults = run(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")  # the user's choice
    assert kept == "False" and int(faults) >= 2**26 // 2**21  # at least one for each huge page
