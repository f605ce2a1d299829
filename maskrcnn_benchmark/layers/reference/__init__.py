"""The PyTorch kernel of every op in `torch.ops.maskrcnn_benchmark`: same arguments, same results, any device.

Tests compare the compiled kernels with them, and they run where no compiled kernel exists
(`layers/_extension.py`). ROIAlign and NMS use torchvision's kernels, the others PyTorch's own ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maskrcnn_benchmark.layers.reference.candidates import class_candidates, rpn_candidates
from maskrcnn_benchmark.layers.reference.keypoints import decode_bicubic
from maskrcnn_benchmark.layers.reference.masks import mask_run_lengths, paste_masks_
from maskrcnn_benchmark.layers.reference.nms import batched_nms, nms, nms_padded
from maskrcnn_benchmark.layers.reference.polygons import rasterize_polygons
from maskrcnn_benchmark.layers.reference.roi_align import (
    multi_level_roi_align,
    multi_level_roi_align_backward,
    roi_align,
    roi_align_backward,
)

KERNELS: Mapping[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        roi_align,
        roi_align_backward,
        multi_level_roi_align,
        multi_level_roi_align_backward,
        nms,
        batched_nms,
        nms_padded,
        paste_masks_,
        mask_run_lengths,
        rasterize_polygons,
        decode_bicubic,
        rpn_candidates,
        class_candidates,
    )
}
"""Name of the op -> its reference."""
