// The inner loops of NMS. Compiled once per instruction set (per_isa.h), so there is no include guard.

#include "lanes.h"

// Which boxes of a group does the candidate overlap too much? One bit per box. Compares a vector at a time in the
// boxes' own precision, with slack for rounding. Within the slack boxes_overlap decides in double.
template <typename Acc>
inline unsigned overlapped(const BoxLanes<Acc>& boxes, const Candidate<Acc>& candidate, const OverlapRule& rule) {
  using V = Lanes<Acc>;
  const V x1 = V::of(candidate.box.x1), y1 = V::of(candidate.box.y1);
  const V x2 = V::of(candidate.box.x2), y2 = V::of(candidate.box.y2);
  const V lower = V::of(candidate.lower), upper = V::of(candidate.upper);
  const V pixel = V::of(static_cast<Acc>(rule.offset)), zero = V::zero();
  unsigned may = 0, must = 0;
  for (int k = 0; k < BoxLanes<Acc>::kLanes; k += V::kCount) {
    const V width = V::smaller(V::load(boxes.x2 + k), x2) - V::larger(V::load(boxes.x1 + k), x1) + pixel;
    const V height = V::smaller(V::load(boxes.y2 + k), y2) - V::larger(V::load(boxes.y1 + k), y1) + pixel;
    const V shared = V::larger(width, zero) * V::larger(height, zero);
    may |= shared.greater(V::load(boxes.lower + k) + lower) << k;
    must |= shared.greater(V::load(boxes.upper + k) + upper) << k;
  }
  if (may != must) {
    const Box<double> exact{candidate.box.x1, candidate.box.y1, candidate.box.x2, candidate.box.y2};
    for (int k = 0; k < BoxLanes<Acc>::kLanes; ++k) {
      if ((may & ~must) >> k & 1) {
        must |= static_cast<unsigned>(boxes_overlap(
                    {boxes.x1[k], boxes.y1[k], boxes.x2[k], boxes.y2[k]}, exact, rule.threshold, rule.offset))
            << k;
      }
    }
  }
  return must;
}

// Does any kept box overlap the candidate too much?
template <typename Acc>
bool overlaps_any(const KeptBoxes<Acc>& kept, const Candidate<Acc>& candidate, const OverlapRule& rule) {
  if (!candidate.overlaps) {
    return false;
  }
  const KeptChunk<Acc>* chunks = kept.chunks.data();
  for (int32_t at = kept.first_from[candidate.first_drawer]; chunks[at].drawer <= candidate.last_drawer;
       at = chunks[at].next) {
    if (overlapped(chunks[at].boxes, candidate, rule) != 0) {
      return true;
    }
  }
  return false;
}

// Strikes out all candidates of the block that a kept one overlaps too much, including itself.
template <typename Acc>
void strike_out(Block<Acc>& block, const Candidate<Acc>& kept, const OverlapRule& rule) {
  constexpr int32_t kLanes = BoxLanes<Acc>::kLanes;
  const int32_t first = block.first_of_drawer[kept.first_drawer >> block.shift];
  const int32_t last = block.first_of_drawer[(kept.last_drawer >> block.shift) + 1];
  for (int32_t group = first / kLanes; group * kLanes < last; ++group) {
    block.struck[group] = static_cast<uint16_t>(block.struck[group] | overlapped(block.lanes[group], kept, rule));
  }
}
