// Checks of ROIAlign's arguments, the same on every device.
#pragma once

#include <torch/csrc/stable/device.h>

#include <cmath>
#include <string>
#include <vector>

#include "tensors.h"

namespace maskrcnn_benchmark {

using torch::headeronly::MemoryFormat;

inline MemoryFormat format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Dense, with the channels of a cell side by side. False if the maps are contiguous in the plain format as well.
inline bool is_channels_last(const Tensor& maps) {
  const int64_t channels = maps.size(1), height = maps.size(2), width = maps.size(3);
  const auto stride_or = [&](int64_t dim, int64_t expected) {  // the stride of a dimension of size one does not matter
    return maps.size(dim) == 1 || maps.stride(dim) == expected;
  };
  return !maps.is_contiguous() && stride_or(1, 1) && stride_or(3, channels) && stride_or(2, width * channels) &&
      stride_or(0, height * width * channels);
}

inline void check_features(const char* op, const Tensor& features, const Tensor& rois) {
  STD_TORCH_CHECK(features.dim() == 4, op, ": features must be (N, C, H, W); got ", features.dim(), " dimensions");
  STD_TORCH_CHECK(
      is_floating(features.scalar_type()), op, ": features must be float32, float64, float16 or bfloat16; got ",
      features.scalar_type());
  STD_TORCH_CHECK(
      features.size(2) < INT32_MAX && features.size(3) < INT32_MAX, op, ": a side of features has ", features.size(2),
      " x ", features.size(3), " cells; at most 2147483646 can be");
  STD_TORCH_CHECK(
      features.device() == rois.device(), op, ": features and rois must be on one device; move rois with .to()");
}

inline void check_rois(const char* op, const Tensor& rois) {
  STD_TORCH_CHECK(
      rois.dim() == 2 && rois.size(1) == 5, op, ": rois must be (R, 5), each (index of image, x1, y1, x2, y2); got ",
      rois.dim(), " dimensions", rois.dim() == 2 ? " and " : "",
      rois.dim() == 2 ? std::to_string(rois.size(1)) + " columns" : std::string());
  STD_TORCH_CHECK(is_floating(rois.scalar_type()), op, ": rois must be of a floating type; got ", rois.scalar_type());
}

inline void check_pooling(const char* op, int64_t bins_h, int64_t bins_w, int64_t samples, double scale) {
  STD_TORCH_CHECK(bins_h > 0 && bins_w > 0, op, ": the output size must be positive; got ", bins_h, " x ", bins_w);
  STD_TORCH_CHECK(samples >= 0, op, ": the sampling ratio must be 0 (one sample per cell) or positive; got ", samples);
  STD_TORCH_CHECK(std::isfinite(scale) && scale > 0, op, ": the scale (cells per pixel) must be positive; got ", scale);
}

inline void check_levels(const char* op, const std::vector<Tensor>& features, const Tensor& rois) {
  for (size_t i = 0; i < features.size(); ++i) {
    check_features(op, features[i], rois);
    STD_TORCH_CHECK(
        features[i].size(0) == features[0].size(0) && features[i].size(1) == features[0].size(1), op, ": level ", i,
        " holds ", features[i].size(0), " images of ", features[i].size(1), " channels, level 0 ", features[0].size(0),
        " of ", features[0].size(1));
    STD_TORCH_CHECK(
        features[i].scalar_type() == features[0].scalar_type(), op, ": level ", i, " is ", features[i].scalar_type(),
        ", level 0 ", features[0].scalar_type());
  }
}

// sizes: N, C, then H and W of each level.
inline void check_grad(
    const char* op, const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& sizes, int64_t levels) {
  STD_TORCH_CHECK(
      static_cast<int64_t>(sizes.size()) == 2 + 2 * levels, op, ": sizes must be N, C and (H, W) of ", levels,
      " levels; got ", sizes.size(), " numbers");
  STD_TORCH_CHECK(
      grad.size(0) == rois.size(0) && grad.size(1) == sizes[1], op, ": the gradient must be (R, C, h, w) = (",
      rois.size(0), ", ", sizes[1], ", h, w); got (", grad.size(0), ", ", grad.size(1), ", ", grad.size(2), ", ",
      grad.size(3), ")");
}

// How a region finds its pyramid level. The scales of the levels must halve from one to the next.
struct LevelRule {
  double canonical_size;
  double canonical_level;
  int64_t offset;
  int lowest, highest;

  LevelRule(
      const char* op, const std::vector<double>& scales, int64_t num_levels, double size, double level,
      int64_t box_offset)
      : canonical_size(size), canonical_level(level), offset(box_offset) {
    STD_TORCH_CHECK(!scales.empty(), op, ": no feature levels were given");
    STD_TORCH_CHECK(
        static_cast<int64_t>(scales.size()) == num_levels, op, ": ", num_levels, " feature levels but ", scales.size(),
        " scales");
    STD_TORCH_CHECK(size > 0, op, ": canonical_size must be positive; got ", size);
    check_offset(op, box_offset);
    for (size_t i = 1; i < scales.size(); ++i) {
      STD_TORCH_CHECK(
          std::abs(scales[i] * 2 / scales[i - 1] - 1) < 1e-3, op, ": the scales must halve from level to level; got ",
          scales[i - 1], " and then ", scales[i]);
    }
    lowest = static_cast<int>(std::lround(-std::log2(scales.front())));
    highest = lowest + static_cast<int>(scales.size()) - 1;
  }
};

}  // namespace maskrcnn_benchmark
