// The loops of mask pasting. Compiled once per instruction set (per_isa.h), so there is no include guard.

// widened[x] = the row interpolated at `part[x]` of the way from cell `before[x]` to the next. Rows are padded by one
// cell per side.
template <typename Acc>
void widen_row(const Acc* padded, const int32_t* before, const Acc* part, int64_t count, Acc* widened) {
  for (int64_t x = 0; x < count; ++x) {
    const Acc left = padded[before[x]], right = padded[before[x] + 1];
    widened[x] = left + part[x] * (right - left);
  }
}

// One row of binary pixels, `part` of the way from the upper to the lower widened row.
template <typename Acc>
void threshold_row(const Acc* upper, const Acc* lower, Acc part, Acc threshold, int64_t count, uint8_t* pixels) {
  for (int64_t x = 0; x < count; ++x) {
    pixels[x] = upper[x] + part * (lower[x] - upper[x]) > threshold ? 1 : 0;
  }
}

// The same row as grey levels 0 to 255, rounded down.
template <typename Acc>
void quantize_row(const Acc* upper, const Acc* lower, Acc part, int64_t count, uint8_t* pixels) {
  for (int64_t x = 0; x < count; ++x) {
    const Acc level = 255 * (upper[x] + part * (lower[x] - upper[x]));
    pixels[x] = static_cast<uint8_t>(static_cast<int32_t>(level > 0 ? (level < 255 ? level : 255) : 0));
  }
}

// to[x * rows + y] = from[y * columns + x], in tiles that fit the cache.
inline void transpose_bytes(const uint8_t* from, int64_t rows, int64_t columns, uint8_t* to) {
  constexpr int64_t kTile = 32;
  for (int64_t y = 0; y < rows; y += kTile) {
    const int64_t y_end = y + kTile < rows ? y + kTile : rows;
    for (int64_t x = 0; x < columns; x += kTile) {
      const int64_t x_end = x + kTile < columns ? x + kTile : columns;
      for (int64_t i = x; i < x_end; ++i) {
        for (int64_t j = y; j < y_end; ++j) {
          to[i * rows + j] = from[j * columns + i];
        }
      }
    }
  }
}

// Writes zeros with stores that bypass the cache. Normal stores would read each cache line first and evict everything
// else.
inline void clear_past_cache(uint8_t* bytes, int64_t count) {
#if defined(MRB_X86)
  constexpr int64_t kLine = 64;
  const int64_t head = std::min<int64_t>(count, (kLine - reinterpret_cast<uintptr_t>(bytes) % kLine) % kLine);
  std::memset(bytes, 0, head);
  int64_t at = head;
  for (; at + kLine <= count; at += kLine) {
#if MRB_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(bytes + at), _mm512_setzero_si512());
#else
    for (int64_t part = 0; part < kLine; part += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(bytes + at + part), _mm_setzero_si128());
    }
#endif
  }
  _mm_sfence();
  std::memset(bytes + at, 0, count - at);
#else
  std::memset(bytes, 0, count);
#endif
}
