// pennyweight quantize: the main job. Source, choice of types, method, layout, report.
#include <fmt/format.h>

#include <chrono>
#include <map>

#include "calib/builtin_text.h"
#include "calib/quantize_model.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "cmd/output_run.h"
#include "cmd/report_output.h"
#include "formats/sinks.h"
#include "lib/hash.h"
#include "lib/linalg.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT", "file or folder to write"},
    {"--type", "", "NAME", "mix or type (default: q4_k_m for gguf, int4 otherwise)"},
    {"--pure", "", "", "the bare type for every matrix, no mix"},
    {"--to", "", "LAYOUT", "gguf, compressed-tensors or safetensors (default: by OUTPUT)"},
    {"--method", "", "NAME", "auto, minmax, rtn or gptq (default: auto)"},
    {"--calib", "", "FILE", "calibration text (default: the text built into the program)"},
    {"--separator", "", "STR", "what parts the documents of --calib (\\n is understood)"},
    {"--tokens", "", "N", "calibration tokens (default: 65536, or all there are)"},
    {"--context", "", "N", "tokens of a calibration window (default: 512 or the model's limit)"},
    {"--tensor-type", "", "REGEX=TYPE", "type of the tensors that match; repeatable, first wins"},
    {"--keep", "", "REGEX", "leave the tensors that match as they are; repeatable"},
    {"--output-type", "", "TYPE", "type of the head"},
    {"--embedding-type", "", "TYPE", "type of the embedding"},
    {"--group-size", "", "N", "columns that share a scale: 32, 64, 128 or channel (integers)"},
    {"--symmetric", "", "", "integers without zero points (default)"},
    {"--asymmetric", "", "", "integers with zero points"},
    kKeyFlag,
    {"--report", "", "FILE", "write the report as .json or .csv; repeatable"},
    {"--force", "", "", "replace the output if it exists"},
    {"--resume", "", "", "go on from where a stopped run left this output"},
};

enum class Layout : uint8_t { kGguf, kCompressedTensors, kSafetensors };

struct Settings {
  std::string output;
  Layout layout = Layout::kGguf;
  Method method = Method::kAuto;
  bool force = false;
  std::vector<std::string> reports;
};

Result<Settings> ReadSettings(const Arguments& arguments) {
  Settings s;
  PW_ASSIGN(s.output, OutputPath("quantize", arguments));
  static constexpr std::string_view kLayouts[] = {"gguf", "compressed-tensors", "safetensors"};
  PW_ASSIGN(const auto to, arguments.OneOf("--to", kLayouts));
  if (to) {
    s.layout = *to == "gguf"                 ? Layout::kGguf
               : *to == "compressed-tensors" ? Layout::kCompressedTensors
                                             : Layout::kSafetensors;
  } else if (s.output.ends_with(".safetensors")) {
    s.layout = Layout::kSafetensors;
  } else {
    s.layout = s.output.ends_with(".gguf") ? Layout::kGguf : Layout::kCompressedTensors;
  }
  static constexpr std::string_view kMethods[] = {"auto", "minmax", "rtn", "gptq"};
  PW_ASSIGN(const auto method, arguments.OneOf("--method", kMethods));
  s.method = *FindMethod(method.value_or("auto"));
  s.force = arguments.Has("--force");
  s.reports = arguments.All("--report");
  if (arguments.Has("--symmetric") && arguments.Has("--asymmetric")) {
    return Error(ErrorCode::kUsage, "--symmetric and --asymmetric exclude each other");
  }
  return s;
}

Result<IntegerSpec> ReadIntegerSpec(const Arguments& arguments, DType dtype) {
  IntegerSpec spec;
  spec.group_size = 128;
  spec.symmetric = !arguments.Has("--asymmetric");
  spec.scale_dtype = dtype == DType::kBF16 ? DType::kBF16 : DType::kF16;
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

// The tables of what becomes what: user's words to MixOptions.
Result<MixOptions> ReadMixOptions(const Arguments& arguments, const Settings& settings,
                                  const Model& model) {
  MixOptions options;
  const bool gguf = settings.layout == Layout::kGguf;
  options.type =
      arguments.Get("--type").value_or(gguf                                      ? "q4_k_m"
                                       : settings.layout == Layout::kSafetensors ? "f16"
                                                                                 : "int4");
  options.pure = arguments.Has("--pure");
  const DType dtype = ModelDType(model);
  PW_ASSIGN(options.integer, ReadIntegerSpec(arguments, dtype));
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
  return options;
}

// What no mix decides: tensors whose bits this program does not turn into numbers stay as they are,
// and norms outside GGUF keep their own dtype.
void AdjustChoices(const Model& model, Layout layout, std::vector<Choice>* choices) {
  const auto& tensors = model.source->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    Choice& choice = (*choices)[i];
    if (!CanDecode(tensors[i].encoding)) {
      choice = {tensors[i].encoding, false, "cannot be decoded: copied as it is"};
      continue;
    }
    const Role role = DescribeTensor(model, tensors[i]).role;
    const bool norm = role == Role::kNorm || role == Role::kBias;
    if (norm && layout != Layout::kGguf && tensors[i].encoding.kind == Encoding::Kind::kPlain) {
      choice.encoding = tensors[i].encoding;
    }
  }
}

// Tokens to calibrate with; empty when the method goes without.
Result<std::optional<Windows>> MakeCalibration(const Invocation& invocation,
                                               const Settings& settings, const Model& model,
                                               bool quantizes) {
  const Arguments& arguments = invocation.arguments;
  const bool asked = arguments.Has("--calib");
  const bool fits = settings.method == Method::kGptq || settings.method == Method::kAuto;
  if (!quantizes || (!asked && !fits)) return std::optional<Windows>();
  const Status runnable = RequireRunnable(model);
  if (!runnable.ok()) {
    if (settings.method == Method::kAuto && !asked) {
      invocation.console.Note("note: rounding without calibration: " + runnable.error().ToString());
      return std::optional<Windows>();
    }
    Error error = runnable.error();
    const std::string known = error.hint.empty() ? "" : " (" + error.hint + ")";
    error.hint = "use --method rtn, which does not run the model" + known;
    return error;
  }
  std::string text;
  WindowOptions options;
  if (asked) {
    PW_ASSIGN(text, ReadText(*arguments.Get("--calib")));
    options.separator = Separator(arguments);
  } else {
    text = BuiltinCalibrationText();
    options.separator = "\n<|endoftext|>\n";
  }
  PW_ASSIGN(options.context, ContextLength(arguments, *model.config));
  PW_ASSIGN(const auto tokens, arguments.Integer("--tokens", 1, int64_t{1} << 32));
  options.max_tokens = tokens.value_or(65536);
  PW_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*model.vocabulary));
  PW_ASSIGN(Windows windows, MakeWindows(*tokenizer, *model.vocabulary, text, options));
  return std::optional<Windows>(std::move(windows));
}

// general.file_type of a type that is not a mix; llama.cpp has no number for integers.
uint32_t GgufFileType(const std::string& type) {
  if (const Mix* mix = FindMix(type)) return mix->gguf_file_type;
  static const std::map<std::string, uint32_t> kNumbers = {
      {"f32", 0},   {"f16", 1},      {"q4_0", 2},    {"q4_1", 3},     {"q8_0", 7},   {"q5_0", 8},
      {"q5_1", 9},  {"q2_k", 10},    {"q3_k", 11},   {"q4_k", 14},    {"q5_k", 16},  {"q6_k", 18},
      {"bf16", 32}, {"iq2_xxs", 19}, {"iq2_xs", 20}, {"iq3_xxs", 23}, {"iq3_s", 26}, {"iq2_s", 29}};
  const auto it = kNumbers.find(type);
  return it == kNumbers.end() ? 1 : it->second;
}

Result<std::unique_ptr<TensorSink>> MakeSink(const Settings& settings, const Model& model,
                                             const MixOptions& mix, Journal* journal) {
  SinkOptions options;
  options.path = settings.output;
  options.journal = journal;
  options.force = settings.force;
  options.model = &model;
  options.gguf_file_type = GgufFileType(mix.type);
  options.provenance = {{"pennyweight.version", PENNYWEIGHT_VERSION},
                        {"pennyweight.type", mix.type},
                        {"pennyweight.method", std::string(MethodName(settings.method))}};
  switch (settings.layout) {
    case Layout::kGguf:
      return MakeGgufSink(options);
    case Layout::kCompressedTensors:
      return MakeCompressedTensorsSink(options);
    case Layout::kSafetensors:
      return MakeSafetensorsSink(options);
  }
  return Error(ErrorCode::kUsage, "no such layout");
}

// What a calibrated run read, in one word.
std::string WindowsHash(const Windows& windows) {
  Hasher hasher;
  hasher.Update(windows.ids.data(), windows.ids.size() * sizeof(windows.ids[0]));
  hasher.Update(windows.lengths.data(), windows.lengths.size() * sizeof(windows.lengths[0]));
  const Hash128 hash = hasher.Digest();
  return fmt::format("{} tokens, {:016x}{:016x}", windows.tokens(), hash[0], hash[1]);
}

std::string Summary(const Settings& settings, const Report& report) {
  const ReportTotals& t = report.totals;
  std::string text = fmt::format("{}: {} -> {} ({:.2f} bits per weight), {:.1f} s, peak {}\n",
                                 settings.output, HumanBytes(t.bytes_in), HumanBytes(t.bytes_out),
                                 t.bits_per_weight, t.seconds, HumanBytes(t.peak_rss_bytes));
  text += fmt::format("weight error {} of the weights' energy", Short(t.weight_rel_mse));
  if (!report.layers.empty() && report.layers.back().hidden_rel_error) {
    const LayerReport& last = report.layers.back();
    text += fmt::format("; after the last layer, held out: {}, by rtn {}",
                        Short(last.hidden_rel_error), Short(last.hidden_rel_error_rtn));
  }
  return text;
}

}  // namespace

const CommandSpec kQuantizeSpec = {
    "quantize",
    "a smaller model, calibrated and validated, with the error of every layer",
    "MODEL",
    1,
    "  pennyweight quantize ./Llama-8B -o llama-8b.gguf\n"
    "  pennyweight quantize ./Llama-8B -o llama-8b.gguf --type q4_0 --method rtn\n"
    "  pennyweight quantize ./Llama-8B -o llama-8b-int4/ --group-size 64 --calib wiki.txt\n",
    kFlags};

Result<int> RunQuantize(const Invocation& invocation) {
  const auto start = std::chrono::steady_clock::now();
  const Arguments& arguments = invocation.arguments;
  Console& console = invocation.console;
  PW_ASSIGN(const Settings settings, ReadSettings(arguments));
  PW_ASSIGN(Model model, OpenModelByKey(arguments.inputs()[0], arguments));
  UseCanonical(&model);
  PW_TRY(CheckOutput(settings.output, settings.reports, settings.force, model));
  PW_ASSIGN(const MixOptions mix, ReadMixOptions(arguments, settings, model));
  const auto& tensors = model.source->tensors();
  PW_ASSIGN(std::vector<Choice> choices,
            ChooseTypes(mix, model.family, model.config.value_or(ModelConfig()), tensors));
  AdjustChoices(model, settings.layout, &choices);

  bool quantizes = false;
  std::map<std::string, int> requantized;  // by encoding
  std::vector<OutputTensor> outputs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    outputs.push_back({tensors[i].name, choices[i].encoding, tensors[i].shape});
    quantizes |= choices[i].quantize;
    const Encoding& from = tensors[i].encoding;
    if (choices[i].quantize && from.kind != Encoding::Kind::kPlain) ++requantized[from.Name()];
  }
  for (const std::string& note : model.notes) console.Note("note: " + note);
  for (const auto& [name, count] : requantized) {
    console.Note(
        fmt::format("warning: {} tensor{} {} quantized already ({}); that error is kept "
                    "and adds up",
                    count, count == 1 ? "" : "s", count == 1 ? "is" : "are", name));
  }
  if (settings.layout != Layout::kGguf) PW_TRY(NoteLeftBehind(model, &console));
  PW_ASSIGN(const std::optional<Windows> windows,
            MakeCalibration(invocation, settings, model, quantizes));
  std::map<std::string, std::string> recipe;
  if (windows) recipe = {{"calibration", WindowsHash(*windows)}, {"instructions", ComputePath()}};
  PW_ASSIGN(const OutputRun run,
            OutputRun::Begin(invocation, "quantize", settings.output, model, outputs, recipe));

  QuantizeOptions options;
  options.method = settings.method;
  options.windows = windows ? &*windows : nullptr;
  const size_t slash = settings.output.rfind('/');
  options.scratch_dir = slash == std::string::npos ? "." : settings.output.substr(0, slash + 1);
  const auto make = [&](Journal* journal) { return MakeSink(settings, model, mix, journal); };
  Report report;
  const auto fill = [&](TensorSink* sink, Journal* journal) -> Status {
    options.journal = journal;
    PW_ASSIGN(report, QuantizeModel(invocation.context, model, choices, options, sink));
    return OkStatus();
  };
  PW_ASSIGN(const std::unique_ptr<TensorSink> sink, run.Write(make, fill));

  report.totals.bytes_out = sink->TotalBytes();
  FinishTotals(start, &report);
  PW_TRY(PublishReport(settings.reports, report, settings.force, &console));
  console.Note(Summary(settings, report));
  return kExitDone;
}

}  // namespace pennyweight
