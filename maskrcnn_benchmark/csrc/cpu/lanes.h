// A short vector of accumulators, as wide as a register of the instruction set. Compiled once per instruction set
// (per_isa.h) with MRB_VECTOR_BYTES set to that width, so there is no include guard.

template <typename Acc>
struct Lanes {
  static constexpr int kCount = MRB_VECTOR_BYTES / static_cast<int>(sizeof(Acc));
#if defined(__GNUC__)
  typedef Acc Values __attribute__((vector_size(MRB_VECTOR_BYTES)));
#else
  typedef Acc Values[kCount];
#endif
  Values values;

  static inline Lanes zero() {
    return {Values{}};
  }

  // Loads from any type that converts to the accumulator's.
  template <typename T>
  static inline Lanes load(const T* from) {
    Lanes lanes;
    if constexpr (std::is_same_v<T, Acc>) {
      std::memcpy(&lanes.values, from, sizeof(Values));
#if defined(MRB_X86) && MRB_VECTOR_BYTES == 64
    } else if constexpr (std::is_same_v<T, torch::headeronly::Half> && std::is_same_v<Acc, float>) {
      lanes.values = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(MRB_X86) && MRB_VECTOR_BYTES == 32
    } else if constexpr (std::is_same_v<T, torch::headeronly::Half> && std::is_same_v<Acc, float>) {
      lanes.values = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
    } else {
      for (int k = 0; k < kCount; ++k) {
        lanes.values[k] = static_cast<Acc>(from[k]);
      }
    }
    return lanes;
  }

  template <typename T>
  inline void store(T* to) const {
    if constexpr (std::is_same_v<T, Acc>) {
      std::memcpy(to, &values, sizeof(Values));
#if defined(MRB_X86) && MRB_VECTOR_BYTES == 64
    } else if constexpr (std::is_same_v<T, torch::headeronly::Half> && std::is_same_v<Acc, float>) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
#elif defined(MRB_X86) && MRB_VECTOR_BYTES == 32
    } else if constexpr (std::is_same_v<T, torch::headeronly::Half> && std::is_same_v<Acc, float>) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
#endif
    } else {
      for (int k = 0; k < kCount; ++k) {
        to[k] = static_cast<T>(values[k]);
      }
    }
  }

#if defined(__GNUC__)
#define MRB_LANEWISE(op)                                            \
  friend inline Lanes operator op(const Lanes& a, const Lanes& b) { \
    return {a.values op b.values};                                  \
  }
#else
#define MRB_LANEWISE(op)                                            \
  friend inline Lanes operator op(const Lanes& a, const Lanes& b) { \
    Lanes lanes;                                                    \
    for (int k = 0; k < kCount; ++k) {                              \
      lanes.values[k] = a.values[k] op b.values[k];                 \
    }                                                               \
    return lanes;                                                   \
  }
#endif
  MRB_LANEWISE(+)
  MRB_LANEWISE(-)
  MRB_LANEWISE(*)
#undef MRB_LANEWISE

  // All lanes have the same value.
  static inline Lanes of(Acc value) {
    Lanes lanes;
#if defined(__GNUC__)
    lanes.values = value - Values{};
#else
    std::fill_n(lanes.values, kCount, value);
#endif
    return lanes;
  }

  // The larger value of each lane; the value of b if either is NaN.
  static inline Lanes larger(const Lanes& a, const Lanes& b) {
    Lanes lanes;
#if defined(__GNUC__)
    lanes.values = a.values > b.values ? a.values : b.values;
#else
    for (int k = 0; k < kCount; ++k) {
      lanes.values[k] = a.values[k] > b.values[k] ? a.values[k] : b.values[k];
    }
#endif
    return lanes;
  }

  static inline Lanes smaller(const Lanes& a, const Lanes& b) {
    Lanes lanes;
#if defined(__GNUC__)
    lanes.values = a.values < b.values ? a.values : b.values;
#else
    for (int k = 0; k < kCount; ++k) {
      lanes.values[k] = a.values[k] < b.values[k] ? a.values[k] : b.values[k];
    }
#endif
    return lanes;
  }

  // Bit k is set if lane k is greater than lane k of the other vector.
  inline unsigned greater(const Lanes& other) const {
#if defined(MRB_X86) && MRB_VECTOR_BYTES == 64
    if constexpr (std::is_same_v<Acc, float>) {
      return _mm512_cmp_ps_mask(values, other.values, _CMP_GT_OQ);
    } else {
      return _mm512_cmp_pd_mask(values, other.values, _CMP_GT_OQ);
    }
#elif defined(MRB_X86) && MRB_VECTOR_BYTES == 32
    if constexpr (std::is_same_v<Acc, float>) {
      return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(values, other.values, _CMP_GT_OQ)));
    } else {
      return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(values, other.values, _CMP_GT_OQ)));
    }
#elif defined(MRB_X86)
    if constexpr (std::is_same_v<Acc, float>) {
      return static_cast<unsigned>(_mm_movemask_ps(_mm_cmpgt_ps(values, other.values)));
    } else {
      return static_cast<unsigned>(_mm_movemask_pd(_mm_cmpgt_pd(values, other.values)));
    }
#else
    unsigned bits = 0;
    for (int k = 0; k < kCount; ++k) {
      bits |= static_cast<unsigned>(values[k] > other.values[k]) << k;
    }
    return bits;
#endif
  }

  inline void add_scaled(Acc factor, const Lanes& other) {
#if defined(__GNUC__)
    values += factor * other.values;
#else
    for (int k = 0; k < kCount; ++k) {
      values[k] += factor * other.values[k];
    }
#endif
  }
};

// One step of a transpose: exchanges blocks of kBlock lanes between two rows.
template <int kBlock, typename Acc, int... kLane>
inline void exchange_blocks(Lanes<Acc>& upper, Lanes<Acc>& lower, std::integer_sequence<int, kLane...>) {
  constexpr int kCount = Lanes<Acc>::kCount;
#if defined(MRB_HAS_SHUFFLE)
  const auto a = upper.values, b = lower.values;
  upper.values = __builtin_shufflevector(a, b, (kLane & kBlock ? kCount + kLane - kBlock : kLane)...);
  lower.values = __builtin_shufflevector(a, b, (kLane & kBlock ? kCount + kLane : kLane + kBlock)...);
#else
  for (int lane = 0; lane < kCount; ++lane) {
    if ((lane & kBlock) == 0) {
      std::swap(upper.values[lane + kBlock], lower.values[lane]);
    }
  }
#endif
}

// Transposes a square block, kCount vectors, in registers.
template <typename Acc, int kBlock = 1>
inline void transpose_square(Lanes<Acc>* rows) {
  constexpr int kCount = Lanes<Acc>::kCount;
  if constexpr (kBlock < kCount) {
    for (int i = 0; i < kCount; ++i) {
      if ((i & kBlock) == 0) {
        exchange_blocks<kBlock>(rows[i], rows[i + kBlock], std::make_integer_sequence<int, kCount>());
      }
    }
    transpose_square<Acc, kBlock * 2>(rows);
  }
}
