// Masks between the image and the frame of a region, on the CPU: probabilities pasted, polygons drawn.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "per_isa.h"

#define MRB_KERNELS "mask_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Pixels first .. last - 1 along one axis, and for each the cell at or before its centre, of cells padded by one on either
// side, and the part of a cell beyond that one's centre.
template <typename Acc>
struct Axis {
  int64_t first = 0, last = 0;
  std::vector<int32_t> before;
  std::vector<Acc> part;

  // The pixels out of `count` that a mask of `cells` cells over [low, high) can reach: up to half a cell outside.
  void set(double low, double high, int64_t cells, int64_t count) {
    before.clear();
    part.clear();
    first = last = 0;
    if (!(high > low)) {  // nothing, or not a number
      return;
    }
    const double cell = (high - low) / cells;
    const double limit = static_cast<double>(count);
    first = static_cast<int64_t>(std::min(std::max(std::floor(low - cell / 2 - 0.5), 0.0), limit));
    last = static_cast<int64_t>(std::min(std::max(std::ceil(high + cell / 2 + 0.5), 0.0), limit));
    for (int64_t pixel = first; pixel < last; ++pixel) {
      double position = (pixel + 0.5 - low) / (high - low) * cells - 0.5;  // in cells; cell i has its centre at i
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

// Draws masks of one size into images of one size; holds what that needs.
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

  // Writes the pixels that it can reach, those of `rows` and `columns`; consecutive rows are `stride` bytes apart.
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

  Axis<Acc> rows, columns;

 private:
  int64_t cells_h_, cells_w_, height_, width_;
  double threshold_;
  const Acc* mask_ = nullptr;
  std::vector<Acc> padded_, widened_;
  decltype(MRB_PICK(widen_row<Acc>)) widen_ = MRB_PICK(widen_row<Acc>);
  decltype(MRB_PICK(threshold_row<Acc>)) binary_ = MRB_PICK(threshold_row<Acc>);
  decltype(MRB_PICK(quantize_row<Acc>)) levels_ = MRB_PICK(quantize_row<Acc>);
};

void check_masks(const char* op, const Tensor& masks, const Tensor& extents) {
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

// Calls work(cells of all masks) with a pointer of the masks' type.
template <typename Work>
void with_cells(const Tensor& masks, const Work& work) {
  if (masks.scalar_type() == ScalarType::Double) {
    work(masks.const_data_ptr<double>());
  } else {
    work(masks.const_data_ptr<float>());
  }
}

// Where `pasted` is zero already, which the caller knows, writes only where masks reach: memory that is zero because nobody
// touched it yet stays that way.
void paste_masks_cpu(Tensor pasted, const Tensor& masks, const Tensor& extents, double threshold, bool zeroed) {
  check_masks("paste_masks", masks, extents);
  STD_TORCH_CHECK(
      pasted.dim() == 3 && pasted.size(0) == masks.size(0) && pasted.is_contiguous() &&
          (pasted.scalar_type() == ScalarType::Bool || pasted.scalar_type() == ScalarType::Byte),
      "paste_masks: the output must be contiguous (", masks.size(0), ", height, width) of bool or uint8");
  if (pasted.numel() == 0) {
    return;
  }
  const Tensor values = torch::stable::contiguous(masks), rectangles = torch::stable::contiguous(extents);
  const double* corners = rectangles.const_data_ptr<double>();
  uint8_t* pixels = static_cast<uint8_t*>(pasted.mutable_data_ptr());
  const int64_t cells_h = masks.size(1), cells_w = masks.size(2), height = pasted.size(1), width = pasted.size(2);
  const auto clear = MRB_PICK(clear_past_cache);
  with_cells(values, [&](const auto* cells) {
    using Acc = std::remove_cv_t<std::remove_pointer_t<decltype(cells)>>;
    torch::stable::parallel_for(0, masks.size(0), 4, [&](int64_t begin, int64_t end) {
      Paster<Acc> paster(cells_h, cells_w, height, width, threshold);
      for (int64_t r = begin; r < end; ++r) {
        uint8_t* plane = pixels + r * height * width;
        if (!zeroed) {
          clear(plane, height * width);
        }
        if (paster.set(cells + r * cells_h * cells_w, corners + 4 * r)) {
          paster.draw(plane + paster.rows.first * width + paster.columns.first, width);
        }
      }
    });
  });
}

// Lengths of the runs of equal pixels of one image, column by column, of zeros and of ones in turn; the first are zeros.
class Runs {
 public:
  explicit Runs(std::vector<int64_t>& lengths) : lengths_(lengths) {}

  // `count` pixels, zero or one, from place `first` on; those since the last call are zeros.
  void add(const uint8_t* pixels, int64_t count, int64_t first) {
    if (first > seen_) {
      become(0, seen_);
    }
    int64_t i = 0;
    while (i < count) {
      const uint64_t alike = current_ * 0x0101010101010101u;
      uint64_t eight;
      while (i + 8 <= count && (std::memcpy(&eight, pixels + i, 8), eight == alike)) {
        i += 8;
      }
      for (const int64_t stop = std::min(i + 8, count); i < stop; ++i) {
        become(pixels[i], first + i);
      }
    }
    seen_ = first + count;
  }

  void finish(int64_t total) {
    if (total > seen_) {
      become(0, seen_);
    }
    lengths_.push_back(total - start_);
  }

 private:
  void become(uint8_t value, int64_t place) {
    if (value != current_) {
      lengths_.push_back(place - start_);
      start_ = place;
      current_ = value;
    }
  }

  std::vector<int64_t>& lengths_;
  uint8_t current_ = 0;
  int64_t start_ = 0, seen_ = 0;
};

// The run lengths of each mask as paste_masks draws it on an image: the lengths of all masks, one after the other, and where
// those of each begin, (R + 1,). Only the pixels that a mask can reach are drawn.
std::tuple<Tensor, Tensor> mask_run_lengths_cpu(
    const Tensor& masks, const Tensor& extents, int64_t height, int64_t width, double threshold) {
  check_masks("mask_run_lengths", masks, extents);
  STD_TORCH_CHECK(
      height > 0 && width > 0, "mask_run_lengths: the image must have pixels; got ", height, " x ", width);
  STD_TORCH_CHECK(threshold >= 0, "mask_run_lengths: the threshold must not be negative; got ", threshold);
  const Tensor values = torch::stable::contiguous(masks), rectangles = torch::stable::contiguous(extents);
  const double* corners = rectangles.const_data_ptr<double>();
  const int64_t count = masks.size(0), cells_h = masks.size(1), cells_w = masks.size(2);
  std::vector<std::vector<int64_t>> lengths(count);
  with_cells(values, [&](const auto* cells) {
    using Acc = std::remove_cv_t<std::remove_pointer_t<decltype(cells)>>;
    const auto transpose = MRB_PICK(transpose_bytes);
    torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
      Paster<Acc> paster(cells_h, cells_w, height, width, threshold);
      std::vector<uint8_t> window, turned;
      for (int64_t r = begin; r < end; ++r) {
        Runs runs(lengths[r]);
        if (paster.set(cells + r * cells_h * cells_w, corners + 4 * r)) {
          const int64_t rows = paster.rows.size(), columns = paster.columns.size();
          window.resize(rows * columns);
          turned.resize(rows * columns);
          paster.draw(window.data(), columns);
          transpose(window.data(), rows, columns, turned.data());
          for (int64_t x = 0; x < columns; ++x) {
            runs.add(turned.data() + x * rows, rows, (paster.columns.first + x) * height + paster.rows.first);
          }
        }
        runs.finish(height * width);
      }
    });
  });
  Tensor starts = torch::stable::empty({count + 1}, ScalarType::Long, std::nullopt, masks.device());
  int64_t* start = starts.mutable_data_ptr<int64_t>();
  start[0] = 0;
  for (int64_t r = 0; r < count; ++r) {
    start[r + 1] = start[r] + static_cast<int64_t>(lengths[r].size());
  }
  Tensor all = torch::stable::empty({start[count]}, ScalarType::Long, std::nullopt, masks.device());
  int64_t* to = all.mutable_data_ptr<int64_t>();
  for (const std::vector<int64_t>& of_mask : lengths) {
    to = std::copy(of_mask.begin(), of_mask.end(), to);
  }
  return {all, starts};
}

// The outlines of polygons as pycocotools sees them. Points are rounded to a grid of five by five per cell and joined by
// lines of such grid points. Wherever a line crosses from the third fifth of a column of cells, its middle, to the fourth,
// or back, the column switches between outside and inside, from a row on that the crossing's upper point decides. Here the
// crossings are computed instead of walking along the lines.
//
// Grid points are integers held as doubles, so that no polygon is too far away. Arithmetic must not be contracted.
class Outline {
 public:
  explicit Outline(int64_t size) : size_(size), switches_(size * size) {}

  void clear() {
    std::fill(switches_.begin(), switches_.end(), uint8_t(0));
  }

  static double grid_point(double cells) {
    return std::trunc(kFifths * cells + 0.5);
  }

  void add_line(double x1, double y1, double x2, double y2) {
    const double wide = std::abs(x2 - x1), high = std::abs(y2 - y1);
    // of columns whose middle and next fifths both lie between the ends
    const double low = std::min(x1, x2), far = std::max(x1, x2);
    const int64_t first = static_cast<int64_t>(std::max(std::ceil((low - 2) / kFifths), 0.0));
    const int64_t last = static_cast<int64_t>(std::min(std::floor((far - 3) / kFifths), static_cast<double>(size_ - 1)));
    if (first > last) {
      return;
    }
    // the walk goes up the longer axis
    if (wide >= high ? x1 > x2 : y1 > y2) {
      std::swap(x1, x2);
      std::swap(y1, y2);
    }
    if (wide >= high) {
      const double slope = (y2 - y1) / wide;
      for (int64_t column = first; column <= last; ++column) {
        const double step = kFifths * column + 2 - x1;
        add_switch(column, std::min(rounded(y1, slope, step), rounded(y1, slope, step + 1)));
      }
    } else {
      const double slope = (x2 - x1) / high;
      for (int64_t column = first; column <= last; ++column) {
        // the last step before the crossing; a first guess may be off by the rounding
        const double middle = kFifths * column + 2;
        const auto before = [&](double step) { return (rounded(x1, slope, step) <= middle) == (slope > 0); };
        double step = std::min(std::max(std::floor((middle + 0.5 - x1) / slope), 0.0), high - 1);
        while (step > 0 && !before(step)) {
          --step;
        }
        while (step < high - 1 && before(step + 1)) {
          ++step;
        }
        add_switch(column, y1 + step);
      }
    }
  }

  // Sets the cells inside to 1.
  void fill(uint8_t* cells) {
    std::vector<uint8_t>& inside = inside_;
    inside.assign(size_, 0);
    for (int64_t row = 0; row < size_; ++row) {
      const uint8_t* switched = switches_.data() + row * size_;
      uint8_t* drawn = cells + row * size_;
      for (int64_t column = 0; column < size_; ++column) {
        inside[column] ^= switched[column];
        drawn[column] |= inside[column];
      }
    }
  }

 private:
  static constexpr double kFifths = 5;

  static double rounded(double start, double slope, double step) {
    return std::trunc(start + slope * step + 0.5);
  }

  void add_switch(int64_t column, double y) {
    const double row = std::ceil(std::max((y + 0.5) / kFifths - 0.5, 0.0));
    if (row < static_cast<double>(size_)) {  // further down there is nothing to switch
      switches_[static_cast<int64_t>(row) * size_ + column] ^= 1;
    }
  }

  int64_t size_;
  std::vector<uint8_t> switches_, inside_;
};

void check_starts(const char* name, const int64_t* starts, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(
        starts[i] >= 0 && starts[i] <= limit && (i == 0 || starts[i] >= starts[i - 1]),
        "rasterize_polygons: ", name, " must ascend from 0 to ", limit, "; entry ", i, " is ", starts[i]);
  }
}

// points: (P, 2) of all parts; parts: (Q + 1,) where each begins; instances: (G + 1,) where each one's parts begin; indices:
// (R,) the instance of each region.
Tensor rasterize_polygons_cpu(
    const Tensor& points, const Tensor& parts, const Tensor& instances, const Tensor& indices, const Tensor& extents,
    int64_t size) {
  STD_TORCH_CHECK(
      points.dim() == 2 && points.size(1) == 2 && points.scalar_type() == ScalarType::Double,
      "rasterize_polygons: points must be (P, 2) float64; got ", points.numel(), " of ", points.scalar_type());
  for (const Tensor* list : {&parts, &instances, &indices}) {
    STD_TORCH_CHECK(
        list->dim() == 1 && list->scalar_type() == ScalarType::Long,
        "rasterize_polygons: parts, instances and indices must be int64 of one dimension; got ", list->dim(),
        " of ", list->scalar_type());
  }
  STD_TORCH_CHECK(
      parts.size(0) > 0 && instances.size(0) > 0, "rasterize_polygons: parts and instances begin with a 0; got none");
  STD_TORCH_CHECK(
      extents.dim() == 2 && extents.size(0) == indices.size(0) && extents.size(1) == 4 &&
          extents.scalar_type() == ScalarType::Double,
      "rasterize_polygons: extents must be (", indices.size(0), ", 4) float64; got ", extents.numel(), " of ",
      extents.scalar_type());
  STD_TORCH_CHECK(size >= 0, "rasterize_polygons: size must not be negative; got ", size);
  const Tensor dense[] = {
      torch::stable::contiguous(points), torch::stable::contiguous(parts), torch::stable::contiguous(instances),
      torch::stable::contiguous(indices), torch::stable::contiguous(extents)};
  const double* xy = dense[0].const_data_ptr<double>();
  const int64_t* part_starts = dense[1].const_data_ptr<int64_t>();
  const int64_t* instance_starts = dense[2].const_data_ptr<int64_t>();
  const int64_t* instance_of = dense[3].const_data_ptr<int64_t>();
  const double* rectangles = dense[4].const_data_ptr<double>();
  check_starts("parts", part_starts, parts.size(0), points.size(0));
  check_starts("instances", instance_starts, instances.size(0), parts.size(0) - 1);
  const int64_t count = indices.size(0);
  for (int64_t r = 0; r < count; ++r) {
    STD_TORCH_CHECK(
        instance_of[r] >= 0 && instance_of[r] < instances.size(0) - 1, "rasterize_polygons: region ", r,
        " is of instance ", instance_of[r], ", there are ", instances.size(0) - 1);
  }
  Tensor drawn = torch::stable::new_zeros(points, {count, size, size}, ScalarType::Byte);
  uint8_t* cells = drawn.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    Outline outline(size);
    for (int64_t r = begin; r < end; ++r) {
      const double x1 = rectangles[4 * r], y1 = rectangles[4 * r + 1];
      const double width = rectangles[4 * r + 2] - x1, height = rectangles[4 * r + 3] - y1;
      if (!(width > 0 && height > 0)) {
        continue;
      }
      const double scale_x = size / width, scale_y = size / height;
      const int64_t instance = instance_of[r];
      for (int64_t part = instance_starts[instance]; part < instance_starts[instance + 1]; ++part) {
        const int64_t first = part_starts[part], last = part_starts[part + 1];
        if (first == last) {
          continue;
        }
        outline.clear();
        const auto x_at = [&](int64_t i) { return Outline::grid_point((xy[2 * i] - x1) * scale_x); };
        const auto y_at = [&](int64_t i) { return Outline::grid_point((xy[2 * i + 1] - y1) * scale_y); };
        double from_x = x_at(last - 1), from_y = y_at(last - 1);
        for (int64_t i = first; i < last; ++i) {
          const double to_x = x_at(i), to_y = y_at(i);
          outline.add_line(from_x, from_y, to_x, to_y);
          from_x = to_x;
          from_y = to_y;
        }
        outline.fill(cells + r * size * size);
      }
    }
  });
  return drawn;
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("paste_masks_", TORCH_BOX(&maskrcnn_benchmark::paste_masks_cpu));
  m.impl("mask_run_lengths", TORCH_BOX(&maskrcnn_benchmark::mask_run_lengths_cpu));
  m.impl("rasterize_polygons", TORCH_BOX(&maskrcnn_benchmark::rasterize_polygons_cpu));
}
