// Conversion and checks of tensors that several ops share.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace maskrcnn_benchmark {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
      type == ScalarType::BFloat16;
}

// Returns the values as a contiguous tensor of one type. Calls PyTorch only if something has to change: for small
// inputs these calls take a large part of the time.
inline Tensor dense(const Tensor& values, ScalarType type) {
  const Tensor typed = values.scalar_type() == type ? values : torch::stable::to(values, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

inline void check_offset(const char* op, int64_t offset) {
  STD_TORCH_CHECK(offset == 0 || offset == 1, op, ": offset must be 1 (inclusive) or 0 (half-open); got ", offset);
}

}  // namespace maskrcnn_benchmark
