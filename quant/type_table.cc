#include "quant/type_table.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "lib/limits.h"
#include "quant/encode_codebook.h"
#include "quant/encode_scaled.h"
#include "quant/grid.h"

namespace pennyweight {
namespace {

constexpr std::string_view kCast = "none: a cast has no code to choose";
constexpr std::string_view kEach = "each error moves into the columns to its right";
constexpr std::string_view kJoint =
    "each error moves into the columns to its right; the columns of one code together";
constexpr std::string_view kWide =
    "each error moves into the columns to its right; rtn instead where scales span other rows";
constexpr std::string_view kAcross =
    "each error moves into the columns to its right; rtn instead where blocks run on from row to "
    "row";

constexpr uint32_t kAnyPlain = kInGguf | kInCompressedTensors | kInSafetensors;
constexpr auto kNone = ImportanceUse::kNone;
constexpr auto kHelps = ImportanceUse::kHelps;
constexpr auto kNeeds = ImportanceUse::kNeeds;

TypeRow PlainRow(std::string_view name, DType dtype) {
  return {name, "plain", Encoding::Plain(dtype), kNone, kCast, kAnyPlain, ""};
}

TypeRow BlockRow(BlockType type, std::string_view group, ImportanceUse importance,
                 std::string_view feedback) {
  const bool is_fp4 = type == BlockType::kMXFP4 || type == BlockType::kNVFP4;
  const uint32_t layouts = is_fp4 ? kInGguf | kInCompressedTensors : uint32_t{kInGguf};
  return {TraitsOf(type).name, group, Encoding::Block(type), importance, feedback, layouts, ""};
}

TypeRow IntegerRow(std::string_view name, int bits) {
  IntegerSpec spec;
  spec.bits = bits;
  spec.group_size = 128;
  uint32_t layouts = kInCompressedTensors;
  if (bits <= 4 || bits == 8) layouts |= kInGptq;
  if (bits == 4) layouts |= kInAwq;
  return {name,  "integer", Encoding::Integer(spec),      kHelps,
          kEach, layouts,   "_gN or _channel, then _asym"};
}

TypeRow ScaledRow(std::string_view name, DType element) {
  ScaledSpec spec;
  spec.element = element;
  spec.block_rows = 1;
  return {name,
          "float",
          Encoding::Scaled(spec),
          kHelps,
          kWide,
          kInCompressedTensors | kInFp8,
          "_tensor, _channel or _bRxC"};
}

TypeRow CodebookRow(std::string_view name, CodebookSpec::Book book) {
  CodebookSpec spec;
  spec.book = book;
  return {name, "codebook", Encoding::Codebook(spec), kHelps, kAcross, kInBnb, "_bN"};
}

std::vector<TypeRow> MakeRows() {
  using B = BlockType;
  std::vector<TypeRow> rows = {
      PlainRow("f32", DType::kF32),
      PlainRow("f16", DType::kF16),
      PlainRow("bf16", DType::kBF16),
      BlockRow(B::kQ4_0, "legacy", kHelps, kEach),
      BlockRow(B::kQ4_1, "legacy", kHelps, kEach),
      BlockRow(B::kQ5_0, "legacy", kHelps, kEach),
      BlockRow(B::kQ5_1, "legacy", kHelps, kEach),
      BlockRow(B::kQ8_0, "legacy", kHelps, kEach),
      BlockRow(B::kQ2_K, "k-quant", kHelps, kEach),
      BlockRow(B::kQ3_K, "k-quant", kHelps, kEach),
      BlockRow(B::kQ4_K, "k-quant", kHelps, kEach),
      BlockRow(B::kQ5_K, "k-quant", kHelps, kEach),
      BlockRow(B::kQ6_K, "k-quant", kHelps, kEach),
      BlockRow(B::kIQ4_NL, "i-quant", kHelps, kEach),
      BlockRow(B::kIQ4_XS, "i-quant", kHelps, kEach),
      BlockRow(B::kIQ3_S, "i-quant", kHelps, kJoint),
      BlockRow(B::kIQ3_XXS, "i-quant", kNeeds, kJoint),
      BlockRow(B::kIQ2_S, "i-quant", kNeeds, kJoint),
      BlockRow(B::kIQ2_XS, "i-quant", kNeeds, kJoint),
      BlockRow(B::kIQ2_XXS, "i-quant", kNeeds, kJoint),
      BlockRow(B::kIQ1_M, "i-quant", kNeeds, kJoint),
      BlockRow(B::kIQ1_S, "i-quant", kNeeds, kJoint),
      BlockRow(B::kTQ1_0, "ternary", kHelps, kEach),
      BlockRow(B::kTQ2_0, "ternary", kHelps, kEach),
      BlockRow(B::kQ1_0, "ternary", kHelps, kEach),
      BlockRow(B::kQ2_0, "ternary", kHelps, kEach),
      BlockRow(B::kMXFP4, "float", kHelps, kEach),
      BlockRow(B::kNVFP4, "float", kHelps, kEach),
      IntegerRow("int2", 2),
      IntegerRow("int3", 3),
      IntegerRow("int4", 4),
      IntegerRow("int5", 5),
      IntegerRow("int6", 6),
      IntegerRow("int8", 8),
      ScaledRow("fp8_e4m3", DType::kF8E4M3),
      ScaledRow("fp8_e5m2", DType::kF8E5M2),
      CodebookRow("nf4", CodebookSpec::Book::kNf4),
      CodebookRow("fp4", CodebookSpec::Book::kFp4),
  };
  std::sort(rows.begin(), rows.end(),
            [](const TypeRow& a, const TypeRow& b) { return a.name < b.name; });
  return rows;
}

// A number at the front of `text`, which loses it; nullopt when there is none above 0.
std::optional<int64_t> TakeNumber(std::string_view* text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || number <= 0 || number > limits::kDimension) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

// What may follow "int4", as Encoding::Name prints it: "_channel" or "_gN", then optionally
// "_asym". nullopt when it is anything else.
std::optional<Encoding> WithIntegerSuffix(std::string_view suffix, IntegerSpec spec) {
  if (suffix.starts_with("_channel")) {
    spec.group_size = 0;
    suffix.remove_prefix(8);
  } else if (suffix.starts_with("_g")) {
    suffix.remove_prefix(2);
    const auto group = TakeNumber(&suffix);
    if (!group) return std::nullopt;
    spec.group_size = *group;
  } else {
    return std::nullopt;
  }
  spec.symmetric = suffix.empty();
  if (!suffix.empty() && suffix != "_asym") return std::nullopt;
  return Encoding::Integer(spec);
}

std::optional<Encoding> WithScaledSuffix(std::string_view suffix, ScaledSpec spec) {
  if (suffix == "_channel") return Encoding::Scaled(spec);
  if (suffix == "_tensor") {
    spec.block_rows = 0;
    return Encoding::Scaled(spec);
  }
  if (!suffix.starts_with("_b")) return std::nullopt;
  suffix.remove_prefix(2);
  const auto rows = TakeNumber(&suffix);
  if (!rows || !suffix.starts_with("x")) return std::nullopt;
  suffix.remove_prefix(1);
  const auto cols = TakeNumber(&suffix);
  if (!cols || !suffix.empty()) return std::nullopt;
  spec.block_rows = *rows;
  spec.block_cols = *cols;
  return Encoding::Scaled(spec);
}

// bitsandbytes' blocks: powers of two from 32 to 4096.
std::optional<Encoding> WithCodebookSuffix(std::string_view suffix, CodebookSpec spec) {
  if (!suffix.starts_with("_b")) return std::nullopt;
  suffix.remove_prefix(2);
  const auto block = TakeNumber(&suffix);
  if (!block || !suffix.empty() || *block < 32 || *block > 4096 || (*block & (*block - 1)) != 0) {
    return std::nullopt;
  }
  spec.block = *block;
  return Encoding::Codebook(spec);
}

constexpr std::array<TypeLayoutName, 7> kLayouts = {{
    {kInGguf, "gguf", "one file for llama.cpp and its family"},
    {kInCompressedTensors, "compressed-tensors", "a folder for vLLM and transformers"},
    {kInSafetensors, "safetensors", "plain tensors: one file, or a folder with shards"},
    {kInFp8, "fp8", "a folder in Hugging Face's own FP8 form"},
    {kInBnb, "bnb", "a folder for bitsandbytes in transformers"},
    {kInGptq, "gptq", "a folder for GPTQModel, vLLM and transformers"},
    {kInAwq, "awq", "a folder for AutoAWQ, vLLM and transformers"},
}};

}  // namespace

std::string_view ImportanceUseName(ImportanceUse use) {
  switch (use) {
    case ImportanceUse::kNone:
      return "none";
    case ImportanceUse::kHelps:
      return "helps";
    case ImportanceUse::kNeeds:
      return "needs";
  }
  return "none";
}

std::span<const TypeLayoutName> TypeLayouts() { return kLayouts; }

int64_t TypeRow::block() const {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return 1;
    case Encoding::Kind::kBlock:
      return TraitsOf(encoding.block).elements;
    case Encoding::Kind::kInteger:
      return encoding.integer.group_size;
    case Encoding::Kind::kScaled:
      return encoding.scaled.block_cols;
    case Encoding::Kind::kCodebook:
      return encoding.codebook.block;
  }
  return 1;
}

std::span<const TypeRow> TypeRows() {
  static const std::vector<TypeRow> rows = MakeRows();
  return rows;
}

const TypeRow* FindTypeRow(std::string_view name) {
  const std::span<const TypeRow> rows = TypeRows();
  const auto row =
      std::lower_bound(rows.begin(), rows.end(), name,
                       [](const TypeRow& r, std::string_view n) { return r.name < n; });
  return row != rows.end() && row->name == name ? &*row : nullptr;
}

std::optional<Encoding> NamedType(std::string_view name, const IntegerSpec& integer) {
  // The longest row name that `name` begins with: "fp8_e4m3_tensor" is of "fp8_e4m3".
  const TypeRow* row = nullptr;
  for (const TypeRow& candidate : TypeRows()) {
    const std::string_view own = candidate.name;
    const bool fits = name == own || (!candidate.suffixes.empty() && name.starts_with(own) &&
                                      name[own.size()] == '_');
    if (fits && (row == nullptr || own.size() > row->name.size())) row = &candidate;
  }
  if (row == nullptr) return std::nullopt;
  const std::string_view suffix = name.substr(row->name.size());
  if (row->encoding.kind == Encoding::Kind::kInteger) {
    IntegerSpec spec = integer;
    spec.bits = row->encoding.integer.bits;
    return suffix.empty() ? Encoding::Integer(spec) : WithIntegerSuffix(suffix, spec);
  }
  if (suffix.empty()) return row->encoding;
  if (row->encoding.kind == Encoding::Kind::kScaled) {
    return WithScaledSuffix(suffix, row->encoding.scaled);
  }
  return WithCodebookSuffix(suffix, row->encoding.codebook);
}

std::optional<Encoding> FindType(std::string_view name, const IntegerSpec& integer) {
  const auto type = NamedType(name, integer);
  return type && IsWritable(*type) ? type : std::nullopt;
}

bool IsWritable(const Encoding& encoding) {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return IsFloatDType(encoding.dtype);
    case Encoding::Kind::kInteger: {
      // A group size that is no size is for ChooseTypes to refuse, by its own name.
      const int64_t group = encoding.integer.group_size;
      Encoding tried = encoding;
      tried.integer.group_size = std::clamp<int64_t>(group, 0, 256);
      return MakeGrid(tried, group > 0 ? tried.integer.group_size : 256) != nullptr;
    }
    case Encoding::Kind::kBlock:
      return MakeGrid(encoding, TraitsOf(encoding.block).elements) != nullptr;
    case Encoding::Kind::kScaled:
      return CanEncodeScaled(encoding, 4096);
    case Encoding::Kind::kCodebook:
      return CanEncodeCodebook(encoding);
  }
  return false;
}

std::vector<std::string> TypeNames() {
  std::vector<std::string> names;
  for (const TypeRow& row : TypeRows()) {
    if (IsWritable(row.encoding)) names.emplace_back(row.name);
  }
  return names;
}

}  // namespace pennyweight
