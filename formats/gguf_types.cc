#include "formats/gguf_types.h"

#include <fmt/format.h>

namespace pennyweight {
namespace {

struct PlainType {
  uint32_t id;
  DType dtype;
};

constexpr PlainType kPlainTypes[] = {
    {0, DType::kF32},  {1, DType::kF16},  {24, DType::kI8},  {25, DType::kI16},
    {26, DType::kI32}, {27, DType::kI64}, {28, DType::kF64}, {30, DType::kBF16},
};

struct RemovedType {
  uint32_t id;
  const char* name;
};

constexpr RemovedType kRemovedTypes[] = {
    {4, "q4_2"},      {5, "q4_3"},        {31, "q4_0_4_4"},   {32, "q4_0_4_8"},
    {33, "q4_0_8_8"}, {36, "iq4_nl_4_4"}, {37, "iq4_nl_4_8"}, {38, "iq4_nl_8_8"},
};

}  // namespace

uint64_t GgufTypeBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

std::string_view GgufTypeName(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<uint32_t>(type)];
}

Result<Encoding> EncodingOfGgml(uint32_t id) {
  for (const PlainType& plain : kPlainTypes) {
    if (plain.id == id) return Encoding::Plain(plain.dtype);
  }
  if (const BlockTraits* traits = FindBlockTypeByGgmlId(id)) return Encoding::Block(traits->type);
  for (const RemovedType& removed : kRemovedTypes) {
    if (removed.id != id) continue;
    return Error(ErrorCode::kUnknownDtype,
                 fmt::format("tensor type {} ({}) was removed from llama.cpp", id, removed.name))
        .Hint("quantize the original model again");
  }
  return Error(ErrorCode::kUnknownDtype,
               fmt::format("tensor type {} is unknown: newer than this program, or of a fork", id))
      .Hint("use a file that mainline llama.cpp wrote");
}

std::optional<uint32_t> GgmlIdOf(const Encoding& encoding) {
  if (encoding.kind == Encoding::Kind::kBlock) return TraitsOf(encoding.block).ggml_id;
  if (encoding.kind != Encoding::Kind::kPlain) return std::nullopt;
  for (const PlainType& plain : kPlainTypes) {
    if (plain.dtype == encoding.dtype) return plain.id;
  }
  return std::nullopt;
}

bool IsGgmlScratchType(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kBlock &&
         (encoding.block == BlockType::kQ8_1 || encoding.block == BlockType::kQ8_K);
}

}  // namespace pennyweight
