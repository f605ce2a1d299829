// Tensors as the kernels want them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace maskrcnn_benchmark {

// Contiguous and of one type; without a call into PyTorch where that is so already: of a small problem those are a good part.
inline torch::stable::Tensor dense(const torch::stable::Tensor& values, torch::headeronly::ScalarType type) {
  const torch::stable::Tensor typed = values.scalar_type() == type ? values : torch::stable::to(values, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

}  // namespace maskrcnn_benchmark
