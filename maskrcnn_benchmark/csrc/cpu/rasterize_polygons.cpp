// Polygons drawn on a grid over each region, as pycocotools draws them, on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "../tensors.h"

namespace maskrcnn_benchmark {
namespace {

// The outline of a polygon, drawn as pycocotools draws it. Points are rounded to a grid of 5 x 5 points per cell and
// joined by lines of grid points. Where a line crosses from the third fifth of a column of cells (its middle) to the
// fourth, or back, the column switches between outside and inside, from the row of the upper point of the crossing on.
// pycocotools walks along each line; here the crossings are computed.
//
// Grid points are integers in doubles, so that no polygon is too far away. Products and sums must not be fused.
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
    // the columns whose third and fourth fifths both lie between the ends
    const double low = std::min(x1, x2), far = std::max(x1, x2);
    const int64_t first = static_cast<int64_t>(std::max(std::ceil((low - 2) / kFifths), 0.0));
    const int64_t last =
        static_cast<int64_t>(std::min(std::floor((far - 3) / kFifths), static_cast<double>(size_ - 1)));
    if (first > last) {
      return;
    }
    // pycocotools walks in the direction of the longer axis
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
        // find the last step before the crossing; rounding may put the first guess off
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
    if (row < static_cast<double>(size_)) {  // below the grid there is nothing to switch
      switches_[static_cast<int64_t>(row) * size_ + column] ^= 1;
    }
  }

  int64_t size_;
  std::vector<uint8_t> switches_, inside_;
};

void check_starts(const char* name, const int64_t* starts, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(
        starts[i] >= 0 && starts[i] <= limit && (i == 0 || starts[i] >= starts[i - 1]), "rasterize_polygons: ", name,
        " must ascend from 0 to ", limit, "; entry ", i, " is ", starts[i]);
  }
}

// points:     (P, 2), the points of all parts
// parts:      (Q + 1,), where the points of each part start
// instances:  (G + 1,), where the parts of each instance start
// indices:    (R,), the instance of each region
// extents:    (R, 4)
Tensor rasterize_polygons_cpu(
    const Tensor& points, const Tensor& parts, const Tensor& instances, const Tensor& indices, const Tensor& extents,
    int64_t size) {
  STD_TORCH_CHECK(
      points.dim() == 2 && points.size(1) == 2 && points.scalar_type() == ScalarType::Double,
      "rasterize_polygons: points must be (P, 2) float64; got ", points.numel(), " of ", points.scalar_type());
  for (const Tensor* list : {&parts, &instances, &indices}) {
    STD_TORCH_CHECK(
        list->dim() == 1 && list->scalar_type() == ScalarType::Long,
        "rasterize_polygons: parts, instances and indices must be int64 of one dimension; got ", list->dim(), " of ",
        list->scalar_type());
  }
  STD_TORCH_CHECK(
      parts.size(0) > 0 && instances.size(0) > 0, "rasterize_polygons: parts and instances begin with a 0; got none");
  STD_TORCH_CHECK(
      extents.dim() == 2 && extents.size(0) == indices.size(0) && extents.size(1) == 4 &&
          extents.scalar_type() == ScalarType::Double,
      "rasterize_polygons: extents must be (", indices.size(0), ", 4) float64; got ", extents.numel(), " of ",
      extents.scalar_type());
  STD_TORCH_CHECK(size >= 0, "rasterize_polygons: size must not be negative; got ", size);
  const Tensor inputs[] = {
      torch::stable::contiguous(points), torch::stable::contiguous(parts), torch::stable::contiguous(instances),
      torch::stable::contiguous(indices), torch::stable::contiguous(extents)};
  const double* xy = inputs[0].const_data_ptr<double>();
  const int64_t* part_starts = inputs[1].const_data_ptr<int64_t>();
  const int64_t* instance_starts = inputs[2].const_data_ptr<int64_t>();
  const int64_t* instance_of = inputs[3].const_data_ptr<int64_t>();
  const double* rectangles = inputs[4].const_data_ptr<double>();
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
  m.impl("rasterize_polygons", TORCH_BOX(&maskrcnn_benchmark::rasterize_polygons_cpu));
}
