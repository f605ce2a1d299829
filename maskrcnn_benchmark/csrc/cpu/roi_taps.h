// The taps of a region, which all channels share: for each bin the cells that it averages along each axis, with
// weights.
//
// Bilinear interpolation, the average over a grid of samples and the test whether a sample is on the map are all
// separable. The value of a bin is therefore sum_y sum_x weight_y * weight_x * cell(y, x) over short lists of rows and
// columns. Samples that share a cell are merged into one tap.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../roi_sampling.h"

namespace maskrcnn_benchmark {

// The taps of every bin along one axis of one region. Bin b has taps[starts[b]] to taps[starts[b + 1] - 1].
template <typename Acc>
struct AxisTaps {
  const Tap<Acc>* taps;
  const int32_t* starts;
  int32_t first_cell, last_cell;  // half-open range of cells that any bin touches; empty if no sample is on the map
};

// Upper bound of the number of taps that one axis of a region needs for all bins.
inline int64_t most_taps(const RoiAxis& axis, int64_t bins, int64_t cells) {
  int64_t per_bin = 2 * std::min<int64_t>(axis.samples, 1 << 30);
  // many samples share few cells: the cells of the bin and one on each side
  if (axis.samples > 4 && axis.bin_size > 0) {
    const double cells_of_bin = std::min(axis.bin_size, static_cast<double>(cells)) + 4;
    per_bin = std::min<int64_t>(per_bin, static_cast<int64_t>(cells_of_bin));
  }
  return per_bin * bins;
}

// Fills taps and starts (bins + 1 of them) for one axis.
template <typename Acc>
AxisTaps<Acc> fill_taps(const RoiAxis& axis, int64_t bins, int64_t cells, Tap<Acc>* taps, int32_t* starts) {
  const double share = axis.samples > 0 ? 1.0 / static_cast<double>(axis.samples) : 0.0;
  int32_t used = 0;
  int32_t first_cell = static_cast<int32_t>(cells), last_cell = 0;
  for (int64_t bin = 0; bin < bins; ++bin) {
    starts[bin] = used;
    Tap<Acc>* of_bin = taps + used;
    int32_t count = 0;
    const auto add = [&](int32_t cell, double weight) {
      count = add_tap(of_bin, count, {cell, static_cast<Acc>(weight)});
    };
    int64_t first, last;
    axis.samples_on_map(bin, cells, &first, &last);
    for (int64_t i = first; i < last; ++i) {
      const LinearSample sample(axis.position(bin, i), cells);
      if (sample.inside) {
        add(sample.low, sample.weight_low * share);
        add(sample.high, sample.weight_high * share);
      }
    }
    for (int32_t i = 0; i < count; ++i) {
      first_cell = std::min(first_cell, of_bin[i].cell);
      last_cell = std::max(last_cell, of_bin[i].cell + 1);
    }
    used += count;
  }
  starts[bins] = used;
  return {taps, starts, std::min(first_cell, last_cell), last_cell};
}

}  // namespace maskrcnn_benchmark
