// Shared by the CUDA kernels: PyTorch's current stream, and the grid of a launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

namespace maskrcnn_benchmark {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

#ifndef MRB_MOST_BLOCKS  // tests set a small number, so that blocks stride over small work
#define MRB_MOST_BLOCKS (1 << 20)
#endif

// Number of blocks for `items` pieces of work in a kernel with a grid-stride loop; at least one.
inline unsigned int grid_size(int64_t items) {
  return static_cast<unsigned int>(std::max<int64_t>(1, std::min<int64_t>(items, MRB_MOST_BLOCKS)));
}

inline unsigned int grid_size(int64_t elements, int64_t threads) {
  return grid_size((elements + threads - 1) / threads);
}

}  // namespace maskrcnn_benchmark
