"""Registers the kernels of `torch.ops.maskrcnn_benchmark`; the modules of `layers` take the ops from here.

Each op has a compiled kernel per device where the extension was built for that device. The reference
(`layers/reference`) is registered as the op's kernel for all other devices, so callers never ask which one runs. Where
a compiled kernel should exist but was not built, the first call of a reference warns that it is slower.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from maskrcnn_benchmark.layers import reference, schemas

REBUILD = "in the repository, run: pip install --no-build-isolation -e . (FORCE_CUDA=1 insists on the CUDA kernels)"
NAMESPACE = "maskrcnn_benchmark"

ops: Any = torch.ops.maskrcnn_benchmark  # its types are in schemas.py


def is_compiled() -> bool:
    """Did the compiled library load?"""
    return _load_error is None


def extension_status() -> str:
    """One line for environment reports: which kernels serve which device."""
    if _load_error is not None:
        return f"not loaded ({_load_error}); torchvision's kernels stand in; {REBUILD}"
    instructions = getattr(importlib.import_module("maskrcnn_benchmark._C"), "CPU_INSTRUCTIONS", "?")
    if not _has_cuda_kernels():
        return f"compiled for the CPU ({instructions}); torchvision's kernels stand in on CUDA"
    return f"compiled for the CPU ({instructions}) and CUDA"


def _has_cuda_kernels() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::nms", "CUDA")


def _load() -> str | None:
    """Load the compiled library, which defines its ops. Returns the reason if it cannot be loaded, else None."""
    try:
        importlib.import_module("maskrcnn_benchmark._C")
    except ModuleNotFoundError:
        return "maskrcnn_benchmark._C is not built"
    except ImportError as error:
        return f"maskrcnn_benchmark._C does not load: {error}"
    for schema in schemas.SCHEMAS:
        packet = getattr(ops, schemas.op_name(schema), None)
        if packet is None or packet.default._schema != torch._C.parse_schema(f"{NAMESPACE}::{schema}"):
            raise ImportError(
                f"maskrcnn_benchmark._C was built from other sources: it lacks {schema}. To rebuild it, {REBUILD}"
            )
    return None


def _register_references(load_error: str | None) -> torch.library.Library:
    """Define the ops if the library has not, and give each its reference for the devices without a compiled kernel.

    Returns: the registrations, which last as long as this object.
    """
    library = torch.library.Library(NAMESPACE, "IMPL" if load_error is None else "DEF")
    if load_error is not None:
        for schema in schemas.SCHEMAS:
            library.define(schema)
    missing = f"{load_error}; {REBUILD}"
    if load_error is None:
        missing = f"maskrcnn_benchmark._C was built without the CUDA kernels; {REBUILD}"
    warned = False

    def warn_once() -> None:
        nonlocal warned
        if not warned:
            warned = True
            warnings.warn(f"Slower kernels of PyTorch and torchvision are in use: {missing}", stacklevel=3)

    slower = schemas.CPU_AND_CUDA if load_error is None else schemas.SCHEMAS
    for schema in schemas.SCHEMAS:
        name = schemas.op_name(schema)
        kernel = reference.KERNELS[name]
        # "for every backend": a kernel that is registered for one device comes before it
        library.impl(name, _after(warn_once, kernel) if schema in slower else kernel, "CompositeExplicitAutograd")
    return library


def _after(first: Callable[[], None], kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        first()
        return kernel(*arguments)

    return call


_load_error = _load()
_references = _register_references(_load_error)
