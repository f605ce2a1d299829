// ROIAlign and multi-level ROIAlign on the CPU, forward and backward. Twin of cuda/roi_align.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../roi_align_checks.h"
#include "memory.h"
#include "per_isa.h"
#include "roi_align_plan.h"

#define MRB_KERNELS "roi_align_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

// The arguments of a call that do not depend on types and formats.
struct PoolArguments {
  const char* op;
  PoolSizes sizes;
  int64_t samples;
  bool aligned;
  std::optional<LevelRule> rule;  // absent: one level
};

// Output values below which a second thread costs more than it saves.
constexpr int64_t kGrain = 1 << 15;

// Results of at least this many bytes bypass the caches: they do not fit there anyway.
constexpr int64_t kLargerThanCaches = 32 << 20;

template <typename Acc>
PoolPlan<Acc> make_plan(const Tensor& rois, const std::vector<LevelMaps>& levels, const PoolArguments& arguments) {
  const Tensor coordinates = dense(rois, ScalarType::Double);
  const double* data = coordinates.const_data_ptr<double>();
  const int64_t count = coordinates.size(0);
  const PoolSizes& sizes = arguments.sizes;

  // the map (level and image) of each region, and the number of regions per map
  const int64_t maps = static_cast<int64_t>(levels.size()) * sizes.images;
  std::vector<int64_t> map_of_roi(count), first_of_map(maps + 1, 0);
  for (int64_t row = 0; row < count; ++row) {
    const double* roi = data + row * 5;
    STD_TORCH_CHECK(
        roi[0] >= 0 && roi[0] < static_cast<double>(sizes.images), arguments.op, ": roi ", row, " is of image ", roi[0],
        ", but features hold ", sizes.images, " images");
    int64_t level = 0;
    if (arguments.rule) {
      const LevelRule& rule = *arguments.rule;
      level = assign_level(
                  {roi[1], roi[2], roi[3], roi[4]}, static_cast<double>(rule.offset), rule.canonical_size,
                  rule.canonical_level, rule.lowest, rule.highest) -
          rule.lowest;
    }
    map_of_roi[row] = level * sizes.images + static_cast<int64_t>(roi[0]);
    ++first_of_map[map_of_roi[row] + 1];
  }
  for (int64_t map = 0; map < maps; ++map) {
    first_of_map[map + 1] += first_of_map[map];
  }

  const auto axes_of = [&](int64_t row, int64_t level) {
    const double* roi = data + row * 5;
    const double scale = levels[level].scale;
    return std::pair<RoiAxis, RoiAxis>(
        RoiAxis(roi[2], roi[4], scale, sizes.bins_h, arguments.samples, arguments.aligned),
        RoiAxis(roi[1], roi[3], scale, sizes.bins_w, arguments.samples, arguments.aligned));
  };

  PoolPlan<Acc> plan;
  plan.rois.resize(count);
  std::vector<int64_t> next_of_map(first_of_map), taps_before(count + 1, 0);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t map = map_of_roi[row];
    PlannedRoi<Acc>& roi = plan.rois[next_of_map[map]++];
    roi.row = row;
    roi.level = static_cast<int32_t>(map / sizes.images);
    roi.image = map % sizes.images;
    const LevelMaps& level = levels[roi.level];
    const auto [y, x] = axes_of(row, roi.level);
    taps_before[row + 1] =
        taps_before[row] + most_taps(y, sizes.bins_h, level.height) + most_taps(x, sizes.bins_w, level.width);
  }
  plan.taps.resize(taps_before[count]);
  const int64_t starts_per_roi = sizes.bins_h + sizes.bins_w + 2;
  plan.starts.resize(count * starts_per_roi);
  torch::stable::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      PlannedRoi<Acc>& roi = plan.rois[i];
      const LevelMaps& level = levels[roi.level];
      const auto [y, x] = axes_of(roi.row, roi.level);
      Tap<Acc>* taps = plan.taps.data() + taps_before[roi.row];
      int32_t* starts = plan.starts.data() + roi.row * starts_per_roi;
      roi.y = fill_taps(y, sizes.bins_h, level.height, taps, starts);
      taps += starts[sizes.bins_h];
      starts += sizes.bins_h + 1;
      roi.x = fill_taps(x, sizes.bins_w, level.width, taps, starts);
    }
  });
  // sort regions by position, in bands of rows, so that the cells of one region are in the cache for the next
  constexpr int32_t kBand = 16;
  for (int64_t map = 0; map < maps; ++map) {
    std::sort(
        plan.rois.begin() + first_of_map[map], plan.rois.begin() + first_of_map[map + 1],
        [](const PlannedRoi<Acc>& a, const PlannedRoi<Acc>& b) {
          const int32_t band_a = a.y.first_cell / kBand, band_b = b.y.first_cell / kBand;
          return std::tie(band_a, a.x.first_cell, a.row) < std::tie(band_b, b.x.first_cell, b.row);
        });
  }
  return plan;
}

// All maps, dense and in the format of the first, with their description for the kernels.
struct Maps {
  std::vector<Tensor> tensors;  // keeps copies alive
  std::vector<LevelMaps> levels;
  bool channels_last;

  Maps(const std::vector<Tensor>& features, const std::vector<double>& scales)
      : channels_last(is_channels_last(features.front())) {
    for (size_t i = 0; i < features.size(); ++i) {
      tensors.push_back(torch::stable::contiguous(features[i], format_of(channels_last)));
      levels.push_back({tensors[i].data_ptr(), features[i].size(2), features[i].size(3), scales[i]});
    }
  }
};

Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes, bool channels_last) {
  Tensor tensor = torch::stable::empty(
      sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt, format_of(channels_last));
  advise_huge_pages(tensor.data_ptr(), static_cast<size_t>(tensor.numel()) * tensor.element_size());
  return tensor;
}

Tensor pool(
    const PoolArguments& arguments, const std::vector<Tensor>& features, const Tensor& rois,
    const std::vector<double>& scales) {
  const PoolSizes& sizes = arguments.sizes;
  const Maps maps(features, scales);
  Tensor pooled =
      new_tensor(features.front(), {rois.size(0), sizes.channels, sizes.bins_h, sizes.bins_w}, maps.channels_last);
  const int64_t threads = pooled.numel() < kGrain ? 1 : static_cast<int64_t>(torch::stable::get_num_threads());
  const bool past_cache = pooled.numel() * static_cast<int64_t>(pooled.element_size()) >= kLargerThanCaches;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto plan = make_plan<AccOf<T>>(rois, maps.levels, arguments);
    if (pooled.numel() == 0) {
      return;
    }
    T* out = static_cast<T*>(pooled.data_ptr());
    if (maps.channels_last) {
      MRB_PICK(pool_channels_last<T>)(plan, maps.levels, sizes, out, threads, past_cache);
    } else {
      MRB_PICK(pool_planar<T>)(plan, maps.levels, sizes, out, threads, past_cache);
    }
  };
  THO_DISPATCH_V2(
      pooled.scalar_type(), "ROIAlign", AT_WRAP([&] { run(scalar_t{}); }), AT_FLOATING_TYPES, ScalarType::Half,
      ScalarType::BFloat16);
  return pooled;
}

std::vector<Tensor> spread_back(
    const PoolArguments& arguments, const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& level_sizes,
    const std::vector<double>& scales, bool channels_last) {
  const PoolSizes& sizes = arguments.sizes;
  std::vector<Tensor> grads;
  std::vector<LevelMaps> levels;
  for (size_t i = 0; i < scales.size(); ++i) {
    const int64_t height = level_sizes[2 * i], width = level_sizes[2 * i + 1];
    grads.push_back(new_tensor(grad, {sizes.images, sizes.channels, height, width}, channels_last));
    levels.push_back({grads[i].data_ptr(), height, width, scales[i]});
  }
  const Tensor gradients = torch::stable::contiguous(grad, format_of(channels_last));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto plan = make_plan<AccOf<T>>(rois, levels, arguments);
    const T* from = static_cast<const T*>(gradients.data_ptr());
    if (!channels_last) {
      MRB_PICK(spread<T, false, 1>)(plan, levels, sizes, from);
    } else if (sizes.channels * sizeof(AccOf<T>) <= 64) {
      MRB_PICK(spread<T, true, 1>)(plan, levels, sizes, from);
    } else {
      MRB_PICK(spread<T, true, 2>)(plan, levels, sizes, from);
    }
  };
  THO_DISPATCH_V2(
      grad.scalar_type(), "ROIAlign backward", AT_WRAP([&] { run(scalar_t{}); }), AT_FLOATING_TYPES, ScalarType::Half,
      ScalarType::BFloat16);
  return grads;
}

Tensor roi_align_cpu(
    const Tensor& features, const Tensor& rois, double scale, int64_t bins_h, int64_t bins_w, int64_t samples,
    bool aligned) {
  const char* op = "roi_align";
  check_rois(op, rois);
  check_features(op, features, rois);
  check_pooling(op, bins_h, bins_w, samples, scale);
  const PoolSizes sizes{features.size(0), features.size(1), bins_h, bins_w};
  return pool({op, sizes, samples, aligned, std::nullopt}, {features}, rois, {scale});
}

Tensor roi_align_backward_cpu(
    const Tensor& grad, const Tensor& rois, std::vector<int64_t> sizes, double scale, int64_t samples, bool aligned,
    bool channels_last, bool /*deterministic*/) {
  const char* op = "roi_align_backward";
  check_rois(op, rois);
  check_features(op, grad, rois);
  check_pooling(op, grad.size(2), grad.size(3), samples, scale);
  check_grad(op, grad, rois, sizes, 1);
  const PoolSizes pool_sizes{sizes[0], sizes[1], grad.size(2), grad.size(3)};
  return spread_back(
      {op, pool_sizes, samples, aligned, std::nullopt}, grad, rois, {sizes[2], sizes[3]}, {scale}, channels_last)[0];
}

Tensor multi_level_roi_align_cpu(
    std::vector<Tensor> features, const Tensor& rois, std::vector<double> scales, int64_t bins_h, int64_t bins_w,
    int64_t samples, bool aligned, double canonical_size, double canonical_level, int64_t offset) {
  const char* op = "multi_level_roi_align";
  check_rois(op, rois);
  const LevelRule rule(op, scales, static_cast<int64_t>(features.size()), canonical_size, canonical_level, offset);
  check_levels(op, features, rois);
  check_pooling(op, bins_h, bins_w, samples, scales.front());
  const PoolSizes sizes{features[0].size(0), features[0].size(1), bins_h, bins_w};
  return pool({op, sizes, samples, aligned, rule}, features, rois, scales);
}

std::vector<Tensor> multi_level_roi_align_backward_cpu(
    const Tensor& grad, const Tensor& rois, std::vector<int64_t> sizes, std::vector<double> scales, int64_t samples,
    bool aligned, double canonical_size, double canonical_level, int64_t offset, bool channels_last,
    bool /*deterministic*/) {
  const char* op = "multi_level_roi_align_backward";
  check_rois(op, rois);
  check_features(op, grad, rois);
  const int64_t levels = static_cast<int64_t>(scales.size());
  const LevelRule rule(op, scales, levels, canonical_size, canonical_level, offset);
  check_pooling(op, grad.size(2), grad.size(3), samples, scales.front());
  check_grad(op, grad, rois, sizes, levels);
  const PoolSizes pool_sizes{sizes[0], sizes[1], grad.size(2), grad.size(3)};
  return spread_back(
      {op, pool_sizes, samples, aligned, rule}, grad, rois, {sizes.begin() + 2, sizes.end()}, scales, channels_last);
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&maskrcnn_benchmark::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&maskrcnn_benchmark::roi_align_backward_cpu));
  m.impl("multi_level_roi_align", TORCH_BOX(&maskrcnn_benchmark::multi_level_roi_align_cpu));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&maskrcnn_benchmark::multi_level_roi_align_backward_cpu));
}
