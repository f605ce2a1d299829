// Where ROIAlign samples, on every device. Positions are computed in double, so that the devices agree on every bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "box_geometry.h"

namespace maskrcnn_benchmark {

// One axis of one region, in feature cells: bins of equal size, each with `samples` samples at equal distance.
struct RoiAxis {
  double start;
  double bin_size;
  int64_t samples;

  RoiAxis() = default;  // uninitialised, as variables in a GPU's shared memory must be

  // low, high: the ends of the region in image pixels. requested: samples per bin; 0 for one per cell, rounded up, and
  // none if the region has no size. If not aligned, cell i is centred at i instead of i + 0.5, and a region has at
  // least one cell. A region with an infinite or NaN end has no samples.
  MRB_HOST_DEVICE RoiAxis(double low, double high, double scale, int64_t bins, int64_t requested, bool aligned) {
    const double shift = aligned ? 0.5 : 0.0;
    start = product(low, scale) - shift;
    double size = product(high, scale) - shift - start;
    if (!aligned && size < 1) {
      size = 1;
    }
    bin_size = size / static_cast<double>(bins);
    const double adaptive = ceil(bin_size);
    const double most = 2147483647.0, most_finite = 1.7e308;
    samples = requested > 0 ? requested : adaptive > 0 ? static_cast<int64_t>(adaptive < most ? adaptive : most) : 0;
    if (!(fabs(start) <= most_finite && fabs(size) <= most_finite)) {
      samples = 0;
    }
  }

  MRB_HOST_DEVICE double position(int64_t bin, int64_t sample) const {
    const double within = (static_cast<double>(sample) + 0.5) / static_cast<double>(samples);
    return start + product(static_cast<double>(bin) + within, bin_size);
  }

  // The samples [first, last) of a bin that can lie on a map of `cells` cells, and a few more. Bounds the work by the
  // size of the map if a region is far larger.
  MRB_HOST_DEVICE void samples_on_map(int64_t bin, int64_t cells, int64_t* first, int64_t* last) const {
    *first = 0;
    *last = samples;
    if (samples <= 16 || !(bin_size > 0)) {
      return;
    }
    const double near = start + static_cast<double>(bin) * bin_size;
    const double per_cell = static_cast<double>(samples) / bin_size;
    const double from = floor((-1 - near) * per_cell) - 2;
    const double to = ceil((static_cast<double>(cells) - near) * per_cell) + 2;
    const double count = static_cast<double>(samples);
    *first = from > 0 ? static_cast<int64_t>(from < count ? from : count) : 0;
    *last = to < count ? static_cast<int64_t>(to > 0 ? to : 0) : samples;
  }
};

// Linear interpolation between two cells. A sample at most one cell off the map takes the value at the edge.
struct LinearSample {
  int32_t low, high;
  double weight_low, weight_high;
  bool inside;

  MRB_HOST_DEVICE LinearSample(double position, int64_t cells) {
    inside = cells > 0 && position >= -1.0 && position <= static_cast<double>(cells);  // false for NaN
    low = high = 0;
    weight_low = weight_high = 0;
    if (!inside) {
      return;
    }
    const double on_map = position > 0 ? position : 0;
    low = static_cast<int32_t>(on_map);
    if (low >= cells - 1) {
      low = high = static_cast<int32_t>(cells - 1);
      weight_low = 1;
      return;
    }
    high = low + 1;
    weight_high = on_map - low;
    weight_low = 1 - weight_high;
  }
};

// A cell along one axis, and its weight in the average of a bin.
template <typename Acc>
struct Tap {
  int32_t cell;
  Acc weight;
};

// Appends a tap to the `used` taps of a bin, or adds its weight to the tap that has the same cell. Returns the new
// count. Samples come in order, so a cell that was seen before is one of the last two. After merging, a bin of two by
// two samples that are one cell apart takes 9 reads (or atomic additions) instead of 16.
template <typename Acc>
MRB_HOST_DEVICE inline int32_t add_tap(Tap<Acc>* taps, int32_t used, const Tap<Acc>& tap) {
  if (tap.weight == 0) {
    return used;
  }
  if (used > 0 && taps[used - 1].cell == tap.cell) {
    taps[used - 1].weight += tap.weight;
    return used;
  }
  if (used > 1 && taps[used - 2].cell == tap.cell) {
    taps[used - 2].weight += tap.weight;
    return used;
  }
  taps[used] = tap;
  return used + 1;
}

}  // namespace maskrcnn_benchmark
