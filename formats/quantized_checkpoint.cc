#include "formats/quantized_checkpoint.h"

#include <fmt/format.h>

#include <utility>

#include "formats/bitsandbytes_reader.h"
#include "formats/compressed_tensors_reader.h"
#include "formats/fp8_reader.h"
#include "formats/gptq_reader.h"
#include "formats/json_fields.h"
#include "formats/mxfp4_reader.h"
#include "formats/packed_tensors.h"

namespace pennyweight {
namespace {

Status FindByGptq(const PartsIndex& index, const JsonFields& fields, Packing* packing) {
  PW_ASSIGN(const GptqConfig config, ParseGptqConfig(fields));
  return FindGptq(index, config, packing);
}

Status FindByAwq(const PartsIndex& index, const JsonFields& fields, Packing* packing) {
  PW_ASSIGN(const GptqConfig config, ParseAwqConfig(fields));
  return FindAwq(index, config, packing);
}

// AutoRound writes the other layouts, and names them.
Status FindByAutoRound(const PartsIndex& index, const JsonFields& fields, Packing* packing) {
  PW_ASSIGN(const std::optional<std::string> named, fields.GetString("packing_format"));
  const std::string format = named.value_or("auto_round:auto_gptq");
  if (format.find("awq") != std::string::npos) return FindByAwq(index, fields, packing);
  if (format != "auto_round:auto_gptq" && format != "auto_round:gptq" &&
      format != "auto_round:auto_gptq:marlin") {
    return fields.Unsupported("packing_format", fmt::format("\"{:.40}\" is not read here", format));
  }
  PW_ASSIGN(GptqConfig config, ParseGptqConfig(fields));
  config.stated = true;  // all of these are v1
  return FindGptq(index, config, packing);
}

Status FindByFp8(const PartsIndex& index, const JsonFields& fields, Packing* packing) {
  PW_ASSIGN(const Fp8Config config, ParseFp8Config(fields));
  return FindFp8(index, config, packing);
}

Status FindByBitsandbytes(const PartsIndex& index, const JsonFields&, Packing* packing) {
  return FindBitsandbytes(index, packing);
}

Status FindByMxfp4(const PartsIndex& index, const JsonFields&, Packing* packing) {
  return FindGptOss(index, packing);
}

struct Method {
  std::string_view name;  // quant_method
  Status (*find)(const PartsIndex& index, const JsonFields& fields, Packing* packing);
};

// Sorted by name.
constexpr Method kMethods[] = {
    {"auto-round", FindByAutoRound},
    {"awq", FindByAwq},
    {"bitsandbytes", FindByBitsandbytes},
    {"compressed-tensors", FindCompressedTensors},
    {"fbgemm_fp8", FindByFp8},
    {"fp8", FindByFp8},
    {"gptq", FindByGptq},
    {"intel/auto-round", FindByAutoRound},
    {"mxfp4", FindByMxfp4},
};

// What tensors alone tell: for files without a config. Errors are those of a layout that was
// recognised.
Result<std::string> FindByTensors(const PartsIndex& index, Packing* packing) {
  if (LooksLikeGptq(index)) {
    PW_TRY(FindGptq(index, {}, packing));
    return std::string("gptq");
  }
  if (LooksLikeAwq(index)) {
    PW_TRY(FindAwq(index, {}, packing));
    return std::string("awq");
  }
  PW_TRY(FindBitsandbytes(index, packing));
  if (!packing->empty()) return std::string("bitsandbytes");
  if (LooksLikeGptOss(index)) {
    PW_TRY(FindGptOss(index, packing));
    return std::string("mxfp4");
  }
  PW_TRY(FindFp8(index, {}, packing));
  return std::string("fp8");
}

// What the config's quant_method says. Returns that name.
Result<std::string> FindByConfig(const PartsIndex& index, const JsonFields& fields,
                                 Packing* packing) {
  PW_ASSIGN(const std::string name, fields.RequireString("quant_method"));
  for (const Method& method : kMethods) {
    if (method.name != name) continue;
    PW_TRY(method.find(index, fields, packing));
    if (!packing->empty()) return name;
    return fields
        .Invalid("quant_method", fmt::format("is \"{}\", but no tensor is stored so", name))
        .Hint("remove quantization_config from config.json if the weights are plain");
  }
  return Error(ErrorCode::kUnsupported,
               fmt::format("the weights are quantized by \"{:.40}\", which is not read here", name))
      .Hint(
          "give the model as it was before, or in a layout that is read: gptq, awq, fp8, "
          "bitsandbytes, mxfp4, compressed-tensors")
      .InFile(fields.file());
}

}  // namespace

const Json* QuantizationConfig(const Json& json) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* value = json.Find(key);
    if (value != nullptr && value->is_object()) return value;
  }
  return nullptr;
}

Result<std::unique_ptr<TensorSource>> GroupQuantizedParts(const Json* json,
                                                          const std::string& config_file,
                                                          std::unique_ptr<TensorSource>* parts,
                                                          std::vector<std::string>* notes) {
  const Json* quantization = json == nullptr ? nullptr : QuantizationConfig(*json);
  if (json != nullptr && quantization == nullptr) return std::move(*parts);
  Packing packing;
  std::string format;
  {
    const PartsIndex index(**parts);
    if (quantization != nullptr) {
      const JsonFields fields(*quantization, config_file, "quantization_config.");
      PW_ASSIGN(format, FindByConfig(index, fields, &packing));
    } else {
      Result<std::string> found = FindByTensors(index, &packing);
      if (!found.ok()) {
        // One shard of a model may hold codes without their scales.
        notes->push_back("quantized weights are listed in parts: " + found.error().ToString());
        return std::move(*parts);
      }
      format = *found;
    }
    if (packing.empty()) return std::move(*parts);
    DropActivationScales(index, &packing);
  }
  notes->insert(notes->end(), packing.notes().begin(), packing.notes().end());
  return packing.Wrap(std::move(format), parts);
}

}  // namespace pennyweight
