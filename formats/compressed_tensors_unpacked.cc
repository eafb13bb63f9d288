#include "formats/compressed_tensors_unpacked.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "lib/checked.h"
#include "lib/nvfp4.h"

namespace pennyweight {
namespace {

constexpr int64_t kNone = PartsIndex::kNone;

// Rows [row, row + count) of scales or zero points; `one` stands for all rows.
Status ReadShared(const TensorSource& source, int64_t part, bool one, int64_t row, int64_t count,
                  std::vector<uint8_t>* out) {
  EncodedTensor rows;
  PW_TRY(source.ReadRows(static_cast<size_t>(part), one ? 0 : row, one ? 1 : count, &rows));
  *out = std::move(rows.data);
  const size_t bytes = out->size();
  for (int64_t r = 1; one && r < count; ++r)
    out->insert(out->end(), out->begin(), out->begin() + static_cast<std::ptrdiff_t>(bytes));
  return OkStatus();
}

class IntQuantized : public PackedTensor {
 public:
  IntQuantized(int64_t weight, int64_t scale, int64_t zero_point, bool one)
      : weight_(weight), scale_(scale), zero_point_(zero_point), one_(one) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    EncodedTensor codes;
    PW_TRY(source.ReadRows(static_cast<size_t>(weight_), row, count, &codes));
    out->codes.resize(codes.data.size());
    std::memcpy(out->codes.data(), codes.data.data(), codes.data.size());
    PW_TRY(ReadShared(source, scale_, one_, row, count, &out->scales));
    out->zeros.clear();
    if (zero_point_ == kNone) return OkStatus();
    std::vector<uint8_t> zeros;
    PW_TRY(ReadShared(source, zero_point_, one_, row, count, &zeros));
    out->zeros.resize(zeros.size());
    std::memcpy(out->zeros.data(), zeros.data(), zeros.size());
    return OkStatus();
  }

 private:
  int64_t weight_, scale_, zero_point_;
  bool one_;
};

class Nvfp4Tensor : public PackedTensor {
 public:
  Nvfp4Tensor(int64_t packed, int64_t scale, float global)
      : packed_(packed), scale_(scale), global_(global) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    EncodedTensor part;
    PW_TRY(source.ReadRows(static_cast<size_t>(packed_), row, count, &part));
    out->data = std::move(part.data);
    PW_TRY(source.ReadRows(static_cast<size_t>(scale_), row, count, &part));
    out->scales = std::move(part.data);
    out->divisor = global_;
    return OkStatus();
  }

 private:
  int64_t packed_, scale_;
  float global_;
};

// The rule of the config for integers of this form; nullptr when none agrees.
const GroupRule* FindRule(const std::vector<GroupRule>& rules, bool one, int64_t groups,
                          int64_t cols, bool symmetric) {
  for (const GroupRule& rule : rules) {
    if (!rule.integer || rule.symmetric != symmetric) continue;
    const bool tensor = rule.strategy == GroupRule::Strategy::kTensor;
    const int64_t expected = rule.group_size == 0 ? 1 : CeilDiv(cols, rule.group_size);
    if (tensor ? one : groups == expected) return &rule;
  }
  return nullptr;
}

}  // namespace

Status AddIntQuantized(const PartsIndex& index, int64_t weight, const std::string& prefix,
                       const std::vector<GroupRule>& rules, Packing* packing) {
  PW_TRY(index.CheckForm(weight, DType::kI8, 2));
  PW_ASSIGN(const int64_t scale, index.Require(prefix + ".weight_scale", weight));
  const Shape& shape = index.Info(weight).shape;
  const Shape& scales = index.Info(scale).shape;
  const bool one = ElementCount(scales) == 1;
  PW_TRY(index.CheckFloat(scale, one ? scales.size() : 2));
  const int64_t groups = one ? 1 : scales[1];
  if (!one)
    PW_TRY(index.CheckShape(scale, {shape[0], groups}, "one row for each row of the weight"));
  const int64_t zero_point = index.Find(prefix + ".weight_zero_point");
  if (zero_point != kNone) {
    PW_TRY(index.CheckForm(zero_point, DType::kI8, scales.size()));
    PW_TRY(index.CheckShape(zero_point, scales, "one zero point for each scale"));
  }
  const GroupRule* rule = FindRule(rules, one, groups, shape[1], zero_point == kNone);
  if (rule == nullptr || shape[1] % groups != 0) {
    return index.Wrong(scale,
                       fmt::format("no group of quantization_config has {} scales in a row "
                                   "of {}, {} zero points",
                                   groups, shape[1], zero_point == kNone ? "without" : "with"));
  }
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = shape;
  info.encoding = Encoding::Integer({.bits = rule->bits,
                                     .group_size = groups == 1 ? 0 : shape[1] / groups,
                                     .symmetric = zero_point == kNone,
                                     .scale_dtype = index.Info(scale).encoding.dtype});
  return packing->Add(index, std::move(info), weight, {weight, scale, zero_point},
                      std::make_unique<IntQuantized>(weight, scale, zero_point, one));
}

Status AddNvfp4Linear(const PartsIndex& index, const std::string& prefix, int64_t packed,
                      int64_t scale, Packing* packing) {
  PW_TRY(index.CheckForm(packed, DType::kU8, 2));
  PW_TRY(index.CheckForm(scale, DType::kF8E4M3, 2));
  PW_ASSIGN(const int64_t global, index.Require(prefix + ".weight_global_scale", packed));
  const Shape& codes = index.Info(packed).shape;
  const int64_t cols = codes[1] * 2;
  if (cols % kNvfp4Group != 0) {
    return index.Wrong(packed, "its rows are no whole groups of 16 values");
  }
  PW_TRY(index.CheckShape(scale, {codes[0], cols / kNvfp4Group},
                          fmt::format("one for each group of {}", index.Info(packed).name)));
  PW_TRY(index.CheckForm(global, DType::kF32, index.Info(global).shape.size()));
  if (ElementCount(index.Info(global).shape) != 1) {
    return index.Wrong(global, "must be one number");
  }
  PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(global));
  float divisor = 0;
  std::memcpy(&divisor, bytes.data(), sizeof(divisor));
  if (!std::isfinite(divisor) || divisor == 0) {
    return index.Wrong(global, "the values are divided by it: it must be a number other than 0");
  }
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = {codes[0], cols};
  info.encoding = Nvfp4Encoding();
  return packing->Add(index, std::move(info), packed, {packed, scale, global},
                      std::make_unique<Nvfp4Tensor>(packed, scale, divisor));
}

}  // namespace pennyweight
