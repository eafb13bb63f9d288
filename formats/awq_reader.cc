// FindAwq of formats/gptq_reader.h: the GEMM form of AutoAWQ.
#include <fmt/format.h>

#include <algorithm>

#include "formats/bit_stream.h"
#include "formats/gptq_parts.h"
#include "formats/gptq_reader.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr int64_t kPerWord = 8;
// The nibble that holds output 8c + j of word c.
constexpr int kNibble[kPerWord] = {0, 4, 1, 5, 2, 6, 3, 7};

int8_t CodeOf(const uint8_t* word, int64_t output) {
  const uint32_t value = LoadWord(word) >> (4 * kNibble[output % kPerWord]) & 15u;
  return static_cast<int8_t>(static_cast<int>(value) - 8);
}

class AwqTensor : public PackedTensor {
 public:
  explicit AwqTensor(const GptqParts& parts) : parts_(parts) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    out->codes.resize(static_cast<size_t>(count * out->cols));
    PW_TRY(Transpose(source, parts_.qweight, row, count, out->cols, out->codes.data()));
    PW_TRY(ReadGroupScales(source, parts_, row, count, out));
    out->zeros.clear();
    if (out->encoding.integer.symmetric) return OkStatus();
    const int64_t groups = out->encoding.integer.Groups(out->cols);
    out->zeros.resize(static_cast<size_t>(count * groups));
    return Transpose(source, parts_.qzeros, row, count, groups, out->zeros.data());
  }

 private:
  // Outputs [row, row + count) of a part of `lines` rows, to to[count, lines].
  static Status Transpose(const TensorSource& source, int64_t part, int64_t row, int64_t count,
                          int64_t lines, int8_t* to) {
    const int64_t first = row / kPerWord;
    const int64_t width = CeilDiv(row + count, kPerWord) - first;
    EncodedTensor words;
    PW_TRY(source.ReadColumns(static_cast<size_t>(part), 0, lines, first, width, &words));
    for (int64_t line = 0; line < lines; ++line) {
      const uint8_t* from = words.data.data() + line * width * 4;
      for (int64_t n = 0; n < count; ++n) {
        const int64_t word = (row + n) / kPerWord - first;
        to[n * lines + line] = CodeOf(from + word * 4, row + n);
      }
    }
    return OkStatus();
  }

  GptqParts parts_;
};

Status AddAwq(const PartsIndex& index, const GptqParts& parts, const std::string& prefix,
              const GptqConfig& config, Packing* packing) {
  PW_TRY(CheckGptqForms(index, parts));
  const Shape& packed = index.Info(parts.qweight).shape;
  const int64_t rows = index.Info(parts.scales).cols();
  const int64_t groups = index.Info(parts.scales).shape[0];
  const std::string what =
      fmt::format("8 codes of 4 bits in a word, for the {} outputs of scales", rows);
  if (rows % kPerWord != 0) {
    return index.Wrong(parts.scales, "the number of outputs is not a multiple of 8");
  }
  PW_TRY(index.CheckShape(parts.qweight, {packed[0], rows / kPerWord}, what));
  PW_TRY(index.CheckShape(parts.qzeros, {groups, rows / kPerWord}, what));
  PW_ASSIGN(const int64_t group_size, GroupSize(index, parts, packed[0], config));
  PW_ASSIGN(const std::vector<uint8_t> zeros, index.ReadAll(parts.qzeros));
  const bool symmetric =
      std::all_of(zeros.begin(), zeros.end(), [](uint8_t b) { return b == 0x88; });
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = {rows, packed[0]};
  info.encoding = Encoding::Integer({.bits = 4,
                                     .group_size = group_size,
                                     .symmetric = symmetric,
                                     .scale_dtype = index.Info(parts.scales).encoding.dtype});
  return packing->Add(index, std::move(info), parts.qweight,
                      {parts.qweight, parts.qzeros, parts.scales},
                      std::make_unique<AwqTensor>(parts));
}

}  // namespace

Result<GptqConfig> ParseAwqConfig(const JsonFields& fields) {
  GptqConfig config;
  PW_ASSIGN(const std::optional<std::string> version, fields.GetString("version"));
  std::string lower = version.value_or("gemm");
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (lower != "gemm") {
    return fields.Unsupported("version",
                              fmt::format("\"{:.40}\" is not read here; gemm is", *version));
  }
  for (const char* key : {"bits", "w_bit"}) {
    PW_ASSIGN(const std::optional<int64_t> bits, fields.GetInteger(key, 1, 32));
    if (bits && *bits != 4) {
      return fields.Unsupported(key, fmt::format("{} bits are not read here; 4 are", *bits));
    }
  }
  for (const char* key : {"group_size", "q_group_size"}) {
    PW_ASSIGN(const std::optional<int64_t> group, fields.GetInteger(key, -1, limits::kDimension));
    if (group) config.group_size = std::max<int64_t>(0, *group);
  }
  return config;
}

Status FindAwq(const PartsIndex& index, const GptqConfig& config, Packing* packing) {
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto prefix = WithoutSuffix(index.Info(at).name, ".qweight");
    if (!prefix) continue;
    PW_ASSIGN(const GptqParts parts, FindGptqParts(index, *prefix, at));
    PW_TRY(AddAwq(index, parts, *prefix, config, packing));
  }
  return OkStatus();
}

bool LooksLikeAwq(const PartsIndex& index) {
  return AnyLinear(index,
                   [](int64_t packed, int64_t outputs) { return packed * kPerWord == outputs; });
}

}  // namespace pennyweight
