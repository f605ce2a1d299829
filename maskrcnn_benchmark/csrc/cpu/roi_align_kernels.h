// The loops of ROIAlign. Compiled once per instruction set (per_isa.h), so there is no include guard.
//
// Arithmetic runs over blocks of adjacent channels. Channels-last maps are read in place. The cells of a planar map
// that its regions touch are first packed, one block of channels at a time, into a buffer that stays in the cache while
// all regions of the map pool from it. Backward accumulates into such a buffer for both formats and writes each
// gradient once. Each thread has its own channels there, so sums have a fixed order and the result is
// deterministic.

#include "lanes.h"

template <typename Acc>
constexpr int kBlock = 64 / static_cast<int>(sizeof(Acc));  // channels of a packed cell: one cache line

// to[j * to_stride + k] = from[k * from_stride + j] for k < rows and j < columns.
template <typename From, typename To>
inline void transpose(const From* from, int64_t from_stride, int64_t rows, int64_t columns, To* to, int64_t to_stride) {
  using Acc = std::conditional_t<std::is_same_v<From, double> || std::is_same_v<To, double>, double, float>;
  using V = Lanes<Acc>;
  constexpr int64_t kTile = V::kCount;
  const int64_t tiled_rows = rows - rows % kTile, tiled_columns = columns - columns % kTile;
  for (int64_t j = 0; j < tiled_columns; j += kTile) {
    for (int64_t k = 0; k < tiled_rows; k += kTile) {
      V tile[kTile];
      for (int64_t i = 0; i < kTile; ++i) {
        tile[i] = V::load(from + (k + i) * from_stride + j);
      }
      transpose_square(tile);
      for (int64_t i = 0; i < kTile; ++i) {
        tile[i].store(to + (j + i) * to_stride + k);
      }
    }
  }
  for (int64_t k = 0; k < rows; ++k) {
    for (int64_t j = k < tiled_rows ? tiled_columns : 0; j < columns; ++j) {
      to[j * to_stride + k] = static_cast<To>(from[k * from_stride + j]);
    }
  }
}

// The cells of a whole map or of a packed rectangle of it, addressed by row and column of the map.
template <typename T>
struct CellGrid {
  T* cells;
  int64_t row_stride, cell_stride;
  int64_t origin;  // offset of the map's first cell before `cells`

  static CellGrid packed(T* cells, int64_t first_row, int64_t first_column, int64_t columns, int64_t block) {
    return {cells, columns * block, block, (first_row * columns + first_column) * block};
  }

  inline int64_t row(int64_t y) const {
    return y * row_stride - origin;
  }

  inline T* at(int64_t row, int64_t x) const {
    return cells + (row + x * cell_stride);
  }
};

// The part of a region that one bin averages.
template <typename Acc>
struct BinTaps {
  const Tap<Acc>*y, *y_end, *x;
  int64_t x_count;
};

template <typename Acc>
inline BinTaps<Acc> bin_taps(const PlannedRoi<Acc>& roi, int64_t ph, int64_t pw) {
  const int32_t x_start = roi.x.starts[pw];
  return {
      roi.y.taps + roi.y.starts[ph], roi.y.taps + roi.y.starts[ph + 1], roi.x.taps + x_start,
      roi.x.starts[pw + 1] - x_start};
}

// Averages kVectors vectors of channels, from channel `first` on, over a bin. kColumns: the number of columns that the
// bin touches, 0 if it is not known at compile time.
template <int kVectors, int kColumns, typename T, typename Acc>
inline void pool_columns(const CellGrid<const T>& grid, int64_t first, const BinTaps<Acc>& bin, T* out) {
  using V = Lanes<Acc>;
  V total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    total[v] = V::zero();
  }
  const int64_t columns = kColumns > 0 ? kColumns : bin.x_count;
  for (const Tap<Acc>* y = bin.y; y != bin.y_end; ++y) {
    const int64_t row = grid.row(y->cell) + first;
    V along_x[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      along_x[v] = V::zero();
    }
    for (int64_t x = 0; x < columns; ++x) {
      const T* cell = grid.at(row, bin.x[x].cell);
      for (int v = 0; v < kVectors; ++v) {
        along_x[v].add_scaled(bin.x[x].weight, V::load(cell + v * V::kCount));
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

template <int kVectors, typename T, typename Acc>
inline void pool_bin(const CellGrid<const T>& grid, int64_t first, const BinTaps<Acc>& bin, T* out) {
  switch (bin.x_count) {  // two samples per side touch two to four columns
    case 2:
      return pool_columns<kVectors, 2>(grid, first, bin, out);
    case 3:
      return pool_columns<kVectors, 3>(grid, first, bin, out);
    case 4:
      return pool_columns<kVectors, 4>(grid, first, bin, out);
    default:
      return pool_columns<kVectors, 0>(grid, first, bin, out);
  }
}

// Calls visit(ph, pw, taps, number of columns) for every bin of a region. All bins of one pw have the same columns. If
// they are two to four, which two samples per side touch, their number is a compile-time constant and their taps are
// copied once for all of these bins: the loop over columns is unrolled, and its weights stay in registers.
template <typename Acc, typename Visit>
inline void each_bin(const PlannedRoi<Acc>& roi, const PoolSizes& sizes, const Visit& visit) {
  for (int64_t pw = 0; pw < sizes.bins_w; ++pw) {
    const auto each_row = [&](auto columns) {
      constexpr int kColumns = decltype(columns)::value;
      Tap<Acc> own[kColumns > 0 ? kColumns : 1];  // a copy that writing results cannot alias
      for (int k = 0; k < kColumns; ++k) {
        own[k] = roi.x.taps[roi.x.starts[pw] + k];
      }
      for (int64_t ph = 0; ph < sizes.bins_h; ++ph) {
        BinTaps<Acc> bin = bin_taps(roi, ph, pw);
        bin.x = kColumns > 0 ? own : bin.x;
        visit(ph, pw, bin, columns);
      }
    };
    switch (roi.x.starts[pw + 1] - roi.x.starts[pw]) {
      case 2:
        each_row(std::integral_constant<int, 2>());
        break;
      case 3:
        each_row(std::integral_constant<int, 3>());
        break;
      case 4:
        each_row(std::integral_constant<int, 4>());
        break;
      default:
        each_row(std::integral_constant<int, 0>());
    }
  }
}

// Pools fewer channels than a vector holds.
template <typename T, typename Acc>
inline void pool_few_channels(
    const CellGrid<const T>& grid, int64_t first, int64_t channels, const BinTaps<Acc>& bin, T* out) {
  Acc total[Lanes<Acc>::kCount] = {};
  for (const Tap<Acc>* y = bin.y; y != bin.y_end; ++y) {
    for (int64_t x = 0; x < bin.x_count; ++x) {
      const T* cell = grid.at(grid.row(y->cell) + first, bin.x[x].cell);
      for (int64_t k = 0; k < channels; ++k) {
        total[k] += y->weight * bin.x[x].weight * static_cast<Acc>(cell[k]);
      }
    }
  }
  for (int64_t k = 0; k < channels; ++k) {
    out[k] = static_cast<T>(total[k]);
  }
}

// Adds the gradient of one bin to the cells that it averages.
template <int kVectors, int kColumns, typename Acc>
inline void spread_columns(const CellGrid<Acc>& grid, int64_t first, const BinTaps<Acc>& bin, const Acc* grad) {
  using V = Lanes<Acc>;
  const int64_t columns = kColumns > 0 ? kColumns : bin.x_count;
  V gradient[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    gradient[v] = V::load(grad + v * V::kCount);
  }
  for (const Tap<Acc>* y = bin.y; y != bin.y_end; ++y) {
    const int64_t row = grid.row(y->cell) + first;
    V share[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      share[v] = V::zero();
      share[v].add_scaled(y->weight, gradient[v]);
    }
    for (int64_t x = 0; x < columns; ++x) {
      Acc* cell = grid.at(row, bin.x[x].cell);
      for (int v = 0; v < kVectors; ++v) {
        V sum = V::load(cell + v * V::kCount);
        sum.add_scaled(bin.x[x].weight, share[v]);
        sum.store(cell + v * V::kCount);
      }
    }
  }
}

// Packs a block of channels of a rectangle of a planar map as (rows, columns, kBlock). Missing channels are zero.
template <typename T, typename Acc>
inline void pack_planar(
    const T* planes, const LevelMaps& level, int64_t channels, int64_t y_first, int64_t y_last, int64_t x_first,
    int64_t x_last, Acc* packed) {
  constexpr int B = kBlock<Acc>;
  const int64_t columns = x_last - x_first;
  if (channels < B) {
    std::fill(packed, packed + (y_last - y_first) * columns * B, Acc(0));
  }
  for (int64_t y = y_first; y < y_last; ++y) {
    transpose(planes + y * level.width + x_first, level.height * level.width, channels, columns, packed, B);
    packed += columns * B;
  }
}

// Copies with stores that bypass the cache. Normal stores would read each cache line first and evict the maps.
template <typename T>
inline void copy_past_cache(const T* from, int64_t count, T* to) {
#if defined(MRB_X86)
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  if (reinterpret_cast<uintptr_t>(to) % 64 == 0) {
    for (; count >= kLine; count -= kLine, from += kLine, to += kLine) {
#if MRB_VECTOR_BYTES == 64
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#else
      for (int64_t part = 0; part < 4; ++part) {
        _mm_stream_si128(
            reinterpret_cast<__m128i*>(to) + part, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + part));
      }
#endif
    }
  }
#endif
  std::copy_n(from, count, to);
}

// Makes the copies that bypassed the cache visible to other threads.
inline void finish_copies() {
#if defined(MRB_X86)
  _mm_sfence();
#endif
}

template <typename T>
void pool_planar(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, T* pooled,
    int64_t threads, bool past_cache) {
  using Acc = AccOf<T>;
  constexpr int B = kBlock<Acc>;
  const int64_t bins = sizes.bins_h * sizes.bins_w;
  const int64_t blocks = (sizes.channels + B - 1) / B;
  const int64_t rois = static_cast<int64_t>(plan.rois.size());
  // Give each thread blocks of channels, so that a map is packed once. If there are fewer blocks than threads, split
  // the regions into runs as well.
  const int64_t runs = std::min<int64_t>(rois, (threads + blocks - 1) / blocks);
  const int64_t run_length = (rois + runs - 1) / runs;
  torch::stable::parallel_for(0, blocks * runs, threads > 1 ? 1 : blocks * runs, [&](int64_t begin, int64_t end) {
    Scratch<Acc> scratch, block_of_bins;
    Scratch<T> block_of_results;
    Acc* averages = block_of_bins.at_least(bins * B);
    T* results = past_cache ? block_of_results.at_least(bins * B) : nullptr;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t channel = (piece / runs) * B;
      const int64_t present = std::min<int64_t>(B, sizes.channels - channel);
      const int64_t first = std::min(rois, (piece % runs) * run_length);
      for (const RoiGroup& group : plan.groups(first, std::min(rois, first + run_length))) {
        const LevelMaps& level = levels[group.level];
        const T* planes =
            static_cast<const T*>(level.data) + (group.image * sizes.channels + channel) * level.height * level.width;
        const bool share = group.roi_cells > group.cells();  // pack the map once, or each region's own cells?
        CellGrid<const Acc> grid{};
        if (share) {
          Acc* packed = scratch.at_least(group.cells() * B);
          pack_planar(planes, level, present, group.y_first, group.y_last, group.x_first, group.x_last, packed);
          grid = CellGrid<const Acc>::packed(packed, group.y_first, group.x_first, group.width(), B);
        }
        for (int64_t i = group.begin; i < group.end; ++i) {
          const PlannedRoi<Acc>& roi = plan.rois[i];
          if (!share && roi.cells() > 0) {
            Acc* packed = scratch.at_least(roi.cells() * B);
            pack_planar(
                planes, level, present, roi.y.first_cell, roi.y.last_cell, roi.x.first_cell, roi.x.last_cell, packed);
            grid = CellGrid<const Acc>::packed(
                packed, roi.y.first_cell, roi.x.first_cell, roi.x.last_cell - roi.x.first_cell, B);
          }
          each_bin(roi, sizes, [&](int64_t ph, int64_t pw, const BinTaps<Acc>& bin, auto columns_of_bin) {
            pool_columns<B / Lanes<Acc>::kCount, decltype(columns_of_bin)::value>(
                grid, 0, bin, averages + (ph * sizes.bins_w + pw) * B);
          });
          T* out = pooled + (roi.row * sizes.channels + channel) * bins;
          transpose(averages, B, bins, present, past_cache ? results : out, bins);
          if (past_cache) {
            copy_past_cache(results, present * bins, out);
          }
        }
      }
    }
    finish_copies();
  });
}

template <typename T>
void pool_channels_last(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, T* pooled,
    int64_t threads, bool past_cache) {
  using Acc = AccOf<T>;
  constexpr int64_t kLanes = Lanes<Acc>::kCount;
  const int64_t channels = sizes.channels;
  const int64_t rois = static_cast<int64_t>(plan.rois.size());
  torch::stable::parallel_for(0, rois, threads > 1 ? 1 : rois, [&](int64_t begin, int64_t end) {
    Scratch<T> results_of_bin;
    T* results = past_cache ? results_of_bin.at_least(channels) : nullptr;
    for (int64_t i = begin; i < end; ++i) {
      const PlannedRoi<Acc>& roi = plan.rois[i];
      const LevelMaps& level = levels[roi.level];
      const int64_t row_stride = level.width * channels;
      const CellGrid<const T> grid{
          static_cast<const T*>(level.data) + roi.image * level.height * row_stride, row_stride, channels, 0};
      T* of_bin = pooled + roi.row * sizes.bins_h * sizes.bins_w * channels;
      for (int64_t ph = 0; ph < sizes.bins_h; ++ph) {
        for (int64_t pw = 0; pw < sizes.bins_w; ++pw, of_bin += channels) {
          const BinTaps<Acc> bin = bin_taps(roi, ph, pw);
          T* out = past_cache ? results : of_bin;
          int64_t c = 0;
          for (; c + 8 * kLanes <= channels; c += 8 * kLanes) {
            pool_bin<8>(grid, c, bin, out + c);
          }
          for (; c + kLanes <= channels; c += kLanes) {
            pool_bin<1>(grid, c, bin, out + c);
          }
          if (c < channels) {
            pool_few_channels(grid, c, channels - c, bin, out + c);
          }
          if (past_cache) {
            copy_past_cache(results, channels, of_bin);
          }
        }
      }
    }
    finish_copies();
  });
}

// One group per map, level by level and image by image. Maps that no region pools from have an empty group.
template <typename Acc>
inline std::vector<RoiGroup> groups_of_all_maps(const PoolPlan<Acc>& plan, int64_t levels, int64_t images) {
  std::vector<RoiGroup> groups(levels * images);
  for (int64_t map = 0; map < levels * images; ++map) {
    groups[map] = RoiGroup::none(static_cast<int32_t>(map / images), map % images);
  }
  for (const RoiGroup& group : plan.groups(0, static_cast<int64_t>(plan.rois.size()))) {
    groups[group.level * images + group.image] = group;
  }
  return groups;
}

// Writes the gradients of all maps; cells that no region touches are set to zero. kLines: cache lines of channels per
// block. For channels-last maps two lines take three quarters of the time of one, since more adjacent memory is used at
// a time.
template <typename T, bool kChannelsLast, int kLines>
void spread(
    const PoolPlan<AccOf<T>>& plan, const std::vector<LevelMaps>& levels, const PoolSizes& sizes, const T* grad) {
  using Acc = AccOf<T>;
  constexpr int B = kLines * kBlock<Acc>;
  const int64_t bins = sizes.bins_h * sizes.bins_w;
  const int64_t channels = sizes.channels;
  const int64_t blocks = (channels + B - 1) / B;
  const std::vector<RoiGroup> groups = groups_of_all_maps(plan, static_cast<int64_t>(levels.size()), sizes.images);
  const int64_t maps = static_cast<int64_t>(groups.size());
  torch::stable::parallel_for(0, blocks * maps, 1, [&](int64_t begin, int64_t end) {
    Scratch<Acc> scratch, block_of_bins;
    Acc* gradients = block_of_bins.at_least(bins * B);
    std::fill(gradients, gradients + bins * B, Acc(0));
    for (int64_t piece = begin; piece < end; ++piece) {
      const RoiGroup& group = groups[piece % maps];
      const int64_t channel = (piece / maps) * B;
      const int64_t present = std::min<int64_t>(B, channels - channel);
      const LevelMaps& level = levels[group.level];
      const int64_t columns = group.width();
      Acc* sums = scratch.at_least(group.cells() * B);
      std::fill(sums, sums + group.cells() * B, Acc(0));
      const auto grid = CellGrid<Acc>::packed(sums, group.y_first, group.x_first, columns, B);
      for (int64_t i = group.begin; i < group.end; ++i) {
        const PlannedRoi<Acc>& roi = plan.rois[i];
        if (kChannelsLast) {
          const T* from = grad + roi.row * bins * channels + channel;
          for (int64_t bin = 0; bin < bins; ++bin) {
            if (present == B) {
              for (int64_t k = 0; k < B; k += Lanes<Acc>::kCount) {
                Lanes<Acc>::load(from + bin * channels + k).store(gradients + bin * B + k);
              }
            } else {
              std::copy_n(from + bin * channels, present, gradients + bin * B);
            }
          }
        } else {
          transpose(grad + (roi.row * channels + channel) * bins, bins, present, bins, gradients, B);
        }
        each_bin(roi, sizes, [&](int64_t ph, int64_t pw, const BinTaps<Acc>& bin, auto columns_of_bin) {
          spread_columns<B / Lanes<Acc>::kCount, decltype(columns_of_bin)::value>(
              grid, 0, bin, gradients + (ph * sizes.bins_w + pw) * B);
        });
      }
      const int64_t cell_stride = kChannelsLast ? channels : 1;
      const int64_t channel_stride = kChannelsLast ? 1 : level.height * level.width;
      T* map =
          static_cast<T*>(level.data) + group.image * channels * level.height * level.width + channel * channel_stride;
      for (int64_t y = 0; y < level.height; ++y) {
        T* row = map + y * level.width * cell_stride;
        const bool touched = y >= group.y_first && y < group.y_last;
        const int64_t x_first = touched ? group.x_first : level.width;
        const int64_t x_last = touched ? group.x_last : level.width;
        const Acc* from = touched ? grid.at(grid.row(y), x_first) : nullptr;
        if (kChannelsLast) {
          for (int64_t x = 0; x < level.width; ++x) {
            T* cell = row + x * channels;
            if (x < x_first || x >= x_last) {
              std::fill_n(cell, present, T(0));
            } else if (present == B) {
              for (int64_t k = 0; k < B; k += Lanes<Acc>::kCount) {
                Lanes<Acc>::load(from + (x - x_first) * B + k).store(cell + k);
              }
            } else {
              std::transform(from + (x - x_first) * B, from + (x - x_first) * B + present, cell, [](Acc sum) {
                return static_cast<T>(sum);
              });
            }
          }
        } else {
          for (int64_t k = 0; k < present; ++k) {
            std::fill(row + k * channel_stride, row + k * channel_stride + x_first, T(0));
            std::fill(row + k * channel_stride + x_last, row + k * channel_stride + level.width, T(0));
          }
          if (touched) {
            transpose(from, B, columns, present, row + x_first, channel_stride);
          }
        }
      }
    }
  });
}
