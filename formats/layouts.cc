// LayoutsFor: which layouts hold what.
#include "formats/sinks.h"

namespace pennyweight {
namespace {

// 8-bit floats: E5M2 has no place in compressed-tensors, rows with scales of their own none in fp8.
std::vector<std::string_view> ScaledLayouts(const ScaledSpec& spec) {
  if (spec.absmax) return {};
  if (spec.element == DType::kF4) return {"compressed-tensors"};
  const bool rows = spec.block_rows == 1 && spec.block_cols == 0;
  std::vector<std::string_view> layouts;
  if (spec.element == DType::kF8E4M3) layouts.push_back("compressed-tensors");
  if (!rows) layouts.push_back("fp8");
  return layouts;
}

// Integers: the words of GPTQ hold the widths that its kernels know, those of AWQ one.
std::vector<std::string_view> IntegerLayouts(const IntegerSpec& spec) {
  std::vector<std::string_view> layouts;
  if (spec.bits == 4) layouts.push_back("awq");
  layouts.push_back("compressed-tensors");
  if (spec.bits <= 4 || spec.bits == 8) layouts.push_back("gptq");
  return layouts;
}

}  // namespace

std::vector<std::string_view> LayoutsFor(const Encoding& encoding) {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return {"awq", "bnb", "compressed-tensors", "fp8", "gguf", "gptq", "safetensors"};
    case Encoding::Kind::kBlock:
      if (encoding.block == BlockType::kMXFP4) return {"compressed-tensors", "gguf"};
      return {"gguf"};
    case Encoding::Kind::kInteger:
      return IntegerLayouts(encoding.integer);
    case Encoding::Kind::kScaled:
      return ScaledLayouts(encoding.scaled);
    case Encoding::Kind::kCodebook:
      return {"bnb"};
  }
  return {};
}

}  // namespace pennyweight
