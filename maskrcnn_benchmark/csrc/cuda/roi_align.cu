// ROIAlign and multi-level ROIAlign on CUDA, forward and backward. Twin of cpu/roi_align.cpp.
//
// A block takes one region and a run of its channels. It finds the level of the region, writes the taps of all bins to
// shared memory (region.h) and then computes outputs. Adjacent threads take adjacent bins of planar maps and adjacent
// channels of channels-last maps, so that memory accesses coalesce.
//
// Backward adds gradients to the cells atomically. The order varies from run to run, and so does the rounding of
// floating-point sums. If the caller asks for deterministic results, integers are added instead (FixedPoint).
#include "common.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <optional>
#include <vector>

#include "../accumulator.h"
#include "../roi_align_checks.h"
#include "region.h"

namespace maskrcnn_benchmark {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 4;  // at least; leaves 64 registers per thread, enough for the loops over tabulated taps

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T values[kWidth];
};

// The channel and bin of work item `k` within a run of channels.
template <bool kChannelsLast, int kWidth>
struct Place {
  int channel;  // first of kWidth, within the run
  int bin;

  __device__ Place(int k, int run, int bins) {
    if (kChannelsLast) {
      const int packs = run / kWidth;
      bin = k / packs;
      channel = (k % packs) * kWidth;
    } else {
      bin = k % bins;
      channel = k / bins;
    }
  }
};

template <typename T, typename Acc, bool kChannelsLast, int kWidth>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    pool_kernel(Pooling pooling, Pyramid pyramid, const double* rois, int channels_per_run, T* pooled) {
  __shared__ Region<Acc> region;
  const int bins = pooling.bins_h * pooling.bins_w;
  const int64_t channels = pooling.channels;
  const int64_t runs = (channels + channels_per_run - 1) / channels_per_run;
  for (int64_t item = blockIdx.x; item < pooling.rois * runs; item += gridDim.x) {
    const int64_t roi = item / runs;
    const int64_t first_channel = (item % runs) * channels_per_run;
    const int run =
        static_cast<int>(channels - first_channel < channels_per_run ? channels - first_channel : channels_per_run);
    region.load(pooling, pyramid, rois + roi * 5);
    const Map& map = pyramid.levels[region.level];
    const int64_t cell_stride = kChannelsLast ? channels : 1;
    const int64_t channel_stride = kChannelsLast ? 1 : map.height * map.width;
    const T* image = static_cast<const T*>(map.data) + region.image * channels * map.height * map.width;
    for (int k = threadIdx.x; k < run / kWidth * bins; k += blockDim.x) {
      const Place<kChannelsLast, kWidth> place(k, run, bins);
      const int64_t channel = first_channel + place.channel;
      Acc total[kWidth] = {};
      if (region.image >= 0) {
        const T* cells = image + channel * channel_stride;
        region.visit_bin(
            place.bin / pooling.bins_w, place.bin % pooling.bins_w, map, [&](int64_t row, int64_t column, Acc weight) {
              const auto pack =
                  *reinterpret_cast<const Pack<T, kWidth>*>(cells + (row * map.width + column) * cell_stride);
              for (int v = 0; v < kWidth; ++v) {
                total[v] += weight * static_cast<Acc>(pack.values[v]);
              }
            });
      }
      Pack<T, kWidth> out;
      for (int v = 0; v < kWidth; ++v) {
        out.values[v] = static_cast<T>(total[v]);
      }
      const int64_t position =
          kChannelsLast ? (roi * bins + place.bin) * channels + channel : (roi * channels + channel) * bins + place.bin;
      *reinterpret_cast<Pack<T, kWidth>*>(pooled + position) = out;
    }
  }
}

// Gradients as integers: a gradient times 2^shift, rounded. Their sums do not depend on the order.
//
// `largest` is the largest magnitude among the gradients of a call, as the bits of a double. The bits of positive
// doubles sort like the numbers, with infinity and NaN last. The weights of a bin sum to at most 1, so with fewer than
// 2^spare_bits bins in all regions no sum exceeds 2^62, and rounding has the same room again. All of it runs on the
// device without synchronisation.
struct FixedPoint {
  const unsigned long long* largest;
  int spare_bits;

  static constexpr unsigned long long kInfinity = 0x7ffULL << 52;

  // False if any gradient is infinite or NaN.
  __device__ bool finite() const {
    return *largest < kInfinity;
  }

  __device__ int shift() const {
    const int exponent = static_cast<int>(*largest >> 52) - 1022;  // the largest is below 2^exponent
    return 62 - spare_bits - exponent;  // 2^shift may overflow a double, hence ldexp
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) find_largest(const T* values, int64_t count, unsigned long long* largest) {
  using Acc = AccOf<T>;
  __shared__ unsigned long long of_block;
  if (threadIdx.x == 0) {
    of_block = 0;
  }
  __syncthreads();
  unsigned long long own = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const double magnitude = fabs(static_cast<double>(static_cast<Acc>(values[i])));
    const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(magnitude));
    own = own < bits ? bits : own;
  }
  atomicMax(&of_block, own);
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicMax(largest, of_block);
  }
}

// Converts the sums back to floating point. All cells are NaN if any gradient was not finite.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    from_fixed_point(const int64_t* sums, int64_t count, FixedPoint fixed_point, T* values) {
  using Acc = AccOf<T>;
  const bool finite = fixed_point.finite();
  const int shift = fixed_point.shift();
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const Acc value = static_cast<Acc>(ldexp(static_cast<double>(sums[i]), -shift));
    values[i] = static_cast<T>(finite ? value : static_cast<Acc>(NAN));
  }
}

// Adds the gradients to maps of zeros. Sum is Acc, for sums whose rounding depends on the order, or a 64-bit integer.
template <typename T, typename Acc, typename Sum, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) spread_kernel(
    Pooling pooling, Pyramid pyramid, const double* rois, int channels_per_run, const T* grad, FixedPoint fixed_point) {
  constexpr bool kFixedPoint = std::is_integral_v<Sum>;
  __shared__ Region<Acc> region;
  const int bins = pooling.bins_h * pooling.bins_w;
  const int64_t channels = pooling.channels;
  const int64_t runs = (channels + channels_per_run - 1) / channels_per_run;
  int shift = 0;
  if constexpr (kFixedPoint) {
    if (!fixed_point.finite()) {
      return;  // all threads of the block
    }
    shift = fixed_point.shift();
  }
  for (int64_t item = blockIdx.x; item < pooling.rois * runs; item += gridDim.x) {
    const int64_t roi = item / runs;
    const int64_t first_channel = (item % runs) * channels_per_run;
    const int run =
        static_cast<int>(channels - first_channel < channels_per_run ? channels - first_channel : channels_per_run);
    region.load(pooling, pyramid, rois + roi * 5);
    if (region.image < 0) {
      continue;  // all threads of the block
    }
    const Map& map = pyramid.levels[region.level];
    const int64_t cell_stride = kChannelsLast ? channels : 1;
    const int64_t channel_stride = kChannelsLast ? 1 : map.height * map.width;
    Sum* image = static_cast<Sum*>(map.data) + region.image * channels * map.height * map.width;
    for (int k = threadIdx.x; k < run * bins; k += blockDim.x) {
      const Place<kChannelsLast, 1> place(k, run, bins);
      const int64_t channel = first_channel + place.channel;
      Sum* cells = image + channel * channel_stride;
      const int64_t position =
          kChannelsLast ? (roi * bins + place.bin) * channels + channel : (roi * channels + channel) * bins + place.bin;
      Acc value = static_cast<Acc>(grad[position]);
      if constexpr (kFixedPoint) {
        value = static_cast<Acc>(ldexp(static_cast<double>(value), shift));
      }
      region.visit_bin(
          place.bin / pooling.bins_w, place.bin % pooling.bins_w, map, [&](int64_t row, int64_t column, Acc weight) {
            Sum* cell = cells + (row * map.width + column) * cell_stride;
            if constexpr (kFixedPoint) {
              // negative numbers wrap around, and so do their sums
              const Sum part = static_cast<Sum>(llrint(weight * value));
              if (part != 0) {
                atomicAdd(cell, part);
              }
            } else if (weight != 0) {
              atomicAdd(cell, weight * value);
            }
          });
    }
  }
}

// Channels per block: about two thousand work items, so that computing the taps is a small part of the time, but fewer
// if that leaves too few blocks for a large GPU. Whole packs, and on channels-last maps whole cache lines where
// possible.
int channels_per_run(const Pooling& pooling, bool channels_last, int width) {
  constexpr int64_t kItems = 2048, kBlocks = 1024;
  const int64_t bins = static_cast<int64_t>(pooling.bins_h) * pooling.bins_w;
  const int64_t least = channels_last ? 64 : 8;
  const int64_t most = std::max(kItems * width / bins, channels_last ? least : 1);
  const auto parts = [&](int64_t size) { return (pooling.channels + size - 1) / size; };
  const int64_t runs = std::max(parts(most), std::min((kBlocks + pooling.rois - 1) / pooling.rois, parts(least)));
  const int64_t per_run = parts(runs);
  return static_cast<int>((per_run + width - 1) / width * width);
}

bool aligned_to(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

template <typename T, bool kChannelsLast, int kWidth>
void launch_pool(const Pooling& pooling, const Pyramid& pyramid, const Tensor& rois, Tensor& pooled) {
  using Acc = AccOf<T>;
  const int per_run = channels_per_run(pooling, kChannelsLast, kWidth);
  const int64_t runs = (pooling.channels + per_run - 1) / per_run;
  pool_kernel<T, Acc, kChannelsLast, kWidth><<<grid_size(pooling.rois * runs), kThreads, 0, current_stream(pooled)>>>(
      pooling, pyramid, rois.const_data_ptr<double>(), per_run, static_cast<T*>(pooled.data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Pools channels-last maps in packs of kWidth channels, or of fewer if the memory is not aligned to such packs.
template <typename T, int kWidth>
void pool_packs(const Pooling& pooling, const Pyramid& pyramid, const Tensor& rois, Tensor& pooled) {
  if constexpr (kWidth > 1) {
    bool packs = pooling.channels % kWidth == 0 && aligned_to(pooled.data_ptr(), sizeof(T) * kWidth);
    for (int level = 0; level < pyramid.count; ++level) {
      packs = packs && aligned_to(pyramid.levels[level].data, sizeof(T) * kWidth);
    }
    if (!packs) {
      return pool_packs<T, kWidth / 2>(pooling, pyramid, rois, pooled);
    }
  }
  launch_pool<T, true, kWidth>(pooling, pyramid, rois, pooled);
}

template <typename T>
void pool_maps(const Pooling& pooling, const Pyramid& pyramid, const Tensor& rois, Tensor& pooled, bool channels_last) {
  if (channels_last) {
    pool_packs<T, 16 / sizeof(T)>(pooling, pyramid, rois, pooled);
  } else {
    launch_pool<T, false, 1>(pooling, pyramid, rois, pooled);
  }
}

template <typename T, typename Sum>
void spread_maps(
    const Pooling& pooling, const Pyramid& pyramid, const Tensor& rois, const Tensor& grad, bool channels_last,
    const FixedPoint& fixed_point) {
  using Acc = AccOf<T>;
  const int per_run = channels_per_run(pooling, channels_last, 1);
  const int64_t runs = (pooling.channels + per_run - 1) / per_run;
  const unsigned int grid = grid_size(pooling.rois * runs);
  const cudaStream_t stream = current_stream(grad);
  const double* regions = rois.const_data_ptr<double>();
  const T* from = static_cast<const T*>(grad.data_ptr());
  if (channels_last) {
    spread_kernel<T, Acc, Sum, true>
        <<<grid, kThreads, 0, stream>>>(pooling, pyramid, regions, per_run, from, fixed_point);
  } else {
    spread_kernel<T, Acc, Sum, false>
        <<<grid, kThreads, 0, stream>>>(pooling, pyramid, regions, per_run, from, fixed_point);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Accumulates integer sums in `pyramid` and converts them to the gradients in `grads`.
template <typename T>
void spread_in_fixed_point(
    const Pooling& pooling, const Pyramid& pyramid, const Tensor& rois, const Tensor& grad, bool channels_last,
    std::vector<Tensor>& grads) {
  constexpr unsigned int kMostBlocks = 2048;  // more blocks would queue for the one number that they update
  const cudaStream_t stream = current_stream(grad);
  Tensor largest_storage = torch::stable::empty({1}, ScalarType::Long, std::nullopt, grad.device());
  torch::stable::zero_(largest_storage);
  unsigned long long* largest = static_cast<unsigned long long*>(largest_storage.data_ptr());
  const unsigned int blocks = std::min(grid_size(grad.numel(), kThreads), kMostBlocks);
  find_largest<T><<<blocks, kThreads, 0, stream>>>(static_cast<const T*>(grad.data_ptr()), grad.numel(), largest);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  FixedPoint fixed_point{largest, 0};
  while (pooling.rois * pooling.bins_h * pooling.bins_w >> fixed_point.spare_bits > 0) {
    ++fixed_point.spare_bits;
  }
  spread_maps<T, unsigned long long>(pooling, pyramid, rois, grad, channels_last, fixed_point);
  for (size_t level = 0; level < grads.size(); ++level) {
    const int64_t count = grads[level].numel();
    from_fixed_point<T><<<grid_size(count, kThreads), kThreads, 0, stream>>>(
        static_cast<const int64_t*>(pyramid.levels[level].data), count, fixed_point,
        static_cast<T*>(grads[level].data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Pooling describe(
    const char* op, int64_t images, int64_t channels, int64_t rois, int64_t bins_h, int64_t bins_w, int64_t samples,
    bool aligned, const std::optional<LevelRule>& rule) {
  STD_TORCH_CHECK(
      bins_h * bins_w <= 1 << 20, op, ": at most 1048576 bins per region on CUDA; got ", bins_h, " x ", bins_w);
  Pooling pooling{images, channels, rois, static_cast<int>(bins_h), static_cast<int>(bins_w), samples, aligned};
  if (rule) {
    pooling.offset = static_cast<double>(rule->offset);
    pooling.canonical_size = rule->canonical_size;
    pooling.canonical_level = rule->canonical_level;
    pooling.lowest = rule->lowest;
    pooling.highest = rule->highest;
  }
  return pooling;
}

void check_levels_fit(const char* op, size_t levels) {
  STD_TORCH_CHECK(levels <= kMostLevels, op, ": at most ", kMostLevels, " levels on CUDA; got ", levels);
}

Tensor pool(
    const char* op, const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    int64_t bins_h, int64_t bins_w, int64_t samples, bool aligned, const std::optional<LevelRule>& rule) {
  check_levels_fit(op, features.size());
  const torch::stable::accelerator::DeviceGuard guard(rois.get_device_index());
  const Tensor& first = features.front();
  const bool channels_last = is_channels_last(first);
  const Pooling pooling =
      describe(op, first.size(0), first.size(1), rois.size(0), bins_h, bins_w, samples, aligned, rule);
  const std::vector<int64_t> size{rois.size(0), first.size(1), bins_h, bins_w};
  Tensor pooled = torch::stable::empty(
      size, first.scalar_type(), std::nullopt, first.device(), std::nullopt, format_of(channels_last));
  if (pooled.numel() == 0) {
    return pooled;
  }
  std::vector<Tensor> maps;  // keeps copies alive until the launch
  Pyramid pyramid{};
  pyramid.count = static_cast<int>(features.size());
  for (size_t level = 0; level < features.size(); ++level) {
    maps.push_back(torch::stable::contiguous(features[level], format_of(channels_last)));
    pyramid.levels[level] = {maps[level].data_ptr(), features[level].size(2), features[level].size(3), scales[level]};
  }
  const Tensor regions = dense(rois, ScalarType::Double);
  THO_DISPATCH_V2(
      first.scalar_type(), "ROIAlign",
      AT_WRAP([&] { pool_maps<scalar_t>(pooling, pyramid, regions, pooled, channels_last); }), AT_FLOATING_TYPES,
      ScalarType::Half, ScalarType::BFloat16);
  return pooled;
}

std::vector<Tensor> spread(
    const char* op, const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& sizes,
    const std::vector<double>& scales, int64_t samples, bool aligned, const std::optional<LevelRule>& rule,
    bool channels_last, bool deterministic) {
  check_levels_fit(op, scales.size());
  const torch::stable::accelerator::DeviceGuard guard(rois.get_device_index());
  const Pooling pooling =
      describe(op, sizes[0], sizes[1], rois.size(0), grad.size(2), grad.size(3), samples, aligned, rule);
  const ScalarType type = grad.scalar_type();
  const ScalarType sum_type = deterministic ? ScalarType::Long
      : type == ScalarType::Double          ? ScalarType::Double
                                            : ScalarType::Float;
  std::vector<Tensor> sums, grads;
  Pyramid pyramid{};
  pyramid.count = static_cast<int>(scales.size());
  for (size_t level = 0; level < scales.size(); ++level) {
    const int64_t height = sizes[2 + 2 * level], width = sizes[3 + 2 * level];
    const std::vector<int64_t> size{sizes[0], sizes[1], height, width};
    const auto new_map = [&](ScalarType of) {
      return torch::stable::empty(size, of, std::nullopt, grad.device(), std::nullopt, format_of(channels_last));
    };
    Tensor map = new_map(sum_type);
    torch::stable::zero_(map);
    sums.push_back(map);
    grads.push_back(sum_type == type ? map : new_map(type));
    pyramid.levels[level] = {map.data_ptr(), height, width, scales[level]};
  }
  if (grad.numel() == 0) {
    for (Tensor& map : grads) {
      torch::stable::zero_(map);
    }
    return grads;
  }
  const Tensor gradients = torch::stable::contiguous(grad, format_of(channels_last));
  const Tensor regions = dense(rois, ScalarType::Double);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    using Acc = AccOf<T>;
    if (deterministic) {
      spread_in_fixed_point<T>(pooling, pyramid, regions, gradients, channels_last, grads);
    } else {
      spread_maps<T, Acc>(pooling, pyramid, regions, gradients, channels_last, FixedPoint{});
    }
  };
  THO_DISPATCH_V2(
      type, "ROIAlign backward", AT_WRAP([&] { run(scalar_t{}); }), AT_FLOATING_TYPES, ScalarType::Half,
      ScalarType::BFloat16);
  if (!deterministic && sum_type != type) {
    for (size_t level = 0; level < sums.size(); ++level) {
      torch::stable::copy_(grads[level], sums[level]);
    }
  }
  return grads;
}

Tensor roi_align_cuda(
    const Tensor& features, const Tensor& rois, double scale, int64_t bins_h, int64_t bins_w, int64_t samples,
    bool aligned) {
  const char* op = "roi_align";
  check_rois(op, rois);
  check_features(op, features, rois);
  check_pooling(op, bins_h, bins_w, samples, scale);
  return pool(op, {features}, rois, {scale}, bins_h, bins_w, samples, aligned, std::nullopt);
}

Tensor roi_align_backward_cuda(
    const Tensor& grad, const Tensor& rois, std::vector<int64_t> sizes, double scale, int64_t samples, bool aligned,
    bool channels_last, bool deterministic) {
  const char* op = "roi_align_backward";
  check_rois(op, rois);
  check_features(op, grad, rois);
  check_pooling(op, grad.size(2), grad.size(3), samples, scale);
  check_grad(op, grad, rois, sizes, 1);
  return spread(op, grad, rois, sizes, {scale}, samples, aligned, std::nullopt, channels_last, deterministic)[0];
}

Tensor multi_level_roi_align_cuda(
    std::vector<Tensor> features, const Tensor& rois, std::vector<double> scales, int64_t bins_h, int64_t bins_w,
    int64_t samples, bool aligned, double canonical_size, double canonical_level, int64_t offset) {
  const char* op = "multi_level_roi_align";
  check_rois(op, rois);
  const LevelRule rule(op, scales, static_cast<int64_t>(features.size()), canonical_size, canonical_level, offset);
  check_levels(op, features, rois);
  check_pooling(op, bins_h, bins_w, samples, scales.front());
  return pool(op, features, rois, scales, bins_h, bins_w, samples, aligned, rule);
}

std::vector<Tensor> multi_level_roi_align_backward_cuda(
    const Tensor& grad, const Tensor& rois, std::vector<int64_t> sizes, std::vector<double> scales, int64_t samples,
    bool aligned, double canonical_size, double canonical_level, int64_t offset, bool channels_last,
    bool deterministic) {
  const char* op = "multi_level_roi_align_backward";
  check_rois(op, rois);
  check_features(op, grad, rois);
  const int64_t levels = static_cast<int64_t>(scales.size());
  const LevelRule rule(op, scales, levels, canonical_size, canonical_level, offset);
  check_pooling(op, grad.size(2), grad.size(3), samples, scales.front());
  check_grad(op, grad, rois, sizes, levels);
  return spread(op, grad, rois, sizes, scales, samples, aligned, rule, channels_last, deterministic);
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&maskrcnn_benchmark::roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&maskrcnn_benchmark::roi_align_backward_cuda));
  m.impl("multi_level_roi_align", TORCH_BOX(&maskrcnn_benchmark::multi_level_roi_align_cuda));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&maskrcnn_benchmark::multi_level_roi_align_backward_cuda));
}
