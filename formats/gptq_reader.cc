#include "formats/gptq_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/bit_stream.h"
#include "formats/gptq_parts.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// How zero points are stored. v1: less one. Writers of 2, 4 and 8 bits subtract from whole words,
// borrows and all, so the same is added to whole words again; those of 3 bits, whose fields cross
// words, subtract from each field. GPTQModel before April 2026 subtracted three constants from the
// words of 3 bits in a wrong order, which is undone likewise.
enum class Zeros : uint8_t { kV1, kV2, kOld3Bit };

// Of a stream, which repeats after 3 words of 3-bit fields.
using Words3 = std::array<uint32_t, 3>;

// What is added to the words, modulo 2^32.
constexpr Words3 ToAdd(Zeros zeros, int bits) {
  if (zeros == Zeros::kOld3Bit) return {0x24924924u, 0x92492492u, 0x49249249u};
  if (zeros == Zeros::kV2 || bits == 3) return {0, 0, 0};
  const uint32_t ones = bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
  return {ones, ones, ones};
}

// What is added to each field then, modulo 2^bits.
constexpr int FieldToAdd(Zeros zeros, int bits) { return zeros == Zeros::kV1 && bits == 3 ? 1 : 0; }

// The words of zero points that are all 2^(b-1), after ToAdd.
constexpr Words3 Middle(Zeros zeros, int bits) {
  if (bits == 3 && zeros == Zeros::kV1) return {0xdb6db6dbu, 0xb6db6db6u, 0x6db6db6du};
  if (bits == 3) return {0x24924924u, 0x49249249u, 0x92492492u};
  const uint32_t word = bits == 2 ? 0xaaaaaaaau : bits == 4 ? 0x88888888u : 0x80808080u;
  return {word, word, word};
}

class GptqTensor : public PackedTensor {
 public:
  GptqTensor(const GptqParts& parts, Zeros zeros, std::vector<int32_t> groups)
      : parts_(parts), zeros_(zeros), groups_(std::move(groups)) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    const IntegerSpec& spec = out->encoding.integer;
    EncodedTensor words;
    PW_TRY(source.ReadColumns(static_cast<size_t>(parts_.qweight), 0, out->cols * spec.bits / 32,
                              row, count, &words));
    out->codes.resize(static_cast<size_t>(count * out->cols));
    const int half = 1 << (spec.bits - 1);
    for (int64_t n = 0; n < count; ++n) {
      int8_t* to = out->codes.data() + n * out->cols;
      UnpackStream(words.data.data() + n * 4, count * 4, spec.bits, 0, out->cols,
                   [&](int64_t k, uint32_t value) {
                     to[k] = static_cast<int8_t>(static_cast<int>(value) - half);
                   });
    }
    out->group_of_column = groups_;
    PW_TRY(ReadGroupScales(source, parts_, row, count, out));
    out->zeros.clear();
    return spec.symmetric ? OkStatus() : ReadZeros(source, row, count, out);
  }

 private:
  Status ReadZeros(const TensorSource& source, int64_t row, int64_t count,
                   EncodedTensor* out) const {
    const int bits = out->encoding.integer.bits;
    const int64_t groups = out->encoding.integer.Groups(out->cols);
    const int64_t first = row * bits / 32;
    const int64_t width = CeilDiv((row + count) * bits, 32) - first;
    EncodedTensor words;
    PW_TRY(source.ReadColumns(static_cast<size_t>(parts_.qzeros), 0, groups, first, width, &words));
    const Words3 add = ToAdd(zeros_, bits);
    for (int64_t i = 0; i < groups * width; ++i) {
      uint8_t* at = words.data.data() + i * 4;
      const uint32_t word = LoadWord(at) + add[static_cast<size_t>((first + i % width) % 3)];
      std::memcpy(at, &word, sizeof(word));
    }
    const int half = 1 << (bits - 1);
    const int less = FieldToAdd(zeros_, bits);
    // Where in the first word the first field begins, in bits; streams of 3 bits cross words.
    const int64_t shift = row * bits - first * 32;
    out->zeros.resize(static_cast<size_t>(count * groups));
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* from = words.data.data() + g * width * 4;
      for (int64_t n = 0; n < count; ++n) {
        const int64_t bit = shift + n * bits;
        uint64_t window = LoadWord(from + bit / 32 * 4);
        if (bit % 32 + bits > 32) {
          window |= static_cast<uint64_t>(LoadWord(from + (bit / 32 + 1) * 4)) << 32;
        }
        const int value = (static_cast<int>(window >> (bit % 32)) + less) & ((1 << bits) - 1);
        out->zeros[static_cast<size_t>(n * groups + g)] = static_cast<int8_t>(value - half);
      }
    }
    return OkStatus();
  }

  GptqParts parts_;
  Zeros zeros_;
  std::vector<int32_t> groups_;  // by column; empty: in order
};

// The form of zero points that are all 2^(b-1); nullopt when they are not.
Result<std::optional<Zeros>> SymmetricZeros(const PartsIndex& index, int64_t qzeros, int bits) {
  PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(qzeros));
  const auto width = static_cast<size_t>(index.Info(qzeros).cols());
  for (const Zeros form : {Zeros::kV1, Zeros::kV2, Zeros::kOld3Bit}) {
    if (form == Zeros::kOld3Bit && bits != 3) continue;
    const Words3 add = ToAdd(form, bits);
    const Words3 middle = Middle(form, bits);
    bool same = true;
    for (size_t i = 0; same && i < bytes.size() / 4; ++i) {
      const size_t phase = i % width % 3;
      same = LoadWord(bytes.data() + i * 4) + add[phase] == middle[phase];
    }
    if (same) return std::optional(form);
  }
  return std::optional<Zeros>();
}

// b from the width of qzeros, which is N b / 32 words.
Result<int> BitsOf(const PartsIndex& index, const GptqParts& parts, const GptqConfig& config) {
  const int64_t rows = index.Info(parts.scales).cols();
  const int64_t words = index.Info(parts.qzeros).cols();
  for (const int bits : {2, 3, 4, 8}) {
    if (words * 32 != rows * bits) continue;
    if (config.bits && *config.bits != bits && !config.mixed) {
      return index.Wrong(parts.qzeros, fmt::format("its width says {} bits, quantization_config {}",
                                                   bits, *config.bits));
    }
    return bits;
  }
  return index.Wrong(parts.qzeros,
                     fmt::format("{} words for {} outputs are not 2, 3, 4 or 8 bits", words, rows));
}

struct Counts {
  int64_t asymmetric = 0;
  int64_t mislabelled = 0;
};

Status AddGptq(const PartsIndex& index, const GptqParts& parts, const std::string& prefix,
               const GptqConfig& config, Packing* packing, Counts* counts) {
  PW_TRY(CheckGptqForms(index, parts));
  PW_ASSIGN(const int bits, BitsOf(index, parts, config));
  const Shape& packed = index.Info(parts.qweight).shape;
  const int64_t rows = index.Info(parts.scales).cols();
  if (packed[0] * 32 % bits != 0 || packed[1] != rows) {
    return index.Wrong(parts.qweight, fmt::format("{} words do not hold rows of {}-bit codes for "
                                                  "the {} outputs of scales",
                                                  ShapeToString(packed), bits, rows));
  }
  const int64_t cols = packed[0] * 32 / bits;
  PW_ASSIGN(const int64_t group_size, GroupSize(index, parts, cols, config));
  std::vector<int32_t> groups;
  if (parts.g_idx != PartsIndex::kNone) {
    PW_ASSIGN(groups,
              ReadColumnGroups(index, parts.g_idx, cols, index.Info(parts.scales).shape[0]));
  }
  PW_ASSIGN(const std::optional<Zeros> middle, SymmetricZeros(index, parts.qzeros, bits));
  const Zeros stated = config.v2 ? Zeros::kV2 : Zeros::kV1;
  counts->asymmetric += middle ? 0 : 1;
  counts->mislabelled += middle && *middle != stated ? 1 : 0;
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = {rows, cols};
  info.encoding = Encoding::Integer({.bits = bits,
                                     .group_size = group_size,
                                     .symmetric = middle.has_value(),
                                     .scale_dtype = index.Info(parts.scales).encoding.dtype,
                                     .act_order = !groups.empty()});
  return packing->Add(
      index, std::move(info), parts.qweight,
      {parts.qweight, parts.qzeros, parts.scales, parts.g_idx},
      std::make_unique<GptqTensor>(parts, middle.value_or(stated), std::move(groups)));
}

}  // namespace

Result<GptqConfig> ParseGptqConfig(const JsonFields& fields) {
  GptqConfig config;
  PW_ASSIGN(config.bits, fields.GetInteger("bits", 1, 32));
  PW_ASSIGN(const std::optional<int64_t> group,
            fields.GetInteger("group_size", -1, limits::kDimension));
  if (group) config.group_size = std::max<int64_t>(0, *group);
  PW_ASSIGN(const std::optional<std::string> format, fields.GetString("checkpoint_format"));
  if (format && *format != "gptq" && *format != "gptq_v2") {
    return fields.Unsupported(
        "checkpoint_format",
        fmt::format("\"{:.40}\" is not read here; gptq and gptq_v2 are", *format));
  }
  config.stated = format.has_value();
  config.v2 = format && *format == "gptq_v2";
  const Json* dynamic = fields.Value("dynamic");
  const Json* extra = fields.Value("extra_config");
  config.mixed = (dynamic != nullptr && dynamic->is_object() && !dynamic->members().empty()) ||
                 (extra != nullptr && extra->is_object() && !extra->members().empty());
  return config;
}

Status FindGptq(const PartsIndex& index, const GptqConfig& config, Packing* packing) {
  Counts counts;
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto prefix = WithoutSuffix(index.Info(at).name, ".qweight");
    if (!prefix) continue;
    PW_ASSIGN(const GptqParts parts, FindGptqParts(index, *prefix, at));
    PW_TRY(AddGptq(index, parts, *prefix, config, packing, &counts));
  }
  const char* form = config.v2 ? "as they are (v2)" : "less one (v1)";
  if (counts.mislabelled > 0) {
    packing->Note(
        fmt::format("the zero points of {} symmetric tensors are not stored {}, as "
                    "checkpoint_format has it: read by their words",
                    counts.mislabelled, form));
  }
  if (counts.asymmetric > 0) {
    packing->Note(
        fmt::format("the zero points of {} asymmetric tensors are taken to be stored {}, "
                    "as checkpoint_format{} has it",
                    counts.asymmetric, form, config.stated ? "" : ", which is not given,"));
  }
  return OkStatus();
}

bool LooksLikeGptq(const PartsIndex& index) {
  return AnyLinear(index, [](int64_t packed, int64_t outputs) { return packed == outputs; });
}

}  // namespace pennyweight
