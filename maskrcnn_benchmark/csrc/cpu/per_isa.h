// Compiles a file of kernels once per instruction set and picks the best one that the processor has, at run time.
//
// The build targets the baseline architecture, so one binary runs everywhere. The file with the kernels is included
// once per namespace, and every function in it, lambdas and templates too, is compiled for the namespace's instruction
// set. Include the headers that it needs before it, at file scope: other files share their inline functions.
//
//   #define MRB_KERNELS "roi_align_kernels.h"
//   #include "compile_per_isa.h"
//   ... MRB_PICK(forward)(arguments) ...
//
// ATEN_CPU_CAPABILITY, PyTorch's own variable, limits the choice: default, avx2 or avx512. Tests use it to run every
// path.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define MRB_X86
#include <immintrin.h>
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MRB_HAS_SHUFFLE
#endif
#endif

namespace maskrcnn_benchmark {

enum class Isa { portable, avx2, avx512 };

inline Isa isa_of_processor() {
#if defined(MRB_X86)
  // f16c is not tested because older compilers do not support the name; every processor with AVX2 has it
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    return Isa::avx512;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::avx2 : Isa::portable;
#else
  return Isa::portable;
#endif
}

inline Isa best_isa() {
  static const Isa best = [] {
    const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
    const Isa most = wanted == nullptr        ? Isa::avx512
        : std::strcmp(wanted, "default") == 0 ? Isa::portable
        : std::strcmp(wanted, "avx2") == 0    ? Isa::avx2
                                              : Isa::avx512;  // PyTorch warns about unknown values
    const Isa there = isa_of_processor();
    return most < there ? most : there;
  }();
  return best;
}

}  // namespace maskrcnn_benchmark

#if defined(MRB_X86)
#define MRB_PICK(...)                                                                                               \
  (maskrcnn_benchmark::best_isa() == maskrcnn_benchmark::Isa::avx512 ? &maskrcnn_benchmark::isa_avx512::__VA_ARGS__ \
       : maskrcnn_benchmark::best_isa() == maskrcnn_benchmark::Isa::avx2                                            \
       ? &maskrcnn_benchmark::isa_avx2::__VA_ARGS__                                                                 \
       : &maskrcnn_benchmark::isa_portable::__VA_ARGS__)
#else
#define MRB_PICK(...) (&maskrcnn_benchmark::isa_portable::__VA_ARGS__)
#endif
