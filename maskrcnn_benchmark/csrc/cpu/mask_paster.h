// Draws the mask of a region on an image: shared by pasting and by run lengths.
//
// Bilinear interpolation is separable. The cells of a mask are first interpolated along x, at the columns of the pixels
// that the mask can reach ("widened" rows); each row of pixels then lies between two widened rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../tensors.h"
#include "per_isa.h"

#define MRB_KERNELS "mask_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {

// The pixels first .. last - 1 along one axis. `before` is the cell whose centre is at or before the pixel's centre,
// counted with one cell of padding per side; `part` is the distance between the two centres, in cells.
template <typename Acc>
struct PixelAxis {
  int64_t first = 0, last = 0;
  std::vector<int32_t> before;
  std::vector<Acc> part;

  // Sets the pixels, out of `count`, that a mask of `cells` cells over [low, high) can reach: up to half a cell
  // outside.
  void set(double low, double high, int64_t cells, int64_t count) {
    before.clear();
    part.clear();
    first = last = 0;
    if (!(high > low)) {  // empty or NaN
      return;
    }
    const double cell = (high - low) / cells;
    const double limit = static_cast<double>(count);
    first = static_cast<int64_t>(std::min(std::max(std::floor(low - cell / 2 - 0.5), 0.0), limit));
    last = static_cast<int64_t>(std::min(std::max(std::ceil(high + cell / 2 + 0.5), 0.0), limit));
    for (int64_t pixel = first; pixel < last; ++pixel) {
      double position = (pixel + 0.5 - low) / (high - low) * cells - 0.5;  // in cells; the centre of cell i is at i
      position = std::min(std::max(position, -1.0), static_cast<double>(cells));
      const double cell_before = std::min(std::floor(position), static_cast<double>(cells - 1));
      before.push_back(static_cast<int32_t>(cell_before) + 1);
      part.push_back(static_cast<Acc>(position - cell_before));
    }
  }

  int64_t size() const {
    return static_cast<int64_t>(before.size());
  }
};

// Draws masks of one size into images of one size. Keeps its buffers from mask to mask.
template <typename Acc>
class Paster {
 public:
  Paster(int64_t cells_h, int64_t cells_w, int64_t height, int64_t width, double threshold)
      : cells_h_(cells_h), cells_w_(cells_w), height_(height), width_(width), threshold_(threshold),
        padded_(cells_w + 2, Acc(0)) {}

  // Chooses the mask and its extents. Returns whether it can reach a pixel.
  bool set(const Acc* mask, const double* extent) {
    mask_ = mask;
    columns.set(extent[0], extent[2], cells_w_, width_);
    rows.set(extent[1], extent[3], cells_h_, height_);
    return rows.size() > 0 && columns.size() > 0;
  }

  // Writes the pixels of `rows` and `columns`, all that the mask can reach. Rows are `stride` bytes apart.
  void draw(uint8_t* window, int64_t stride) {
    const int64_t wide = columns.size();
    widened_.assign((cells_h_ + 2) * wide, Acc(0));  // the first and the last row stay zero
    for (int64_t row = rows.before.front(); row <= std::min<int64_t>(rows.before.back() + 1, cells_h_); ++row) {
      if (row == 0) {
        continue;
      }
      std::copy_n(mask_ + (row - 1) * cells_w_, cells_w_, padded_.begin() + 1);
      widen_(padded_.data(), columns.before.data(), columns.part.data(), wide, widened_.data() + row * wide);
    }
    for (int64_t y = 0; y < rows.size(); ++y) {
      const Acc* upper = widened_.data() + rows.before[y] * wide;
      uint8_t* pixels = window + y * stride;
      if (threshold_ >= 0) {
        binary_(upper, upper + wide, rows.part[y], static_cast<Acc>(threshold_), wide, pixels);
      } else {
        levels_(upper, upper + wide, rows.part[y], wide, pixels);
      }
    }
  }

  PixelAxis<Acc> rows, columns;

 private:
  int64_t cells_h_, cells_w_, height_, width_;
  double threshold_;
  const Acc* mask_ = nullptr;
  std::vector<Acc> padded_, widened_;
  decltype(MRB_PICK(widen_row<Acc>)) widen_ = MRB_PICK(widen_row<Acc>);
  decltype(MRB_PICK(threshold_row<Acc>)) binary_ = MRB_PICK(threshold_row<Acc>);
  decltype(MRB_PICK(quantize_row<Acc>)) levels_ = MRB_PICK(quantize_row<Acc>);
};

inline void check_masks(const char* op, const Tensor& masks, const Tensor& extents) {
  STD_TORCH_CHECK(
      masks.dim() == 3 && extents.dim() == 2 && extents.size(0) == masks.size(0) && extents.size(1) == 4, op,
      ": masks must be (R, M, M) and extents (R, 4); got ", masks.dim(), " and ", extents.dim(), " dimensions of ",
      masks.numel(), " and ", extents.numel(), " values");
  STD_TORCH_CHECK(
      extents.scalar_type() == ScalarType::Double, op, ": extents must be float64; got ", extents.scalar_type());
  const ScalarType type = masks.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double, op, ": masks must be float32 or float64; got ", type);
}

// Calls work(cells) with a pointer of the masks' type to all cells.
template <typename Work>
void with_cells(const Tensor& masks, const Work& work) {
  if (masks.scalar_type() == ScalarType::Double) {
    work(masks.const_data_ptr<double>());
  } else {
    work(masks.const_data_ptr<float>());
  }
}

}  // namespace maskrcnn_benchmark
