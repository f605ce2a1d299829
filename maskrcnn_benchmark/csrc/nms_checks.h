// Checks of NMS's arguments, the same on every device.
#pragma once

#include <torch/csrc/stable/device.h>

#include <optional>
#include <string>

#include "tensors.h"

namespace maskrcnn_benchmark {

inline void check_nms(
    const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold,
    int64_t offset) {
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4, op, ": boxes must be (R, 4), each x1, y1, x2, y2; got ", boxes.dim(),
      " dimensions", boxes.dim() == 2 ? " and " + std::to_string(boxes.size(1)) + " columns" : std::string());
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), op, ": scores must be (R,), one for each of ",
      boxes.size(0), " boxes; got ", scores.dim(), " dimensions and ", scores.numel(), " values");
  STD_TORCH_CHECK(
      is_floating(boxes.scalar_type()) && is_floating(scores.scalar_type()), op,
      ": boxes and scores must be of floating types; got ", boxes.scalar_type(), " and ", scores.scalar_type());
  STD_TORCH_CHECK(
      boxes.device() == scores.device(), op, ": boxes and scores must be on one device; move scores with .to()");
  STD_TORCH_CHECK(boxes.size(0) < INT32_MAX, op, ": at most 2147483646 boxes; got ", boxes.size(0));
  STD_TORCH_CHECK(
      threshold >= 0, op, ": the threshold on intersection over union must not be negative; got ", threshold);
  check_offset(op, offset);
  if (groups) {
    STD_TORCH_CHECK(
        groups->dim() == 1 && groups->size(0) == boxes.size(0) && groups->scalar_type() == ScalarType::Long, op,
        ": groups must be (R,) int64, one for each of ", boxes.size(0), " boxes; got ", groups->numel(), " of ",
        groups->scalar_type());
    STD_TORCH_CHECK(
        boxes.device() == groups->device(), op, ": boxes and groups must be on one device; move groups with .to()");
  }
}

inline void check_max_out(const char* op, int64_t max_out) {
  STD_TORCH_CHECK(max_out >= 0, op, ": max_out must not be negative; got ", max_out);
}

}  // namespace maskrcnn_benchmark
