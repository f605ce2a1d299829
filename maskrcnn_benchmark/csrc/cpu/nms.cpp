// Greedy non-maximum suppression on the CPU, plain, in groups and of fixed size. Twin of cuda/nms.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "../box_geometry.h"
#include "../nms_checks.h"
#include "../tensors.h"
#include "per_isa.h"
#include "score_order.h"

namespace maskrcnn_benchmark {

// If the intersection over union of two boxes exceeds a threshold, so does the ratio of their areas. Boxes are
// therefore sorted into drawers by area, four drawers per doubling, and a box is compared with the few drawers of
// similar areas.
struct Drawers {
  static constexpr int kCount = 256;
  static constexpr int kFirstOctave = -12;  // smaller areas share the first drawer, areas above octave 52 the last

  static int of_area(double area) {  // the exponent and two bits of the mantissa, which grow with a positive area
    int64_t bits;
    std::memcpy(&bits, &area, sizeof(bits));
    const int64_t quarters = (bits >> 50) - (1023 + kFirstOctave) * 4;
    return static_cast<int>(std::min<int64_t>(std::max<int64_t>(quarters, 0), kCount - 1));
  }
};

// When do two boxes overlap too much? With the constants that each box's own bounds are computed from.
struct OverlapRule {
  double threshold, offset;
  double share;               // boxes overlap too much if they share more than this part of the sum of their areas
  double ratio, inverse;      // the least ratio of the areas of such boxes, minus rounding, and 1 / ratio

  OverlapRule(double threshold, int64_t box_offset)
      : threshold(threshold), offset(static_cast<double>(box_offset)), share(threshold / (1 + threshold)),
        ratio(threshold * (1 - 1e-9)), inverse(1 / std::max(ratio, 1e-30)) {}
};

template <typename Acc>
struct Candidate {
  Box<Acc> box;
  // Two boxes overlap too much if the area that they share, as computed, exceeds the sum of their `upper` bounds, and
  // do not if it is at most the sum of their `lower` bounds. In between rounding might decide, and boxes_overlap is
  // asked.
  Acc lower, upper;
  bool overlaps;  // can it overlap anything? Not if it is empty, infinite or NaN.
  int drawer, first_drawer, last_drawer;  // its own, and the range of those that it can overlap too much

  Candidate(const Acc* corners, const OverlapRule& rule) : box{corners[0], corners[1], corners[2], corners[3]} {
    const Box<double> wide{corners[0], corners[1], corners[2], corners[3]};
    const double width = box_width(wide, rule.offset), height = box_height(wide, rule.offset);
    const double area = width * height;
    overlaps = width > 0 && height > 0 && area > 0 && std::isfinite(area);
    constexpr bool kSingle = sizeof(Acc) == 4;
    constexpr double kRounding = kSingle ? 1e-6 : 1e-14, kMost = kSingle ? 5e37 : 5e307;  // the sum of two is finite
    // the side of an inclusive box may cancel against the added pixel; it was rounded before, when it was larger
    const double slack = kRounding * (std::abs(width) + rule.offset) * (std::abs(height) + rule.offset);
    lower = static_cast<Acc>(std::min(area * rule.share - slack, kMost));
    upper = area < kMost / 8 ? static_cast<Acc>(area * rule.share + slack) : std::numeric_limits<Acc>::infinity();
    drawer = first_drawer = last_drawer = 0;
    if (overlaps) {
      drawer = Drawers::of_area(area);
      first_drawer = Drawers::of_area(area * rule.ratio);
      last_drawer = Drawers::of_area(area * rule.inverse);
    }
  }
};

// log2 of the number of drawers that are merged into one for `count` boxes: few boxes need few drawers.
inline int drawer_shift(int64_t count) {
  return count <= 128 ? 8 : count <= 2048 ? 1 : 0;
}

// A group of boxes, coordinate by coordinate, to be compared a vector at a time. Unused lanes hold boxes that overlap
// nothing.
template <typename Acc>
struct BoxLanes {
  static constexpr int kLanes = 64 / static_cast<int>(sizeof(Acc));
  alignas(64) Acc x1[kLanes];
  Acc y1[kLanes], x2[kLanes], y2[kLanes], lower[kLanes], upper[kLanes];

  BoxLanes() {
    std::fill_n(x1, kLanes, Acc(3e38));
    std::fill_n(y1, kLanes, Acc(3e38));
    std::fill_n(x2, kLanes, Acc(-3e38));
    std::fill_n(y2, kLanes, Acc(-3e38));
    std::fill_n(lower, kLanes, std::numeric_limits<Acc>::infinity());
    std::fill_n(upper, kLanes, std::numeric_limits<Acc>::infinity());
  }

  void set(int lane, const Candidate<Acc>& candidate) {
    x1[lane] = candidate.box.x1;
    y1[lane] = candidate.box.y1;
    x2[lane] = candidate.box.x2;
    y2[lane] = candidate.box.y2;
    lower[lane] = candidate.lower;
    upper[lane] = candidate.upper;
  }
};

// The candidates of a block, sorted by drawer. A candidate that is kept strikes out all candidates that it overlaps,
// even those before it: they are decided already and not looked at again. Compared with a search for a box that
// suppresses a candidate, this has hardly any branch that the processor can mispredict.
template <typename Acc>
struct Block {
  static constexpr int kLanes = BoxLanes<Acc>::kLanes;
  std::vector<Candidate<Acc>> candidates;  // by rank
  std::vector<int32_t> places;             // of each candidate in `lanes`
  std::vector<BoxLanes<Acc>> lanes;
  std::vector<uint16_t> struck;            // one bit per place
  std::array<int32_t, Drawers::kCount + 1> first_of_drawer;
  int shift = 0;

  // Sorts the candidates into drawers.
  void arrange() {
    const size_t count = candidates.size();
    shift = drawer_shift(static_cast<int64_t>(count));
    const int drawers = Drawers::kCount >> shift;
    std::fill_n(first_of_drawer.begin(), drawers + 1, 0);
    for (const Candidate<Acc>& candidate : candidates) {
      ++first_of_drawer[(candidate.drawer >> shift) + 1];
    }
    for (int drawer = 0; drawer < drawers; ++drawer) {
      first_of_drawer[drawer + 1] += first_of_drawer[drawer];
    }
    const size_t groups = (count + kLanes - 1) / kLanes;
    lanes.assign(groups, BoxLanes<Acc>());
    struck.assign(groups, 0);
    places.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const int32_t place = first_of_drawer[candidates[i].drawer >> shift]++;
      places[i] = place;
      if (candidates[i].overlaps) {
        lanes[place / kLanes].set(place % kLanes, candidates[i]);
      }
    }
    // each start has moved to the end of its drawer, which is the start of the next one
    std::copy_backward(
        first_of_drawer.begin(), first_of_drawer.begin() + drawers, first_of_drawer.begin() + drawers + 1);
    first_of_drawer[0] = 0;
  }

  bool is_struck(size_t candidate) const {
    return struck[places[candidate] / kLanes] >> (places[candidate] % kLanes) & 1;
  }
};

// Kept boxes of one drawer.
template <typename Acc>
struct KeptChunk {
  BoxLanes<Acc> boxes;
  int32_t drawer, next, used = 0;

  KeptChunk(int32_t drawer, int32_t next) : drawer(drawer), next(next) {}
};

// The boxes that earlier blocks kept: one linked list of chunks, sorted by drawer. A candidate is compared with a range
// of it.
template <typename Acc>
struct KeptBoxes {
  std::vector<KeptChunk<Acc>> chunks;                   // chunks[0] ends the list
  std::array<int32_t, Drawers::kCount> first_from;      // the first chunk of this drawer or a later one
  std::array<int32_t, Drawers::kCount> open;            // the chunk that is being filled, if the drawer is not empty
  int64_t count = 0;

  void clear() {
    first_from.fill(0);
    chunks.clear();
    chunks.emplace_back(INT32_MAX, 0);
    count = 0;
  }

  void add(const Candidate<Acc>& candidate) {
    const int drawer = candidate.drawer;
    const int32_t fresh = static_cast<int32_t>(chunks.size());
    if (chunks[first_from[drawer]].drawer != drawer) {
      const int32_t after = first_from[drawer];
      chunks.emplace_back(drawer, after);
      int before = drawer;
      for (; before >= 0 && first_from[before] == after; --before) {
        first_from[before] = fresh;
      }
      if (before >= 0) {  // the last chunk of the drawer before is followed by the new one
        chunks[open[before]].next = fresh;
      }
      open[drawer] = fresh;
    } else if (chunks[open[drawer]].used == BoxLanes<Acc>::kLanes) {
      chunks.emplace_back(drawer, chunks[open[drawer]].next);
      chunks[open[drawer]].next = fresh;
      open[drawer] = fresh;
    }
    KeptChunk<Acc>& chunk = chunks[open[drawer]];
    chunk.boxes.set(chunk.used++, candidate);
    ++count;
  }
};

}  // namespace maskrcnn_benchmark

#define MRB_KERNELS "nms_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

// Indices of the finite scores from high to low; the lower index first among equals.
std::vector<int32_t> order_by_score(const Tensor& scores) {
  const int64_t count = scores.size(0);
  std::vector<int32_t> order;
  if (scores.scalar_type() == ScalarType::Double) {
    const Tensor wide = dense(scores, ScalarType::Double);
    const double* values = wide.const_data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) {
      if (std::isfinite(values[i])) {
        order.push_back(static_cast<int32_t>(i));
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
    return order;
  }
  const Tensor narrow = dense(scores, ScalarType::Float);
  const float* values = narrow.const_data_ptr<float>();
  std::vector<uint64_t> keys(count);
  size_t finite = 0;
  // branch-free: every key is written, and overwritten if its score is not finite
  for (int64_t i = 0; i < count; ++i) {
    keys[finite] = descending_key_with_index(values[i], i);
    finite += static_cast<size_t>(std::isfinite(values[i]));
  }
  keys.resize(finite);
  sort_by_score(keys);
  order.resize(finite);
  std::transform(keys.begin(), keys.end(), order.begin(), [](uint64_t key) { return static_cast<int32_t>(key); });
  return order;
}

// One run of ranks (positions in `order`) per group, each from high to low score.
struct Runs {
  std::vector<int32_t> ranks;
  std::vector<int64_t> starts;  // of the runs, and the end of the last

  int64_t count() const {
    return static_cast<int64_t>(starts.size()) - 1;
  }
};

Runs split_by_group(const std::vector<int32_t>& order, const std::optional<Tensor>& groups) {
  const int64_t count = static_cast<int64_t>(order.size());
  Runs runs;
  runs.ranks.resize(count);
  if (!groups) {
    for (int64_t rank = 0; rank < count; ++rank) {
      runs.ranks[rank] = static_cast<int32_t>(rank);
    }
    runs.starts = {0, count};
    return runs;
  }
  const Tensor ids = dense(*groups, ScalarType::Long);
  const int64_t* group_of = ids.const_data_ptr<int64_t>();
  int64_t lowest = group_of[order[0]], highest = lowest;
  for (const int32_t index : order) {
    lowest = std::min(lowest, group_of[index]);
    highest = std::max(highest, group_of[index]);
  }
  const uint64_t spread = static_cast<uint64_t>(highest) - static_cast<uint64_t>(lowest);  // no signed overflow
  if (spread < static_cast<uint64_t>(4 * count + 1024)) {  // group ids in a narrow range: counting sort
    std::vector<int64_t> position(spread + 2, 0);
    for (const int32_t index : order) {
      ++position[group_of[index] - lowest + 1];
    }
    runs.starts.push_back(0);
    for (uint64_t group = 0; group <= spread; ++group) {
      position[group + 1] += position[group];
      if (position[group + 1] > position[group]) {
        runs.starts.push_back(position[group + 1]);
      }
    }
    for (int64_t rank = 0; rank < count; ++rank) {
      runs.ranks[position[group_of[order[rank]] - lowest]++] = static_cast<int32_t>(rank);
    }
    return runs;
  }
  std::vector<std::pair<int64_t, int32_t>> keys(count);
  for (int64_t rank = 0; rank < count; ++rank) {
    keys[rank] = {group_of[order[rank]], static_cast<int32_t>(rank)};
  }
  std::sort(keys.begin(), keys.end());
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || keys[i].first != keys[i - 1].first) {
      runs.starts.push_back(i);
    }
    runs.ranks[i] = keys[i].second;
  }
  runs.starts.push_back(count);
  return runs;
}

// Greedy suppression within one run, in blocks of candidates. The candidates of a block are compared with the boxes
// that earlier blocks kept in parallel, and then with each other in order.
template <typename Acc>
void suppress_run(
    const Acc* boxes, const std::vector<int32_t>& order, const int32_t* ranks, int64_t count, const OverlapRule& rule,
    KeptBoxes<Acc>& earlier, Block<Acc>& block, uint8_t* keep) {
  constexpr int64_t kBlock = 2048;
  constexpr int64_t kWorthAThread = 1 << 25;  // comparisons: some milliseconds of work, since a barrier may cost one
  const auto overlaps_any = MRB_PICK(overlaps_any<Acc>);
  const auto strike_out = MRB_PICK(strike_out<Acc>);
  if (count > kBlock) {
    earlier.clear();
  }
  std::vector<uint8_t> gone(std::min(kBlock, count), 0);
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t in_block = std::min(count - first, kBlock);
    block.candidates.clear();
    for (int64_t i = first; i < first + in_block; ++i) {
      block.candidates.emplace_back(boxes + 4 * static_cast<int64_t>(order[ranks[i]]), rule);
    }
    if (first > 0) {
      const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, earlier.count));
      torch::stable::parallel_for(0, in_block, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          gone[i] = overlaps_any(earlier, block.candidates[i], rule);
        }
      });
    }
    block.arrange();
    for (int64_t i = 0; i < in_block; ++i) {
      if (gone[i] || block.is_struck(i)) {
        continue;
      }
      keep[ranks[first + i]] = 1;
      if (block.candidates[i].overlaps) {
        strike_out(block, block.candidates[i], rule);
        if (first + in_block < count) {
          earlier.add(block.candidates[i]);
        }
      }
    }
  }
}

// Indices of the survivors from high score to low.
std::vector<int64_t> survivors(
    const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold, int64_t offset) {
  const std::vector<int32_t> order = order_by_score(scores);
  if (order.empty()) {
    return {};
  }
  const Runs runs = split_by_group(order, groups);
  const OverlapRule rule(threshold, offset);
  std::vector<uint8_t> keep(order.size(), 0);
  const auto suppress = [&](const auto* corners) {
    using Acc = std::remove_cv_t<std::remove_pointer_t<decltype(corners)>>;
    int64_t longest = 0;
    for (int64_t run = 0; run < runs.count(); ++run) {
      longest = std::max(longest, runs.starts[run + 1] - runs.starts[run]);
    }
    const auto suppress_runs = [&](int64_t begin, int64_t end) {
      KeptBoxes<Acc> earlier;
      Block<Acc> block;
      for (int64_t run = begin; run < end; ++run) {
        const int64_t start = runs.starts[run];
        suppress_run(
            corners, order, runs.ranks.data() + start, runs.starts[run + 1] - start, rule, earlier, block, keep.data());
      }
    };
    const int64_t count = static_cast<int64_t>(order.size());
    if (longest * 2 >= count) {  // also if there is none: no division by zero below
      suppress_runs(0, runs.count());  // one run has most of the work: the threads share its blocks
    } else {
      const int64_t grain = std::max<int64_t>(1, runs.count() * 4096 / count);  // runs per thread
      torch::stable::parallel_for(0, runs.count(), grain, suppress_runs);
    }
  };
  if (boxes.scalar_type() == ScalarType::Double) {
    const Tensor corners = dense(boxes, ScalarType::Double);
    suppress(corners.const_data_ptr<double>());
  } else {
    const Tensor corners = dense(boxes, ScalarType::Float);
    suppress(corners.const_data_ptr<float>());
  }
  std::vector<int64_t> kept;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    if (keep[rank]) {
      kept.push_back(order[rank]);
    }
  }
  return kept;
}

Tensor as_tensor(const std::vector<int64_t>& values, const Tensor& like) {
  const int64_t size = static_cast<int64_t>(values.size());
  Tensor tensor = torch::stable::empty({size}, ScalarType::Long, std::nullopt, like.device());
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

Tensor nms_cpu(const Tensor& boxes, const Tensor& scores, double threshold, int64_t offset) {
  check_nms("nms", boxes, scores, std::nullopt, threshold, offset);
  return as_tensor(survivors(boxes, scores, std::nullopt, threshold, offset), boxes);
}

Tensor batched_nms_cpu(
    const Tensor& boxes, const Tensor& scores, const Tensor& groups, double threshold, int64_t offset) {
  check_nms("batched_nms", boxes, scores, groups, threshold, offset);
  return as_tensor(survivors(boxes, scores, groups, threshold, offset), boxes);
}

Tensor nms_padded_cpu(
    const Tensor& boxes, const Tensor& scores, std::optional<Tensor> groups, double threshold, int64_t offset,
    int64_t max_out) {
  check_nms("nms_padded", boxes, scores, groups, threshold, offset);
  check_max_out("nms_padded", max_out);
  std::vector<int64_t> kept = survivors(boxes, scores, groups, threshold, offset);
  kept.resize(max_out, -1);
  return as_tensor(kept, boxes);
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("nms", TORCH_BOX(&maskrcnn_benchmark::nms_cpu));
  m.impl("batched_nms", TORCH_BOX(&maskrcnn_benchmark::batched_nms_cpu));
  m.impl("nms_padded", TORCH_BOX(&maskrcnn_benchmark::nms_padded_cpu));
}
