// The loops that search scores. Compiled once per instruction set (per_isa.h), so there is no include guard.

// maxima[j] = the largest of values[j], values[j + parts], ... for j < parts; NaN is ignored.
inline void maxima_of_parts(const float* values, int64_t count, int64_t parts, float* maxima) {
  std::fill_n(maxima, parts, -INFINITY);
  for (; count > 0; count -= parts, values += parts) {
    const int64_t present = count < parts ? count : parts;
    for (int64_t j = 0; j < present; ++j) {
      maxima[j] = values[j] > maxima[j] ? values[j] : maxima[j];
    }
  }
}

// Calls found(i), in order, for every i < count whose value is above the bound (kEqual: not below it). These are few.
template <bool kEqual, typename Found>
inline void each_from(const float* values, int64_t count, float bound, const Found& found) {
  constexpr int64_t kAtOnce = 32;
  const auto wanted = [bound](float value) { return kEqual ? !(value < bound) : value > bound; };
  int64_t i = 0;
  for (; i + kAtOnce <= count; i += kAtOnce) {
    int any = 0;
    for (int64_t k = 0; k < kAtOnce; ++k) {
      any |= static_cast<int>(wanted(values[i + k]));
    }
    if (any != 0) {
      for (int64_t k = i; k < i + kAtOnce; ++k) {
        if (wanted(values[k])) {
          found(k);
        }
      }
    }
  }
  for (; i < count; ++i) {
    if (wanted(values[i])) {
      found(i);
    }
  }
}

// Places of the values that are not below the bound, including NaN.
inline void places_from(const float* values, int64_t count, float bound, std::vector<int32_t>& places) {
  each_from<true>(values, count, bound, [&](int64_t i) { places.push_back(static_cast<int32_t>(i)); });
}

// Places of the values above the bound.
inline void places_above(const float* values, int64_t count, float bound, std::vector<int64_t>& places) {
  each_from<false>(values, count, bound, [&](int64_t i) { places.push_back(i); });
}
