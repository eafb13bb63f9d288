// MakeBnbSink: 4-bit codebooks as bitsandbytes stores them. For P.weight of n values in row-major
// order, in blocks of B that may cross rows:
//   P.weight               U8 [ceil(n / 2), 1]  two codes in a byte, the first in the high half
//   P.weight.absmax        F32 [ceil(n / B)]
//   P.weight.quant_map     F32 [16]  the levels
//   P.weight.quant_state.bitsandbytes__nf4 (or __fp4)  U8: {"quant_type", "blocksize", "dtype",
//                          "shape"} as JSON; dtype is what the values are decoded to
// Plain tensors are as they are. Source: bitsandbytes/functional.py, QuantState.as_dict
// (github.com/bitsandbytes-foundation/bitsandbytes).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <string>
#include <utility>

#include "formats/hf_output.h"
#include "formats/parts_sink.h"
#include "formats/sinks.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr size_t kCodes = 0;
constexpr size_t kAbsmax = 1;
constexpr size_t kLevels = 2;
constexpr size_t kState = 3;

std::string_view BookName(const OutputTensor& tensor) {
  return tensor.encoding.codebook.book == CodebookSpec::Book::kNf4 ? "nf4" : "fp4";
}

std::string TorchDtype(const Model& model) {
  const std::string name = model.config ? TorchDtypeName(model.config->dtype) : std::string();
  return name.empty() ? "float16" : name;
}

std::string StateText(const Model& model, const OutputTensor& tensor) {
  return fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}]}})",
                     BookName(tensor), tensor.encoding.codebook.block, TorchDtype(model),
                     fmt::join(tensor.shape, ", "));
}

Status Check(const Model& model, const OutputTensor& tensor) {
  const Encoding& encoding = tensor.encoding;
  if (encoding.kind == Encoding::Kind::kPlain) return OkStatus();
  const auto refused = [&](const std::string& why, const std::string& hint) -> Status {
    return Error(ErrorCode::kUnsupported, "bnb: " + why).Hint(hint).InTensor(tensor.name);
  };
  if (encoding.kind != Encoding::Kind::kCodebook) {
    return refused("this layout holds nf4 and fp4, not " + encoding.Name(), "--type nf4");
  }
  if (encoding.codebook.nested_block != 0) {
    return refused("nested scales are not written", "--type nf4");
  }
  if (!IsLinearWeight(model, tensor)) {
    return refused("only the weights of linear modules are quantized",
                   "leave it as it is: --keep REGEX");
  }
  return OkStatus();
}

std::vector<StoredTensor> Parts(const Model& model, const OutputTensor& tensor) {
  const int64_t values = tensor.shape[0] * tensor.shape[1];
  const auto state = static_cast<int64_t>(StateText(model, tensor).size());
  return {{tensor.name, DType::kU8, {CeilDiv(values, 2), 1}},
          {tensor.name + ".absmax", DType::kF32, {CeilDiv(values, tensor.encoding.codebook.block)}},
          {tensor.name + ".quant_map", DType::kF32, {16}},
          {fmt::format("{}.quant_state.bitsandbytes__{}", tensor.name, BookName(tensor)),
           DType::kU8,
           {state}}};
}

Status PutState(const Model& model, const OutputTensor& tensor, const PutPart& put) {
  const std::string text = StateText(model, tensor);
  return put(kState, 0, text.data(), text.size());
}

Status WriteTile(const OutputTensor&, int64_t row, const EncodedTensor& tile, const PutPart& put) {
  const int64_t block = tile.encoding.codebook.block;
  const int64_t begin = row * tile.cols;
  const int64_t values = tile.rows * tile.cols;
  if (begin % block != 0 || begin % 2 != 0) {
    return Error(ErrorCode::kInvalidTensor, "a tile of rows begins inside a block of values");
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(CeilDiv(values, 2)));
  for (int64_t i = 0; i < values; ++i) {
    const int code = tile.codes[static_cast<size_t>(i)];
    if (code < 0 || code > 15) {
      return Error(ErrorCode::kInvalidTensor, "a code does not fit its bits");
    }
    uint8_t& byte = bytes[static_cast<size_t>(i / 2)];
    byte = static_cast<uint8_t>(byte | code << (i % 2 == 0 ? 4 : 0));
  }
  PW_TRY(put(kCodes, static_cast<uint64_t>(begin / 2), bytes.data(), bytes.size()));
  PW_TRY(put(kAbsmax, static_cast<uint64_t>(begin / block * 4), tile.scales.data(),
             tile.scales.size()));
  if (row != 0) return OkStatus();
  return put(kLevels, 0, tile.levels.data(), tile.levels.size() * sizeof(float));
}

Result<Json> Config(const Model& model, const std::vector<OutputTensor>& tensors) {
  const OutputTensor* first = nullptr;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.encoding.kind == Encoding::Kind::kPlain) continue;
    if (first == nullptr) first = &tensor;
    if (tensor.encoding.codebook.book == first->encoding.codebook.book) continue;
    return Error(
               ErrorCode::kUnsupported,
               fmt::format("bnb: all weights have one codebook, and this one is {} where {} is {}",
                           BookName(tensor), first->name, BookName(*first)))
        .Hint("--type nf4")
        .InTensor(tensor.name);
  }
  Json left = Json::Array();
  for (const std::string& module : PlainLinears(model, tensors)) left.Push(Json::String(module));
  Json config = Json::Object();
  config.Set("quant_method", Json::String("bitsandbytes"));
  config.Set("load_in_4bit", Json::Bool(true));
  config.Set("load_in_8bit", Json::Bool(false));
  config.Set("bnb_4bit_quant_type", Json::String(std::string(BookName(*first))));
  config.Set("bnb_4bit_use_double_quant", Json::Bool(false));
  config.Set("bnb_4bit_compute_dtype", Json::String(TorchDtype(model)));
  config.Set("bnb_4bit_quant_storage", Json::String("uint8"));
  config.Set("llm_int8_skip_modules", std::move(left));
  return config;
}

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeBnbSink(const SinkOptions& options) {
  return MakePartsSink(options, {Check, Parts, PutState, WriteTile, Config});
}

}  // namespace pennyweight
