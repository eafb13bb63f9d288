// pennyweight quantize: the main job. Source, choice of types, method, layout, report.
#include <fmt/format.h>

#include <algorithm>
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
#include "cmd/quantize_settings.h"
#include "cmd/report_output.h"
#include "cmd/statistics_weights.h"
#include "lib/hash.h"
#include "lib/linalg.h"
#include "quant/codec.h"
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

// Tokens to calibrate with; empty when the method goes without.
Result<std::optional<Windows>> MakeCalibration(const Invocation& invocation,
                                               const QuantizeSettings& settings, const Model& model,
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

Result<std::unique_ptr<TensorSink>> MakeSink(const QuantizeSettings& settings, const Model& model,
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
uint64_t FoldsBytes(const QuantizeSettings& settings, const Model& model, bool quantizes) {
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

std::string Summary(const QuantizeSettings& settings, const Report& report) {
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

int CheckStrict(const QuantizeSettings& settings, const Report& report,
                std::span<const Choice> choices, Console* console) {
  const std::vector<std::string> lines = Shortfalls(report, choices, settings.min_tokens);
  for (const std::string& line : lines) console->Note("--strict: " + line);
  return lines.empty() ? kExitDone : kExitFound;
}

bool Quantizes(std::span<const Choice> choices) {
  return std::any_of(choices.begin(), choices.end(),
                     [](const Choice& choice) { return choice.quantize; });
}

// Prints what a run would do, and what it would cost.
Status DryRun(const Invocation& invocation, const QuantizeSettings& settings, const Model& model,
              const MixOptions& mix, const std::vector<Choice>& choices,
              const std::vector<OutputTensor>& outputs, uint64_t folds_bytes) {
  PW_ASSIGN(const auto sink, MakeSink(settings, model, mix, model.folds, folds_bytes, nullptr));
  PW_ASSIGN(Report report,
            PlanOutput(model, choices, outputs, settings.method, mix.importance, sink.get()));
  FinishTotals(std::chrono::steady_clock::now(), &report);
  PW_ASSIGN(const std::optional<Windows> tokens,
            MakeCalibration(invocation, settings, model, Quantizes(choices)));
  WalkInput input;
  input.model = &model;
  input.windows = tokens ? &*tokens : nullptr;
  input.choices = choices;
  input.method = settings.method;
  input.effort = settings.effort;
  input.all_experts = settings.all_experts;
  PW_ASSIGN(const CostPlan cost,
            PlanCost(invocation.context, input, settings.output, report.totals.bytes_out));
  PW_TRY(PrintPlan(settings.output, report, choices, cost, &invocation.console));
  return OkStatus();
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
  PW_ASSIGN(const QuantizeSettings settings, ReadSettings(arguments));
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
  const bool quantizes = Quantizes(choices);
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
    PW_TRY(DryRun(invocation, settings, model, mix, choices, outputs, folds_bytes));
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
  if (windows || weights != nullptr) report.totals.compute_path = ComputePath();
  FinishTotals(start, &report);
  PW_TRY(PublishReport(settings.reports, report, settings.force, &console));
  console.Note(Summary(settings, report));
  return code;
}

}  // namespace pennyweight
