// Peaks of heatmaps enlarged to their frames by cubic interpolation, on the CPU. Twin of layers/reference/keypoints.py.
//
// Most of an enlarged map is never computed. A pixel is a weighted sum of 4 x 4 cells. The weights sum to 1, the
// negative ones to no less than -kNegative. So a pixel exceeds the largest of its cells by at most kNegative times
// their spread. If that bound is below a value that another pixel has, the peak is elsewhere and the pixel is skipped.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "../tensors.h"
#include "per_isa.h"

#define MRB_KERNELS "keypoint_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

constexpr double kCubic = -0.75;  // OpenCV's and PyTorch's coefficient of the cubic kernel
constexpr float kNegative = 0.4454f;  // 2 * n * (1 + n), rounded up, where n = 0.1875 along one axis
constexpr int64_t kMaxPixels = 1 << 20;  // per side of an enlarged map

// The pixels along one side of the enlarged map, by the cells that they interpolate.
struct Axis {
  int64_t pixels = 0;
  std::vector<int32_t> before;  // the cell at or before each pixel's centre, plus 1: from 0 to cells
  std::vector<float> weights;  // (4, pixels), for the cells before - 1 to before + 2
  std::vector<int64_t> first_of;  // (cells + 2,): the first pixel whose `before` is at least the index

  void set(int64_t count, int64_t cells) {
    if (count == pixels) {
      return;
    }
    pixels = count;
    before.resize(count);
    weights.resize(4 * count);
    first_of.assign(cells + 2, count);
    int64_t next = 0;
    for (int64_t pixel = 0; pixel < count; ++pixel) {
      const double position = (pixel + 0.5) * cells / count - 0.5;
      const double cell = std::floor(position);
      const double t = position - cell;
      before[pixel] = static_cast<int32_t>(cell) + 1;
      for (; next <= before[pixel]; ++next) {
        first_of[next] = pixel;
      }
      weights[pixel] = static_cast<float>(outer(t + 1));
      weights[count + pixel] = static_cast<float>(inner(t));
      weights[2 * count + pixel] = static_cast<float>(inner(1 - t));
      weights[3 * count + pixel] = static_cast<float>(outer(2 - t));
    }
  }

 private:
  static double inner(double distance) {
    return ((kCubic + 2) * distance - (kCubic + 3)) * distance * distance + 1;
  }
  static double outer(double distance) {
    return ((kCubic * distance - 5 * kCubic) * distance + 8 * kCubic) * distance - 4 * kCubic;
  }
};

struct Peak {
  float value;
  int64_t row, column;
};

// Finds the peaks of maps of one size. Keeps its buffers from map to map.
class PeakFinder {
 public:
  PeakFinder(int64_t cells_h, int64_t cells_w)
      : cells_h_(cells_h), cells_w_(cells_w), stride_(cells_w + 4), padded_((cells_h + 4) * stride_),
        column_most_((cells_h + 1) * stride_), column_least_((cells_h + 1) * stride_), most_(cells_w + 1),
        least_(cells_w + 1), known_(cells_h) {}

  void set_frame(int64_t width, int64_t height) {
    columns_.set(width, cells_w_);
    rows_.set(height, cells_h_);
    widened_.resize(std::max<size_t>(widened_.size(), cells_h_ * width));
    values_.resize(std::max<size_t>(values_.size(), width));
  }

  Peak find(const float* map) {
    pad(map);
    std::fill(known_.begin(), known_.end(), Range{0, 0});
    for (int64_t row = 0; row <= cells_h_; ++row) {
      windows_of_four_(
          padded_.data() + row * stride_, padded_.data() + row * stride_, stride_, stride_,
          column_most_.data() + row * stride_, column_least_.data() + row * stride_);
    }
    Peak peak{-INFINITY, 0, 0};
    float reached = near_best_cell(map);
    for (int64_t row = 0; row <= cells_h_; ++row) {  // pixels between the centres of cells row - 1 and row
      const int64_t first_row = rows_.first_of[row], last_row = rows_.first_of[row + 1];
      if (first_row == last_row) {
        continue;
      }
      const Range range = candidates(row, reached);
      if (range.first >= range.last) {
        continue;
      }
      const float* around[4];
      for (int64_t tap = 0; tap < 4; ++tap) {
        around[tap] = widened(std::min(std::max<int64_t>(row - 2 + tap, 0), cells_h_ - 1), range);
      }
      for (int64_t y = first_row; y < last_row; ++y) {
        const int64_t count = rows_.pixels;
        const float weights[4] = {
            rows_.weights[y], rows_.weights[count + y], rows_.weights[2 * count + y], rows_.weights[3 * count + y]};
        const float best = mix_rows_(around, weights, range.first, range.last, values_.data());
        if (best > peak.value) {
          const float* found = std::find(values_.data() + range.first, values_.data() + range.last, best);
          peak = {best, y, found - values_.data()};
          reached = std::max(reached, best);
        }
      }
    }
    return peak;
  }

 private:
  struct Range {
    int64_t first, last;
  };

  // Repeats edge cells twice on every side.
  void pad(const float* map) {
    for (int64_t row = -2; row < cells_h_ + 2; ++row) {
      const float* from = map + std::min(std::max<int64_t>(row, 0), cells_h_ - 1) * cells_w_;
      float* to = padded_.data() + (row + 2) * stride_;
      to[0] = to[1] = from[0];
      std::copy_n(from, cells_w_, to + 2);
      to[cells_w_ + 2] = to[cells_w_ + 3] = from[cells_w_ - 1];
    }
  }

  // The value of the pixel nearest to the centre of the best cell, minus its rounding error: a first lower bound.
  float near_best_cell(const float* map) const {
    const int64_t best = std::max_element(map, map + cells_h_ * cells_w_) - map;
    const auto pixel_of = [](int64_t cell, int64_t cells, int64_t pixels) {
      return std::min(static_cast<int64_t>((cell + 0.5) * pixels / cells), pixels - 1);
    };
    const int64_t y = pixel_of(best / cells_w_, cells_h_, rows_.pixels);
    const int64_t x = pixel_of(best % cells_w_, cells_w_, columns_.pixels);
    float value = 0, size = 0;
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < 4; ++j) {
        const float cell = padded_[(rows_.before[y] + i) * stride_ + columns_.before[x] + j];
        value += rows_.weights[i * rows_.pixels + y] * columns_.weights[j * columns_.pixels + x] * cell;
        size += std::abs(cell);
      }
    }
    return value - kRounding * size;
  }

  // The range of pixels in a row of cells that may reach the value.
  Range candidates(int64_t row, float reached) {
    const int64_t count = cells_w_ + 1;
    windows_of_four_(
        column_most_.data() + row * stride_, column_least_.data() + row * stride_, 1, count, most_.data(),
        least_.data());
    int64_t first = count, last = 0;
    for (int64_t j = 0; j < count; ++j) {
      const float bound =
          most_[j] + kNegative * (most_[j] - least_[j]) + kRounding * (std::abs(most_[j]) + std::abs(least_[j]));
      if (!(bound < reached)) {
        first = std::min(first, j);
        last = j + 1;
      }
    }
    return first < last ? Range{columns_.first_of[first], columns_.first_of[last]} : Range{0, 0};
  }

  // A row of cells interpolated at the columns of the pixels, computed at least for the range.
  const float* widened(int64_t row, Range range) {
    float* to = widened_.data() + row * columns_.pixels;
    Range& known = known_[row];
    const auto widen = [&](int64_t first, int64_t last) {
      widen_row_(
          padded_.data() + (row + 2) * stride_, columns_.before.data(), columns_.weights.data(), columns_.pixels, first,
          last, to);
    };
    if (known.first == known.last) {
      widen(range.first, range.last);
      known = range;
    } else {
      if (range.first < known.first) {
        widen(range.first, known.first);
        known.first = range.first;
      }
      if (range.last > known.last) {
        widen(known.last, range.last);
        known.last = range.last;
      }
    }
    return to;
  }

  static constexpr float kRounding = 1e-5f;

  int64_t cells_h_, cells_w_, stride_;
  Axis rows_, columns_;
  std::vector<float> padded_, column_most_, column_least_, most_, least_, widened_, values_;
  std::vector<Range> known_;
  decltype(MRB_PICK(widen_row_cubic)) widen_row_ = MRB_PICK(widen_row_cubic);
  decltype(MRB_PICK(mix_rows)) mix_rows_ = MRB_PICK(mix_rows);
  decltype(MRB_PICK(windows_of_four)) windows_of_four_ = MRB_PICK(windows_of_four);
};

// logits (R, K, H, W) and frames (R, 4), float32 -> xy (R, K, 2) in image pixels, scores (R, K).
std::tuple<Tensor, Tensor> decode_bicubic_cpu(const Tensor& logits, const Tensor& frames) {
  STD_TORCH_CHECK(
      logits.dim() == 4 && frames.dim() == 2 && frames.size(0) == logits.size(0) && frames.size(1) == 4,
      "decode_bicubic: logits must be (R, K, H, W) and frames (R, 4); got ", logits.dim(), " and ", frames.dim(),
      " dimensions of ", logits.numel(), " and ", frames.numel(), " values");
  STD_TORCH_CHECK(
      logits.scalar_type() == ScalarType::Float && frames.scalar_type() == ScalarType::Float,
      "decode_bicubic: logits and frames must be float32; got ", logits.scalar_type(), " and ", frames.scalar_type());
  const int64_t count = logits.size(0), keypoints = logits.size(1), height = logits.size(2), width = logits.size(3);
  STD_TORCH_CHECK(height > 0 && width > 0, "decode_bicubic: heatmaps must have cells; got ", height, " x ", width);
  const Tensor maps = torch::stable::contiguous(logits), rectangles = torch::stable::contiguous(frames);
  Tensor points = torch::stable::new_empty(logits, {count, keypoints, 2});
  Tensor scores = torch::stable::new_empty(logits, {count, keypoints});
  const float* cells = maps.const_data_ptr<float>();
  const float* corners = rectangles.const_data_ptr<float>();
  for (int64_t r = 0; r < count; ++r) {
    const float* frame = corners + 4 * r;
    STD_TORCH_CHECK(
        frame[2] - frame[0] <= kMaxPixels && frame[3] - frame[1] <= kMaxPixels, "decode_bicubic: frame ", r, " is ",
        frame[2] - frame[0], " x ", frame[3] - frame[1], " pixels, at most ", kMaxPixels, " a side are expected");
  }
  float* xy = points.mutable_data_ptr<float>();
  float* best = scores.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, count * keypoints, 16, [&](int64_t begin, int64_t end) {
    PeakFinder finder(height, width);
    for (int64_t map = begin; map < end; ++map) {
      const float* frame = corners + 4 * (map / keypoints);
      const float extent_x = std::max(frame[2] - frame[0], 1.0f), extent_y = std::max(frame[3] - frame[1], 1.0f);
      const float pixels_x = std::ceil(extent_x), pixels_y = std::ceil(extent_y);
      finder.set_frame(static_cast<int64_t>(pixels_x), static_cast<int64_t>(pixels_y));
      const Peak peak = finder.find(cells + map * height * width);
      xy[2 * map] = frame[0] + (peak.column + 0.5f) * (extent_x / pixels_x);
      xy[2 * map + 1] = frame[1] + (peak.row + 0.5f) * (extent_y / pixels_y);
      best[map] = peak.value;
    }
  });
  return {points, scores};
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("decode_bicubic", TORCH_BOX(&maskrcnn_benchmark::decode_bicubic_cpu));
}
