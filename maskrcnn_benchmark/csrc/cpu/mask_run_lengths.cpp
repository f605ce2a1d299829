// Run lengths of pasted masks, COCO's form of a mask, on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/macros/Macros.h>

#include <tuple>
#include <vector>

#include "mask_paster.h"

namespace maskrcnn_benchmark {
namespace {

// Collects the lengths of the runs of equal pixels of one image, column by column. The first run is of zeros.
class RunLengths {
 public:
  explicit RunLengths(std::vector<int64_t>& lengths) : lengths_(lengths) {}

  // Adds `count` pixels, each 0 or 1, from place `first` on. Pixels between the last call and `first` are zeros.
  // Not inlined: GCC would keep the state in memory in the caller's loop, which takes a quarter more time.
  C10_NOINLINE void add(const uint8_t* pixels, int64_t count, int64_t first) {
    if (first > seen_) {
      set_value(0, seen_);
    }
    int64_t i = 0;
    while (i < count) {
      const uint64_t alike = current_ * 0x0101010101010101u;
      uint64_t eight;
      while (i + 8 <= count && (std::memcpy(&eight, pixels + i, 8), eight == alike)) {
        i += 8;
      }
      for (const int64_t stop = std::min(i + 8, count); i < stop; ++i) {
        set_value(pixels[i], first + i);
      }
    }
    seen_ = first + count;
  }

  void finish(int64_t total) {
    if (total > seen_) {
      set_value(0, seen_);
    }
    lengths_.push_back(total - start_);
  }

 private:
  void set_value(uint8_t value, int64_t place) {
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

// The run lengths of each mask as paste_masks draws it: the lengths of all masks in one tensor, and (R + 1,) where
// the lengths of each mask start. Only the pixels that a mask can reach are drawn.
std::tuple<Tensor, Tensor> mask_run_lengths_cpu(
    const Tensor& masks, const Tensor& extents, int64_t height, int64_t width, double threshold) {
  check_masks("mask_run_lengths", masks, extents);
  STD_TORCH_CHECK(height > 0 && width > 0, "mask_run_lengths: the image must have pixels; got ", height, " x ", width);
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
        RunLengths runs(lengths[r]);
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

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("mask_run_lengths", TORCH_BOX(&maskrcnn_benchmark::mask_run_lengths_cpu));
}
