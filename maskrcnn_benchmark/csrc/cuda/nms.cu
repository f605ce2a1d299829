// Greedy non-maximum suppression on CUDA, plain, in groups and of fixed size. Twin of cpu/nms.cpp.
//
// Boxes are sorted by group and then by score. For some thousand rows at a time, many blocks compute a bit matrix:
// which later boxes does each row overlap too much? Then one block goes through the rows in order and collects what the
// kept rows suppress. The host synchronises once, to read the number of survivors; with an output of fixed size it does
// not synchronise.
#include "common.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../box_geometry.h"
#include "../nms_checks.h"

namespace maskrcnn_benchmark {
namespace {

constexpr int kWord = 64;  // boxes per word of bits
constexpr int kRowsAtATime = 4096;  // bounds the memory for bits to 512 bytes per box
constexpr int kThreads = 256;
constexpr int kWideThreads = 1024;  // for kernels that run as a single block

// A box with the values that the overlap test needs. `slack` bounds the rounding error that it adds to the test.
template <typename Acc>
struct Entry {
  Box<Acc> box;
  Acc area, slack;
  int64_t group;
};

// aten::sort with stable=True. Called through the dispatcher, since the headers of older versions lack it.
std::tuple<Tensor, Tensor> stable_sort(const Tensor& values, bool descending) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(static_cast<int64_t>(0)), torch::stable::detail::from(descending)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

template <typename Acc>
__device__ Acc lowest() {
  return -static_cast<Acc>(INFINITY);
}

// Scores that are not finite become -inf, which marks a box as dropped; -0 becomes 0.
template <typename Acc>
__global__ void mask_scores(const Acc* scores, int64_t count, Acc* masked) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    masked[i] = isfinite(scores[i]) ? scores[i] + Acc(0) : lowest<Acc>();
  }
}

__global__ void gather(const int64_t* values, const int64_t* indices, int64_t count, int64_t* gathered) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    gathered[i] = values[indices[i]];
  }
}

// Writes the boxes in the order of suppression. `ranks` maps that order to ranks by score; null if they are the same.
// Sets bit i of `gone` for dropped boxes and past the end.
template <typename Acc, typename Score>
__global__ void arrange(
    const Acc* boxes, const Score* sorted_scores, const int64_t* order, const int64_t* groups, const int64_t* ranks,
    int64_t count, Acc offset, Entry<Acc>* entries, unsigned long long* gone) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t rank = ranks == nullptr ? i : ranks[i];
    const Acc* corners = boxes + 4 * order[rank];
    Entry<Acc> entry;
    entry.box = {corners[0], corners[1], corners[2], corners[3]};
    const Acc width = box_width(entry.box, offset), height = box_height(entry.box, offset);
    const Acc rounding = sizeof(Acc) == 4 ? Acc(1e-6) : Acc(1e-14);
    entry.area = width * height;
    entry.slack = rounding * (fabs(width) + offset) * (fabs(height) + offset);
    entry.group = groups == nullptr ? 0 : groups[order[rank]];
    entries[i] = entry;
    if (sorted_scores[rank] == lowest<Score>()) {
      atomicOr(gone + i / kWord, 1ULL << (i % kWord));
    }
    if (i == count - 1 && count % kWord != 0) {
      atomicOr(gone + i / kWord, ~0ULL << (count % kWord));
    }
  }
}

// Does the first box suppress the second? Decided in the boxes' own precision if that is certain, else in double.
template <typename Acc>
__device__ bool suppresses(const Entry<Acc>& a, const Entry<Acc>& b, double threshold, int offset) {
  if (a.group != b.group) {
    return false;
  }
  const Acc shared = intersection_area(a.box, b.box, static_cast<Acc>(offset));
  const Acc excess = shared - static_cast<Acc>(threshold) * (a.area + b.area - shared);
  const Acc slack = a.slack + b.slack;
  if (excess < -slack) {
    return false;
  }
  // an inverted box has a negative area, so `excess` may be positive without a shared area
  if (shared > 0 && excess > slack) {
    return true;
  }
  const Box<double> first{a.box.x1, a.box.y1, a.box.x2, a.box.y2}, second{b.box.x1, b.box.y1, b.box.x2, b.box.y2};
  return boxes_overlap(first, second, threshold, static_cast<double>(offset));
}

// bits[(row - first_row) * words + word]: which boxes of that word the row overlaps too much. In the row's own word
// only boxes before the row are compared; in later words all are; earlier words are not written. A block of kWord
// threads compares the rows of one word, one per thread, with the boxes of one word.
template <typename Acc>
__global__ void __launch_bounds__(kWord) find_overlaps(
    const Entry<Acc>* entries, int64_t count, int64_t first_row, double threshold, int offset,
    const unsigned long long* gone, int64_t words, unsigned long long* bits) {
  __shared__ Entry<Acc> columns[kWord];
  const int64_t row_word = first_row / kWord + blockIdx.y;
  const int64_t row = row_word * kWord + threadIdx.x;
  const int64_t word = row_word + blockIdx.x;
  if (word >= words) {
    return;  // for all threads alike
  }
  const int64_t column = word * kWord + threadIdx.x;
  if (column < count) {
    columns[threadIdx.x] = entries[column];
  }
  __syncthreads();
  if (row >= count) {
    return;
  }
  unsigned long long found = 0;
  if (!(gone[row_word] >> threadIdx.x & 1)) {
    const Entry<Acc> entry = entries[row];
    const int present = static_cast<int>(count - word * kWord < kWord ? count - word * kWord : kWord);
    // sorted by group: often the whole word belongs to other groups
    if (columns[0].group <= entry.group && entry.group <= columns[present - 1].group) {
      if (word == row_word) {
        for (int k = 0; k < static_cast<int>(threadIdx.x); ++k) {
          found |= suppresses(columns[k], entry, threshold, offset) ? 1ULL << k : 0;
        }
      } else {
        for (int k = 0; k < present; ++k) {
          found |= suppresses(entry, columns[k], threshold, offset) ? 1ULL << k : 0;
        }
      }
    }
  }
  bits[(row - first_row) * words + word] = found;
}

// The candidates of a word that survive; must be called by all lanes of a warp. Lane i knows which earlier boxes would
// suppress boxes i and i + 32. Each round is right for at least one more box than the round before, so a round without
// a change is right for all. Chains of suppression are short, so there are few rounds.
__device__ unsigned long long survivors_of_word(unsigned long long candidates, const unsigned long long (&earlier)[2]) {
  unsigned long long kept = candidates, before;
  do {
    before = kept;
    const unsigned int low = __ballot_sync(0xffffffffu, (earlier[0] & before) == 0);
    const unsigned int high = __ballot_sync(0xffffffffu, (earlier[1] & before) == 0);
    kept = candidates & (static_cast<unsigned long long>(high) << 32 | low);
  } while (kept != before);
  return kept;
}

// Runs as one block. Goes through the rows [first_row, last_row) in order, completes `gone` and marks kept boxes by
// rank.
__global__ void __launch_bounds__(kWideThreads) collect(
    const unsigned long long* __restrict__ bits, int64_t first_row, int64_t last_row, int64_t words,
    const int64_t* ranks, unsigned long long* gone, uint8_t* kept_by_rank) {
  // later words at a time; several threads share the rows of each, so that many loads are in flight
  constexpr int kColumns = 128;
  __shared__ unsigned long long kept;
  __shared__ int rows[kWord];  // the kept rows, relative to the first of the word
  for (int64_t word = first_row / kWord; word * kWord < last_row; ++word) {
    const int64_t base = word * kWord;
    if (threadIdx.x < 32) {
      unsigned long long earlier[2];
      for (int half = 0; half < 2; ++half) {
        const int64_t row = base + threadIdx.x + 32 * half;
        earlier[half] = row < last_row ? bits[(row - first_row) * words + word] : 0;
      }
      const unsigned long long found = survivors_of_word(~gone[word], earlier);
      if (threadIdx.x == 0) {
        kept = found;
      }
    }
    __syncthreads();
    const unsigned long long survivors = kept;
    if (threadIdx.x < kWord && (survivors >> threadIdx.x & 1)) {
      const int64_t row = base + threadIdx.x;
      kept_by_rank[ranks == nullptr ? row : ranks[row]] = 1;
      rows[__popcll(survivors & ((1ULL << threadIdx.x) - 1))] = static_cast<int>(threadIdx.x);
    }
    __syncthreads();
    const int count = __popcll(survivors);
    for (int64_t later = word + 1 + threadIdx.x % kColumns; later < words; later += kColumns) {
      unsigned long long lost = 0;
#pragma unroll
      for (int i = 0; i < kWord / (kWideThreads / kColumns); ++i) {
        const int k = static_cast<int>(threadIdx.x) / kColumns + i * (kWideThreads / kColumns);
        lost |= k < count ? bits[(base - first_row + rows[k]) * words + later] : 0;
      }
      if (lost != 0) {
        atomicOr(gone + later, lost);
      }
    }
    __syncthreads();  // `gone` of the next word is complete, and shared memory may be reused
  }
}

// Runs as one block. Writes at most `limit` indices of kept boxes in the order of their ranks, and their number.
__global__ void __launch_bounds__(kWideThreads) compact(
    const uint8_t* kept_by_rank, const int64_t* order, int64_t count, int64_t limit, int64_t* indices,
    int64_t* written) {
  __shared__ int per_warp[kWideThreads / 32];
  __shared__ int64_t total;
  if (threadIdx.x == 0) {
    total = 0;
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t base = 0; base < count; base += blockDim.x) {
    const int64_t rank = base + threadIdx.x;
    const bool keep = rank < count && kept_by_rank[rank];
    const unsigned int ballot = __ballot_sync(0xffffffffu, keep);
    if (lane == 0) {
      per_warp[warp] = __popc(ballot);
    }
    __syncthreads();
    int64_t position = total + __popc(ballot & ((1u << lane) - 1));
    int in_tile = 0;
    for (int w = 0; w < kWideThreads / 32; ++w) {
      position += w < warp ? per_warp[w] : 0;
      in_tile += per_warp[w];
    }
    if (keep && position < limit) {
      indices[position] = order[rank];
    }
    __syncthreads();  // all threads have read `total`; the next round reads it after its own barrier
    if (threadIdx.x == 0) {
      total += in_tile;
    }
  }
  if (threadIdx.x == 0) {
    *written = total < limit ? total : limit;
  }
}

__global__ void fill(int64_t* values, int64_t count, int64_t value) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    values[i] = value;
  }
}

Tensor scratch(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::empty({size}, type, std::nullopt, like.device());
}

// The values in the type that kernels compute in: float or double.
Tensor widened(const Tensor& values) {
  const ScalarType type = values.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return dense(values, type);
}

struct ByScore {
  Tensor scores, order;
};

template <typename Score>
ByScore sort_by_score(const Tensor& scores, cudaStream_t stream) {
  const int64_t count = scores.size(0);
  Tensor masked = scratch(scores, count, scores.scalar_type());
  mask_scores<Score><<<grid_size(count, kThreads), kThreads, 0, stream>>>(
      scores.const_data_ptr<Score>(), count, masked.mutable_data_ptr<Score>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  auto [sorted, order] = stable_sort(masked, /*descending=*/true);
  return {sorted, order};
}

template <typename Acc, typename Score>
void suppress(
    const Tensor& boxes, const ByScore& by_score, const std::optional<Tensor>& groups,
    const std::optional<Tensor>& ranks, double threshold, int64_t offset, Tensor& kept_by_rank, cudaStream_t stream) {
  const int64_t count = boxes.size(0);
  const int64_t words = (count + kWord - 1) / kWord;
  const int64_t* ranks_data = ranks ? ranks->const_data_ptr<int64_t>() : nullptr;
  Tensor entries_storage = scratch(boxes, count * static_cast<int64_t>(sizeof(Entry<Acc>)), ScalarType::Byte);
  Entry<Acc>* entries = static_cast<Entry<Acc>*>(entries_storage.data_ptr());
  Tensor gone_storage = scratch(boxes, words, ScalarType::Long);
  torch::stable::zero_(gone_storage);
  unsigned long long* gone = static_cast<unsigned long long*>(gone_storage.data_ptr());
  arrange<Acc, Score><<<grid_size(count, kThreads), kThreads, 0, stream>>>(
      boxes.const_data_ptr<Acc>(), by_score.scores.const_data_ptr<Score>(), by_score.order.const_data_ptr<int64_t>(),
      groups ? groups->const_data_ptr<int64_t>() : nullptr, ranks_data, count, static_cast<Acc>(offset), entries, gone);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  Tensor bits_storage = scratch(boxes, std::min<int64_t>(count, kRowsAtATime) * words, ScalarType::Long);
  unsigned long long* bits = static_cast<unsigned long long*>(bits_storage.data_ptr());
  for (int64_t first = 0; first < count; first += kRowsAtATime) {
    const int64_t last = std::min(count, first + kRowsAtATime);
    const int64_t row_words = (last - first + kWord - 1) / kWord;
    const dim3 grid(static_cast<unsigned int>(words - first / kWord), static_cast<unsigned int>(row_words));
    find_overlaps<Acc>
        <<<grid, kWord, 0, stream>>>(entries, count, first, threshold, static_cast<int>(offset), gone, words, bits);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    collect<<<1, kWideThreads, 0, stream>>>(
        bits, first, last, words, ranks_data, gone, static_cast<uint8_t*>(kept_by_rank.data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

// The indices of the first `limit` survivors from high score to low, then -1, and their number; both stay on the
// device.
struct Survivors {
  Tensor indices, count;
};

Survivors survivors(
    const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold, int64_t offset,
    int64_t limit) {
  const int64_t count = boxes.size(0);
  const cudaStream_t stream = current_stream(boxes);
  Survivors found{scratch(boxes, limit, ScalarType::Long), scratch(boxes, 1, ScalarType::Long)};
  if (limit > 0) {
    fill<<<grid_size(limit, kThreads), kThreads, 0, stream>>>(found.indices.mutable_data_ptr<int64_t>(), limit, -1);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  if (count == 0) {
    torch::stable::zero_(found.count);
    return found;
  }
  const Tensor wide_boxes = widened(boxes), wide_scores = widened(scores);
  const bool double_boxes = wide_boxes.scalar_type() == ScalarType::Double;
  const bool double_scores = wide_scores.scalar_type() == ScalarType::Double;
  const ByScore by_score =
      double_scores ? sort_by_score<double>(wide_scores, stream) : sort_by_score<float>(wide_scores, stream);
  std::optional<Tensor> ranks, dense_groups;
  if (groups) {
    dense_groups = dense(*groups, ScalarType::Long);
    Tensor group_by_rank = scratch(boxes, count, ScalarType::Long);
    gather<<<grid_size(count, kThreads), kThreads, 0, stream>>>(
        dense_groups->const_data_ptr<int64_t>(), by_score.order.const_data_ptr<int64_t>(), count,
        group_by_rank.mutable_data_ptr<int64_t>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    ranks = std::get<1>(stable_sort(group_by_rank, /*descending=*/false));
  }
  Tensor kept_by_rank = scratch(boxes, count, ScalarType::Byte);
  torch::stable::zero_(kept_by_rank);
  const auto run = [&](auto box_zero, auto score_zero) {
    suppress<decltype(box_zero), decltype(score_zero)>(
        wide_boxes, by_score, dense_groups, ranks, threshold, offset, kept_by_rank, stream);
  };
  if (double_boxes) {
    double_scores ? run(0.0, 0.0) : run(0.0, 0.0f);
  } else {
    double_scores ? run(0.0f, 0.0) : run(0.0f, 0.0f);
  }
  compact<<<1, kWideThreads, 0, stream>>>(
      static_cast<const uint8_t*>(kept_by_rank.data_ptr()), by_score.order.const_data_ptr<int64_t>(), count, limit,
      found.indices.mutable_data_ptr<int64_t>(), found.count.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return found;
}

// Trims the indices to the number of survivors. The only place where the host synchronises.
Tensor trim_to_count(const Survivors& found, cudaStream_t stream) {
  int64_t count = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&count, found.count.data_ptr(), sizeof(count), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  Tensor indices = found.indices;
  return torch::stable::narrow(indices, 0, 0, count);
}

Tensor nms_cuda(const Tensor& boxes, const Tensor& scores, double threshold, int64_t offset) {
  check_nms("nms", boxes, scores, std::nullopt, threshold, offset);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  return trim_to_count(survivors(boxes, scores, std::nullopt, threshold, offset, boxes.size(0)), current_stream(boxes));
}

Tensor batched_nms_cuda(
    const Tensor& boxes, const Tensor& scores, const Tensor& groups, double threshold, int64_t offset) {
  check_nms("batched_nms", boxes, scores, groups, threshold, offset);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  return trim_to_count(survivors(boxes, scores, groups, threshold, offset, boxes.size(0)), current_stream(boxes));
}

Tensor nms_padded_cuda(
    const Tensor& boxes, const Tensor& scores, std::optional<Tensor> groups, double threshold, int64_t offset,
    int64_t max_out) {
  check_nms("nms_padded", boxes, scores, groups, threshold, offset);
  check_max_out("nms_padded", max_out);
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  return survivors(boxes, scores, groups, threshold, offset, max_out).indices;
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CUDA, m) {
  m.impl("nms", TORCH_BOX(&maskrcnn_benchmark::nms_cuda));
  m.impl("batched_nms", TORCH_BOX(&maskrcnn_benchmark::batched_nms_cuda));
  m.impl("nms_padded", TORCH_BOX(&maskrcnn_benchmark::nms_padded_cuda));
}
