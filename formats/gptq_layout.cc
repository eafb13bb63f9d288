#include "formats/gptq_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/sinks.h"

namespace pennyweight {
namespace {

// What the loaders' kernels know, on a CPU too.
constexpr std::array<int64_t, 5> kGroups = {0, 16, 32, 64, 128};
constexpr std::array<int, 4> kGptqBits = {2, 3, 4, 8};

template <class List, class Value>
bool Has(const List& list, Value value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

bool HoldsBits(std::string_view layout, int bits) {
  return layout == "awq" ? bits == 4 : layout == "gptq" && Has(kGptqBits, bits);
}

// Values of `bits` that fill whole words.
int64_t WordValues(int bits) { return bits == 3 ? 32 : 32 / bits; }

bool AllFit(const std::vector<int8_t>& values, int bits) {
  const int low = -(1 << (bits - 1));
  return std::all_of(values.begin(), values.end(),
                     [&](int8_t value) { return value >= low && value < -low; });
}

}  // namespace

std::string WordMisfit(std::string_view layout, const IntegerSpec& spec, const Shape& shape) {
  if (!HoldsBits(layout, spec.bits)) return {};
  if (shape.size() != 2) return "not a matrix";
  const int64_t n = shape[0], k = shape[1];
  if (spec.group_size > 0 && k % spec.group_size != 0) {
    return fmt::format("{} columns do not divide into groups of {}", k, spec.group_size);
  }
  const int64_t unit = WordValues(spec.bits);
  if (n % unit != 0) return fmt::format("{} rows do not fill words of {} codes", n, unit);
  if (layout == "gptq" && k % unit != 0) {
    return fmt::format("{} columns do not fill words of {} codes", k, unit);
  }
  return {};
}

Status CheckGptqLayout(std::string_view layout, const Model& model, const OutputTensor& tensor) {
  const Encoding& encoding = tensor.encoding;
  if (encoding.kind == Encoding::Kind::kPlain) return OkStatus();
  const auto refused = [&](const std::string& why, const std::string& hint) -> Status {
    return Error(ErrorCode::kUnsupported, fmt::format("{}: {}", layout, why))
        .Hint(hint)
        .InTensor(tensor.name);
  };
  const IntegerSpec& spec = encoding.integer;
  if (encoding.kind != Encoding::Kind::kInteger || !HoldsBits(layout, spec.bits)) {
    return refused(fmt::format("this layout holds integers of {}, not {}",
                               layout == "awq" ? "4 bits" : "2, 3, 4 and 8 bits", encoding.Name()),
                   "--type int4");
  }
  if (spec.act_order) return refused("groups in activation order are not written", "--type int4");
  if (spec.scale_dtype != DType::kF16) return refused("scales are float16", "--type int4");
  if (!Has(kGroups, spec.group_size)) {
    return refused(fmt::format("no loader takes groups of {}", spec.group_size),
                   "--group-size 32, 64, 128 or channel");
  }
  if (!IsLinearWeight(model, tensor) || IsHead(model, tensor)) {
    return refused("loaders look for quantized weights in the linear modules of layers only",
                   "leave it as it is: --keep REGEX, or --to compressed-tensors");
  }
  const std::string misfit = WordMisfit(layout, spec, tensor.shape);
  if (!misfit.empty()) return refused(misfit, "leave it as it is: --keep REGEX");
  return OkStatus();
}

Result<IntegerSpec> OnlyIntegerType(std::string_view layout,
                                    const std::vector<OutputTensor>& tensors) {
  const OutputTensor* first = nullptr;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.encoding.kind == Encoding::Kind::kPlain) continue;
    if (first == nullptr) first = &tensor;
    if (tensor.encoding == first->encoding) continue;
    return Error(ErrorCode::kUnsupported,
                 fmt::format("{}: all weights have one type, and this one is {} where {} is {}",
                             layout, tensor.encoding.Name(), first->name, first->encoding.Name()))
        .Hint("--to compressed-tensors")
        .InTensor(tensor.name);
  }
  return first->encoding.integer;
}

Status CheckCodes(const EncodedTensor& tile) {
  const int bits = tile.encoding.integer.bits;
  if (AllFit(tile.codes, bits) && AllFit(tile.zeros, bits)) return OkStatus();
  return Error(ErrorCode::kInvalidTensor, "a code or zero point does not fit its bits");
}

Status PutScalesByGroup(size_t part, int64_t n, int64_t row, const EncodedTensor& tile,
                        const PutPart& put) {
  const int64_t groups = tile.encoding.integer.Groups(tile.cols);
  constexpr int64_t kBytes = 2;  // float16
  std::vector<uint8_t> by_group(tile.scales.size());
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      std::memcpy(by_group.data() + (g * tile.rows + r) * kBytes,
                  tile.scales.data() + (r * groups + g) * kBytes, kBytes);
    }
  }
  return put.Columns(part, static_cast<uint64_t>(n * kBytes), groups,
                     static_cast<uint64_t>(row * kBytes), by_group);
}

}  // namespace pennyweight
