#include "cmd/quantize_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "calib/quantize_model.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "lib/nvfp4.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

// In the order of the enum.
constexpr LayoutRow kLayouts[] = {
    {Layout::kGguf, "gguf", "q4_k_m", MakeGgufSink},
    {Layout::kCompressedTensors, "compressed-tensors", "int4", MakeCompressedTensorsSink},
    {Layout::kFp8, "fp8", "fp8_e4m3", MakeFp8Sink},
    {Layout::kBnb, "bnb", "nf4", MakeBnbSink},
    {Layout::kGptq, "gptq", "int4", MakeGptqSink},
    {Layout::kAwq, "awq", "int4", MakeAwqSink},
    {Layout::kSafetensors, "safetensors", "f16", MakeSafetensorsSink},
};

Result<IntegerSpec> ReadIntegerSpec(const Arguments& arguments, Layout layout, DType dtype) {
  IntegerSpec spec;
  spec.group_size = 128;
  spec.symmetric =
      !arguments.Has("--asymmetric") && (layout != Layout::kAwq || arguments.Has("--symmetric"));
  // The words of GPTQ and AWQ go with scales of float16, whatever the model's dtype is.
  const bool follows = layout != Layout::kGptq && layout != Layout::kAwq;
  spec.scale_dtype = follows && dtype == DType::kBF16 ? DType::kBF16 : DType::kF16;
  if (const auto group = arguments.Get("--group-size")) {
    static constexpr std::string_view kSizes[] = {"16", "32", "64", "128", "256", "channel"};
    PW_ASSIGN(const auto size, arguments.OneOf("--group-size", kSizes));
    spec.group_size = *size == "channel" ? 0 : std::stoll(*size);
  }
  return spec;
}

Result<Encoding> ParseType(const std::string& name, const IntegerSpec& integer) {
  const auto type = FindType(name, integer);
  if (type) return *type;
  return Error(ErrorCode::kUsage, fmt::format("there is no type \"{}\"", name))
      .Hint(fmt::format("types: {}", fmt::join(TypeNames(), ", ")));
}

// Makes a matrix plain that the layout's words and groups do not fit.
void LeavePlainMisfit(Layout layout, const Shape& shape, const Encoding& plain, Choice* choice) {
  if (layout != Layout::kGptq && layout != Layout::kAwq) return;
  const std::string_view name = RowOf(layout).name;
  std::string why = WordMisfit(name, choice->encoding.integer, shape);
  // What fell back to one scale per row has another group size than the weights around it.
  if (choice->degraded) {
    why = fmt::format("{} columns do not divide into groups and {} has one size of them",
                      shape.back(), name);
  }
  if (why.empty()) return;
  *choice = {plain, false, fmt::format("{}: {}", why, plain.Name())};
  choice->degraded = true;
}

// True when rounding will be weighted by what calibration measured.
bool IsCalibrated(const Arguments& arguments, const QuantizeSettings& settings,
                  const Model& model) {
  if (!settings.imatrix.empty()) return true;
  return settings.method != Method::kMinMax &&
         (NeedsCalibration(settings.method) || arguments.Has("--calib")) &&
         RequireRunnable(model).ok();
}

}  // namespace

const LayoutRow& RowOf(Layout layout) { return kLayouts[static_cast<size_t>(layout)]; }

Result<QuantizeSettings> ReadSettings(const Arguments& arguments) {
  QuantizeSettings s;
  PW_ASSIGN(s.output, OutputPath("quantize", arguments));
  std::vector<std::string_view> names;
  for (const LayoutRow& row : kLayouts) names.push_back(row.name);
  PW_ASSIGN(const auto to, arguments.OneOf("--to", names));
  if (to) {
    for (const LayoutRow& row : kLayouts) {
      if (row.name == *to) s.layout = row.layout;
    }
  } else if (s.output.ends_with(".safetensors")) {
    s.layout = Layout::kSafetensors;
  } else {
    s.layout = s.output.ends_with(".gguf") ? Layout::kGguf : Layout::kCompressedTensors;
  }
  static constexpr std::string_view kMethods[] = {"auto", "minmax", "rtn", "awq", "gptq"};
  PW_ASSIGN(const auto method, arguments.OneOf("--method", kMethods));
  s.method = *FindMethod(method.value_or("auto"));
  static constexpr std::string_view kEfforts[] = {"fast", "normal", "best"};
  PW_ASSIGN(const auto effort, arguments.OneOf("--effort", kEfforts));
  s.effort = *FindEffort(effort.value_or("normal"));
  s.allow_nan = arguments.Has("--allow-nan");
  s.all_experts = arguments.Has("--all-experts");
  s.strict = arguments.Has("--strict");
  PW_ASSIGN(const auto min_tokens, arguments.Integer("--min-tokens", 1, int64_t{1} << 32));
  if (min_tokens && !s.strict) {
    return Error(ErrorCode::kUsage, "--min-tokens is what --strict asks for")
        .Hint(fmt::format("--strict --min-tokens {}", *min_tokens));
  }
  s.min_tokens = min_tokens.value_or(kMinTokens);
  s.dry_run = arguments.Has("--dry-run");
  s.imatrix = arguments.All("--imatrix");
  if (!s.imatrix.empty() && s.method == Method::kMinMax) {
    return Error(ErrorCode::kUsage, "minmax weighs nothing: --imatrix would do nothing")
        .Hint("--method rtn");
  }
  if (!s.imatrix.empty() && s.method == Method::kAuto && !arguments.Has("--calib")) {
    s.method = Method::kRtn;
    s.weighted_instead = true;
  }
  // A dry run replaces nothing, so that it may be asked about an output that is there.
  s.force = arguments.Has("--force") || s.dry_run;
  s.reports = arguments.All("--report");
  if (arguments.Has("--symmetric") && arguments.Has("--asymmetric")) {
    return Error(ErrorCode::kUsage, "--symmetric and --asymmetric exclude each other");
  }
  if (s.dry_run && !s.reports.empty()) {
    return Error(ErrorCode::kUsage, "--dry-run writes nothing, so there is no --report")
        .Hint("--dry-run --json prints the same rows");
  }
  return s;
}

bool NeedsCalibration(Method method) {
  return method == Method::kGptq || method == Method::kAwq || method == Method::kAuto;
}

Result<MixOptions> ReadMixOptions(const Arguments& arguments, const QuantizeSettings& settings,
                                  const Model& model) {
  MixOptions options;
  const bool gguf = settings.layout == Layout::kGguf;
  options.type = arguments.Get("--type").value_or(std::string(RowOf(settings.layout).type));
  // fp8 has no scales per row: there the type without more words has blocks.
  if (settings.layout == Layout::kFp8 &&
      (options.type == "fp8_e4m3" || options.type == "fp8_e5m2")) {
    options.type += "_b128x128";
  }
  options.pure = arguments.Has("--pure");
  options.linears_only = !gguf;
  const DType dtype = ModelDType(model);
  PW_ASSIGN(options.integer, ReadIntegerSpec(arguments, settings.layout, dtype));
  options.plain = Encoding::Plain(dtype == DType::kBF16 ? DType::kBF16 : DType::kF16);
  options.norm = Encoding::Plain(gguf ? DType::kF32 : dtype);
  if (const auto name = arguments.Get("--output-type")) {
    PW_ASSIGN(options.output_type, ParseType(*name, options.integer));
  }
  if (const auto name = arguments.Get("--embedding-type")) {
    PW_ASSIGN(options.embedding_type, ParseType(*name, options.integer));
  }
  for (const std::string& text : arguments.All("--tensor-type")) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos) {
      return Error(ErrorCode::kUsage,
                   fmt::format("--tensor-type takes REGEX=TYPE, not \"{}\"", text))
          .Hint("--tensor-type 'down_proj=q6_k'");
    }
    PW_ASSIGN(const Encoding encoding, ParseType(text.substr(equals + 1), options.integer));
    options.tensor_types.push_back({text.substr(0, equals), encoding});
  }
  options.keep = arguments.All("--keep");
  options.importance = IsCalibrated(arguments, settings, model);
  return options;
}

ModelConfig MixConfig(const Model& model) {
  if (model.config) return *model.config;
  ModelConfig config;
  const auto& metadata = model.source->metadata();
  const auto architecture = metadata.find("general.architecture");
  if (architecture == metadata.end()) return config;
  config.architecture = architecture->second;
  const auto number = [&](const char* key, int64_t* out) {
    const auto entry = metadata.find(config.architecture + "." + key);
    if (entry == metadata.end()) return;
    int64_t value = 0;
    const char* const end = entry->second.data() + entry->second.size();
    const auto [rest, code] = std::from_chars(entry->second.data(), end, value);
    if (code == std::errc() && rest == end && value > 0) *out = value;
  };
  number("block_count", &config.layers);
  number("attention.head_count", &config.heads);
  config.kv_heads = config.heads;
  number("attention.head_count_kv", &config.kv_heads);
  number("expert_count", &config.experts);
  return config;
}

void AdjustChoices(const Model& model, Layout layout, const Encoding& plain,
                   std::vector<Choice>* choices) {
  const auto& tensors = model.source->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    Choice& choice = (*choices)[i];
    if (!CanDecode(tensors[i].encoding)) {
      choice = {tensors[i].encoding, false, "cannot be decoded: copied as it is"};
      continue;
    }
    if (choice.quantize && choice.encoding.kind == Encoding::Kind::kInteger) {
      LeavePlainMisfit(layout, tensors[i].shape, plain, &choice);
    }
    // Outside GGUF the scales of NVFP4 are tensors, and have a divisor for all of them.
    if (layout == Layout::kCompressedTensors &&
        choice.encoding == Encoding::Block(BlockType::kNVFP4)) {
      choice.encoding = Nvfp4Encoding();
    }
    // Clients of compressed-tensors give scales the model's dtype; f16 ends too early for them.
    if (layout == Layout::kCompressedTensors && choice.quantize &&
        choice.encoding.kind == Encoding::Kind::kScaled &&
        choice.encoding.scaled.element != DType::kF4 && ModelDType(model) == DType::kBF16) {
      choice.encoding.scaled.scale_dtype = DType::kBF16;
    }
    const Role role = DescribeTensor(model, tensors[i]).role;
    const bool norm = role == Role::kNorm || role == Role::kBias;
    if (norm && layout != Layout::kGguf && tensors[i].encoding.kind == Encoding::Kind::kPlain) {
      choice.encoding = tensors[i].encoding;
    }
  }
}

Status CheckLayout(Layout layout, const std::vector<OutputTensor>& outputs) {
  for (const OutputTensor& tensor : outputs) {
    const auto layouts = LayoutsFor(tensor.encoding);
    const std::string_view name = RowOf(layout).name;
    if (layouts.empty() || tensor.encoding.kind == Encoding::Kind::kPlain) continue;
    if (std::find(layouts.begin(), layouts.end(), name) != layouts.end()) continue;
    return Error(ErrorCode::kUsage,
                 fmt::format("{} does not hold {}", name, tensor.encoding.Name()))
        .Hint(fmt::format("--to {}", fmt::join(layouts, ", or --to ")))
        .InTensor(tensor.name);
  }
  return OkStatus();
}

}  // namespace pennyweight
