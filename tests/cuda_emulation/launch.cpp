// Runs the blocks of a launch on the CPU; see cuda_runtime.h.
//
// CUDA_EMULATION_SEED=0 (or unset): threads and blocks run in their order. Another number: in a random order, another
// one for each launch, block and stretch between barriers, so that what depends on the order shows, run by run.
#include "cuda_runtime.h"

#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {
namespace {

constexpr unsigned int kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kMostSharedBytes = 48 << 10;  // what a launch may use that has not asked for more

// A stack and what runs on it; the host's own has none.
struct Fiber {
  ucontext_t context;
  void* stack = nullptr;
  const void* bottom = nullptr;  // for AddressSanitizer, which must know the stack that it looks at
  size_t size = 0;

  Fiber() = default;

  explicit Fiber(void (*entry)()) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, page, PROT_NONE) != 0) {  // an overflow hits the lowest page
      throw std::runtime_error("no memory for the stack of a fiber");
    }
    bottom = static_cast<char*>(stack) + page;
    size = kStackBytes - page;
    getcontext(&context);
    context.uc_stack.ss_sp = const_cast<void*>(bottom);
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  ~Fiber() {
    if (stack != nullptr) {
      munmap(stack, kStackBytes);
    }
  }
};

enum class State { fresh, ready, at_barrier, at_vote, finished };

struct Thread {
  uint3 index;
  State state;
  Fiber* fiber;
  const char* file;  // where it waits
  int line;
  unsigned int mask, result;
  bool predicate;
};

struct Shared {
  void* variable;
  size_t bytes;
};

// One launch at a time, as if there were one stream.
std::mutex launching;
std::string last_error, reported_error;
std::mt19937 random_numbers;
bool shuffled;

const std::function<void()>* body;
std::vector<Thread> threads;
std::vector<unsigned int> order;  // of the threads, until all that can run have run
size_t next_in_order;
Thread* current;
Fiber host;
Fiber* running;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;
std::vector<Shared> met;

void switch_to(Fiber* fiber) {
  Fiber* from = std::exchange(running, fiber);
#if defined(__SANITIZE_ADDRESS__)
  void* kept = nullptr;
  __sanitizer_start_switch_fiber(&kept, fiber->bottom, fiber->size);
#endif
  swapcontext(&from->context, &fiber->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
#endif
}

// Makes the next thread that can run the current one; false when this stretch is over.
bool take_next() {
  while (next_in_order < order.size()) {
    Thread& thread = threads[order[next_in_order++]];
    if (thread.state == State::fresh || thread.state == State::ready) {
      current = &thread;
      threadIdx = thread.index;
      return true;
    }
  }
  return false;
}

void fiber_entry();

Fiber* fiber_of(Thread& thread) {
  if (thread.fiber == nullptr) {
    if (idle.empty()) {
      fibers.push_back(std::make_unique<Fiber>(&fiber_entry));
      idle.push_back(fibers.back().get());
    }
    thread.fiber = idle.back();
    idle.pop_back();
  }
  return thread.fiber;
}

// Leaves the running fiber, for the next thread's or the host's.
void pass_on() {
  switch_to(take_next() ? fiber_of(*current) : &host);
}

// What a fiber does all its life: threads that have not begun, one after the other while they do not wait.
void fiber_entry() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    (*body)();
    Fiber* const own = std::exchange(current->fiber, nullptr);
    current->state = State::finished;
    if (!take_next()) {
      idle.push_back(own);
      switch_to(&host);
    } else if (current->state == State::fresh) {
      current->fiber = own;
    } else {
      idle.push_back(own);
      switch_to(current->fiber);
    }
  }
}

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

std::string describe(const uint3& index) {
  return text("(", index.x, ", ", index.y, ", ", index.z, ")");
}

[[noreturn]] void fail_divergent() {
  const auto count = [](State state) {
    return std::count_if(threads.begin(), threads.end(), [&](const Thread& thread) { return thread.state == state; });
  };
  std::string message = text(
      "threads of block ", describe(blockIdx), " wait for one another for ever: ", count(State::finished), " of ",
      threads.size(), " have finished, ", count(State::at_barrier), " are at a barrier, ", count(State::at_vote),
      " at a vote of their warp");
  const Thread* shown = nullptr;
  for (const Thread& thread : threads) {
    const bool waits = thread.state == State::at_barrier || thread.state == State::at_vote;
    if (waits && (shown == nullptr || thread.line != shown->line || thread.file != shown->file)) {
      message += text("; thread ", describe(thread.index), " waits at ", thread.file, ":", thread.line);
      shown = &thread;
    }
  }
  throw std::runtime_error(message);
}

// Runs the block whose index is set. Throws when its threads cannot all go on.
void run_block() {
  met.clear();
  for (Thread& thread : threads) {
    thread.state = State::fresh;
    thread.fiber = nullptr;
  }
  for (;;) {
    if (shuffled) {
      std::shuffle(order.begin(), order.end(), random_numbers);
    }
    next_in_order = 0;
    if (take_next()) {
      switch_to(fiber_of(*current));
    }
    const auto all = [](auto condition) { return std::all_of(threads.begin(), threads.end(), condition); };
    if (all([](const Thread& thread) { return thread.state == State::finished; })) {
      return;
    }
    const Thread& first = threads.front();
    if (all([&](const Thread& thread) {
          return thread.state == State::at_barrier && thread.line == first.line && thread.file == first.file;
        })) {
      for (Thread& thread : threads) {
        thread.state = State::ready;
      }
    } else if (std::none_of(threads.begin(), threads.end(), [](const Thread& thread) {
                 return thread.state == State::ready;  // released by a vote
               })) {
      fail_divergent();
    }
  }
}

// What CUDA asks of a launch on every GPU there is.
void check(int most_threads, const Configuration& configuration) {
  const dim3 &grid = configuration.grid, &block = configuration.block;
  const uint64_t count = uint64_t{block.x} * block.y * block.z;
  const auto fail = [](const auto&... parts) { throw std::runtime_error(text(parts...)); };
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) {
    fail(
        "a grid of ", grid.x, " x ", grid.y, " x ", grid.z,
        " blocks; at most 2147483647 x 65535 x 65535, and none of them 0");
  }
  if (count == 0 || count > 1024 || block.z > 64) {
    fail(
        "a block of ", block.x, " x ", block.y, " x ", block.z,
        " threads; at most 1024 in all and 64 in z, and at least 1");
  }
  if (most_threads > 0 && count > static_cast<uint64_t>(most_threads)) {
    fail("a block of ", count, " threads; its __launch_bounds__ are ", most_threads);
  }
  if (configuration.shared_bytes > 0) {
    fail("shared memory of a size that the launch chooses is not emulated");
  }
}

}  // namespace

void block_barrier(const char* file, int line) {
  current->state = State::at_barrier;
  current->file = file;
  current->line = line;
  pass_on();
}

unsigned int warp_vote(unsigned int mask, bool predicate, const char* file, int line) {
  Thread& own = *current;
  own.state = State::at_vote;
  own.file = file;
  own.line = line;
  own.mask = mask;
  own.predicate = predicate;
  const size_t first = (&own - threads.data()) / kWarp * kWarp;
  bool complete = mask >> ((&own - threads.data()) % kWarp) & 1;
  unsigned int result = 0;
  for (unsigned int lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) {
      const bool there = first + lane < threads.size();
      const Thread& other = threads[there ? first + lane : first];
      complete = complete && there && other.state == State::at_vote && other.mask == mask && other.line == line;
      result |= complete && other.predicate ? 1u << lane : 0;
    }
  }
  if (complete) {
    for (unsigned int lane = 0; lane < kWarp; ++lane) {
      if (mask >> lane & 1) {
        threads[first + lane].state = State::ready;
        threads[first + lane].result = result;
      }
    }
  }
  pass_on();
  return own.result;
}

void meet_shared(void* variable, size_t bytes, const char* name) {
  size_t total = bytes;
  for (const Shared& shared : met) {
    if (shared.variable == variable) {
      return;
    }
    total += shared.bytes;
  }
  if (total > kMostSharedBytes) {  // nvcc refuses this, too
    last_error = text(name, " brings the shared memory of a block to ", total, " bytes; at most ", kMostSharedBytes);
  }
  met.push_back({variable, bytes});
  std::memset(variable, shuffled ? static_cast<int>(random_numbers() | 0x80) : 0xa5, bytes);
}

void run(
    const char* kernel, int most_threads, const Configuration& configuration, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(launching);
  static const unsigned int seed = [] {
    const char* variable = std::getenv("CUDA_EMULATION_SEED");
    return variable == nullptr ? 0u : static_cast<unsigned int>(std::strtoul(variable, nullptr, 10));
  }();
  static const bool seeded = (random_numbers.seed(seed), shuffled = seed != 0);
  static_cast<void>(seeded);
  try {
    check(most_threads, configuration);
    gridDim = configuration.grid;
    blockDim = configuration.block;
    const dim3& block = blockDim;
    threads.assign(block.x * block.y * block.z, Thread{});
    for (unsigned int i = 0; i < threads.size(); ++i) {
      threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
    order.resize(threads.size());
    std::iota(order.begin(), order.end(), 0u);
    body = &thread;
    running = &host;
#if defined(__SANITIZE_ADDRESS__)
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &host.size);
    pthread_attr_destroy(&attributes);
    host.bottom = bottom;
#endif
    const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
    std::vector<uint64_t> block_order(blocks);
    std::iota(block_order.begin(), block_order.end(), uint64_t{0});
    if (shuffled) {
      std::shuffle(block_order.begin(), block_order.end(), random_numbers);
    }
    for (const uint64_t i : block_order) {
      blockIdx = {
          static_cast<unsigned int>(i % gridDim.x), static_cast<unsigned int>(i / gridDim.x % gridDim.y),
          static_cast<unsigned int>(i / gridDim.x / gridDim.y)};
      run_block();
    }
  } catch (const std::exception& error) {
    last_error = error.what();
    fibers.clear();  // some stand in the middle of a thread
    idle.clear();
  }
  if (!last_error.empty()) {
    last_error = text("launch of ", kernel, ": ", last_error);
  }
}

std::string error_text() {
  const std::lock_guard<std::mutex> lock(launching);
  return reported_error;
}

}  // namespace cuda_emulation

cudaError_t cudaGetLastError() {
  using namespace cuda_emulation;
  const std::lock_guard<std::mutex> lock(launching);
  reported_error = std::exchange(last_error, std::string());
  return reported_error.empty() ? cudaSuccess : cudaErrorLaunch;
}
