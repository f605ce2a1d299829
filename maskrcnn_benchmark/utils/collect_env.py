"""Describe the machine and its software for bug reports: `python -m maskrcnn_benchmark.utils.collect_env`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "yacs", "ninja", "tensorboard", "safetensors")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_OPS = ("roi_align", "nms")


def collect_env_info() -> str:
    """Versions, devices, threads and the state of the compiled ops, one "name: value" per line."""
    facts = {
        "maskrcnn_benchmark": _version("maskrcnn_benchmark") or "not installed, run from its folder",
        "compiled ops": _compiled_ops(),
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        **{package: _version(package) or "-" for package in _PACKAGES},
        "opencv": next((version for name in _OPENCV if (version := _version(name))), "-"),
        "PyTorch built for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "cuDNN": str(torch.backends.cudnn.version()) if torch.cuda.is_available() else "-",
        "GPUs": _gpus(),
        "CPU cores, threads": f"{os.cpu_count()}, {torch.get_num_threads()}",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name + ':':<{width + 2}}{value}" for name, value in facts.items())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiled_ops() -> str:
    # the ops exist without the extension, too: torchvision's replace them under the same names
    if "maskrcnn_benchmark._C" in sys.modules and all(hasattr(torch.ops.maskrcnn_benchmark, op) for op in _OPS):
        return "loaded"
    if importlib.util.find_spec("maskrcnn_benchmark._C") is not None:
        return "built (loaded by maskrcnn_benchmark.layers)"
    return "not built, torchvision's are used instead; `pip install -e .` builds them"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


if __name__ == "__main__":
    print(collect_env_info())
