// Box geometry, as in layers/boxes.py. No other C++ file decides whether a box covers its far corner pixel.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MRB_HOST_DEVICE __host__ __device__
#else
#define MRB_HOST_DEVICE
#endif

namespace maskrcnn_benchmark {

// Corners in pixels. `offset` is 1 if a box covers its far corner pixel (INCLUSIVE), 0 if it does not (HALF_OPEN).
template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

template <typename T>
MRB_HOST_DEVICE inline T box_width(const Box<T>& box, T offset) {
  return box.x2 - box.x1 + offset;
}

template <typename T>
MRB_HOST_DEVICE inline T box_height(const Box<T>& box, T offset) {
  return box.y2 - box.y1 + offset;
}

// A product that is rounded before it is added to something. Compilers fuse the two operations where the processor can,
// and a decision near a tie would then depend on the device and its instruction set.
MRB_HOST_DEVICE inline double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  double rounded = a * b;
#if defined(__GNUC__) && defined(__x86_64__)
  __asm__("" : "+x"(rounded));  // hides from the compiler that the value is a product
#elif defined(__GNUC__) && defined(__aarch64__)
  __asm__("" : "+w"(rounded));
#endif
  return rounded;
#endif
}

MRB_HOST_DEVICE inline float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

template <typename T>
MRB_HOST_DEVICE inline T box_area(const Box<T>& box, T offset) {
  return product(box_width(box, offset), box_height(box, offset));
}

// Area that two boxes share; 0 if one of them is empty or inverted.
template <typename T>
MRB_HOST_DEVICE inline T intersection_area(const Box<T>& a, const Box<T>& b, T offset) {
  const T width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1) + offset;
  const T height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1) + offset;
  return product(width > 0 ? width : T(0), height > 0 ? height : T(0));
}

// Does the intersection over union exceed the threshold? Computed in double, so that every device and vector width
// decides the same. A rounded quotient, unlike a rounded product with the threshold, is the threshold at an exact tie
// of any scale: 7 of 10 and 63 of 90 both do not exceed 0.7. Boxes that share no area never overlap, and a box with a
// NaN corner overlaps nothing.
MRB_HOST_DEVICE inline bool boxes_overlap(const Box<double>& a, const Box<double>& b, double threshold, double offset) {
  const double shared = intersection_area(a, b, offset);
  const double all = box_area(a, offset) + box_area(b, offset) - shared;
#ifdef __CUDA_ARCH__
  return shared > 0 && __ddiv_rn(shared, all) > threshold;
#else
  return shared > 0 && shared / all > threshold;
#endif
}

// Weights of the deltas (dx, dy, dw, dh), and the upper limit of dw and dh once divided by their weights.
template <typename T>
struct DeltaCoding {
  T weight_x, weight_y, weight_w, weight_h, clamp;
};

// Applies deltas (dx, dy, dw, dh) to a reference box; the inverse of encoding. NaN deltas give NaN corners.
// Source: Girshick et al. 2014, Rich feature hierarchies, appendix C.
template <typename T>
MRB_HOST_DEVICE inline Box<T> decode_box(
    const Box<T>& reference, T dx, T dy, T dw, T dh, const DeltaCoding<T>& coding, T offset) {
  using std::exp;
  const T ref_width = box_width(reference, offset), ref_height = box_height(reference, offset);
  const T log_width = dw / coding.weight_w, log_height = dh / coding.weight_h;
  const T width = exp(coding.clamp < log_width ? coding.clamp : log_width) * ref_width;
  const T height = exp(coding.clamp < log_height ? coding.clamp : log_height) * ref_height;
  const T x1 = reference.x1 + (T(0.5) + dx / coding.weight_x) * ref_width - T(0.5) * width;
  const T y1 = reference.y1 + (T(0.5) + dy / coding.weight_y) * ref_height - T(0.5) * height;
  return {x1, y1, x1 + width - offset, y1 + height - offset};
}

template <typename T>
MRB_HOST_DEVICE inline T clip_coordinate(T value, T most) {
  const T positive = value < 0 ? T(0) : value;  // NaN is kept
  return most < positive ? most : positive;
}

// Clips every corner to an image of the given size in pixels.
template <typename T>
MRB_HOST_DEVICE inline Box<T> clip_box(const Box<T>& box, T image_width, T image_height, T offset) {
  const T x_most = image_width - offset, y_most = image_height - offset;
  return {
      clip_coordinate(box.x1, x_most), clip_coordinate(box.y1, y_most), clip_coordinate(box.x2, x_most),
      clip_coordinate(box.y2, y_most)};
}

// The pyramid level that pools a box: the canonical level for a box of the canonical size, one more per doubling.
// Source: Lin et al. 2017, Feature Pyramid Networks, equation 1. Clamped to [lowest, highest]; NaN gives the lowest.
MRB_HOST_DEVICE inline int assign_level(
    const Box<double>& box, double offset, double canonical_size, double canonical_level, int lowest, int highest) {
  const double side = sqrt(box_area(box, offset));
  const double level = floor(canonical_level + log2(side / canonical_size + 1e-6));  // KERNEL_EPS
  if (!(level > lowest)) {
    return lowest;
  }
  return level < highest ? static_cast<int>(level) : highest;
}

}  // namespace maskrcnn_benchmark
