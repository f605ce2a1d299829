// Large blocks of memory on huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace maskrcnn_benchmark {

// Asks the system to back newly allocated memory by huge pages. Mapping 50 MB in pages of 4 kB takes longer than
// ROIAlign takes to fill them. Affects only whole huge pages inside the block. It is a hint and may fail.
inline void advise_huge_pages(void* block, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(block) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(block) + bytes) / kHugePage * kHugePage;
  if (begin < end) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#else
  (void)block;
  (void)bytes;
#endif
}

// Uninitialised memory that grows on demand and is aligned to cache lines. Growing loses the contents.
template <typename T>
class Scratch {
 public:
  T* at_least(size_t count) {
    if (count > count_) {
      constexpr size_t kLine = 64;
      const size_t bytes = (count * sizeof(T) + kLine - 1) / kLine * kLine;
#if defined(_WIN32)
      data_.reset(static_cast<T*>(_aligned_malloc(bytes, kLine)));
#else
      data_.reset(static_cast<T*>(std::aligned_alloc(kLine, bytes)));
#endif
      if (!data_) {
        count_ = 0;
        throw std::bad_alloc();
      }
      advise_huge_pages(data_.get(), bytes);
      count_ = count;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* data) const {
#if defined(_WIN32)
      _aligned_free(data);
#else
      std::free(data);
#endif
    }
  };
  std::unique_ptr<T, Free> data_;
  size_t count_ = 0;
};

}  // namespace maskrcnn_benchmark
