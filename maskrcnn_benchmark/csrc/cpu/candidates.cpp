// Candidates for non-maximum suppression, on the CPU: the best anchors of an RPN, and the classes above a box head's
// threshold, with decoded and clipped boxes. Twin of layers/reference/candidates.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <tuple>
#include <vector>

#include "../box_geometry.h"
#include "../tensors.h"
#include "per_isa.h"
#include "score_order.h"

#define MRB_KERNELS "candidate_kernels.h"
#include "compile_per_isa.h"

namespace maskrcnn_benchmark {
namespace {

// Reads single values of float32, float16 or bfloat16. Only a few deltas of a map are needed, so it is not converted.
class Values {
 public:
  explicit Values(const Tensor& tensor) : data_(tensor.data_ptr()), type_(tensor.scalar_type()) {}

  float operator[](int64_t place) const {
    switch (type_) {
      case ScalarType::Half:
        return static_cast<const torch::headeronly::Half*>(data_)[place];
      case ScalarType::BFloat16:
        return static_cast<const torch::headeronly::BFloat16*>(data_)[place];
      default:
        return static_cast<const float*>(data_)[place];
    }
  }

 private:
  const void* data_;
  ScalarType type_;
};

bool is_readable(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

// Decodes deltas to boxes inside an image.
struct Decoding {
  DeltaCoding<float> coding;
  float offset;

  Decoding(const char* op, const std::vector<double>& weights, double clamp, int64_t box_offset)
      : offset(static_cast<float>(box_offset)) {
    STD_TORCH_CHECK(weights.size() == 4, op, ": four weights are expected, of dx, dy, dw and dh; got ", weights.size());
    check_offset(op, box_offset);
    coding = {
        static_cast<float>(weights[0]), static_cast<float>(weights[1]), static_cast<float>(weights[2]),
        static_cast<float>(weights[3]), static_cast<float>(clamp)};
  }

  // delta_at(k), k < 4, reads a delta. Returns whether the sides of the clipped box are positive and at least min_size.
  template <typename DeltaAt>
  bool decode(const float* corners, const DeltaAt& delta_at, const float* size_wh, float min_size, float* out) const {
    const Box<float> reference{corners[0], corners[1], corners[2], corners[3]};
    const Box<float> box = clip_box(
        decode_box(reference, delta_at(0), delta_at(1), delta_at(2), delta_at(3), coding, offset), size_wh[0],
        size_wh[1], offset);
    out[0] = box.x1;
    out[1] = box.y1;
    out[2] = box.x2;
    out[3] = box.y2;
    const float width = box_width(box, offset), height = box_height(box, offset);
    return width >= min_size && height >= min_size && width > 0 && height > 0;
  }
};

// Finds the `count` largest values: NaN first, equal ones in order. The lower halves of the keys are their places.
void best_places(const float* values, int64_t total, int64_t count, std::vector<uint64_t>& keys) {
  const auto key_of = [&](int64_t place) { return descending_key_with_index(values[place], place); };
  keys.clear();
  const int64_t parts = 2 * count;
  if (total < 2 * parts) {
    for (int64_t place = 0; place < total; ++place) {
      keys.push_back(key_of(place));
    }
  } else {
    // Take the maxima of 2 * count parts. The count-th largest is a lower bound for the values that are wanted.
    std::vector<float> maxima(parts);
    MRB_PICK(maxima_of_parts)(values, total, parts, maxima.data());
    std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater<float>());
    std::vector<int32_t> places;
    places.reserve(parts);
    MRB_PICK(places_from)(values, total, maxima[count - 1], places);
    for (const int32_t place : places) {
      keys.push_back(key_of(place));
    }
  }
  sort_by_score(keys);
  keys.resize(count);
}

// The maps of one level, and the place of its candidates in the output.
struct RpnLevel {
  Tensor anchors, objectness, box_regression;
  int64_t num_anchors, height, width, count, first;  // candidates [first, first + count) of each image

  int64_t values() const {
    return num_anchors * height * width;
  }
};

// Selects the best anchors of each level and image.
//
// Per level:  objectness (N, A, H_l, W_l), box_regression (N, A * 4, H_l, W_l), anchors (H_l * W_l * A, 4)
// sizes:      (N, 2), width and height
// Returns:    logits (N, K), NaN for a box that is too small; boxes (N, K, 4); groups (N, K), one per image and level
std::tuple<Tensor, Tensor, Tensor> rpn_candidates_cpu(
    std::vector<Tensor> anchors, std::vector<Tensor> objectness, std::vector<Tensor> box_regression,
    const Tensor& sizes, int64_t most, std::vector<double> weights, double clamp, double min_size, int64_t offset) {
  const char* op = "rpn_candidates";
  const Decoding decoding(op, weights, clamp, offset);
  STD_TORCH_CHECK(
      !objectness.empty() && anchors.size() == objectness.size() && box_regression.size() == objectness.size(), op,
      ": anchors, objectness and box_regression must have the same number of levels, at least one; got ",
      anchors.size(), ", ", objectness.size(), " and ", box_regression.size());
  STD_TORCH_CHECK(most >= 0, op, ": the number of boxes before suppression must not be negative; got ", most);
  const int64_t images = sizes.size(0);
  std::vector<RpnLevel> levels;
  int64_t total = 0;
  for (size_t i = 0; i < objectness.size(); ++i) {
    const Tensor &logits = objectness[i], &deltas = box_regression[i];
    STD_TORCH_CHECK(
        logits.dim() == 4 && deltas.dim() == 4 && logits.size(0) == images && deltas.size(0) == images &&
            deltas.size(1) == 4 * logits.size(1) && deltas.size(2) == logits.size(2) &&
            deltas.size(3) == logits.size(3),
        op, ": objectness must be (N, A, H, W) and box_regression (N, 4 * A, H, W) for ", images, " images; level ", i,
        " has ", logits.numel(), " logits and ", deltas.numel(), " deltas");
    const int64_t values = logits.size(1) * logits.size(2) * logits.size(3);
    STD_TORCH_CHECK(
        anchors[i].dim() == 2 && anchors[i].size(0) == values && anchors[i].size(1) == 4, op, ": level ", i, " has ",
        values, " anchors per image on its maps, but the boxes of ", anchors[i].size(0), " were given");
    STD_TORCH_CHECK(values < INT32_MAX, op, ": level ", i, " has ", values, " anchors; at most 2147483646 can be");
    STD_TORCH_CHECK(
        is_readable(deltas), op, ": box_regression must be float32, float16 or bfloat16; got ", deltas.scalar_type());
    const int64_t count = std::min(most, values);
    levels.push_back(
        {dense(anchors[i], ScalarType::Float), dense(logits, ScalarType::Float), deltas, logits.size(1), logits.size(2),
         logits.size(3), count, total});
    total += count;
  }
  const Tensor image_sizes = dense(sizes, ScalarType::Float);
  Tensor best = torch::stable::empty({images, total}, ScalarType::Float, std::nullopt, sizes.device());
  Tensor boxes = torch::stable::empty({images, total, 4}, ScalarType::Float, std::nullopt, sizes.device());
  Tensor groups = torch::stable::empty({images, total}, ScalarType::Long, std::nullopt, sizes.device());
  float* best_data = best.mutable_data_ptr<float>();
  float* boxes_data = boxes.mutable_data_ptr<float>();
  int64_t* groups_data = groups.mutable_data_ptr<int64_t>();
  const float* sizes_data = image_sizes.const_data_ptr<float>();
  const int64_t num_levels = static_cast<int64_t>(levels.size());
  // Loop over images outside and levels inside: a thread takes consecutive pieces, and so not the largest level only.
  torch::stable::parallel_for(0, images * num_levels, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> keys;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t image = piece / num_levels;
      const RpnLevel& level = levels[piece % num_levels];
      if (level.count == 0) {
        continue;
      }
      const int64_t cells = level.height * level.width;
      const float* logits = level.objectness.const_data_ptr<float>() + image * level.values();
      const float* corners = level.anchors.const_data_ptr<float>();
      const Values deltas(level.box_regression);
      const int64_t stride_c = level.box_regression.stride(1), stride_y = level.box_regression.stride(2),
                    stride_x = level.box_regression.stride(3), of_image = image * level.box_regression.stride(0);
      best_places(logits, level.values(), level.count, keys);
      for (int64_t k = 0; k < level.count; ++k) {
        const int64_t place = static_cast<int64_t>(keys[k] & 0xffffffffu);  // in the order (A, H, W)
        const int64_t anchor = place / cells, cell = place % cells;
        const int64_t delta =
            of_image + 4 * anchor * stride_c + cell / level.width * stride_y + cell % level.width * stride_x;
        const int64_t out = image * total + level.first + k;
        const bool large = decoding.decode(
            corners + 4 * (cell * level.num_anchors + anchor), [&](int64_t d) { return deltas[delta + d * stride_c]; },
            sizes_data + 2 * image, static_cast<float>(min_size), boxes_data + 4 * out);
        best_data[out] = large ? logits[place] : NAN;
        groups_data[out] = piece;
      }
    }
  });
  return {best, boxes, groups};
}

// Selects the pairs of region and class above the threshold, row by row.
//
// scores:          (R, J), background first
// box_regression:  (R, 4 * J), or (R, 8) if class_agnostic
// references:      (R, 4)
// images:          (R,) int64 into sizes (N, 2)
// Returns:         boxes (K, 4); scores (K,), NaN for an empty box; labels (K,); images (K,)
std::tuple<Tensor, Tensor, Tensor, Tensor> class_candidates_cpu(
    const Tensor& scores, const Tensor& box_regression, const Tensor& references, const Tensor& images,
    const Tensor& sizes, double threshold, std::vector<double> weights, double clamp, int64_t offset,
    bool class_agnostic) {
  const char* op = "class_candidates";
  const Decoding decoding(op, weights, clamp, offset);
  STD_TORCH_CHECK(
      scores.dim() == 2 && scores.size(1) >= 1 && box_regression.dim() == 2 && references.dim() == 2 &&
          references.size(1) == 4 && box_regression.size(0) == scores.size(0) && references.size(0) == scores.size(0) &&
          images.dim() == 1 && images.size(0) == scores.size(0),
      op,
      ": scores (R, J), box_regression (R, 4 * J), references (R, 4) and images (R,) must have the same number of "
      "rows; got ",
      scores.size(0), ", ", box_regression.size(0), ", ", references.size(0), " and ", images.numel());
  const int64_t classes = scores.size(1), expected = class_agnostic ? 8 : 4 * classes;
  STD_TORCH_CHECK(
      box_regression.size(1) == expected, op, ": box_regression must have ", expected, " columns for ", classes,
      " classes", class_agnostic ? " that share their deltas" : "", "; got ", box_regression.size(1));
  STD_TORCH_CHECK(
      is_readable(box_regression), op, ": box_regression must be float32, float16 or bfloat16; got ",
      box_regression.scalar_type());
  const Tensor values = dense(scores, ScalarType::Float), corners = dense(references, ScalarType::Float);
  const Tensor owners = dense(images, ScalarType::Long), image_sizes = dense(sizes, ScalarType::Float);
  const float* value_data = values.const_data_ptr<float>();
  const float* corner_data = corners.const_data_ptr<float>();
  const int64_t* owner_data = owners.const_data_ptr<int64_t>();
  const float* size_data = image_sizes.const_data_ptr<float>();
  for (int64_t row = 0; row < images.size(0); ++row) {
    STD_TORCH_CHECK(
        owner_data[row] >= 0 && owner_data[row] < sizes.size(0), op, ": row ", row, " is of image ", owner_data[row],
        ", but the sizes of ", sizes.size(0), " were given");
  }

  std::vector<int64_t> places;
  MRB_PICK(places_above)(value_data, values.numel(), static_cast<float>(threshold), places);
  places.erase(
      std::remove_if(places.begin(), places.end(), [&](int64_t place) { return place % classes == 0; }), places.end());

  const int64_t count = static_cast<int64_t>(places.size());
  Tensor boxes = torch::stable::empty({count, 4}, ScalarType::Float, std::nullopt, scores.device());
  Tensor kept_scores = torch::stable::empty({count}, ScalarType::Float, std::nullopt, scores.device());
  Tensor labels = torch::stable::empty({count}, ScalarType::Long, std::nullopt, scores.device());
  Tensor kept_images = torch::stable::empty({count}, ScalarType::Long, std::nullopt, scores.device());
  float* box_data = boxes.mutable_data_ptr<float>();
  float* score_data = kept_scores.mutable_data_ptr<float>();
  int64_t* label_data = labels.mutable_data_ptr<int64_t>();
  int64_t* image_data = kept_images.mutable_data_ptr<int64_t>();
  const Values deltas(box_regression);
  const int64_t row_stride = box_regression.stride(0), column_stride = box_regression.stride(1);
  torch::stable::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t row = places[k] / classes, label = places[k] % classes, image = owner_data[row];
      const int64_t delta = row * row_stride + 4 * (class_agnostic ? 1 : label) * column_stride;
      const bool large = decoding.decode(
          corner_data + 4 * row, [&](int64_t d) { return deltas[delta + d * column_stride]; }, size_data + 2 * image,
          0.0f, box_data + 4 * k);
      score_data[k] = large ? value_data[places[k]] : NAN;
      label_data[k] = label;
      image_data[k] = image;
    }
  });
  return {boxes, kept_scores, labels, kept_images};
}

}  // namespace
}  // namespace maskrcnn_benchmark

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_benchmark, CPU, m) {
  m.impl("rpn_candidates", TORCH_BOX(&maskrcnn_benchmark::rpn_candidates_cpu));
  m.impl("class_candidates", TORCH_BOX(&maskrcnn_benchmark::class_candidates_cpu));
}
