// Masks between the image and the frame of a region, on the CPU: probabilities pasted, polygons drawn.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
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

template <typename Acc>
void paste(
    const Acc* masks, const double* extents, int64_t count, int64_t cells_h, int64_t cells_w, int64_t height,
    int64_t width, double threshold, uint8_t* pasted) {
  const auto widen = MRB_PICK(widen_row<Acc>);
  const auto binary = MRB_PICK(threshold_row<Acc>);
  const auto levels = MRB_PICK(quantize_row<Acc>);
  torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
    Axis<Acc> rows, columns;
    std::vector<Acc> padded(cells_w + 2, Acc(0)), widened;
    for (int64_t r = begin; r < end; ++r) {
      const double* extent = extents + 4 * r;
      columns.set(extent[0], extent[2], cells_w, width);
      rows.set(extent[1], extent[3], cells_h, height);
      if (rows.size() == 0 || columns.size() == 0) {
        continue;
      }
      const int64_t wide = columns.size();
      widened.assign((cells_h + 2) * wide, Acc(0));  // the first and the last row stay zero
      for (int64_t row = rows.before.front(); row <= std::min<int64_t>(rows.before.back() + 1, cells_h); ++row) {
        if (row == 0) {
          continue;
        }
        std::copy_n(masks + (r * cells_h + row - 1) * cells_w, cells_w, padded.begin() + 1);
        widen(padded.data(), columns.before.data(), columns.part.data(), wide, widened.data() + row * wide);
      }
      for (int64_t y = 0; y < rows.size(); ++y) {
        const Acc* upper = widened.data() + rows.before[y] * wide;
        uint8_t* pixels = pasted + (r * height + rows.first + y) * width + columns.first;
        if (threshold >= 0) {
          binary(upper, upper + wide, rows.part[y], static_cast<Acc>(threshold), wide, pixels);
        } else {
          levels(upper, upper + wide, rows.part[y], wide, pixels);
        }
      }
    }
  });
}

// Writes into `pasted`, which the caller has zeroed, and only where masks reach: memory that is zero because nobody touched
// it yet stays that way.
void paste_masks_cpu(Tensor pasted, const Tensor& masks, const Tensor& extents, double threshold) {
  STD_TORCH_CHECK(
      masks.dim() == 3 && extents.dim() == 2 && extents.size(0) == masks.size(0) && extents.size(1) == 4,
      "paste_masks: masks must be (R, M, M) and extents (R, 4); got ", masks.dim(), " and ", extents.dim(),
      " dimensions of ", masks.numel(), " and ", extents.numel(), " values");
  STD_TORCH_CHECK(
      pasted.dim() == 3 && pasted.size(0) == masks.size(0) && pasted.is_contiguous() &&
          (pasted.scalar_type() == ScalarType::Bool || pasted.scalar_type() == ScalarType::Byte),
      "paste_masks: the output must be contiguous (", masks.size(0), ", height, width) of bool or uint8");
  STD_TORCH_CHECK(
      extents.scalar_type() == ScalarType::Double, "paste_masks: extents must be float64; got ", extents.scalar_type());
  const ScalarType type = masks.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double, "paste_masks: masks must be float32 or float64; got ", type);
  if (masks.numel() == 0 || pasted.numel() == 0) {
    return;
  }
  const Tensor values = torch::stable::contiguous(masks), rectangles = torch::stable::contiguous(extents);
  uint8_t* pixels = static_cast<uint8_t*>(pasted.mutable_data_ptr());
  const auto run = [&](const auto* cells) {
    paste(
        cells, rectangles.const_data_ptr<double>(), masks.size(0), masks.size(1), masks.size(2), pasted.size(1),
        pasted.size(2), threshold, pixels);
  };
  if (type == ScalarType::Double) {
    run(values.const_data_ptr<double>());
  } else {
    run(values.const_data_ptr<float>());
  }
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
  m.impl("rasterize_polygons", TORCH_BOX(&maskrcnn_benchmark::rasterize_polygons_cpu));
}
