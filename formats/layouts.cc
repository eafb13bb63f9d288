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

}  // namespace

std::vector<std::string_view> LayoutsFor(const Encoding& encoding) {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return {"bnb", "compressed-tensors", "fp8", "gguf", "safetensors"};
    case Encoding::Kind::kBlock:
      if (encoding.block == BlockType::kMXFP4) return {"compressed-tensors", "gguf"};
      return {"gguf"};
    case Encoding::Kind::kInteger:
      return {"compressed-tensors"};
    case Encoding::Kind::kScaled:
      return ScaledLayouts(encoding.scaled);
    case Encoding::Kind::kCodebook:
      return {"bnb"};
  }
  return {};
}

}  // namespace pennyweight
