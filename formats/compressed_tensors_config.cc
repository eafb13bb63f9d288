#include "formats/compressed_tensors_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "formats/parts_sink.h"

namespace pennyweight {
namespace {

constexpr Encoding::Kind kInteger = Encoding::Kind::kInteger;

bool IsNvfp4(const Encoding& encoding) {
  const ScaledSpec& spec = encoding.scaled;
  return encoding.kind == Encoding::Kind::kScaled && spec.element == DType::kF4 &&
         spec.block_rows == 1 && spec.block_cols == 16 && spec.scale_dtype == DType::kF8E4M3 &&
         spec.divided && !spec.absmax;
}

bool IsMxfp4(const Encoding& encoding) { return encoding == Encoding::Block(BlockType::kMXFP4); }

std::string_view FormatOf(const Encoding& encoding) {
  if (encoding.kind == kInteger) return "pack-quantized";
  if (IsMxfp4(encoding)) return "mxfp4-pack-quantized";
  return IsNvfp4(encoding) ? "nvfp4-pack-quantized" : "float-quantized";
}

struct Group {
  Encoding encoding;
  std::vector<std::string> modules;
};

std::vector<Group> GroupByEncoding(const std::vector<OutputTensor>& tensors) {
  std::vector<Group> groups;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.encoding.kind == Encoding::Kind::kPlain) continue;
    Encoding key = tensor.encoding;
    // The scales' dtype is the tensors' affair; no key that every loader accepts speaks of it.
    key.integer.scale_dtype = DType::kF32;
    if (key.scaled.element != DType::kF4) key.scaled.scale_dtype = DType::kF32;
    auto it = std::find_if(groups.begin(), groups.end(),
                           [&](const Group& group) { return group.encoding == key; });
    if (it == groups.end()) it = groups.insert(groups.end(), Group{key, {}});
    it->modules.push_back(ModuleOf(tensor.name));
  }
  // Stable: among groups of equal size the first announced stays first.
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    return a.modules.size() > b.modules.size();
  });
  return groups;
}

// num_bits, type, symmetric, strategy and what belongs to it.
Json WeightsJson(const Encoding& encoding) {
  const bool integer = encoding.kind == kInteger;
  const bool small = IsNvfp4(encoding) || IsMxfp4(encoding);
  const IntegerSpec& spec = encoding.integer;
  const ScaledSpec& scaled = encoding.scaled;
  std::string_view strategy = "tensor";
  int64_t group = 0;
  if (integer) {
    strategy = spec.group_size == 0 ? "channel" : "group";
    group = spec.group_size;
  } else if (small) {
    strategy = IsMxfp4(encoding) ? "group" : "tensor_group";
    group = IsMxfp4(encoding) ? 32 : 16;
  } else if (scaled.block_cols > 0) {
    strategy = "block";
  } else if (scaled.block_rows == 1) {
    strategy = "channel";
  }
  Json weights = Json::Object();
  weights.Set("num_bits", Json::Integer(integer ? spec.bits : small ? 4 : 8));
  weights.Set("type", Json::String(integer ? "int" : "float"));
  weights.Set("symmetric", Json::Bool(!integer || spec.symmetric));
  weights.Set("strategy", Json::String(std::string(strategy)));
  weights.Set("group_size", group == 0 ? Json() : Json::Integer(group));
  if (strategy == "block") {
    Json structure = Json::Array();
    structure.Push(Json::Integer(scaled.block_rows));
    structure.Push(Json::Integer(scaled.block_cols));
    weights.Set("block_structure", std::move(structure));
  }
  weights.Set("dynamic", Json::Bool(false));
  return weights;
}

Json GroupJson(const Group& group, bool by_class, bool with_format) {
  Json targets = Json::Array();
  if (by_class) {
    targets.Push(Json::String("Linear"));
  } else {
    for (const std::string& module : group.modules) targets.Push(Json::String(module));
  }
  Json out = Json::Object();
  out.Set("targets", std::move(targets));
  out.Set("weights", WeightsJson(group.encoding));
  out.Set("input_activations", Json());
  out.Set("output_activations", Json());
  if (with_format) out.Set("format", Json::String(std::string(FormatOf(group.encoding))));
  return out;
}

struct Refusal {
  std::string why;  // empty: it is held
  std::string hint;
};

Refusal CheckInteger(const IntegerSpec& spec, int64_t cols) {
  if (spec.bits < 2 || spec.bits > 8) {
    return {fmt::format("{} bits are not written, only 2 to 8", spec.bits), "--type int4"};
  }
  // The loaders that read dense streams (0.18 and later) refuse packed zero points; those before
  // leave bits of each word unused.
  if (!spec.symmetric && 32 % spec.bits != 0) {
    return {fmt::format("no version of its library loads {} bits with zero points", spec.bits),
            "--symmetric, or --type int4"};
  }
  if (spec.act_order) return {"groups in activation order are not written", "--type int4"};
  if (!IsFloatDType(spec.scale_dtype)) {
    return {"scales are float16, bfloat16 or float32", "--type int4"};
  }
  if (spec.group_size < 0 || (spec.group_size > 0 && cols % spec.group_size != 0)) {
    return {fmt::format("its rows of {} do not divide into groups of {}", cols, spec.group_size),
            "--group-size 32"};
  }
  return {};
}

Refusal CheckScaled(const Encoding& encoding, int64_t cols) {
  const ScaledSpec& spec = encoding.scaled;
  if (IsNvfp4(encoding)) {
    if (cols % 16 == 0) return {};
    return {fmt::format("its rows of {} do not divide into groups of 16", cols),
            "--type fp8_e4m3_channel"};
  }
  if (spec.element == DType::kF8E5M2) {
    return {"8-bit floats are fp8_e4m3 there, not " + encoding.Name(),
            "--to fp8, or --type fp8_e4m3_channel"};
  }
  if (spec.element != DType::kF8E4M3 || spec.divided || !IsFloatDType(spec.scale_dtype)) {
    return {"this layout does not hold " + encoding.Name() + " values", "--type fp8_e4m3_channel"};
  }
  const bool tensor = spec.block_rows == 0 && spec.block_cols == 0;
  const bool channel = spec.block_rows == 1 && spec.block_cols == 0;
  if (!tensor && !channel && (spec.block_rows < 1 || spec.block_cols < 1)) {
    return {"scales are per tensor, row or block", "--type fp8_e4m3_channel"};
  }
  return {};
}

}  // namespace

Status CheckCompressedTensors(const Model& model, const OutputTensor& tensor) {
  const Encoding& encoding = tensor.encoding;
  if (encoding.kind == Encoding::Kind::kPlain) return OkStatus();
  const auto refused = [&](const std::string& why, const std::string& hint) -> Status {
    return Error(ErrorCode::kUnsupported, "compressed-tensors: " + why)
        .Hint(hint)
        .InTensor(tensor.name);
  };
  if (encoding.kind == Encoding::Kind::kBlock && !IsMxfp4(encoding)) {
    return refused("this layout does not hold " + encoding.Name() + " blocks", "--to gguf");
  }
  if (encoding.kind == Encoding::Kind::kCodebook) {
    return refused("this layout does not hold " + encoding.Name() + " values", "--to bnb");
  }
  if (!IsLinearWeight(model, tensor)) {
    return refused("only the weights of linear modules are quantized",
                   "leave it as it is: --keep REGEX");
  }
  Refusal refusal;
  if (encoding.kind == kInteger) refusal = CheckInteger(encoding.integer, tensor.shape[1]);
  if (encoding.kind == Encoding::Kind::kScaled) refusal = CheckScaled(encoding, tensor.shape[1]);
  if (IsMxfp4(encoding) && tensor.shape[1] % 32 != 0) {
    refusal = {fmt::format("its rows of {} do not divide into groups of 32", tensor.shape[1]),
               "--type fp8_e4m3_channel"};
  }
  return refusal.why.empty() ? OkStatus() : refused(refusal.why, refusal.hint);
}

Json CompressedTensorsConfig(const Model& model, const std::vector<OutputTensor>& tensors) {
  const std::vector<Group> groups = GroupByEncoding(tensors);
  const std::string_view format = FormatOf(groups.front().encoding);
  const bool mixed = std::any_of(groups.begin(), groups.end(), [&](const Group& group) {
    return FormatOf(group.encoding) != format;
  });
  Json config_groups = Json::Object();
  // The class comes last: a loader that tries targets in this order finds a module's own name
  // first, and does not warn that the name matches nothing.
  for (size_t i = 0; i < groups.size(); ++i) {
    const size_t from = groups.size() - 1 - i;
    config_groups.Set("group_" + std::to_string(i), GroupJson(groups[from], from == 0, mixed));
  }
  Json ignore = Json::Array();
  for (const std::string& module : PlainLinears(model, tensors)) ignore.Push(Json::String(module));
  Json config = Json::Object();
  config.Set("quant_method", Json::String("compressed-tensors"));
  config.Set("format", Json::String(mixed ? "mixed-precision" : std::string(format)));
  config.Set("quantization_status", Json::String("compressed"));
  config.Set("global_compression_ratio", Json());
  config.Set("kv_cache_scheme", Json());
  config.Set("config_groups", std::move(config_groups));
  config.Set("ignore", std::move(ignore));
  return config;
}

}  // namespace pennyweight
