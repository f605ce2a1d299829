// The inner loop of NMS, compiled once per instruction set (see per_isa.h), hence without an include guard.

#include "lanes.h"

// Whether any of the kept boxes [first, last), or another in the same chunks, overlaps the candidate too much. A vector at a time, in the boxes' own
// precision and with slack for its rounding, looks for boxes that may; boxes_overlap, in double, decides.
template <typename Acc>
bool overlaps_any(
    const KeptBoxes<Acc>& kept, int64_t first, int64_t last, const Candidate<Acc>& candidate, double threshold,
    double offset) {
  constexpr int64_t kChunk = KeptBoxes<Acc>::kChunk;
  const Acc limit = static_cast<Acc>(threshold), pixel = static_cast<Acc>(offset);
  const Box<Acc> box = candidate.box;
  const Acc area = candidate.area, slack = candidate.slack;
  for (int64_t chunk = first - first % kChunk; chunk < last; chunk += kChunk) {
    const Acc* x1 = kept.x1.data() + chunk;
    const Acc* y1 = kept.y1.data() + chunk;
    const Acc* x2 = kept.x2.data() + chunk;
    const Acc* y2 = kept.y2.data() + chunk;
    const Acc* areas = kept.area.data() + chunk;
    const Acc* slacks = kept.slack.data() + chunk;
    int may_overlap = 0;
    for (int64_t k = 0; k < kChunk; ++k) {
      const Acc left = x1[k] > box.x1 ? x1[k] : box.x1;
      const Acc top = y1[k] > box.y1 ? y1[k] : box.y1;
      const Acc right = x2[k] < box.x2 ? x2[k] : box.x2;
      const Acc bottom = y2[k] < box.y2 ? y2[k] : box.y2;
      const Acc width = right - left + pixel, height = bottom - top + pixel;
      const Acc shared = (width > 0 ? width : Acc(0)) * (height > 0 ? height : Acc(0));
      const Acc excess = shared - limit * (areas[k] + area - shared) + (slacks[k] + slack);
      may_overlap |= static_cast<int>(shared > 0) & static_cast<int>(!(excess < 0));
    }
    if (may_overlap != 0) {
      const Box<double> exact{box.x1, box.y1, box.x2, box.y2};
      int overlaps = 0;
      for (int64_t k = 0; k < kChunk; ++k) {
        overlaps |= boxes_overlap({x1[k], y1[k], x2[k], y2[k]}, exact, threshold, offset);
      }
      if (overlaps != 0) {
        return true;
      }
    }
  }
  return false;
}
