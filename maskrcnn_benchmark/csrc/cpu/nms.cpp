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
#include "per_isa.h"
#include "score_order.h"
#include "tensors.h"

namespace maskrcnn_benchmark {

// Boxes whose intersection over union exceeds a threshold have areas whose ratio exceeds it too. Kept boxes are therefore
// filed by the octave of their area, four drawers each, and a candidate looks into the few drawers that matter.
struct Drawers {
  static constexpr int kCount = 256;
  static constexpr int kFirstOctave = -12;  // smaller areas share the first drawer, those above octave 52 the last

  static int of_area(double area) {  // positive; the sign, the exponent and two bits of the mantissa grow with it
    int64_t bits;
    std::memcpy(&bits, &area, sizeof(bits));
    const int64_t quarters = (bits >> 50) - (1023 + kFirstOctave) * 4;
    return static_cast<int>(std::min<int64_t>(std::max<int64_t>(quarters, 0), kCount - 1));
  }
};

// Whether two boxes overlap too much, and what of the answer can be had from one of them.
struct OverlapRule {
  double threshold, offset;
  double share;               // of the sum of two areas, which their common area exceeds where they overlap too much
  double ratio, inverse;      // the least ratio of such areas, less what rounding may take off, and 1 / ratio

  OverlapRule(double threshold, int64_t box_offset)
      : threshold(threshold), offset(static_cast<double>(box_offset)), share(threshold / (1 + threshold)),
        ratio(threshold * (1 - 1e-9)), inverse(1 / std::max(ratio, 1e-30)) {}
};

template <typename Acc>
struct Candidate {
  Box<Acc> box;
  // Two boxes whose common area is at most the sum of their bounds do not overlap too much. If it is more than the sum times
  // `certain`, they do. In between, rounding may have decided.
  Acc bound, certain;
  bool overlaps;  // can it overlap anything? Not where it covers nothing, is infinite or not a number.
  int drawer, first_drawer, last_drawer;  // its own, and those of the boxes that it can overlap too much

  Candidate(const Acc* corners, const OverlapRule& rule) : box{corners[0], corners[1], corners[2], corners[3]} {
    const Box<double> wide{corners[0], corners[1], corners[2], corners[3]};
    const double width = box_width(wide, rule.offset), height = box_height(wide, rule.offset);
    const double area = width * height;
    overlaps = width > 0 && height > 0 && area > 0 && std::isfinite(area);
    constexpr bool kSingle = sizeof(Acc) == 4;
    constexpr double kRounding = kSingle ? 1e-6 : 1e-14, kMost = kSingle ? 5e37 : 5e307;  // the sum of two is finite
    bound = static_cast<Acc>(std::min(area * (rule.share - kRounding), kMost));
    certain = rule.share > 4 * kRounding && area < kMost / 8
        ? static_cast<Acc>((rule.share + kRounding) / (rule.share - kRounding))
        : std::numeric_limits<Acc>::quiet_NaN();  // never
    drawer = first_drawer = last_drawer = 0;
    if (overlaps) {
      drawer = Drawers::of_area(area);
      first_drawer = Drawers::of_area(area * rule.ratio);
      last_drawer = Drawers::of_area(area * rule.inverse);
    }
  }
};

// Boxes of one drawer that survived, coordinate by coordinate. Places that are not used hold boxes that overlap nothing.
template <typename Acc>
struct KeptChunk {
  static constexpr int kLanes = 64 / static_cast<int>(sizeof(Acc));
  alignas(64) Acc x1[kLanes];
  Acc y1[kLanes], x2[kLanes], y2[kLanes], bound[kLanes];
  int32_t drawer, next, used;

  KeptChunk(int32_t drawer, int32_t next) : drawer(drawer), next(next), used(0) {
    std::fill_n(x1, kLanes, Acc(3e38));
    std::fill_n(y1, kLanes, Acc(3e38));
    std::fill_n(x2, kLanes, Acc(-3e38));
    std::fill_n(y2, kLanes, Acc(-3e38));
    std::fill_n(bound, kLanes, Acc(0));
  }
};

// All chunks in one list, by drawer: a candidate goes through a stretch of it. One loop, for its end can hardly be predicted,
// and a second one inside would be as costly as several chunks.
template <typename Acc>
struct KeptBoxes {
  std::vector<KeptChunk<Acc>> chunks;                // chunks[0] ends the list
  std::array<int32_t, Drawers::kCount + 1> first_from;  // the first chunk of this drawer or a later one
  std::array<int32_t, Drawers::kCount> open;         // the chunk that is being filled; only of drawers that are not empty
  int64_t count = 0;
  int shift = 0;  // log2 of how many drawers of Drawers are one here

  // most: how many boxes there can be. A few are soon looked through, and would only scatter over drawers.
  void clear(int64_t most) {
    shift = most <= 128 ? 8 : most <= 2048 ? 2 : 0;
    std::fill_n(first_from.begin(), (Drawers::kCount >> shift) + 1, 0);
    chunks.clear();
    chunks.emplace_back(INT32_MAX, 0);
    count = 0;
  }

  void add(int drawer_of_area, const Box<Acc>& box, Acc bound) {
    const int drawer = drawer_of_area >> shift;
    const int32_t fresh = static_cast<int32_t>(chunks.size());
    if (chunks[first_from[drawer]].drawer != drawer) {
      const int32_t after = first_from[drawer];
      chunks.emplace_back(drawer, after);
      int before = drawer;
      for (; before >= 0 && first_from[before] == after; --before) {
        first_from[before] = fresh;
      }
      if (before >= 0) {  // the drawer before has chunks of its own, the last of which now leads here
        chunks[open[before]].next = fresh;
      }
      open[drawer] = fresh;
    } else if (chunks[open[drawer]].used == KeptChunk<Acc>::kLanes) {
      chunks.emplace_back(drawer, chunks[open[drawer]].next);
      chunks[open[drawer]].next = fresh;
      open[drawer] = fresh;
    }
    KeptChunk<Acc>& chunk = chunks[open[drawer]];
    const int lane = chunk.used++;
    chunk.x1[lane] = box.x1;
    chunk.y1[lane] = box.y1;
    chunk.x2[lane] = box.x2;
    chunk.y2[lane] = box.y2;
    chunk.bound[lane] = bound;
    ++count;
  }

  void add_all(const KeptBoxes& others) {  // of the same drawers
    for (int32_t at = others.first_from[0]; at != 0; at = others.chunks[at].next) {
      const KeptChunk<Acc>& chunk = others.chunks[at];
      for (int lane = 0; lane < chunk.used; ++lane) {
        add(chunk.drawer << shift, {chunk.x1[lane], chunk.y1[lane], chunk.x2[lane], chunk.y2[lane]}, chunk.bound[lane]);
      }
    }
  }
};

}  // namespace maskrcnn_benchmark

#define MRB_KERNELS "nms_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
  for (int64_t i = 0; i < count; ++i) {  // without a branch: every key is written, those of finite scores stay
    keys[finite] = descending_key_with_index(values[i], i);
    finite += static_cast<size_t>(std::isfinite(values[i]));
  }
  keys.resize(finite);
  sort_by_score(keys);
  order.resize(finite);
  std::transform(keys.begin(), keys.end(), order.begin(), [](uint64_t key) { return static_cast<int32_t>(key); });
  return order;
}

// Cuts the order into one run per group, each still from high to low. Returns for each run its ranks: positions in `order`.
struct Runs {
  std::vector<int32_t> ranks;
  std::vector<int64_t> starts;  // one more than there are runs

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
  if (spread < static_cast<uint64_t>(4 * count + 1024)) {  // few values in a narrow range: count them
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

// Greedy suppression within one run. Candidates come in blocks: against what earlier blocks kept they are tested in
// parallel, against each other in order.
template <typename Acc>
void suppress_run(
    const Acc* boxes, const std::vector<int32_t>& order, const int32_t* ranks, int64_t count,
    const OverlapRule& rule, KeptBoxes<Acc>& earlier, KeptBoxes<Acc>& recent, uint8_t* keep) {
  constexpr int64_t kBlock = 2048;
  constexpr int64_t kWorthAThread = 1 << 25;  // boxes kept times candidates; some milliseconds, for a barrier may cost one
  const auto overlaps_any = MRB_PICK(overlaps_any<Acc>);
  const auto candidate_at = [&](int64_t i) {
    return Candidate<Acc>(boxes + 4 * static_cast<int64_t>(order[ranks[i]]), rule);
  };
  earlier.clear(count);
  std::vector<uint8_t> gone(std::min(kBlock, count), 0);
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t block_end = std::min(count, block + kBlock);
    if (earlier.count > 0) {
      const int64_t grain = std::max<int64_t>(1, kWorthAThread / earlier.count);
      torch::stable::parallel_for(block, block_end, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          gone[i - block] = overlaps_any(earlier, candidate_at(i), rule);
        }
      });
    }
    recent.clear(count);
    for (int64_t i = block; i < block_end; ++i) {
      if (gone[i - block]) {
        continue;
      }
      const Candidate<Acc> candidate = candidate_at(i);
      if (!overlaps_any(recent, candidate, rule)) {
        keep[ranks[i]] = 1;
        if (candidate.overlaps) {
          recent.add(candidate.drawer, candidate.box, candidate.bound);
        }
      }
    }
    if (block_end < count) {
      earlier.add_all(recent);
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
      KeptBoxes<Acc> earlier, recent;
      for (int64_t run = begin; run < end; ++run) {
        const int64_t start = runs.starts[run];
        suppress_run(
            corners, order, runs.ranks.data() + start, runs.starts[run + 1] - start, rule, earlier, recent,
            keep.data());
      }
    };
    const int64_t count = static_cast<int64_t>(order.size());
    if (longest * 2 >= count) {  // also where there is nothing: no division by zero below
      suppress_runs(0, runs.count());  // one run has most of the work: the threads share its blocks
    } else {
      const int64_t grain = std::max<int64_t>(1, runs.count() * 4096 / count);  // runs that are worth a thread
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
