// A region of ROIAlign on CUDA, in the shared memory of a block: its level, and the taps of every bin along each axis.
// Only roi_align.cu includes it. Sample positions are computed in ../roi_sampling.h.
#pragma once

#include "common.h"

#include "../box_geometry.h"
#include "../roi_sampling.h"

namespace maskrcnn_benchmark {
namespace {

constexpr int kMostLevels = 8;
// most bins, and most samples, per axis that are tabulated; beyond it taps are computed for each output
constexpr int kTableSize = 256;

struct Map {
  void* data;
  int64_t height, width;
  double scale;
};

struct Pyramid {
  Map levels[kMostLevels];
  int count;
};

// The arguments of a call that all regions share.
struct Pooling {
  int64_t images, channels, rois;
  int bins_h, bins_w;
  int64_t samples;
  bool aligned;
  // the rule that assigns levels, if there are several
  double offset = 0, canonical_size = 1, canonical_level = 0;
  int lowest = 0, highest = 0;
};

template <typename Acc>
struct Sample {
  int32_t low, high;
  Acc weight_low, weight_high;  // both zero if the sample is off the map
};

// Not inlined: its arithmetic in double would take registers from loops that rarely need it.
template <typename Acc>
__device__ __noinline__ Sample<Acc> sample_axis(const RoiAxis& axis, int bin, int64_t i, int64_t cells) {
  const LinearSample sample(axis.position(bin, i), cells);
  return {sample.low, sample.high, static_cast<Acc>(sample.weight_low), static_cast<Acc>(sample.weight_high)};
}

// RoiAxis::samples_on_map, not inlined for the same reason.
__device__ __noinline__ void samples_on_map(
    const RoiAxis& axis, int bin, int64_t cells, int64_t* first, int64_t* last) {
  axis.samples_on_map(bin, cells, first, last);
}

// Merges the taps of a bin in place. Returns how many are left.
template <typename Acc>
__device__ int merge_taps(Tap<Acc>* taps, int count) {
  int used = 0;
  for (int i = 0; i < count; ++i) {
    used = add_tap(taps, used, Tap<Acc>(taps[i]));  // a copy: the tap may move within the same memory
  }
  return used;
}

// One region, shared by all threads of a block.
template <typename Acc>
struct Region {
  int level;
  int64_t image;  // -1 if the index is out of range
  RoiAxis y, x;
  bool tabulated;
  // The taps of bin b start at b * samples * 2; without merging there would be samples * 2 of them.
  Tap<Acc> taps_y[2 * kTableSize], taps_x[2 * kTableSize];
  uint16_t count_y[kTableSize], count_x[kTableSize];

  // Must be called by all threads of the block.
  __device__ void load(const Pooling& pooling, const Pyramid& pyramid, const double* roi) {
    __syncthreads();  // all threads are done with the previous region
    if (threadIdx.x % 32 == 0 && threadIdx.x < 64) {  // one warp per axis
      int own_level = 0;
      if (pyramid.count > 1) {
        own_level = assign_level(
                        {roi[1], roi[2], roi[3], roi[4]}, pooling.offset, pooling.canonical_size,
                        pooling.canonical_level, pooling.lowest, pooling.highest) -
            pooling.lowest;
      }
      const double scale = pyramid.levels[own_level].scale;
      if (threadIdx.x == 0) {
        image = roi[0] >= 0 && roi[0] < static_cast<double>(pooling.images) ? static_cast<int64_t>(roi[0]) : -1;
        level = own_level;
        y = RoiAxis(roi[2], roi[4], scale, pooling.bins_h, pooling.samples, pooling.aligned);
      } else {
        x = RoiAxis(roi[1], roi[3], scale, pooling.bins_w, pooling.samples, pooling.aligned);
      }
    }
    __syncthreads();
    const bool fits = pooling.bins_h <= kTableSize && pooling.bins_w <= kTableSize &&
        y.samples * pooling.bins_h <= kTableSize && x.samples * pooling.bins_w <= kTableSize;
    if (threadIdx.x == 0) {
      tabulated = fits;
    }
    if (fits) {
      const Map& map = pyramid.levels[level];
      const int samples_y = static_cast<int>(y.samples), samples_x = static_cast<int>(x.samples);
      const int rows = samples_y * pooling.bins_h, columns = samples_x * pooling.bins_w;
      for (int k = threadIdx.x; k < rows + columns; k += blockDim.x) {
        if (k < rows) {
          store_taps(sample_axis<Acc>(y, k / samples_y, k % samples_y, map.height), samples_y, taps_y + 2 * k);
        } else {
          const int j = k - rows;
          store_taps(sample_axis<Acc>(x, j / samples_x, j % samples_x, map.width), samples_x, taps_x + 2 * j);
        }
      }
      __syncthreads();
      for (int k = threadIdx.x; k < pooling.bins_h + pooling.bins_w; k += blockDim.x) {
        if (k < pooling.bins_h) {
          count_y[k] = static_cast<uint16_t>(merge_taps(taps_y + k * samples_y * 2, samples_y * 2));
        } else {
          const int j = k - pooling.bins_h;
          count_x[j] = static_cast<uint16_t>(merge_taps(taps_x + j * samples_x * 2, samples_x * 2));
        }
      }
    }
    __syncthreads();
  }

  static __device__ void store_taps(const Sample<Acc>& sample, int samples, Tap<Acc>* taps) {
    const Acc share = Acc(1) / static_cast<Acc>(samples);
    taps[0] = {sample.low, sample.weight_low * share};
    taps[1] = {sample.high, sample.weight_high * share};
  }

  // Calls visit(row, column, weight) for every cell that a bin averages.
  template <typename Visit>
  __device__ void visit_bin(int ph, int pw, const Map& map, const Visit& visit) const {
    if (tabulated) {
      const Tap<Acc>* rows = taps_y + ph * static_cast<int>(y.samples) * 2;
      const Tap<Acc>* columns = taps_x + pw * static_cast<int>(x.samples) * 2;
      const int row_count = count_y[ph], column_count = count_x[pw];
      for (int i = 0; i < row_count; ++i) {
        const Tap<Acc> row = rows[i];
        for (int j = 0; j < column_count; ++j) {
          const Tap<Acc> column = columns[j];
          visit(row.cell, column.cell, row.weight * column.weight);
        }
      }
      return;
    }
    const Acc share = Acc(1) / (static_cast<Acc>(y.samples) * static_cast<Acc>(x.samples));
    int64_t first_y, last_y, first_x, last_x;
    samples_on_map(y, ph, map.height, &first_y, &last_y);
    samples_on_map(x, pw, map.width, &first_x, &last_x);
    for (int64_t i = first_y; i < last_y; ++i) {
      const Sample<Acc> row = sample_axis<Acc>(y, ph, i, map.height);
      if (row.weight_low == 0 && row.weight_high == 0) {
        continue;
      }
      for (int64_t j = first_x; j < last_x; ++j) {
        const Sample<Acc> column = sample_axis<Acc>(x, pw, j, map.width);
        if (column.weight_low == 0 && column.weight_high == 0) {
          continue;
        }
        visit(row.low, column.low, share * row.weight_low * column.weight_low);
        visit(row.low, column.high, share * row.weight_low * column.weight_high);
        visit(row.high, column.low, share * row.weight_high * column.weight_low);
        visit(row.high, column.high, share * row.weight_high * column.weight_high);
      }
    }
  }
};

}  // namespace
}  // namespace maskrcnn_benchmark
