// Sorting by score. A 64-bit key holds the score in its upper half and the index in its lower half.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace maskrcnn_benchmark {

// A key whose ascending order is the descending order of scores. NaN comes first, as in torch.topk.
inline uint32_t descending_key(float score) {
  if (std::isnan(score)) {
    return 0;
  }
  score += 0.0f;  // -0 and 0 are the same score
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Sorts by the upper 32 bits; stable. kDigit: bits per pass. Larger tables of counts pay off for many keys only.
template <int kDigit>
void radix_sort_upper(std::vector<uint64_t>& keys) {
  if (keys.empty()) {
    return;
  }
  constexpr int kPasses = (32 + kDigit - 1) / kDigit;
  constexpr uint32_t kMask = (1 << kDigit) - 1;
  std::array<std::array<uint32_t, kMask + 1>, kPasses> counts{};
  for (const uint64_t key : keys) {
    const uint32_t upper = static_cast<uint32_t>(key >> 32);
    for (int pass = 0; pass < kPasses; ++pass) {
      ++counts[pass][(upper >> (pass * kDigit)) & kMask];
    }
  }
  std::vector<uint64_t> other(keys.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    const int shift = 32 + pass * kDigit;
    std::array<uint32_t, kMask + 1>& position = counts[pass];
    if (position[(keys.front() >> shift) & kMask] == keys.size()) {
      continue;  // all keys have this digit
    }
    uint32_t before = 0;
    for (uint32_t& count : position) {
      before += std::exchange(count, before);
    }
    for (const uint64_t key : keys) {
      other[position[(key >> shift) & kMask]++] = key;
    }
    keys.swap(other);
  }
}

inline uint64_t descending_key_with_index(float score, int64_t index) {
  return static_cast<uint64_t>(descending_key(score)) << 32 | static_cast<uint64_t>(index);
}

// Sorts by score from high to low; stable.
inline void sort_by_score(std::vector<uint64_t>& keys) {
  if (keys.size() > 8192) {
    radix_sort_upper<11>(keys);
  } else if (keys.size() > 64) {
    radix_sort_upper<8>(keys);
  } else {
    std::stable_sort(keys.begin(), keys.end(), [](uint64_t a, uint64_t b) { return a >> 32 < b >> 32; });
  }
}

}  // namespace maskrcnn_benchmark
