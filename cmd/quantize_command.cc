// pennyweight quantize: the main job. Source, choice of types, method, layout, report.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>

#include "calib/awq_search.h"
#include "calib/quantize_model.h"
#include "cmd/calibration_input.h"
#include "cmd/commands.h"
#include "cmd/dry_run.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "cmd/output_run.h"
#include "cmd/report_output.h"
#include "cmd/statistics_weights.h"
#include "cmd/strict_check.h"
#include "formats/sinks.h"
#include "lib/hash.h"
#include "lib/linalg.h"
#include "lib/nvfp4.h"
#include "quant/codec.h"
#include "quant/effort.h"
#include "quant/non_finite.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT", "file or folder to write"},
    {"--type", "", "NAME",
     "mix or type (default: by layout: q4_k_m for gguf, int4, fp8_e4m3, nf4)"},
    {"--pure", "", "", "the bare type for every matrix, no mix"},
    {"--to", "", "LAYOUT",
     "gguf, compressed-tensors, gptq, awq, fp8, bnb or safetensors (default: by OUTPUT)"},
    {"--method", "", "NAME", "auto, minmax, rtn, awq or gptq (default: auto)"},
    {"--calib", "", "FILE", "calibration text (default: the text built into the program)"},
    {"--separator", "", "STR", "what parts the documents of --calib (\\n is understood)"},
    {"--tokens", "", "N", "calibration tokens (default: 65536, or all there are)"},
    {"--context", "", "N", "tokens of a calibration window (default: 512 or the model's limit)"},
    {"--all-experts", "", "", "show every token to every expert; outputs stay the same"},
    {"--strict", "", "", "exit 1 when a matrix fell back or saw too few tokens"},
    {"--min-tokens", "", "N", "what --strict asks of every calibrated matrix (default: 512)"},
    {"--imatrix", "", "FILE",
     "importance matrix or statistics that weigh the rounding, instead of running the model; "
     "repeatable: they are added up"},
    {"--tensor-type", "", "REGEX=TYPE", "type of the tensors that match; repeatable, first wins"},
    {"--keep", "", "REGEX", "leave the tensors that match as they are; repeatable"},
    {"--output-type", "", "TYPE", "type of the head"},
    {"--embedding-type", "", "TYPE", "type of the embedding"},
    {"--group-size", "", "N", "columns that share a scale: 32, 64, 128 or channel (integers)"},
    {"--symmetric", "", "", "integers without zero points (default, but for awq)"},
    {"--asymmetric", "", "", "integers with zero points (awq: default)"},
    kKeyFlag,
    {"--effort", "", "NAME", "fast, normal or best: how long codes are searched (default: normal)"},
    {"--allow-nan", "", "",
     "quantize NaN and infinity as zero, and count them, instead of refusing"},
    {"--dry-run", "", "",
     "print every tensor's type, the exact size, and time and memory; no output"},
    {"--report", "", "FILE", "write the report as .json or .csv; repeatable"},
    {"--force", "", "", "replace the output if it exists"},
    {"--resume", "", "", "go on from where a stopped run left this output"},
};

enum class Layout : uint8_t { kGguf, kCompressedTensors, kFp8, kBnb, kGptq, kAwq, kSafetensors };

struct LayoutRow {
  Layout layout;
  std::string_view name;
  std::string_view type;  // without --type
  Result<std::unique_ptr<TensorSink>> (*make)(const SinkOptions& options);
};

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

const LayoutRow& RowOf(Layout layout) { return kLayouts[static_cast<size_t>(layout)]; }

struct Settings {
  std::string output;
  Layout layout = Layout::kGguf;
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  bool force = false;
  bool allow_nan = false;
  bool dry_run = false;
  bool all_experts = false;
  bool strict = false;
  int64_t min_tokens = kMinTokens;
  std::vector<std::string> imatrix;
  // --method auto with files instead of a text: rtn, weighted by them.
  bool weighted_instead = false;
  std::vector<std::string> reports;
};

Result<Settings> ReadSettings(const Arguments& arguments) {
  Settings s;
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

// Whether a method asks what the model's own activations are.
bool NeedsCalibration(Method method) {
  return method == Method::kGptq || method == Method::kAwq || method == Method::kAuto;
}

// True when rounding will be weighted by what calibration measured.
bool IsCalibrated(const Arguments& arguments, const Settings& settings, const Model& model) {
  if (!settings.imatrix.empty()) return true;
  return settings.method != Method::kMinMax &&
         (NeedsCalibration(settings.method) || arguments.Has("--calib")) &&
         RequireRunnable(model).ok();
}

// The tables of what becomes what: user's words to MixOptions.
Result<MixOptions> ReadMixOptions(const Arguments& arguments, const Settings& settings,
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

// What the rules of a mix ask of the model. A GGUF file that cannot be run, say for its rope
// scaling, has no configuration here, but its metadata say as much.
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

// What no mix decides: tensors whose bits this program does not turn into numbers stay as they are,
// and norms outside GGUF keep their own dtype.
// A matrix that does not divide into a layout's words and groups stays `plain`.
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

// What a layout cannot hold is said before any work, with those that can.
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

// Tokens to calibrate with; empty when the method goes without.
Result<std::optional<Windows>> MakeCalibration(const Invocation& invocation,
                                               const Settings& settings, const Model& model,
                                               bool quantizes) {
  const Arguments& arguments = invocation.arguments;
  const bool asked = arguments.Has("--calib");
  if (!quantizes || (!asked && (!NeedsCalibration(settings.method) || !settings.imatrix.empty()))) {
    return std::optional<Windows>();
  }
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
  PW_ASSIGN(CalibrationInput input, ReadCalibration(arguments, model));
  return std::optional<Windows>(std::move(input.windows));
}

// general.file_type of a type that is not a mix; llama.cpp has no number for integers.
uint32_t GgufFileType(const std::string& type) {
  if (const Mix* mix = FindMix(type)) return mix->gguf_file_type;
  static const std::map<std::string, uint32_t> kNumbers = {
      {"f32", 0},   {"f16", 1},   {"q3_k", 11},  {"q4_k", 14},
      {"q5_k", 16}, {"bf16", 32}, {"mxfp4", 38}, {"nvfp4", 39}};
  const auto it = kNumbers.find(type);
  return it == kNumbers.end() ? 1 : it->second;
}

Result<std::unique_ptr<TensorSink>> MakeSink(const Settings& settings, const Model& model,
                                             const MixOptions& mix, const FoldRecord& folds,
                                             uint64_t folds_bytes, Journal* journal) {
  SinkOptions options;
  options.measure = settings.dry_run;
  options.path = settings.output;
  options.journal = journal;
  options.force = settings.force;
  options.model = &model;
  options.folds = &folds;
  options.folds_bytes = folds_bytes;
  options.gguf_file_type = GgufFileType(mix.type);
  options.provenance = {{"pennyweight.version", PENNYWEIGHT_VERSION},
                        {"pennyweight.type", mix.type},
                        {"pennyweight.method", std::string(MethodName(settings.method))}};
  // As llama.cpp writes it.
  if (!settings.imatrix.empty()) {
    options.provenance["quantize.imatrix.file"] = settings.imatrix.front();
  }
  return RowOf(settings.layout).make(options);
}

// Bytes of the longest record of folds that the output may have: what the model comes with, and a
// fold at every place where the run may find one.
uint64_t FoldsBytes(const Settings& settings, const Model& model, bool quantizes) {
  FoldRecord record = model.folds;
  const bool searches = settings.method == Method::kAwq || settings.method == Method::kAuto;
  if (quantizes && searches && RequireRunnable(model).ok()) {
    FoldRecord full = FullRecord(*model.family, *model.config, *model.source);
    for (RecordedFold& fold : full.folds) record.folds.push_back(std::move(fold));
  }
  return record.empty() ? 0 : FoldRecordToJson(record).size();
}

// What a calibrated run read, in one word.
std::string WindowsHash(const Windows& windows) {
  Hasher hasher;
  hasher.Update(windows.ids.data(), windows.ids.size() * sizeof(windows.ids[0]));
  hasher.Update(windows.lengths.data(), windows.lengths.size() * sizeof(windows.lengths[0]));
  const Hash128 hash = hasher.Digest();
  return fmt::format("{} tokens, {:016x}{:016x}", windows.tokens(), hash[0], hash[1]);
}

// What people should know of the choices before the work.
void NoteChoices(const Model& model, std::span<const Choice> choices, const MixOptions& mix,
                 Console* console) {
  std::map<std::string, int> requantized, useless;  // by encoding
  const auto& tensors = model.source->tensors();
  for (size_t i = 0; i < choices.size(); ++i) {
    const Encoding& from = tensors[i].encoding;
    const Encoding& to = choices[i].encoding;
    if (!choices[i].quantize) continue;
    if (from.kind != Encoding::Kind::kPlain) ++requantized[from.Name()];
    const TypeRow* row = FindTypeRow(to.Name());
    if (!mix.importance && row != nullptr && row->importance == ImportanceUse::kNeeds) {
      ++useless[to.Name()];
    }
  }
  for (const std::string& note : model.notes) console->Note("note: " + note);
  for (const auto& [name, count] : requantized) {
    console->Note(
        fmt::format("warning: {} tensor{} {} quantized already ({}); that error is kept "
                    "and adds up",
                    count, count == 1 ? "" : "s", count == 1 ? "is" : "are", name));
  }
  for (const auto& [name, count] : useless) {
    console->Note(
        fmt::format("warning: {} tensor{} {} {}, which is useless when it is rounded "
                    "without calibration",
                    count, count == 1 ? "" : "s", count == 1 ? "becomes" : "become", name));
  }
}

// Puts a source in front of the model's that reads NaN and infinity as zero in everything that is
// quantized; what is stored plain keeps them.
const FiniteSource* AllowNonFinite(Model* model, std::vector<Choice>* choices) {
  const auto& tensors = model->source->tensors();
  std::vector<char> marked(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    Choice& choice = (*choices)[i];
    const bool copied = choice.encoding == tensors[i].encoding;
    marked[i] = choice.quantize && !copied && CanDecode(tensors[i].encoding);
    choice.keep_non_finite = !marked[i];
  }
  auto finite = std::make_unique<FiniteSource>(std::move(model->source), std::move(marked));
  const FiniteSource* const raw = finite.get();
  model->source = std::move(finite);
  return raw;
}

// What was replaced, into the rows and to the user.
void NoteReplaced(const std::vector<TensorInfo>& stored, const FiniteSource& finite, Report* report,
                  Console* console) {
  for (size_t i = 0; i < stored.size(); ++i) {
    TensorReport& row = report->tensors[i];
    row.from = stored[i].encoding.Name();
    const int64_t count = finite.replaced(i);
    if (count == 0) continue;
    const std::string what = fmt::format("{} NaN or infinite, quantized as zero", count);
    row.fallback = row.fallback ? *row.fallback + "; " + what : what;
    console->Note(fmt::format("warning: {}: {}", row.name, what));
  }
}

// Into the row of every matrix that was quantized.
void NoteFallback(const std::string& what, Report* report) {
  for (TensorReport& row : report->tensors) {
    if (row.method != "rtn") continue;
    row.fallback = row.fallback ? *row.fallback + "; " + what : what;
  }
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

int CheckStrict(const Settings& settings, const Report& report, std::span<const Choice> choices,
                Console* console) {
  const std::vector<std::string> lines = Shortfalls(report, choices, settings.min_tokens);
  for (const std::string& line : lines) console->Note("--strict: " + line);
  return lines.empty() ? kExitDone : kExitFound;
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
  PW_ASSIGN(std::vector<Choice> choices, ChooseTypes(mix, model.family, MixConfig(model), tensors));
  AdjustChoices(model, settings.layout, mix.plain, &choices);

  std::vector<OutputTensor> outputs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    outputs.push_back({tensors[i].name, choices[i].encoding, tensors[i].shape});
  }
  PW_TRY(CheckLayout(settings.layout, outputs));
  const bool quantizes = std::any_of(choices.begin(), choices.end(),
                                     [](const Choice& choice) { return choice.quantize; });
  NoteChoices(model, choices, mix, &console);
  PW_ASSIGN(const std::unique_ptr<StatisticsWeights> weights,
            StatisticsWeights::Open(settings.imatrix, model,
                                    settings.method == Method::kGptq && !arguments.Has("--calib")));
  size_t missing = 0;
  if (weights != nullptr) missing = weights->NoteUse(model, choices, &console);
  if (settings.weighted_instead) {
    console.Note(
        "note: --imatrix without --calib: the model is not run, rtn is weighted by the file");
  }
  if (settings.layout != Layout::kGguf) PW_TRY(NoteLeftBehind(model, &console));
  const uint64_t folds_bytes = FoldsBytes(settings, model, quantizes);
  if (settings.dry_run) {
    PW_ASSIGN(const auto sink, MakeSink(settings, model, mix, model.folds, folds_bytes, nullptr));
    PW_ASSIGN(Report report,
              PlanOutput(model, choices, outputs, settings.method, mix.importance, sink.get()));
    FinishTotals(start, &report);
    PW_ASSIGN(const std::optional<Windows> tokens,
              MakeCalibration(invocation, settings, model, quantizes));
    WalkInput input;
    input.model = &model;
    input.windows = tokens ? &*tokens : nullptr;
    input.choices = choices;
    input.method = settings.method;
    input.effort = settings.effort;
    input.all_experts = settings.all_experts;
    PW_ASSIGN(const CostPlan cost,
              PlanCost(invocation.context, input, settings.output, report.totals.bytes_out));
    PW_TRY(PrintPlan(settings.output, report, choices, cost, &console));
    return settings.strict && missing > 0 ? kExitFound : kExitDone;
  }
  PW_ASSIGN(const std::optional<Windows> windows,
            MakeCalibration(invocation, settings, model, quantizes));
  std::map<std::string, std::string> recipe;
  if (windows) recipe = {{"calibration", WindowsHash(*windows)}, {"instructions", ComputePath()}};
  if (weights != nullptr) {
    recipe["statistics"] = weights->Hash();
    recipe["instructions"] = ComputePath();
  }
  PW_ASSIGN(const OutputRun run,
            OutputRun::Begin(invocation, "quantize", settings.output, model, outputs, recipe));

  const std::vector<TensorInfo> stored = tensors;
  const FiniteSource* const finite =
      settings.allow_nan ? AllowNonFinite(&model, &choices) : nullptr;
  QuantizeOptions options;
  options.method = settings.method;
  options.effort = settings.effort;
  options.all_experts = settings.all_experts;
  options.windows = windows ? &*windows : nullptr;
  options.known = weights == nullptr ? nullptr : &weights->known();
  const size_t slash = settings.output.rfind('/');
  options.scratch_dir = slash == std::string::npos ? "." : settings.output.substr(0, slash + 1);
  FoldRecord folds = model.folds;
  options.folds = &folds;
  const auto make = [&](Journal* journal) {
    return MakeSink(settings, model, mix, folds, folds_bytes, journal);
  };
  Report report;
  const auto fill = [&](TensorSink* sink, Journal* journal) -> Status {
    options.journal = journal;
    PW_ASSIGN(report, QuantizeModel(invocation.context, model, choices, options, sink));
    return OkStatus();
  };
  PW_ASSIGN(const std::unique_ptr<TensorSink> sink, run.Write(make, fill));

  if (finite != nullptr) NoteReplaced(stored, *finite, &report, &console);
  // Before the word on auto: what it does instead of calibrating is no shortfall.
  int code = settings.strict ? CheckStrict(settings, report, choices, &console) : kExitDone;
  if (settings.strict && missing > 0) code = kExitFound;
  if (settings.weighted_instead) {
    NoteFallback("auto without --calib: rtn, weighted by --imatrix", &report);
  }
  report.totals.bytes_out = sink->TotalBytes();
  FinishTotals(start, &report);
  PW_TRY(PublishReport(settings.reports, report, settings.force, &console));
  console.Note(Summary(settings, report));
  return code;
}

}  // namespace pennyweight
