// Greedy non-maximum suppression on the CPU, plain, in groups and of fixed size. Twin of cuda/nms.cu.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "../box_geometry.h"
#include "../nms_checks.h"
#include "per_isa.h"

namespace maskrcnn_benchmark {

template <typename Acc>
struct Candidate {
  Box<Acc> box;
  Acc area, slack;  // slack: bound of the rounding errors that this box brings into an overlap test

  Candidate(const Acc* corners, Acc offset) : box{corners[0], corners[1], corners[2], corners[3]} {
    const Acc width = box_width(box, offset), height = box_height(box, offset);
    area = width * height;
    const Acc rounding = sizeof(Acc) == 4 ? Acc(1e-6) : Acc(1e-14);
    slack = rounding * (std::abs(width) + offset) * (std::abs(height) + offset);
  }
};

// The boxes that survived so far, coordinate by coordinate, and padded to whole chunks with boxes that overlap nothing.
template <typename Acc>
struct KeptBoxes {
  static constexpr int64_t kChunk = 64;
  std::vector<Acc> x1, y1, x2, y2, area, slack;
  int64_t count = 0;

  void clear() {
    for (std::vector<Acc>* column : {&x1, &y1, &x2, &y2, &area, &slack}) {
      column->clear();
    }
    count = 0;
  }

  void add(const Candidate<Acc>& candidate) {
    if (count % kChunk == 0) {
      const size_t padded = static_cast<size_t>(count + kChunk);
      x1.resize(padded, Acc(3e38));
      y1.resize(padded, Acc(3e38));
      x2.resize(padded, Acc(-3e38));
      y2.resize(padded, Acc(-3e38));
      area.resize(padded, Acc(0));
      slack.resize(padded, Acc(0));
    }
    x1[count] = candidate.box.x1;
    y1[count] = candidate.box.y1;
    x2[count] = candidate.box.x2;
    y2[count] = candidate.box.y2;
    area[count] = candidate.area;
    slack[count] = candidate.slack;
    ++count;
  }
};

}  // namespace maskrcnn_benchmark

#define MRB_KERNELS "nms_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A key that orders as an unsigned number the way that finite scores order from high to low.
inline uint32_t descending_key(float score) {
  score += 0.0f;  // -0 and 0 are one score
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Sorts by the upper 32 bits; equal ones stay in order. kDigit bits a pass: long tables pay for many keys only.
template <int kDigit>
void radix_sort_upper(std::vector<uint64_t>& keys) {
  constexpr uint64_t kMask = (1 << kDigit) - 1;
  std::vector<uint64_t> other(keys.size());
  std::array<uint32_t, kMask + 2> position;
  for (int shift = 32; shift < 64; shift += kDigit) {
    position.fill(0);
    for (const uint64_t key : keys) {
      ++position[((key >> shift) & kMask) + 1];
    }
    for (size_t digit = 0; digit <= kMask; ++digit) {
      position[digit + 1] += position[digit];
    }
    for (const uint64_t key : keys) {
      other[position[(key >> shift) & kMask]++] = key;
    }
    keys.swap(other);
  }
}

// Indices of the finite scores from high to low; the lower index first among equals.
std::vector<int32_t> order_by_score(const Tensor& scores) {
  const int64_t count = scores.size(0);
  std::vector<int32_t> order;
  order.reserve(count);
  if (scores.scalar_type() == ScalarType::Double) {
    const Tensor dense = torch::stable::contiguous(scores);
    const double* values = dense.const_data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) {
      if (std::isfinite(values[i])) {
        order.push_back(static_cast<int32_t>(i));
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
    return order;
  }
  const Tensor dense = torch::stable::contiguous(torch::stable::to(scores, ScalarType::Float));
  const float* values = dense.const_data_ptr<float>();
  std::vector<uint64_t> keys;
  keys.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) {
      keys.push_back(static_cast<uint64_t>(descending_key(values[i])) << 32 | static_cast<uint64_t>(i));
    }
  }
  if (keys.size() > 8192) {
    radix_sort_upper<11>(keys);
  } else if (keys.size() > 64) {
    radix_sort_upper<8>(keys);
  } else {
    std::sort(keys.begin(), keys.end());
  }
  for (const uint64_t key : keys) {
    order.push_back(static_cast<int32_t>(key & 0xffffffffu));
  }
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
  const Tensor dense = torch::stable::contiguous(*groups);
  const int64_t* group_of = dense.const_data_ptr<int64_t>();
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
    const Acc* boxes, const std::vector<int32_t>& order, const int32_t* ranks, int64_t count, double threshold,
    int64_t offset, KeptBoxes<Acc>& kept, uint8_t* keep) {
  constexpr int64_t kBlock = 2048;
  constexpr int64_t kWorthAThread = 1 << 24;  // overlap tests; some milliseconds, for a barrier may cost one
  const auto overlaps_any = MRB_PICK(overlaps_any<Acc>);
  const auto candidate_at = [&](int64_t i) {
    return Candidate<Acc>(boxes + 4 * static_cast<int64_t>(order[ranks[i]]), static_cast<Acc>(offset));
  };
  kept.clear();
  std::vector<uint8_t> gone(std::min(kBlock, count));
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t block_end = std::min(count, block + kBlock);
    const int64_t before = kept.count;
    if (before > 0) {
      const int64_t grain = std::max<int64_t>(1, kWorthAThread / before);
      torch::stable::parallel_for(block, block_end, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          gone[i - block] = overlaps_any(kept, 0, before, candidate_at(i), threshold, static_cast<double>(offset));
        }
      });
    }
    for (int64_t i = block; i < block_end; ++i) {
      if (before > 0 && gone[i - block]) {
        continue;
      }
      const Candidate<Acc> candidate = candidate_at(i);
      if (!overlaps_any(kept, before, kept.count, candidate, threshold, static_cast<double>(offset))) {
        kept.add(candidate);
        keep[ranks[i]] = 1;
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
  std::vector<uint8_t> keep(order.size(), 0);
  const auto suppress = [&](const auto* corners) {
    using Acc = std::remove_cv_t<std::remove_pointer_t<decltype(corners)>>;
    int64_t longest = 0;
    for (int64_t run = 0; run < runs.count(); ++run) {
      longest = std::max(longest, runs.starts[run + 1] - runs.starts[run]);
    }
    const auto suppress_runs = [&](int64_t begin, int64_t end) {
      KeptBoxes<Acc> kept;
      for (int64_t run = begin; run < end; ++run) {
        const int64_t start = runs.starts[run];
        suppress_run(
            corners, order, runs.ranks.data() + start, runs.starts[run + 1] - start, threshold, offset, kept,
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
    const Tensor dense = torch::stable::contiguous(boxes);
    suppress(dense.const_data_ptr<double>());
  } else {
    const Tensor dense = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
    suppress(dense.const_data_ptr<float>());
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
