// Masks of regions pasted into images, on the CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "mask_paster.h"

namespace maskrcnn_benchmark {
namespace {

// If `zeroed`, `pasted` is zero already, and only the pixels that masks can reach are written. Pages of new memory that
// no mask reaches are then never mapped.
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

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("paste_masks_", TORCH_BOX(&maskrcnn_benchmark::paste_masks_cpu));
}
