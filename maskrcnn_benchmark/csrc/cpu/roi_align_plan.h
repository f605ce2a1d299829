// The plan of one ROIAlign call on the CPU: the map that each region pools from, and its taps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../accumulator.h"
#include "roi_taps.h"

namespace maskrcnn_benchmark {

// The maps (N, C, height, width) of one pyramid level; all levels have one memory format.
struct LevelMaps {
  void* data;
  int64_t height, width;
  double scale;
};

struct PoolSizes {
  int64_t images, channels, bins_h, bins_w;
};

template <typename Acc>
struct PlannedRoi {
  int64_t row;  // in rois and in the pooled output
  int32_t level;
  int64_t image;
  AxisTaps<Acc> y, x;

  int64_t cells() const {
    return static_cast<int64_t>(y.last_cell - y.first_cell) * (x.last_cell - x.first_cell);
  }
};

// Consecutive planned regions [begin, end) that pool from one map, and the rectangle of cells that they touch.
struct RoiGroup {
  int32_t level;
  int64_t image;
  int64_t begin, end;
  int32_t y_first, y_last, x_first, x_last;  // half-open
  int64_t roi_cells;                         // sum of the regions' own rectangles

  static RoiGroup none(int32_t level, int64_t image) {
    return {level, image, 0, 0, 0, 0, 0, 0, 0};
  }

  int64_t width() const {
    return x_last - x_first;
  }
  int64_t cells() const {
    return static_cast<int64_t>(y_last - y_first) * (x_last - x_first);
  }
};

template <typename Acc>
struct PoolPlan {
  std::vector<PlannedRoi<Acc>> rois;  // sorted by level, then image, then position on the map
  std::vector<Tap<Acc>> taps;         // storage for the axes of rois
  std::vector<int32_t> starts;

  // Groups the regions [begin, end) by map.
  std::vector<RoiGroup> groups(int64_t begin, int64_t end) const {
    std::vector<RoiGroup> found;
    for (int64_t i = begin; i < end; ++i) {
      const PlannedRoi<Acc>& roi = rois[i];
      if (found.empty() || found.back().level != roi.level || found.back().image != roi.image) {
        found.push_back({roi.level, roi.image, i, i, INT32_MAX, 0, INT32_MAX, 0, 0});
      }
      RoiGroup& group = found.back();
      group.end = i + 1;
      if (roi.cells() > 0) {
        group.y_first = std::min(group.y_first, roi.y.first_cell);
        group.y_last = std::max(group.y_last, roi.y.last_cell);
        group.x_first = std::min(group.x_first, roi.x.first_cell);
        group.x_last = std::max(group.x_last, roi.x.last_cell);
        group.roi_cells += roi.cells();
      }
    }
    for (RoiGroup& group : found) {
      if (group.roi_cells == 0) {
        group.y_first = group.x_first = 0;
      }
    }
    return found;
  }
};

}  // namespace maskrcnn_benchmark
