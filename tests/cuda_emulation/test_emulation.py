"""The emulation of CUDA finds what it is there to find: in small kernels with known faults, and none in a sound one."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_emulation.transform import to_cpp

EMULATION = Path(__file__).resolve().parent
COMPILER = os.environ.get("CXX", "g++")

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None or not sys.platform.startswith("linux"), reason="needs GCC on Linux"
)

KERNELS = r"""
#include <cuda_runtime.h>

// Sound: sums of the values of a block through shared memory, and the ballot of odd values per warp.
__global__ void __launch_bounds__(64) sums(const int* values, int* sum, unsigned int* odd) {
  __shared__ int shared[64];
  shared[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
  const unsigned int vote = __ballot_sync(0xffffffffu, shared[threadIdx.x] % 2 != 0);
  for (int half = 32; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      shared[threadIdx.x] += shared[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    atomicAdd(sum, shared[0]);
  }
  if (threadIdx.x % 32 == 0) {
    odd[blockIdx.x * 2 + threadIdx.x / 32] = vote;
  }
}

// Without the barrier between writing and reading: what a thread reads depends on the order.
__global__ void race(int* out) {
  __shared__ int shared[64];
  shared[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void uninitialised(int* out) {
  __shared__ int shared;
  if (blockIdx.x == 0) {
    shared = 7;
  }
  __syncthreads();
  out[blockIdx.x] = shared;
}

__global__ void divergent(int way) {
  if (way == 0 && threadIdx.x == 0) {
    return;
  }
  if (way == 1 && threadIdx.x % 2 == 0) {
    __syncthreads();
  } else if (way == 2 && threadIdx.x == 5) {
    return;
  } else if (way == 2) {
    __ballot_sync(0xffffffffu, true);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(32, 4) nothing() {}

__global__ void greedy() {
  __shared__ double first[4000];
  __shared__ int second[8000];
}

extern "C" const char* error() {
  static std::string text;
  text = cudaGetLastError() == cudaSuccess ? "" : cuda_emulation::error_text();
  return text.c_str();
}

extern "C" void run_sums(const int* values, int blocks, int* sum, unsigned int* odd) {
  sums<<<blocks, 64, 0, nullptr>>>(values, sum, odd);
}

extern "C" void run_race(int* out) {
  race<<<1, 64, 0, nullptr>>>(out);
}

extern "C" void run_uninitialised(int* out) {
  uninitialised<<<2, 32, 0, nullptr>>>(out);
}

extern "C" void run_divergent(int way) {
  divergent<<<1, 64, 0, nullptr>>>(way);
}

extern "C" void run_nothing(int grid_x, int grid_y, int block) {
  nothing<<<dim3(grid_x, grid_y), block, 0, nullptr>>>();
}

extern "C" void run_greedy() {
  greedy<<<1, 1, 0, nullptr>>>();
}
"""


def build(folder: Path, source: str) -> Path:
    (folder / "kernels.cpp").write_text(to_cpp(source, Path("kernels.cu")))
    library = folder / "kernels.so"
    sources = [str(folder / "kernels.cpp"), str(EMULATION / "launch.cpp")]
    command = [COMPILER, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{EMULATION}", *sources, "-o", str(library)]
    subprocess.run(command, check=True, timeout=120)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("emulation"), KERNELS)


@pytest.fixture(params=[0, 1, 2])
def kernels(library, request, monkeypatch, tmp_path) -> ctypes.CDLL:
    """The library loaded anew, for it reads the seed once."""
    monkeypatch.setenv("CUDA_EMULATION_SEED", str(request.param))
    own = shutil.copy(library, tmp_path / "kernels.so")
    loaded = ctypes.CDLL(str(own))
    loaded.error.restype = ctypes.c_char_p
    return loaded


def error(kernels: ctypes.CDLL) -> str:
    return kernels.error().decode()


def test_a_sound_kernel_is_right_in_every_order(kernels):
    values = [(i * 37) % 101 for i in range(192)]
    total, odd = ctypes.c_int(0), (ctypes.c_uint * 6)()
    kernels.run_sums((ctypes.c_int * 192)(*values), 3, ctypes.byref(total), odd)
    assert error(kernels) == "" and total.value == sum(values)
    assert list(odd) == [sum((values[32 * w + i] % 2) << i for i in range(32)) for w in range(6)]


def test_races_and_uninitialised_memory_change_results(kernels):
    out = (ctypes.c_int * 64)()
    kernels.run_race(out)
    assert list(out) != list(range(63, -1, -1))
    kernels.run_uninitialised(out)
    assert out[0] == 7 and out[1] != 7


@pytest.mark.parametrize("way", [0, 1, 2])
def test_threads_that_wait_for_ever_are_reported_and_the_next_launch_works(kernels, way):
    kernels.run_divergent(way)
    message = error(kernels)
    assert "launch of divergent: threads of block (0, 0, 0) wait for one another for ever" in message
    assert "kernels.cu:" in message
    assert ("1 of 64 have finished" in message) == (way != 1)
    kernels.run_divergent(3)
    assert error(kernels) == ""


def test_launches_that_no_gpu_takes_are_refused(kernels):
    kernels.run_nothing(7, 3, 32)
    assert error(kernels) == ""
    kernels.run_nothing(1, 65536, 32)
    assert "launch of nothing: a grid of 1 x 65536 x 1 blocks" in error(kernels)
    kernels.run_nothing(0, 1, 32)
    assert "a grid of 0 x 1 x 1 blocks" in error(kernels)
    kernels.run_nothing(1, 1, 2000)
    assert "a block of 2000 x 1 x 1 threads" in error(kernels)
    kernels.run_nothing(1, 1, 64)
    assert "a block of 64 threads; its __launch_bounds__ are 32" in error(kernels)
    kernels.run_greedy()
    assert "second brings the shared memory of a block to 64000 bytes" in error(kernels)


def test_what_the_transformation_does_not_understand_is_named():
    with pytest.raises(ValueError, match="odd.cu:2: this use of <<< is not understood"):
        to_cpp("void f() {\n  (*kernel)<<<1, 1>>>();\n}\n", Path("odd.cu"))
    assert "__shared__" not in to_cpp("__shared__ Entry<Acc> columns[kWord];", Path("x.cu"))
