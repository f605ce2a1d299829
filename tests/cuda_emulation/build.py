"""Builds the package with csrc/cuda compiled for the CPU, in place of the CPU kernels of the same names.

    python tests/cuda_emulation/build.py FOLDER [--sanitize]

FOLDER/lib then holds the package and the tests. Files that did not change are not compiled again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils.cpp_extension import include_paths, library_paths

EMULATION = Path(__file__).resolve().parent
ROOT = EMULATION.parents[1]
CSRC = ROOT / "maskrcnn_benchmark" / "csrc"
sys.path.insert(0, str(EMULATION))
sys.path.insert(0, str(ROOT))

from transform import to_cpp  # noqa: E402

from setup import SANITIZERS, STABLE_ABI_VERSION  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UndefinedBehaviorSanitizer")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.resolve()
    library = copy_package(folder / "lib") / "_C.abi3.so"
    sources = emulated_sources(folder / "src")
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-w", *(SANITIZERS if arguments.sanitize else [])]
    flags += [f"-DTORCH_TARGET_VERSION={STABLE_ABI_VERSION}", "-DUSE_CUDA", "-DPy_LIMITED_API=0x030a0000"]
    flags.append("-DMRB_MOST_BLOCKS=19")  # few, so that most launches have blocks with more than one piece of work
    includes = [EMULATION, CSRC / "cuda", *include_paths(), sysconfig.get_path("include")]
    command = [compiler, *flags, *(f"-I{path}" for path in includes)]
    newest_header = max(path.stat().st_mtime for place in (CSRC, EMULATION) for path in place.rglob("*.h"))

    def compile_source(source: Path) -> Path:
        compiled = folder / "obj" / f"{source.parent.name}_{source.stem}.o"
        newest = max(newest_header, source.stat().st_mtime)
        signature = compiled.with_suffix(".command")
        is_current = compiled.exists() and compiled.stat().st_mtime > newest and signature.read_text() == str(command)
        if not is_current:
            subprocess.run([*command, "-c", str(source), "-o", str(compiled)], check=True)
            signature.write_text(str(command))
        return compiled

    (folder / "obj").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        objects = list(pool.map(compile_source, sources))
    # -Bsymbolic: PyTorch defines the functions of torch_shims.cpp, too
    link = [compiler, "-shared", "-Wl,-Bsymbolic", *flags, *map(str, objects), "-o", str(library)]
    link += [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    subprocess.run([*link, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    return 0


def copy_package(target: Path) -> Path:
    """The package and the tests, without anything compiled. Returns the package's folder."""
    for name in ("maskrcnn_benchmark", "tests"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.so", "csrc", "__pycache__"))
    return target / "maskrcnn_benchmark"


def emulated_sources(target: Path) -> list[Path]:
    """Every source but the CPU kernels that csrc/cuda replaces. The long ones, those of csrc/cuda, come first."""
    target.mkdir(parents=True, exist_ok=True)
    cuda = sorted((CSRC / "cuda").glob("*.cu"))
    replaced = {path.stem for path in cuda}
    transformed = []
    for path in cuda:
        text = to_cpp(path.read_text(), path.relative_to(ROOT))
        output = target / f"{path.stem}.cpp"
        if not output.exists() or output.read_text() != text:  # else its time stays, and with it what was compiled
            output.write_text(text)
        transformed.append(output)
    others = [path for path in sorted(CSRC.glob("*.cpp")) + sorted(CSRC.glob("cpu/*.cpp")) if path.stem not in replaced]
    return transformed + others + sorted(EMULATION.glob("*.cpp"))


if __name__ == "__main__":
    sys.exit(main())
