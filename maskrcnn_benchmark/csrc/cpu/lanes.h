// A short vector of accumulators, as wide as the instruction set of the enclosing namespace; see cpu/per_isa.h.
// No include guard: it is compiled once per instruction set, with MRB_VECTOR_BYTES set to the width of its registers.

template <typename Acc>
struct Lanes {
  static constexpr int kCount = MRB_VECTOR_BYTES / static_cast<int>(sizeof(Acc));
#if defined(__GNUC__)
  typedef Acc Vector __attribute__((vector_size(MRB_VECTOR_BYTES)));
  Vector values;

  static inline Lanes load(const Acc* from) {
    Lanes lanes;
    std::memcpy(&lanes.values, from, sizeof(Vector));
    return lanes;
  }
  inline void store(Acc* to) const {
    std::memcpy(to, &values, sizeof(Vector));
  }
  static inline Lanes zero() {
    return {Vector{}};
  }
  inline void add_scaled(Acc factor, const Lanes& other) {
    values += factor * other.values;
  }
#else
  Acc values[kCount];

  static inline Lanes load(const Acc* from) {
    Lanes lanes;
    std::memcpy(lanes.values, from, sizeof(lanes.values));
    return lanes;
  }
  inline void store(Acc* to) const {
    std::memcpy(to, values, sizeof(values));
  }
  static inline Lanes zero() {
    return {};
  }
  inline void add_scaled(Acc factor, const Lanes& other) {
    for (int k = 0; k < kCount; ++k) {
      values[k] += factor * other.values[k];
    }
  }
#endif
};
