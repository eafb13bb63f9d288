// MakeGptqSink: the layout of AutoGPTQ and GPTQModel. For P.weight [N, K] of b-bit integers with G
// groups of columns that share a scale:
//   P.qweight  I32 [K b / 32, N]  column n: a dense stream of code + 2^(b-1) down the rows, low
//   bits
//                                 first
//   P.qzeros   I32 [G, N b / 32]  row g: a stream of zero point + 2^(b-1). Symmetric weights are
//                                 written as v1, which stores one less and which every loader
//                                 reads; others as v2, which stores it as it is: v1 has no clean
//                                 form of a zero point of 0
//   P.scales   F16 [G, N]
//   P.g_idx    I32 [K]            the group of each column: k / (K / G)
// Plain tensors are as they are. Loaders are told of the linear modules that stay plain in two
// ways: GPTQModel and vLLM by `dynamic`, transformers (through optimum) by
// `modules_in_block_to_quantize`, whose entries it compares with the ends of names.
// Source: gptqmodel/nn_modules/qlinear, gptqmodel/quantization/config.py
// (github.com/ModelCloud/GPTQModel); optimum/gptq/quantizer.py (github.com/huggingface/optimum).
#include <cstring>
#include <string>
#include <utility>

#include "formats/bit_stream.h"
#include "formats/gptq_layout.h"
#include "formats/sinks.h"

namespace pennyweight {
namespace {

constexpr std::string_view kName = "gptq";
constexpr int64_t kWordBytes = 4;

// Places of the parts in the list that Parts gives.
constexpr size_t kQweight = 0;
constexpr size_t kQzeros = 1;
constexpr size_t kScales = 2;
constexpr size_t kGroupIndex = 3;

Status Check(const Model& model, const OutputTensor& tensor) {
  return CheckGptqLayout(kName, model, tensor);
}

std::vector<StoredTensor> Parts(const Model&, const OutputTensor& tensor) {
  const int64_t n = tensor.shape[0], k = tensor.shape[1];
  const IntegerSpec& spec = tensor.encoding.integer;
  const int64_t groups = spec.Groups(k);
  const std::string module = ModuleOf(tensor.name);
  return {{module + ".qweight", DType::kI32, {k * spec.bits / 32, n}},
          {module + ".qzeros", DType::kI32, {groups, n * spec.bits / 32}},
          {module + ".scales", DType::kF16, {groups, n}},
          {module + ".g_idx", DType::kI32, {k}}};
}

Status PutGroupIndex(const Model&, const OutputTensor& tensor, const PutPart& put) {
  const int64_t k = tensor.shape[1];
  const int64_t columns = k / tensor.encoding.integer.Groups(k);
  std::vector<uint8_t> bytes(static_cast<size_t>(k * kWordBytes));
  for (int64_t i = 0; i < k; ++i) {
    const auto group = static_cast<uint32_t>(i / columns);
    std::memcpy(bytes.data() + i * kWordBytes, &group, sizeof(group));
  }
  return put(kGroupIndex, 0, bytes.data(), bytes.size());
}

// [rows, cols] codes to [word rows, rows]: the stream of a row goes down a column.
std::vector<uint8_t> PackColumns(const EncodedTensor& tile, int bits) {
  const int half = 1 << (bits - 1);
  std::vector<uint8_t> packed(static_cast<size_t>(tile.cols * bits / 32 * tile.rows * kWordBytes));
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int8_t* codes = tile.codes.data() + r * tile.cols;
    PackStream(packed.data() + r * kWordBytes, tile.rows * kWordBytes, bits, tile.cols,
               [&](int64_t c) { return static_cast<uint32_t>(codes[c] + half); });
  }
  return packed;
}

// [rows, groups] zero points to [groups, words]; a tile begins at a multiple of 32 rows, which fill
// whole words.
std::vector<uint8_t> PackZeros(const EncodedTensor& tile, const IntegerSpec& spec) {
  const int half = 1 << (spec.bits - 1);
  const int64_t groups = spec.Groups(tile.cols);
  const int64_t line_bytes = tile.rows * spec.bits / 32 * kWordBytes;
  std::vector<uint8_t> packed(static_cast<size_t>(groups * line_bytes));
  for (int64_t g = 0; g < groups; ++g) {
    PackStream(packed.data() + g * line_bytes, kWordBytes, spec.bits, tile.rows, [&](int64_t r) {
      const int zero = spec.symmetric ? half - 1 : tile.zeros[r * groups + g] + half;
      return static_cast<uint32_t>(zero);
    });
  }
  return packed;
}

Status WriteTile(const OutputTensor& tensor, int64_t row, const EncodedTensor& tile,
                 const PutPart& put) {
  PW_TRY(CheckCodes(tile));
  const IntegerSpec& spec = tile.encoding.integer;
  const int64_t n = tensor.shape[0];
  PW_TRY(put.Columns(kQweight, static_cast<uint64_t>(n * kWordBytes), tile.cols * spec.bits / 32,
                     static_cast<uint64_t>(row * kWordBytes), PackColumns(tile, spec.bits)));
  PW_TRY(put.Columns(
      kQzeros, static_cast<uint64_t>(n * spec.bits / 32 * kWordBytes), spec.Groups(tile.cols),
      static_cast<uint64_t>(row * spec.bits / 32 * kWordBytes), PackZeros(tile, spec)));
  return PutScalesByGroup(kScales, n, row, tile, put);
}

// "-:^model\.layers\.0\.mlp\.down_proj$": no such module is quantized.
std::string NotQuantized(const std::string& module) {
  std::string pattern = "-:^";
  for (const char c : module) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

// Says which linear modules of the layers are plain, when any is.
void SetExceptions(const Model& model, const std::vector<OutputTensor>& tensors, Json* config) {
  Json quantized = Json::Array();
  Json dynamic = Json::Object();
  for (const OutputTensor& tensor : tensors) {
    const std::string module = ModuleOf(tensor.name);
    if (tensor.encoding.kind != Encoding::Kind::kPlain) {
      quantized.Push(Json::String(module));
    } else if (IsLinearWeight(model, tensor) && !IsHead(model, tensor)) {
      dynamic.Set(NotQuantized(module), Json::Object());
    }
  }
  if (dynamic.members().empty()) return;
  Json lists = Json::Array();
  lists.Push(std::move(quantized));
  config->Set("dynamic", std::move(dynamic));
  config->Set("modules_in_block_to_quantize", std::move(lists));
}

Result<Json> Config(const Model& model, const std::vector<OutputTensor>& tensors) {
  PW_ASSIGN(const IntegerSpec spec, OnlyIntegerType(kName, tensors));
  Json config = Json::Object();
  config.Set("quant_method", Json::String("gptq"));
  config.Set("bits", Json::Integer(spec.bits));
  config.Set("group_size", Json::Integer(spec.group_size == 0 ? -1 : spec.group_size));
  config.Set("sym", Json::Bool(spec.symmetric));
  config.Set("desc_act", Json::Bool(false));
  config.Set("checkpoint_format", Json::String(spec.symmetric ? "gptq" : "gptq_v2"));
  config.Set("pack_dtype", Json::String("int32"));
  // Loaders check its range, though it is about quantizing.
  config.Set("damp_percent", Json::Double(0.01));
  config.Set("static_groups", Json::Bool(false));
  config.Set("true_sequential", Json::Bool(true));
  config.Set("lm_head", Json::Bool(false));
  SetExceptions(model, tensors, &config);
  return config;
}

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeGptqSink(const SinkOptions& options) {
  return MakePartsSink(options, {Check, Parts, PutGroupIndex, WriteTile, Config});
}

}  // namespace pennyweight
