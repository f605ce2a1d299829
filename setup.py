"""Build the kernels in maskrcnn_benchmark/csrc as maskrcnn_benchmark._C; everything else is in pyproject.toml.

The CPU kernels are always built. The CUDA kernels are built if PyTorch is a CUDA build and an nvcc of the same major
version is found; no GPU is needed. Environment variables:
    FORCE_CPU=1             do not build the CUDA kernels
    FORCE_CUDA=1            build the CUDA kernels, or fail
    TORCH_CUDA_ARCH_LIST    GPU architectures, such as "8.0;9.0+PTX"; default: those of the visible GPUs, or
                            DEFAULT_ARCHITECTURES if there are none
    MAX_JOBS                number of compiler processes
    SANITIZE=1              only the CPU kernels, with AddressSanitizer and UBSan; used by tools/sanitize.sh
The kernels use PyTorch's stable ABI and Python's limited API: one build serves PyTorch from 2.10 and Python from 3.10.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit(
        "Building maskrcnn_benchmark needs PyTorch 2.10 or later in the environment that builds it. Install it first "
        "(pip install torch torchvision), then run: pip install --no-build-isolation -e ."
    ) from error

ROOT = Path(__file__).resolve().parent
CSRC = Path("maskrcnn_benchmark") / "csrc"  # relative to ROOT: setuptools refuses absolute sources

STABLE_ABI_VERSION = "0x020a000000000000"  # PyTorch 2.10, the oldest one that can load the binary
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
DEFAULT_ARCHITECTURES = "7.5;8.0;9.0+PTX"  # 8.x GPUs run the 8.0 code, later ones compile the PTX on first use


def is_set(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "off", "false", "no")


def reason_against_cuda() -> str | None:
    """Why the CUDA kernels cannot be built here; None if they can."""
    if torch.version.cuda is None:
        return "this PyTorch is not a CUDA build"
    nvcc = Path(CUDA_HOME or "") / "bin" / ("nvcc.exe" if os.name == "nt" else "nvcc")
    if CUDA_HOME is None or not nvcc.exists():
        return "nvcc was not found (set CUDA_HOME to the CUDA toolkit)"
    release = re.search(r"release (\d+)\.", subprocess.check_output([str(nvcc), "--version"], text=True))
    major = torch.version.cuda.split(".")[0]
    if release and release.group(1) != major:  # minor versions are compatible
        return f"nvcc is of CUDA {release.group(1)} and PyTorch of CUDA {major}; install the CUDA {major} toolkit"
    return None


def builds_cuda() -> bool:
    if is_set("FORCE_CPU") or is_set("SANITIZE"):
        return False
    reason = reason_against_cuda()
    if reason is not None:
        if is_set("FORCE_CUDA"):
            raise SystemExit(f"FORCE_CUDA is set, but {reason}")
        print(f"maskrcnn_benchmark: building for the CPU only: {reason}", file=sys.stderr)
    return reason is None


def extension() -> Extension:
    with_cuda = builds_cuda()
    folders = [CSRC, CSRC / "cpu"] + ([CSRC / "cuda"] if with_cuda else [])
    sources = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).glob("*.c[pu]*"))]
    headers = [path.relative_to(ROOT) for path in sorted((ROOT / CSRC).rglob("*.h"))]
    if with_cuda and "TORCH_CUDA_ARCH_LIST" not in os.environ and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = DEFAULT_ARCHITECTURES
    # py_limited_api below defines Py_LIMITED_API as the oldest Python that PyTorch supports.
    macros: list[tuple[str, str | None]] = [("TORCH_TARGET_VERSION", STABLE_ABI_VERSION)]
    if with_cuda:
        macros.append(("USE_CUDA", None))  # the stable headers declare their CUDA functions only with it
    optimise = ["/O2", "/std:c++17"] if os.name == "nt" else ["-O3", "-fvisibility=hidden", "-g0"]
    sanitizers = SANITIZERS if is_set("SANITIZE") else []
    if sanitizers:
        optimise = ["-O1", "-g1", "-fvisibility=hidden", "-fno-omit-frame-pointer", *sanitizers]
    build = CUDAExtension if with_cuda else CppExtension
    built = build(
        name="maskrcnn_benchmark._C",
        sources=[str(path) for path in sources],
        depends=[str(path) for path in headers],
        define_macros=macros,
        extra_compile_args={"cxx": optimise, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
        extra_link_args=sanitizers,
        py_limited_api=True,
    )
    if with_cuda and not any(list(Path(folder).glob("*cudart*")) for folder in built.library_dirs):
        built.libraries.remove("cudart")  # not in the usual folders; torch_cuda links it anyway
    return built


if __name__ == "__main__":
    setup(
        ext_modules=[extension()],
        cmdclass={"build_ext": BuildExtension},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
