#include "lib/encoding.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lib/checked.h"

namespace pennyweight {
namespace {

// In the order of the enum. Ids, elements and bytes: ggml.h and ggml-common.h of llama.cpp. Removed
// ids (4, 5, 31 to 33, 36 to 38) are not here, nor are plain types.
constexpr std::array<BlockTraits, 27> kBlocks = {{
    {BlockType::kQ4_0, "q4_0", 2, 32, 18},         {BlockType::kQ4_1, "q4_1", 3, 32, 20},
    {BlockType::kQ5_0, "q5_0", 6, 32, 22},         {BlockType::kQ5_1, "q5_1", 7, 32, 24},
    {BlockType::kQ8_0, "q8_0", 8, 32, 34},         {BlockType::kQ8_1, "q8_1", 9, 32, 36},
    {BlockType::kQ2_K, "q2_k", 10, 256, 84},       {BlockType::kQ3_K, "q3_k", 11, 256, 110},
    {BlockType::kQ4_K, "q4_k", 12, 256, 144},      {BlockType::kQ5_K, "q5_k", 13, 256, 176},
    {BlockType::kQ6_K, "q6_k", 14, 256, 210},      {BlockType::kQ8_K, "q8_k", 15, 256, 292},
    {BlockType::kIQ2_XXS, "iq2_xxs", 16, 256, 66}, {BlockType::kIQ2_XS, "iq2_xs", 17, 256, 74},
    {BlockType::kIQ3_XXS, "iq3_xxs", 18, 256, 98}, {BlockType::kIQ1_S, "iq1_s", 19, 256, 50},
    {BlockType::kIQ4_NL, "iq4_nl", 20, 32, 18},    {BlockType::kIQ3_S, "iq3_s", 21, 256, 110},
    {BlockType::kIQ2_S, "iq2_s", 22, 256, 82},     {BlockType::kIQ4_XS, "iq4_xs", 23, 256, 136},
    {BlockType::kIQ1_M, "iq1_m", 29, 256, 56},     {BlockType::kTQ1_0, "tq1_0", 34, 256, 54},
    {BlockType::kTQ2_0, "tq2_0", 35, 256, 66},     {BlockType::kMXFP4, "mxfp4", 39, 32, 17},
    {BlockType::kNVFP4, "nvfp4", 40, 64, 36},      {BlockType::kQ1_0, "q1_0", 41, 128, 18},
    {BlockType::kQ2_0, "q2_0", 42, 64, 18},
}};
static_assert(kBlocks.size() == static_cast<size_t>(BlockType::kQ2_0) + 1);

constexpr bool BlocksFollowEnum() {
  for (size_t i = 0; i < kBlocks.size(); ++i) {
    if (static_cast<size_t>(kBlocks[i].type) != i) return false;
  }
  return true;
}
static_assert(BlocksFollowEnum());

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// "fp8_e4m3_b128x128", "int8_absmax", "fp4_e2m1_b1x16": element, then what shares a scale.
std::string ScaledName(const ScaledSpec& spec) {
  const char* element = spec.element == DType::kF8E4M3   ? "fp8_e4m3"
                        : spec.element == DType::kF8E5M2 ? "fp8_e5m2"
                        : spec.element == DType::kF4     ? "fp4_e2m1"
                                                         : "int8";
  if (spec.absmax) return fmt::format("{}_absmax", element);
  if (spec.block_cols > 0) {
    return fmt::format("{}_b{}x{}", element, spec.block_rows, spec.block_cols);
  }
  return fmt::format("{}_{}", element, spec.block_rows == 0 ? "tensor" : "channel");
}

double ScaledBits(const ScaledSpec& spec, int64_t cols) {
  const double rows = static_cast<double>(std::max<int64_t>(1, spec.block_rows));
  const double per_row = static_cast<double>(spec.Groups(cols)) * DTypeBits(spec.scale_dtype);
  // One scale for the whole tensor costs nothing that a row could tell.
  const double shared = spec.block_rows == 0 ? 0 : per_row / rows;
  return DTypeBits(spec.element) + (cols > 0 ? shared / static_cast<double>(cols) : 0);
}

double CodebookBits(const CodebookSpec& spec) {
  const double absmax =
      spec.nested_block == 0 ? 32 : 8 + 32.0 / static_cast<double>(spec.nested_block);
  return 4 + absmax / static_cast<double>(spec.block);
}

}  // namespace

int64_t ScaledSpec::Groups(int64_t cols) const {
  return block_cols == 0 ? 1 : CeilDiv(cols, block_cols);
}

const BlockTraits& TraitsOf(BlockType type) { return kBlocks[static_cast<size_t>(type)]; }

const BlockTraits* FindBlockType(std::string_view name) {
  for (const BlockTraits& row : kBlocks) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

const BlockTraits* FindBlockTypeByGgmlId(uint32_t id) {
  for (const BlockTraits& row : kBlocks) {
    if (row.ggml_id == id) return &row;
  }
  return nullptr;
}

Encoding Encoding::Plain(DType dtype) {
  Encoding encoding;
  encoding.kind = Kind::kPlain;
  encoding.dtype = dtype;
  return encoding;
}

Encoding Encoding::Block(BlockType type) {
  Encoding encoding;
  encoding.kind = Kind::kBlock;
  encoding.block = type;
  return encoding;
}

Encoding Encoding::Integer(IntegerSpec spec) {
  Encoding encoding;
  encoding.kind = Kind::kInteger;
  encoding.integer = spec;
  return encoding;
}

Encoding Encoding::Scaled(ScaledSpec spec) {
  Encoding encoding;
  encoding.kind = Kind::kScaled;
  encoding.scaled = spec;
  return encoding;
}

Encoding Encoding::Codebook(CodebookSpec spec) {
  Encoding encoding;
  encoding.kind = Kind::kCodebook;
  encoding.codebook = spec;
  return encoding;
}

bool Encoding::operator==(const Encoding& other) const {
  if (kind != other.kind) return false;
  switch (kind) {
    case Kind::kPlain:
      return dtype == other.dtype;
    case Kind::kBlock:
      return block == other.block;
    case Kind::kInteger:
      return integer == other.integer;
    case Kind::kScaled:
      return scaled == other.scaled;
    case Kind::kCodebook:
      return codebook == other.codebook;
  }
  return false;
}

std::string Encoding::Name() const {
  switch (kind) {
    case Kind::kPlain:
      return Lower(DTypeName(dtype));
    case Kind::kBlock:
      return std::string(TraitsOf(block).name);
    case Kind::kScaled:
      return ScaledName(scaled);
    case Kind::kCodebook:
      return fmt::format("{}_b{}{}", codebook.book == CodebookSpec::Book::kNf4 ? "nf4" : "fp4",
                         codebook.block, codebook.nested_block == 0 ? "" : "_nested");
    case Kind::kInteger:
      break;
  }
  const std::string group =
      integer.group_size == 0 ? "channel" : fmt::format("g{}", integer.group_size);
  return fmt::format("int{}_{}{}{}", integer.bits, group, integer.symmetric ? "" : "_asym",
                     integer.act_order ? "_actorder" : "");
}

double Encoding::BitsPerWeight(int64_t cols) const {
  switch (kind) {
    case Kind::kPlain:
      return DTypeBits(dtype);
    case Kind::kBlock:
      return 8.0 * TraitsOf(block).bytes / TraitsOf(block).elements;
    case Kind::kScaled:
      return ScaledBits(scaled, cols);
    case Kind::kCodebook:
      return CodebookBits(codebook);
    case Kind::kInteger:
      break;
  }
  const double per_group = DTypeBits(integer.scale_dtype) + (integer.symmetric ? 0 : integer.bits);
  const int64_t columns_per_group = integer.group_size == 0 ? cols : integer.group_size;
  if (columns_per_group <= 0) return integer.bits;
  return integer.bits + per_group / static_cast<double>(columns_per_group);
}

std::optional<uint64_t> Encoding::RowBytes(int64_t cols) const {
  if (cols < 0 || (kind != Kind::kPlain && kind != Kind::kBlock)) return std::nullopt;
  const auto columns = static_cast<uint64_t>(cols);
  if (kind == Kind::kBlock) {
    const BlockTraits& traits = TraitsOf(block);
    const auto elements = static_cast<uint64_t>(traits.elements);
    if (columns % elements != 0) return std::nullopt;
    return CheckedMul(columns / elements, static_cast<uint64_t>(traits.bytes));
  }
  const auto bits = CheckedMul(columns, static_cast<uint64_t>(DTypeBits(dtype)));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

}  // namespace pennyweight
