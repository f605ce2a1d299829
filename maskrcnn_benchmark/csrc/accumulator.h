// The type in which sums are accumulated, on every device.
#pragma once

#include <type_traits>

namespace maskrcnn_benchmark {

// double for double, float for float and the half types.
template <typename T>
using AccOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace maskrcnn_benchmark
