#include "quant/type_scaled.h"

#include <charconv>

#include "lib/limits.h"

namespace pennyweight {
namespace {

// Takes a number above 0 from the front of `text`.
std::optional<int64_t> TakeNumber(std::string_view* text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || number <= 0 || number > limits::kDimension) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

std::optional<Encoding> Fp8(DType element, std::string_view suffix) {
  ScaledSpec spec{.element = element, .block_rows = 1};
  if (suffix == "_tensor") {
    spec.block_rows = 0;
  } else if (suffix.starts_with("_b")) {
    suffix.remove_prefix(2);
    const auto rows = TakeNumber(&suffix);
    if (!rows || !suffix.starts_with("x")) return std::nullopt;
    suffix.remove_prefix(1);
    const auto cols = TakeNumber(&suffix);
    if (!cols || !suffix.empty()) return std::nullopt;
    spec.block_rows = *rows;
    spec.block_cols = *cols;
  } else if (!suffix.empty() && suffix != "_channel") {
    return std::nullopt;
  }
  return Encoding::Scaled(spec);
}

std::optional<Encoding> Book(CodebookSpec::Book book, std::string_view suffix) {
  CodebookSpec spec{.book = book};
  if (suffix.starts_with("_b")) {
    suffix.remove_prefix(2);
    const auto block = TakeNumber(&suffix);
    // The sizes that bitsandbytes has kernels for.
    if (!block || *block < 32 || *block > 4096 || (*block & (*block - 1)) != 0) return std::nullopt;
    spec.block = *block;
  }
  if (!suffix.empty()) return std::nullopt;
  return Encoding::Codebook(spec);
}

}  // namespace

std::optional<Encoding> FindScaledType(std::string_view name) {
  if (name == "mxfp4") return Encoding::Block(BlockType::kMXFP4);
  if (name == "nvfp4") {
    return Encoding::Scaled({.element = DType::kF4,
                             .block_rows = 1,
                             .block_cols = 16,
                             .scale_dtype = DType::kF8E4M3,
                             .divided = true});
  }
  if (name.starts_with("fp8_e4m3")) return Fp8(DType::kF8E4M3, name.substr(8));
  if (name.starts_with("fp8_e5m2")) return Fp8(DType::kF8E5M2, name.substr(8));
  if (name.starts_with("nf4")) return Book(CodebookSpec::Book::kNf4, name.substr(3));
  if (name.starts_with("fp4")) return Book(CodebookSpec::Book::kFp4, name.substr(3));
  return std::nullopt;
}

std::vector<std::string> ScaledTypeNames() {
  return {"fp4", "fp8_e4m3", "fp8_e5m2", "mxfp4", "nf4", "nvfp4"};
}

bool IsScaledType(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kScaled || encoding.kind == Encoding::Kind::kCodebook ||
         encoding == Encoding::Block(BlockType::kMXFP4);
}

}  // namespace pennyweight
