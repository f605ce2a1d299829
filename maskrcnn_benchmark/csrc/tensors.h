// Tensors as the kernels want them, and the checks that several ops share.
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

// A contiguous tensor of one type. A tensor that is both already is returned without a call into PyTorch: for a small
// problem those calls are a large part of the time.
inline Tensor dense(const Tensor& values, ScalarType type) {
  const Tensor typed = values.scalar_type() == type ? values : torch::stable::to(values, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

inline void check_offset(const char* op, int64_t offset) {
  STD_TORCH_CHECK(offset == 0 || offset == 1, op, ": offset must be 1 (inclusive) or 0 (half-open); got ", offset);
}

}  // namespace maskrcnn_benchmark
