// MakeAwqSink: the GEMM form of AutoAWQ. For P.weight [N, K] of 4-bit integers with G groups of
// columns that share a scale, N a multiple of 8:
//   P.qweight  I32 [K, N / 8]  word c of row k: code + 8 of the outputs 8c + {0 2 4 6 1 3 5 7}, low
//                              bits first
//   P.qzeros   I32 [G, N / 8]  zero points + 8 in the same order; 8 where there are none
//   P.scales   F16 [G, N]
// Plain tensors are as they are; linear modules among them are listed in modules_to_not_convert,
// but for the head, which no loader takes to be quantized.
// Source: awq/modules/linear/gemm.py (github.com/casper-hansen/AutoAWQ).
#include <cstring>
#include <string>
#include <utility>

#include "formats/gptq_layout.h"
#include "formats/sinks.h"

namespace pennyweight {
namespace {

constexpr std::string_view kName = "awq";
constexpr int64_t kWordBytes = 4;
constexpr int64_t kPerWord = 8;
// The output, of the eight of a word, whose code is in each nibble.
constexpr int kOutput[kPerWord] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr int kHalf = 8;

// Places of the parts in the list that Parts gives.
constexpr size_t kQweight = 0;
constexpr size_t kQzeros = 1;
constexpr size_t kScales = 2;

Status Check(const Model& model, const OutputTensor& tensor) {
  return CheckGptqLayout(kName, model, tensor);
}

std::vector<StoredTensor> Parts(const Model&, const OutputTensor& tensor) {
  const int64_t n = tensor.shape[0], k = tensor.shape[1];
  const int64_t groups = tensor.encoding.integer.Groups(k);
  const std::string module = ModuleOf(tensor.name);
  return {{module + ".qweight", DType::kI32, {k, n / kPerWord}},
          {module + ".qzeros", DType::kI32, {groups, n / kPerWord}},
          {module + ".scales", DType::kF16, {groups, n}}};
}

// [rows, lines] values to [lines, rows / 8] words; no values: all zero.
std::vector<uint8_t> PackOutputs(const int8_t* values, int64_t rows, int64_t lines) {
  const int64_t width = rows / kPerWord;
  std::vector<uint8_t> packed(static_cast<size_t>(lines * width * kWordBytes));
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t c = 0; c < width; ++c) {
      uint32_t word = 0;
      for (int64_t i = 0; i < kPerWord; ++i) {
        const int64_t row = c * kPerWord + kOutput[i];
        const int value = values == nullptr ? 0 : values[row * lines + line];
        word |= static_cast<uint32_t>(value + kHalf) << (4 * i);
      }
      std::memcpy(packed.data() + (line * width + c) * kWordBytes, &word, sizeof(word));
    }
  }
  return packed;
}

Status WriteTile(const OutputTensor& tensor, int64_t row, const EncodedTensor& tile,
                 const PutPart& put) {
  PW_TRY(CheckCodes(tile));
  const IntegerSpec& spec = tile.encoding.integer;
  const int64_t n = tensor.shape[0];
  const auto line_bytes = static_cast<uint64_t>(n / kPerWord * kWordBytes);
  const auto at = static_cast<uint64_t>(row / kPerWord * kWordBytes);
  PW_TRY(put.Columns(kQweight, line_bytes, tile.cols, at,
                     PackOutputs(tile.codes.data(), tile.rows, tile.cols)));
  const int8_t* const zeros = spec.symmetric ? nullptr : tile.zeros.data();
  const int64_t groups = spec.Groups(tile.cols);
  PW_TRY(put.Columns(kQzeros, line_bytes, groups, at, PackOutputs(zeros, tile.rows, groups)));
  return PutScalesByGroup(kScales, n, row, tile, put);
}

Result<Json> Config(const Model& model, const std::vector<OutputTensor>& tensors) {
  PW_ASSIGN(const IntegerSpec spec, OnlyIntegerType(kName, tensors));
  Json plain = Json::Array();
  for (const OutputTensor& tensor : tensors) {
    const bool left = tensor.encoding.kind == Encoding::Kind::kPlain;
    if (left && IsLinearWeight(model, tensor) && !IsHead(model, tensor)) {
      plain.Push(Json::String(ModuleOf(tensor.name)));
    }
  }
  // A list takes the place of the loader's own, which has the head.
  if (!plain.items().empty()) plain.Push(Json::String("lm_head"));
  Json config = Json::Object();
  config.Set("quant_method", Json::String("awq"));
  config.Set("bits", Json::Integer(4));
  config.Set("group_size", Json::Integer(spec.group_size == 0 ? -1 : spec.group_size));
  config.Set("zero_point", Json::Bool(true));
  config.Set("version", Json::String("gemm"));
  config.Set("modules_to_not_convert", plain.items().empty() ? Json() : std::move(plain));
  return config;
}

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeAwqSink(const SinkOptions& options) {
  return MakePartsSink(options, {Check, Parts, nullptr, WriteTile, Config});
}

}  // namespace pennyweight
