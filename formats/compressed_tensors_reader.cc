#include "formats/compressed_tensors_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "formats/bit_stream.h"
#include "formats/compressed_tensors_groups.h"
#include "formats/compressed_tensors_unpacked.h"
#include "formats/fp8_reader.h"
#include "formats/gptq_parts.h"
#include "formats/mxfp4_reader.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr int64_t kNone = PartsIndex::kNone;

// Indices of a pack-quantized linear.
struct Parts {
  int64_t packed = kNone;
  int64_t scale = kNone;
  int64_t zero_point = kNone;
  int64_t shape = kNone;
  int64_t g_idx = kNone;
};

// Words of `count` values: a dense stream, or whole values in each word.
int64_t Words(int64_t count, int bits, bool dense) {
  return dense ? CeilDiv(count * bits, 32) : CeilDiv(count, 32 / bits);
}

// Values [first, first + count) of such words that lie `stride` bytes apart, as signed codes.
template <class Put>
void Unpack(const uint8_t* words, int64_t stride, int bits, bool dense, int64_t first,
            int64_t count, const Put& put) {
  const int half = 1 << (bits - 1);
  if (dense) {
    UnpackStream(words, stride, bits, first, count, [&](int64_t i, uint32_t value) {
      put(i, static_cast<int8_t>(static_cast<int>(value) - half));
    });
    return;
  }
  const int64_t per_word = 32 / bits;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = first + i;
    const uint32_t word = LoadWord(words + at / per_word * stride);
    const uint32_t value = word >> (at % per_word * bits) & ((1u << bits) - 1);
    put(i, static_cast<int8_t>(static_cast<int>(value) - half));
  }
}

class PackQuantized : public PackedTensor {
 public:
  PackQuantized(const Parts& parts, bool dense, bool packed_zeros, std::vector<int32_t> groups)
      : parts_(parts), dense_(dense), packed_zeros_(packed_zeros), groups_(std::move(groups)) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    const int bits = out->encoding.integer.bits;
    out->data.clear();
    out->zeros.clear();
    out->group_of_column = groups_;
    EncodedTensor part;
    PW_TRY(source.ReadRows(static_cast<size_t>(parts_.scale), row, count, &part));
    out->scales = std::move(part.data);
    PW_TRY(source.ReadRows(static_cast<size_t>(parts_.packed), row, count, &part));
    out->codes.resize(static_cast<size_t>(count * out->cols));
    for (int64_t r = 0; r < count; ++r) {
      int8_t* to = out->codes.data() + r * out->cols;
      Unpack(part.data.data() + r * part.cols * 4, 4, bits, dense_, 0, out->cols,
             [&](int64_t c, int8_t code) { to[c] = code; });
    }
    return parts_.zero_point == kNone ? OkStatus() : ReadZeros(source, row, count, out);
  }

 private:
  Status ReadZeros(const TensorSource& source, int64_t row, int64_t count,
                   EncodedTensor* out) const {
    const int bits = out->encoding.integer.bits;
    const auto part = static_cast<size_t>(parts_.zero_point);
    EncodedTensor stored;
    if (!packed_zeros_) {
      PW_TRY(source.ReadRows(part, row, count, &stored));
      out->zeros.resize(stored.data.size());
      std::memcpy(out->zeros.data(), stored.data.data(), stored.data.size());
      return OkStatus();
    }
    // The words that hold the rows' fields; a field's place in them counts from the first word.
    const int64_t per_word = 32 / bits;
    const int64_t first = dense_ ? row * bits / 32 : row / per_word;
    const int64_t end = Words(row + count, bits, dense_);
    PW_TRY(source.ReadRows(part, first, end - first, &stored));
    const int64_t groups = stored.cols;
    out->zeros.resize(static_cast<size_t>(count * groups));
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* words = stored.data.data() + g * 4;
      const auto put = [&](int64_t r, int8_t zero) {
        out->zeros[static_cast<size_t>(r * groups + g)] = zero;
      };
      if (!dense_) {
        Unpack(words, groups * 4, bits, false, row - first * per_word, count, put);
      } else {
        UnpackAt(words, groups * 4, bits, row * bits - first * 32, count, put);
      }
    }
    return OkStatus();
  }

  // A dense stream from bit `shift` of its first word: rows do not begin with words.
  template <class Put>
  static void UnpackAt(const uint8_t* words, int64_t stride, int bits, int64_t shift, int64_t count,
                       const Put& put) {
    for (int64_t r = 0; r < count; ++r) {
      const int64_t bit = shift + r * bits;
      const uint8_t* at = words + bit / 32 * stride;
      uint64_t window = LoadWord(at);
      if (bit % 32 + bits > 32) window |= static_cast<uint64_t>(LoadWord(at + stride)) << 32;
      const int value = static_cast<int>(window >> (bit % 32)) & ((1 << bits) - 1);
      put(r, static_cast<int8_t>(value - (1 << (bits - 1))));
    }
  }

  Parts parts_;
  bool dense_;
  bool packed_zeros_;
  std::vector<int32_t> groups_;
};

// A pack-quantized linear: what its tensors and the config say of it.
class PackedLinear {
 public:
  PackedLinear(const PartsIndex& index, const Parts& parts, std::string prefix)
      : index_(index), parts_(parts), prefix_(std::move(prefix)) {}

  Status Add(const std::vector<GroupRule>& rules, Packing* packing) const;

 private:
  const TensorInfo& Info(int64_t part) const { return index_.Info(part); }
  bool PackedZeros() const {
    return parts_.zero_point != kNone &&
           Info(parts_.zero_point).encoding != Encoding::Plain(DType::kI8);
  }
  Status CheckForms() const;
  Result<Shape> ReadShape() const;
  // Why a rule does not fit the shapes; empty when it does.
  std::string Mismatch(const GroupRule& rule, const Shape& shape, bool dense) const;
  Status AddAs(const GroupRule& rule, const Shape& shape, bool dense, Packing* packing) const;

  const PartsIndex& index_;
  const Parts& parts_;
  std::string prefix_;
};

Status PackedLinear::CheckForms() const {
  PW_TRY(index_.CheckForm(parts_.packed, DType::kI32, 2));
  PW_TRY(index_.CheckForm(parts_.shape, DType::kI64, 1));
  if (parts_.zero_point != kNone) {
    PW_TRY(index_.CheckForm(parts_.zero_point, PackedZeros() ? DType::kI32 : DType::kI8, 2));
  }
  return index_.CheckFloat(parts_.scale, 2);
}

Result<Shape> PackedLinear::ReadShape() const {
  PW_TRY(index_.CheckShape(parts_.shape, {2}, "it holds two numbers"));
  PW_ASSIGN(const std::vector<uint8_t> bytes, index_.ReadAll(parts_.shape));
  Shape shape(2);
  std::memcpy(shape.data(), bytes.data(), 2 * sizeof(int64_t));
  const Shape& packed = Info(parts_.packed).shape;
  // A word holds at most 16 values, so that a believable width is backed by the file.
  if (shape[0] != packed[0] || shape[1] < 1 || shape[1] > packed[1] * 16) {
    return index_.Wrong(parts_.shape, fmt::format("says {}, but weight_packed is {}",
                                                  ShapeToString(shape), ShapeToString(packed)));
  }
  return shape;
}

std::string PackedLinear::Mismatch(const GroupRule& rule, const Shape& shape, bool dense) const {
  const int64_t rows = shape[0];
  const int64_t cols = shape[1];
  const auto differs = [&](int64_t part, const Shape& expected) {
    if (Info(part).shape == expected) return std::string();
    return fmt::format("{} is {}, expected {}", Info(part).name, ShapeToString(Info(part).shape),
                       ShapeToString(expected));
  };
  if (!rule.integer) return "it has floats";
  const int64_t groups = rule.group_size == 0 ? 1 : CeilDiv(cols, rule.group_size);
  std::string why = differs(parts_.packed, {rows, Words(cols, rule.bits, dense)});
  if (why.empty()) why = differs(parts_.scale, {rows, groups});
  if (!why.empty()) return why;
  if (rule.symmetric != (parts_.zero_point == kNone)) {
    return rule.symmetric ? "there is a weight_zero_point" : "there is no weight_zero_point";
  }
  if (rule.symmetric) return "";
  return differs(parts_.zero_point, {PackedZeros() ? Words(rows, rule.bits, dense) : rows, groups});
}

Status PackedLinear::AddAs(const GroupRule& rule, const Shape& shape, bool dense,
                           Packing* packing) const {
  if (rule.group_size != 0 && shape[1] % rule.group_size != 0) {
    return Error(ErrorCode::kUnsupported, fmt::format("rows of {} do not divide into groups of {}",
                                                      shape[1], rule.group_size))
        .Hint("give the model as it was before it was quantized")
        .InFile(Info(parts_.packed).file)
        .InTensor(prefix_ + ".weight");
  }
  std::vector<int32_t> groups;
  if (parts_.g_idx != kNone) {
    PW_ASSIGN(groups,
              ReadColumnGroups(index_, parts_.g_idx, shape[1], Info(parts_.scale).shape[1]));
  }
  TensorInfo info;
  info.name = prefix_ + ".weight";
  info.shape = shape;
  info.encoding = Encoding::Integer({.bits = rule.bits,
                                     .group_size = rule.group_size,
                                     .symmetric = rule.symmetric,
                                     .scale_dtype = Info(parts_.scale).encoding.dtype,
                                     .act_order = !groups.empty()});
  return packing->Add(
      index_, std::move(info), parts_.packed,
      {parts_.packed, parts_.scale, parts_.zero_point, parts_.shape, parts_.g_idx},
      std::make_unique<PackQuantized>(parts_, dense, PackedZeros(), std::move(groups)));
}

Status PackedLinear::Add(const std::vector<GroupRule>& rules, Packing* packing) const {
  PW_TRY(CheckForms());
  PW_ASSIGN(const Shape shape, ReadShape());
  std::string reasons;
  // The one scale of a row shorter than a group agrees with that group's rule, too: rules that rows
  // divide by come first.
  std::vector<GroupRule> sorted = rules;
  std::stable_partition(sorted.begin(), sorted.end(), [&](const GroupRule& rule) {
    return rule.group_size == 0 || shape[1] % rule.group_size == 0;
  });
  for (const GroupRule& rule : sorted) {
    std::string why = Mismatch(rule, shape, true);
    if (why.empty()) return AddAs(rule, shape, true, packing);
    // Where values do not divide words, version 0.16 and before left bits of each word unused.
    if (rule.integer && 32 % rule.bits != 0 && Mismatch(rule, shape, false).empty()) {
      return AddAs(rule, shape, false, packing);
    }
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", rule.ToString(), why);
  }
  return index_.Wrong(parts_.packed,
                      fmt::format("no group of quantization_config agrees with the parts of this "
                                  "{} linear: {}",
                                  ShapeToString(shape), reasons));
}

// P.weight_packed of any format.
Status AddPacked(const PartsIndex& index, int64_t packed, const std::string& prefix,
                 const std::vector<GroupRule>& rules, Packing* packing) {
  Parts parts;
  parts.packed = packed;
  PW_ASSIGN(parts.scale, index.Require(prefix + ".weight_scale", packed));
  if (index.Info(packed).encoding == Encoding::Plain(DType::kU8) &&
      std::any_of(rules.begin(), rules.end(), [](const GroupRule& r) { return !r.integer; })) {
    if (index.Info(parts.scale).encoding == Encoding::Plain(DType::kU8)) {
      return AddMxfp4Linear(index, prefix, packed, parts.scale, packing);
    }
    return AddNvfp4Linear(index, prefix, packed, parts.scale, packing);
  }
  PW_ASSIGN(parts.shape, index.Require(prefix + ".weight_shape", packed));
  parts.zero_point = index.Find(prefix + ".weight_zero_point");
  parts.g_idx = index.Find(prefix + ".weight_g_idx");
  return PackedLinear(index, parts, prefix).Add(rules, packing);
}

}  // namespace

Status FindCompressedTensors(const PartsIndex& index, const JsonFields& fields, Packing* packing) {
  PW_ASSIGN(const std::vector<GroupRule> rules, ParseGroupRules(fields));
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const TensorInfo& info = index.Info(at);
    const auto packed = WithoutSuffix(info.name, ".weight_packed");
    if (packed) PW_TRY(AddPacked(index, at, *packed, rules, packing));
    const auto plain = WithoutSuffix(info.name, ".weight");
    if (plain && info.encoding == Encoding::Plain(DType::kI8)) {
      PW_TRY(AddIntQuantized(index, at, *plain, rules, packing));
    }
  }
  Fp8Config blocks;
  for (const GroupRule& rule : rules) {
    blocks.required = blocks.required || (!rule.integer && rule.bits == 8);
    if (rule.strategy != GroupRule::Strategy::kBlock) continue;
    blocks.block_rows = rule.block_rows;
    blocks.block_cols = rule.block_cols;
  }
  return FindFp8(index, blocks, packing);
}

}  // namespace pennyweight
