// The inner loop of NMS, compiled once per instruction set (see per_isa.h), hence without an include guard.

#include "lanes.h"

// Whether any box of a chunk overlaps the candidate too much. A vector at a time, in the boxes' own precision and with slack
// for its rounding; where that leaves it open, boxes_overlap, in double, decides.
template <typename Acc>
inline bool overlaps_chunk(const KeptChunk<Acc>& chunk, const Candidate<Acc>& candidate, const OverlapRule& rule) {
  using V = Lanes<Acc>;
  constexpr int kLanes = KeptChunk<Acc>::kLanes;
  const V x1 = V::of(candidate.box.x1), y1 = V::of(candidate.box.y1);
  const V x2 = V::of(candidate.box.x2), y2 = V::of(candidate.box.y2);
  const V bound = V::of(candidate.bound), pixel = V::of(static_cast<Acc>(rule.offset)), zero = V::zero();
  bool unclear = false;
  for (int k = 0; k < kLanes; k += V::kCount) {
    const V width = V::smaller(V::load(chunk.x2 + k), x2) - V::larger(V::load(chunk.x1 + k), x1) + pixel;
    const V height = V::smaller(V::load(chunk.y2 + k), y2) - V::larger(V::load(chunk.y1 + k), y1) + pixel;
    const V shared = V::larger(width, zero) * V::larger(height, zero);
    const V limit = V::load(chunk.bound + k) + bound;
    if (shared.any_greater(limit)) {
      if (shared.any_greater(limit * V::of(candidate.certain))) {
        return true;
      }
      unclear = true;
    }
  }
  if (!unclear) {
    return false;
  }
  const Box<double> exact{candidate.box.x1, candidate.box.y1, candidate.box.x2, candidate.box.y2};
  int overlaps = 0;
  for (int k = 0; k < kLanes; ++k) {
    overlaps |= boxes_overlap({chunk.x1[k], chunk.y1[k], chunk.x2[k], chunk.y2[k]}, exact, rule.threshold, rule.offset);
  }
  return overlaps != 0;
}

// Whether any kept box overlaps the candidate too much.
template <typename Acc>
bool overlaps_any(const KeptBoxes<Acc>& kept, const Candidate<Acc>& candidate, const OverlapRule& rule) {
  if (!candidate.overlaps) {
    return false;
  }
  const KeptChunk<Acc>* chunks = kept.chunks.data();
  const int32_t last = candidate.last_drawer >> kept.shift;
  for (int32_t at = kept.first_from[candidate.first_drawer >> kept.shift]; chunks[at].drawer <= last; at = chunks[at].next) {
    if (overlaps_chunk(chunks[at], candidate, rule)) {
      return true;
    }
  }
  return false;
}
