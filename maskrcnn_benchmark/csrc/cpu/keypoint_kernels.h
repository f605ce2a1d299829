// The loops of heatmap decoding. Compiled once per instruction set (per_isa.h), so there is no include guard.

// Interpolates a row horizontally: widened[x] is the weighted sum of the four cells before[x] - 1 .. before[x] + 2.
// `padded` has two more cells on each side of the row.
inline void widen_row_cubic(
    const float* padded, const int32_t* before, const float* weights, int64_t weight_stride, int64_t first,
    int64_t last, float* widened) {
  const float* weight_0 = weights;
  const float* weight_1 = weights + weight_stride;
  const float* weight_2 = weights + 2 * weight_stride;
  const float* weight_3 = weights + 3 * weight_stride;
  for (int64_t x = first; x < last; ++x) {
    const float* cells = padded + before[x];
    widened[x] = weight_0[x] * cells[0] + weight_1[x] * cells[1] + weight_2[x] * cells[2] + weight_3[x] * cells[3];
  }
}

// Interpolates vertically: a row of pixels is the weighted sum of four widened rows. Returns its largest value.
inline float mix_rows(const float* const* rows, const float* weights, int64_t first, int64_t last, float* values) {
  const float *row_0 = rows[0], *row_1 = rows[1], *row_2 = rows[2], *row_3 = rows[3];
  const float weight_0 = weights[0], weight_1 = weights[1], weight_2 = weights[2], weight_3 = weights[3];
  constexpr int64_t kLanes = 32;
  float largest[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    largest[lane] = -INFINITY;
  }
  int64_t x = first;
  for (; x + kLanes <= last; x += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t at = x + lane;
      const float value = weight_0 * row_0[at] + weight_1 * row_1[at] + weight_2 * row_2[at] + weight_3 * row_3[at];
      values[at] = value;
      largest[lane] = value > largest[lane] ? value : largest[lane];
    }
  }
  float best = -INFINITY;
  for (; x < last; ++x) {
    const float value = weight_0 * row_0[x] + weight_1 * row_1[x] + weight_2 * row_2[x] + weight_3 * row_3[x];
    values[x] = value;
    best = value > best ? value : best;
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    best = largest[lane] > best ? largest[lane] : best;
  }
  return best;
}

// most[j] and least[j] are the maximum and the minimum of four values that are `stride` apart, the first at j.
inline void windows_of_four(
    const float* most_in, const float* least_in, int64_t stride, int64_t count, float* most, float* least) {
  for (int64_t j = 0; j < count; ++j) {
    const float *a = most_in + j, *b = least_in + j;
    const float upper = a[0] > a[stride] ? a[0] : a[stride];
    const float lower = a[2 * stride] > a[3 * stride] ? a[2 * stride] : a[3 * stride];
    most[j] = upper > lower ? upper : lower;
    const float upper_least = b[0] < b[stride] ? b[0] : b[stride];
    const float lower_least = b[2 * stride] < b[3 * stride] ? b[2 * stride] : b[3 * stride];
    least[j] = upper_least < lower_least ? upper_least : lower_least;
  }
}
