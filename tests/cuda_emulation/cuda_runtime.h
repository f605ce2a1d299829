// What csrc/cuda uses of CUDA, for a C++ compiler: kernels run on the CPU. Stands in for the toolkit's header of this
// name.
//
// The threads of a block are fibers of one host thread. A fiber runs until it meets __syncthreads or a warp vote;
// blocks run one after the other. launch.cpp has the rest; transform.py turns `__shared__` and `<<<` into calls of what
// is below.
#pragma once

#include <math.h>  // functions for float and double in the global namespace, as CUDA has them

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#define __global__
#define __device__
#define __host__
#define __noinline__
#define __launch_bounds__(...)  // transform.py hands it to the launch

struct uint3 {
  unsigned int x, y, z;
};

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

// of the fiber that runs
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorLaunch = 1 };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };

cudaError_t cudaGetLastError();

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}

namespace cuda_emulation {

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};

// Runs `thread` for all threads of all blocks, or makes cudaGetLastError report why it does not.
void run(const char* kernel, int most_threads, const Configuration& configuration, const std::function<void()>& thread);

// What the last error that cudaGetLastError returned was.
std::string error_text();

// Waits for all threads of the block.
void block_barrier(const char* file, int line);

// Waits for the lanes in `mask` of the warp. Returns the bits of those whose predicate holds.
unsigned int warp_vote(unsigned int mask, bool predicate, const char* file, int line);

// Every thread reports the shared variables it meets; the first one of a block fills them with garbage.
void meet_shared(void* variable, size_t bytes, const char* name);

template <typename Kernel>
struct Launch {
  const char* name;
  int most_threads;
  Configuration configuration;
  Kernel kernel;

  template <typename... Arguments>
  void operator()(Arguments... arguments) const {
    run(name, most_threads, configuration, [&] { kernel(arguments...); });
  }
};

template <typename Kernel>
Launch<Kernel> launch(const char* name, int most_threads, const Configuration& configuration, Kernel kernel) {
  return {name, most_threads, configuration, kernel};
}

template <typename T, typename Combine>
T atomically(T* address, Combine combine) {  // fibers switch at barriers alone
  const T before = *address;
  *address = combine(before);
  return before;
}

}  // namespace cuda_emulation

#define __syncthreads() cuda_emulation::block_barrier(__FILE__, __LINE__)
#define __ballot_sync(mask, predicate) cuda_emulation::warp_vote(mask, predicate, __FILE__, __LINE__)

inline int __popc(unsigned int bits) {
  return __builtin_popcount(bits);
}

inline int __popcll(unsigned long long bits) {
  return __builtin_popcountll(bits);
}

inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <typename T>
T atomicAdd(T* address, T value) {
  return cuda_emulation::atomically(address, [&](T before) { return before + value; });
}

template <typename T>
T atomicOr(T* address, T bits) {
  return cuda_emulation::atomically(address, [&](T before) { return before | bits; });
}

template <typename T>
T atomicMax(T* address, T value) {
  return cuda_emulation::atomically(address, [&](T before) { return before < value ? value : before; });
}
