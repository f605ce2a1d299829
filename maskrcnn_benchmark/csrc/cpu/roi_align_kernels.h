// The loops of ROIAlign, compiled once per instruction set (see per_isa.h), hence without an include guard.
//
// Arithmetic runs over blocks of channels that lie side by side: as many as fill one cache line. Channels-last maps are read
// in place. Of planar maps, the cells that the regions touch are first packed, a block of channels at a time, into a scratch
// that stays in the cache while all regions of the map pool from it. Backward accumulates into such a scratch as well and
// writes each gradient once; threads own disjoint channels, so the sums have one order and the result is deterministic.

#include "lanes.h"

template <typename Acc>
constexpr int kBlock = 64 / static_cast<int>(sizeof(Acc));  // channels in a cache line of accumulators

// Reads `count` values at a distance of `stride`.
template <typename T, typename Acc>
inline void read_strided(const T* from, int64_t stride, int64_t count, Acc* to) {
  for (int64_t k = 0; k < count; ++k) {
    to[k] = static_cast<Acc>(from[k * stride]);
  }
}

// to[j * to_stride + k] = from[k * from_stride + j] for j < columns and k < rows: rows of `from` become columns of `to`.
// Tiled, so that both sides work on whole cache lines.
template <typename From, typename To>
inline void transpose(
    const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to, int64_t to_stride) {
  constexpr int64_t kTile = 16;
  for (int64_t j0 = 0; j0 < columns; j0 += kTile) {
    const int64_t j1 = std::min(columns, j0 + kTile);
    for (int64_t k0 = 0; k0 < rows; k0 += kTile) {
      const int64_t k1 = std::min(rows, k0 + kTile);
      if (j1 - j0 == kTile && k1 - k0 == kTile) {
        for (int64_t j = 0; j < kTile; ++j) {
          for (int64_t k = 0; k < kTile; ++k) {
            to[(j0 + j) * to_stride + k0 + k] = static_cast<To>(from[(k0 + k) * from_stride + j0 + j]);
          }
        }
      } else {
        for (int64_t j = j0; j < j1; ++j) {
          for (int64_t k = k0; k < k1; ++k) {
            to[j * to_stride + k] = static_cast<To>(from[k * from_stride + j]);
          }
        }
      }
    }
  }
}

// Sum over the taps of one bin of `kVectors` vectors of channels that start at `cells`.
template <int kVectors, typename Acc>
inline void pool_bin(
    const Acc* cells, int64_t row_stride, int64_t cell_stride, const Tap<Acc>* y, const Tap<Acc>* y_end,
    const Tap<Acc>* x_begin, const Tap<Acc>* x_end, Acc* out) {
  using V = Lanes<Acc>;
  V total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    total[v] = V::zero();
  }
  for (; y != y_end; ++y) {
    const Acc* row = cells + y->cell * row_stride;
    V along_x[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      along_x[v] = V::zero();
    }
    for (const Tap<Acc>* x = x_begin; x != x_end; ++x) {
      const Acc* cell = row + x->cell * cell_stride;
      for (int v = 0; v < kVectors; ++v) {
        along_x[v].add_scaled(x->weight, V::load(cell + v * V::kCount));
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      total[v].add_scaled(y->weight, along_x[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    total[v].store(out + v * V::kCount);
  }
}

// The same for any number of channels and any storage type: half types widen on the way.
template <typename T, typename Acc>
inline void pool_bin_widening(
    const T* cells, int64_t row_stride, int64_t cell_stride, int64_t channels, const Tap<Acc>* y,
    const Tap<Acc>* y_end, const Tap<Acc>* x_begin, const Tap<Acc>* x_end, Acc* out) {
  std::fill(out, out + channels, Acc(0));
  for (; y != y_end; ++y) {
    const T* row = cells + y->cell * row_stride;
    for (const Tap<Acc>* x = x_begin; x != x_end; ++x) {
      const T* cell = row + x->cell * cell_stride;
      const Acc weight = y->weight * x->weight;
      for (int64_t k = 0; k < channels; ++k) {
        out[k] += weight * static_cast<Acc>(cell[k]);
      }
    }
  }
}

// Adds the gradient of one bin to the cells that it averages.
template <typename Acc>
inline void spread_bin(
    Acc* cells, int64_t row_stride, int64_t cell_stride, const Tap<Acc>* y, const Tap<Acc>* y_end,
    const Tap<Acc>* x_begin, const Tap<Acc>* x_end, const Acc* grad) {
  using V = Lanes<Acc>;
  constexpr int kVectors = kBlock<Acc> / V::kCount;
  for (; y != y_end; ++y) {
    Acc* row = cells + y->cell * row_stride;
    V scaled[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      scaled[v] = V::zero();
      scaled[v].add_scaled(y->weight, V::load(grad + v * V::kCount));
    }
    for (const Tap<Acc>* x = x_begin; x != x_end; ++x) {
      Acc* cell = row + x->cell * cell_stride;
      for (int v = 0; v < kVectors; ++v) {
        V sum = V::load(cell + v * V::kCount);
        sum.add_scaled(x->weight, scaled[v]);
        sum.store(cell + v * V::kCount);
      }
    }
  }
}

// A block of channels of a rectangle of a planar map -> scratch (rows, columns, kBlock), the absent channels zero.
template <typename T, typename Acc>
inline void pack_planar(
    const T* planes, int64_t height, int64_t width, int64_t channels, int64_t y_first, int64_t y_last, int64_t x_first,
    int64_t x_last, Acc* scratch) {
  constexpr int B = kBlock<Acc>;
  const int64_t columns = x_last - x_first;
  if (channels < B) {
    std::fill(scratch, scratch + (y_last - y_first) * columns * B, Acc(0));
  }
  for (int64_t y = y_first; y < y_last; ++y) {
    transpose(planes + y * width + x_first, height * width, channels, columns, scratch, B);
    scratch += columns * B;
  }
}

template <typename T>
void pool_planar(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, T* pooled,
    int64_t threads) {
  using Acc = AccOf<T>;
  constexpr int B = kBlock<Acc>;
  const int64_t bins = sizes.bins_h * sizes.bins_w;
  const int64_t blocks = (sizes.channels + B - 1) / B;
  const int64_t rois = static_cast<int64_t>(plan.rois.size());
  // enough pieces for the threads: blocks of channels first, for then a map is packed once, then runs of regions
  const int64_t runs = std::min<int64_t>(rois, (threads + blocks - 1) / blocks);
  const int64_t run_length = (rois + runs - 1) / runs;
  torch::stable::parallel_for(0, blocks * runs, 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> scratch, block_of_bins(bins * B);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t channel = (piece / runs) * B;
      const int64_t present = std::min<int64_t>(B, sizes.channels - channel);
      const int64_t first = (piece % runs) * run_length;
      for (const RoiGroup& group : plan.groups(first, std::min(rois, first + run_length))) {
        const LevelMaps& level = levels[group.level];
        const int64_t plane = level.height * level.width;
        const T* planes = static_cast<const T*>(level.data) + (group.image * sizes.channels + channel) * plane;
        const bool share = group.roi_cells > group.cells();  // pack the map once, or each region's own cells?
        if (share) {
          scratch.resize(std::max<size_t>(scratch.size(), group.cells() * B));
          pack_planar(
              planes, level.height, level.width, present, group.y_first, group.y_last, group.x_first, group.x_last,
              scratch.data());
        }
        for (int64_t i = group.begin; i < group.end; ++i) {
          const PlannedRoi<Acc>& roi = plan.rois[i];
          int64_t y_first = group.y_first, x_first = group.x_first, columns = group.width();
          if (!share) {
            y_first = roi.y.first_cell;
            x_first = roi.x.first_cell;
            columns = roi.x.last_cell - roi.x.first_cell;
            scratch.resize(std::max<size_t>(scratch.size(), roi.cells() * B));
            if (roi.cells() > 0) {
              pack_planar(
                  planes, level.height, level.width, present, y_first, roi.y.last_cell, x_first, roi.x.last_cell,
                  scratch.data());
            }
          }
          const Acc* cells = scratch.data() - (y_first * columns + x_first) * B;
          for (int64_t ph = 0; ph < sizes.bins_h; ++ph) {
            for (int64_t pw = 0; pw < sizes.bins_w; ++pw) {
              pool_bin<B / Lanes<Acc>::kCount>(
                  cells, columns * B, B, roi.y.taps + roi.y.starts[ph], roi.y.taps + roi.y.starts[ph + 1],
                  roi.x.taps + roi.x.starts[pw], roi.x.taps + roi.x.starts[pw + 1],
                  block_of_bins.data() + (ph * sizes.bins_w + pw) * B);
            }
          }
          T* out = pooled + (roi.row * sizes.channels + channel) * bins;
          transpose(block_of_bins.data(), B, bins, present, out, bins);
        }
      }
    }
  });
}

template <typename T>
void pool_channels_last(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, T* pooled) {
  using Acc = AccOf<T>;
  constexpr int64_t kWide = 4 * Lanes<Acc>::kCount;
  const int64_t channels = sizes.channels;
  torch::stable::parallel_for(0, static_cast<int64_t>(plan.rois.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> wide_bin(channels);
    for (int64_t i = begin; i < end; ++i) {
      const PlannedRoi<Acc>& roi = plan.rois[i];
      const LevelMaps& level = levels[roi.level];
      const int64_t row_stride = level.width * channels;
      const T* cells = static_cast<const T*>(level.data) + roi.image * level.height * row_stride;
      T* out = pooled + roi.row * sizes.bins_h * sizes.bins_w * channels;
      for (int64_t ph = 0; ph < sizes.bins_h; ++ph) {
        const Tap<Acc>* y_begin = roi.y.taps + roi.y.starts[ph];
        const Tap<Acc>* y_end = roi.y.taps + roi.y.starts[ph + 1];
        for (int64_t pw = 0; pw < sizes.bins_w; ++pw, out += channels) {
          const Tap<Acc>* x_begin = roi.x.taps + roi.x.starts[pw];
          const Tap<Acc>* x_end = roi.x.taps + roi.x.starts[pw + 1];
          if constexpr (std::is_same_v<T, Acc>) {
            int64_t c = 0;
            for (; c + kWide <= channels; c += kWide) {
              pool_bin<4>(cells + c, row_stride, channels, y_begin, y_end, x_begin, x_end, out + c);
            }
            if (c < channels) {
              pool_bin_widening(
                  cells + c, row_stride, channels, channels - c, y_begin, y_end, x_begin, x_end, out + c);
            }
          } else {
            pool_bin_widening(
                cells, row_stride, channels, channels, y_begin, y_end, x_begin, x_end, wide_bin.data());
            for (int64_t c = 0; c < channels; ++c) {
              out[c] = static_cast<T>(wide_bin[c]);
            }
          }
        }
      }
    }
  });
}

// Gradient of the maps, whole: cells that no region touches are set to zero.
template <typename T, bool kChannelsLast>
void spread(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, const T* grad) {
  using Acc = AccOf<T>;
  constexpr int B = kBlock<Acc>;
  const int64_t bins = sizes.bins_h * sizes.bins_w;
  const int64_t channels = sizes.channels;
  const int64_t blocks = (channels + B - 1) / B;
  const int64_t num_levels = static_cast<int64_t>(levels.size());
  // one group per map, in order, the empty ones included: every map is written
  std::vector<RoiGroup> groups(num_levels * sizes.images);
  for (int64_t m = 0; m < num_levels * sizes.images; ++m) {
    groups[m] = {static_cast<int32_t>(m / sizes.images), m % sizes.images, 0, 0, 0, 0, 0, 0, 0};
  }
  for (const RoiGroup& group : plan.groups(0, static_cast<int64_t>(plan.rois.size()))) {
    groups[group.level * sizes.images + group.image] = group;
  }
  const int64_t maps = static_cast<int64_t>(groups.size());
  torch::stable::parallel_for(0, blocks * maps, 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> scratch, block_of_bins(bins * B, Acc(0));
    for (int64_t piece = begin; piece < end; ++piece) {
      const RoiGroup& group = groups[piece % maps];
      const int64_t channel = (piece / maps) * B;
      const int64_t present = std::min<int64_t>(B, channels - channel);
      const LevelMaps& level = levels[group.level];
      const int64_t columns = group.width();
      scratch.assign(group.cells() * B, Acc(0));
      Acc* cells = scratch.data() - (group.y_first * columns + group.x_first) * B;
      for (int64_t i = group.begin; i < group.end; ++i) {
        const PlannedRoi<Acc>& roi = plan.rois[i];
        if (kChannelsLast) {
          const T* from = grad + roi.row * bins * channels + channel;
          for (int64_t bin = 0; bin < bins; ++bin) {
            read_strided(from + bin * channels, 1, present, block_of_bins.data() + bin * B);
          }
        } else {
          transpose(grad + (roi.row * channels + channel) * bins, bins, present, bins, block_of_bins.data(), B);
        }
        for (int64_t ph = 0; ph < sizes.bins_h; ++ph) {
          for (int64_t pw = 0; pw < sizes.bins_w; ++pw) {
            spread_bin(
                cells, columns * B, B, roi.y.taps + roi.y.starts[ph], roi.y.taps + roi.y.starts[ph + 1],
                roi.x.taps + roi.x.starts[pw], roi.x.taps + roi.x.starts[pw + 1],
                block_of_bins.data() + (ph * sizes.bins_w + pw) * B);
          }
        }
      }
      const int64_t cell_stride = kChannelsLast ? channels : 1;
      const int64_t channel_stride = kChannelsLast ? 1 : level.height * level.width;
      T* map = static_cast<T*>(level.data) + group.image * channels * level.height * level.width +
          channel * channel_stride;
      for (int64_t y = 0; y < level.height; ++y) {
        T* row = map + y * level.width * cell_stride;
        const bool touched = y >= group.y_first && y < group.y_last;
        const int64_t x_first = touched ? group.x_first : level.width;
        const int64_t x_last = touched ? group.x_last : level.width;
        const Acc* sums = cells + y * columns * B;
        if (kChannelsLast) {
          for (int64_t x = 0; x < level.width; ++x) {
            for (int64_t k = 0; k < present; ++k) {
              row[x * channels + k] = x >= x_first && x < x_last ? static_cast<T>(sums[x * B + k]) : T(0);
            }
          }
        } else {
          for (int64_t k = 0; k < present; ++k) {
            std::fill(row + k * channel_stride, row + k * channel_stride + x_first, T(0));
            std::fill(row + k * channel_stride + x_last, row + k * channel_stride + level.width, T(0));
          }
          if (touched) {
            transpose(sums + x_first * B, B, columns, present, row + x_first, channel_stride);
          }
        }
      }
    }
  });
}
