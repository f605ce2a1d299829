"""The schema of every op in `torch.ops.maskrcnn_benchmark`.

The compiled library defines the ops from its own copy, `csrc/ops.cpp`; a test compares the two. They are compared again
when the library is loaded (`_extension.py`), which fails for a library that was built from different sources. Without a
compiled library, the ops are defined from this list.
"""

CPU_AND_CUDA = (
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
"""Ops with a compiled kernel for the CPU and one for CUDA."""

CPU_ONLY = (
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
"""Ops with a compiled kernel for the CPU only; other devices run the reference."""

SCHEMAS = CPU_AND_CUDA + CPU_ONLY


def op_name(schema: str) -> str:
    """The name of the op in a schema: the text before the first parenthesis."""
    return schema.partition("(")[0]
