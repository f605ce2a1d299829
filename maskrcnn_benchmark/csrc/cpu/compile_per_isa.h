// Include after `#define MRB_KERNELS "file"` (per_isa.h). No include guard: it is included once per file of kernels.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"                // wide vectors are passed to inline functions only
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC's own intrinsics use undefined registers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define MRB_VECTOR_BYTES 16
namespace maskrcnn_benchmark::isa_portable {
#include MRB_KERNELS
}
#undef MRB_VECTOR_BYTES

#if defined(MRB_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define MRB_VECTOR_BYTES 32
namespace maskrcnn_benchmark::isa_avx2 {
#include MRB_KERNELS
}
#undef MRB_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define MRB_VECTOR_BYTES 64
namespace maskrcnn_benchmark::isa_avx512 {
#include MRB_KERNELS
}
#undef MRB_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
