// The schema of every op; layers/schemas.py has the same list. Kernels are registered in cpu/ and cuda/, references,
// fake kernels and autograd rules in layers/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(maskrcnn_benchmark, m) {
  m.def(
      "roi_align(Tensor features, Tensor rois, float scale, SymInt bins_h, SymInt bins_w, int samples, bool aligned) "
      "-> Tensor");
  // sizes: N, C, H, W of features. deterministic: the same bits every time, as on the CPU always
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, SymInt[] sizes, float scale, int samples, bool aligned, "
      "bool channels_last, bool deterministic) -> Tensor");
  m.def(
      "multi_level_roi_align(Tensor[] features, Tensor rois, float[] scales, SymInt bins_h, SymInt bins_w, "
      "int samples, bool aligned, float canonical_size, float canonical_level, int offset) -> Tensor");
  // sizes: N, C of all levels, then H, W of each
  m.def(
      "multi_level_roi_align_backward(Tensor grad, Tensor rois, SymInt[] sizes, float[] scales, int samples, "
      "bool aligned, float canonical_size, float canonical_level, int offset, bool channels_last, "
      "bool deterministic) -> Tensor[]");
  m.def("nms(Tensor boxes, Tensor scores, float threshold, int offset) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor groups, float threshold, int offset) -> Tensor");
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor? groups, float threshold, int offset, SymInt max_out) -> Tensor");

  // Compiled for the CPU only; on other devices layers/reference computes them with PyTorch's ops.
  m.def("paste_masks_(Tensor(a!) pasted, Tensor masks, Tensor extents, float threshold, bool zeroed) -> ()");
  m.def("mask_run_lengths(Tensor masks, Tensor extents, int height, int width, float threshold) -> (Tensor, Tensor)");
  m.def(
      "rasterize_polygons(Tensor points, Tensor parts, Tensor instances, Tensor indices, Tensor extents, int size) "
      "-> Tensor");
  m.def("decode_bicubic(Tensor logits, Tensor frames) -> (Tensor, Tensor)");
  m.def(
      "rpn_candidates(Tensor[] anchors, Tensor[] objectness, Tensor[] box_regression, Tensor sizes, int most, "
      "float[] weights, float clamp, float min_size, int offset) -> (Tensor, Tensor, Tensor)");
  m.def(
      "class_candidates(Tensor scores, Tensor box_regression, Tensor references, Tensor images, Tensor sizes, "
      "float threshold, float[] weights, float clamp, int offset, bool class_agnostic) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}
