"""Makes sure that `torch.ops.maskrcnn_benchmark` is there: from the compiled kernels, else from torchvision's.

Where the extension was never built, torchvision's kernels stand in for all ops; where it was built without CUDA, for
the ops on CUDA tensors. They are slower, and the first call of one says so.
"""

from __future__ import annotations

import importlib

import torch

from maskrcnn_benchmark.layers import _fallback

REBUILD = "in the repository, run: pip install --no-build-isolation -e . (FORCE_CUDA=1 insists on the CUDA kernels)"

# as csrc/ops.cpp defines them; a compiled library that differs was built from other sources
SCHEMAS = (
    "roi_align(Tensor features, Tensor rois, float scale, SymInt bins_h, SymInt bins_w, int samples, bool aligned)"
    " -> Tensor",
    "roi_align_backward(Tensor grad, Tensor rois, SymInt[] sizes, float scale, int samples, bool aligned,"
    " bool channels_last, bool deterministic) -> Tensor",
    "multi_level_roi_align(Tensor[] features, Tensor rois, float[] scales, SymInt bins_h, SymInt bins_w, int samples,"
    " bool aligned, float canonical_size, float canonical_level, int offset) -> Tensor",
    "multi_level_roi_align_backward(Tensor grad, Tensor rois, SymInt[] sizes, float[] scales, int samples,"
    " bool aligned, float canonical_size, float canonical_level, int offset, bool channels_last,"
    " bool deterministic) -> Tensor[]",
    "nms(Tensor boxes, Tensor scores, float threshold, int offset) -> Tensor",
    "batched_nms(Tensor boxes, Tensor scores, Tensor groups, float threshold, int offset) -> Tensor",
    "nms_padded(Tensor boxes, Tensor scores, Tensor? groups, float threshold, int offset, SymInt max_out) -> Tensor",
)

# of the CPU alone; where they are missing, or for tensors elsewhere, their callers do the same with PyTorch's ops
HOST_SCHEMAS = (
    "paste_masks_(Tensor(a!) pasted, Tensor masks, Tensor extents, float threshold, bool zeroed) -> ()",
    "mask_run_lengths(Tensor masks, Tensor extents, int height, int width, float threshold) -> (Tensor, Tensor)",
    "rasterize_polygons(Tensor points, Tensor parts, Tensor instances, Tensor indices, Tensor extents, int size)"
    " -> Tensor",
    "decode_bicubic(Tensor logits, Tensor frames) -> (Tensor, Tensor)",
    "rpn_candidates(Tensor[] anchors, Tensor[] objectness, Tensor[] box_regression, Tensor sizes, int most,"
    " float[] weights, float clamp, float min_size, int offset) -> (Tensor, Tensor, Tensor)",
    "class_candidates(Tensor scores, Tensor box_regression, Tensor references, Tensor images, Tensor sizes,"
    " float threshold, float[] weights, float clamp, int offset, bool class_agnostic)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


def extension_status() -> str:
    """One line for environment reports: which kernels serve which device."""
    if _load_error is not None:
        return f"not loaded ({_load_error}); torchvision's kernels stand in; {REBUILD}"
    instructions = getattr(importlib.import_module("maskrcnn_benchmark._C"), "CPU_INSTRUCTIONS", "?")
    if not _has_cuda_kernels():
        return f"compiled for the CPU ({instructions}); torchvision's kernels stand in on CUDA"
    return f"compiled for the CPU ({instructions}) and CUDA"


def check_one_device(op: str, first: str, second: str, *tensors: torch.Tensor) -> None:
    """For the fakes, in the kernels' words. Raises: RuntimeError."""
    if len({tensor.device for tensor in tensors}) > 1:
        raise RuntimeError(f"{op}: {first} and {second} must be on one device; move {second} with .to()")


def has_host_kernels() -> bool:
    """Are the ops that exist for the CPU alone there?"""
    return _load_error is None


def _has_cuda_kernels() -> bool:
    return "CUDA" in _compiled_for


def _load() -> str | None:
    """Registers the ops of the compiled library. Returns why that was not possible, None when it was."""
    try:
        importlib.import_module("maskrcnn_benchmark._C")
    except ModuleNotFoundError:
        return "maskrcnn_benchmark._C is not built"
    except ImportError as error:
        return f"maskrcnn_benchmark._C does not load: {error}"
    for schema in SCHEMAS + HOST_SCHEMAS:
        name = schema.partition("(")[0]
        packet = getattr(torch.ops.maskrcnn_benchmark, name, None)
        if packet is None or packet.default._schema != torch._C.parse_schema(f"maskrcnn_benchmark::{schema}"):
            raise ImportError(
                f"maskrcnn_benchmark._C was built from other sources: it lacks {schema}. To rebuild it, {REBUILD}"
            )
    return None


_load_error = _load()
_compiled_for = {
    key
    for key in ("CPU", "CUDA")
    if _load_error is None and torch._C._dispatch_has_kernel_for_dispatch_key("maskrcnn_benchmark::nms", key)
}
_fallback_library: torch.library.Library | None = None  # its registrations last as long as it does
if _load_error is not None:
    _fallback_library = torch.library.Library("maskrcnn_benchmark", "DEF")
    for _schema in SCHEMAS:
        _fallback_library.define(_schema)
    _fallback.register(_fallback_library, "CompositeExplicitAutograd", f"{_load_error}; {REBUILD}")
elif not _has_cuda_kernels():
    _fallback_library = torch.library.Library("maskrcnn_benchmark", "IMPL")
    _fallback.register(
        _fallback_library, "CUDA", f"maskrcnn_benchmark._C was built without the CUDA kernels; {REBUILD}"
    )
