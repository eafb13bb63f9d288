// pennyweight convert: another container, another float dtype, quantized to float. Nothing is
// quantized here; what is not asked to change keeps its bytes.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>

#include "calib/convert_model.h"
#include "calib/repack_model.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "cmd/output_run.h"
#include "cmd/report_output.h"
#include "formats/sinks.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT", "file (.gguf, .safetensors) or folder to write"},
    {"--to", "", "FORMAT", "safetensors or gguf (default: by OUTPUT)"},
    {"--dtype", "", "NAME", "f32, f16 or bf16 for all float tensors (default: as they are)"},
    {"--repack", "", "",
     "to gguf: quantized weights as blocks of the same values, where that is exact"},
    {"--shard-size", "", "SIZE", "weights in a file of a folder (default: 5G)"},
    kKeyFlag,
    {"--report", "", "FILE", "write the report as .json or .csv; repeatable"},
    {"--force", "", "", "replace the output if it exists"},
    {"--resume", "", "", "go on from where a stopped run left this output"},
};

struct Settings {
  std::string output;
  bool force = false;
  std::vector<std::string> reports;
  std::optional<uint64_t> shard_bytes;
  ConvertOptions options;
};

// The container by --to and by the output's name, which must not contradict each other.
Result<bool> WantsGguf(const Arguments& arguments, const std::string& output) {
  static constexpr std::string_view kFormats[] = {"safetensors", "gguf"};
  PW_ASSIGN(const auto to, arguments.OneOf("--to", kFormats));
  const bool gguf = output.ends_with(".gguf");
  if (!to) return gguf;
  if (*to == "safetensors" && gguf) {
    return Error(ErrorCode::kUsage, "--to safetensors contradicts an output that ends in .gguf")
        .Hint("give -o model.safetensors, or a folder");
  }
  if (*to == "gguf" && output.ends_with(".safetensors")) {
    return Error(ErrorCode::kUsage, "--to gguf contradicts an output that ends in .safetensors")
        .Hint("give -o model.gguf");
  }
  return *to == "gguf";
}

Result<Settings> ReadSettings(const Arguments& arguments) {
  Settings s;
  PW_ASSIGN(s.output, OutputPath("convert", arguments));
  PW_ASSIGN(s.options.gguf, WantsGguf(arguments, s.output));
  static constexpr std::string_view kDTypes[] = {"f32", "f16", "bf16"};
  PW_ASSIGN(const auto dtype, arguments.OneOf("--dtype", kDTypes));
  if (dtype) {
    s.options.dtype = *dtype == "f32" ? DType::kF32 : *dtype == "f16" ? DType::kF16 : DType::kBF16;
  }
  s.options.repack = arguments.Has("--repack");
  if (s.options.repack && !s.options.gguf) {
    return Error(ErrorCode::kUsage, "--repack makes blocks of GGUF, and the output is not GGUF")
        .Hint("give --to gguf, or leave --repack out: quantized weights are decoded");
  }
  PW_ASSIGN(s.shard_bytes, arguments.Size("--shard-size"));
  if (s.shard_bytes && (s.options.gguf || s.output.ends_with(".safetensors"))) {
    return Error(ErrorCode::kUsage, "--shard-size is for folders, and the output is one file")
        .Hint("give -o a folder, or leave --shard-size out");
  }
  if (s.shard_bytes && *s.shard_bytes == 0) {
    return Error(ErrorCode::kUsage, "a shard of 0 bytes holds no tensor").Hint("--shard-size 5G");
  }
  s.force = arguments.Has("--force");
  s.reports = arguments.All("--report");
  return s;
}

// llama.cpp's number for a file that is mostly of one block type; 1 (mostly f16) where it has none.
uint32_t FileTypeOf(BlockType type) {
  switch (type) {
    case BlockType::kQ4_0:
      return 2;
    case BlockType::kQ4_1:
      return 3;
    case BlockType::kQ8_0:
      return 7;
    case BlockType::kQ5_0:
      return 8;
    case BlockType::kQ5_1:
      return 9;
    case BlockType::kMXFP4:
      return 38;
    default:
      return 1;
  }
}

// general.file_type: the input's own where its tensors stay as they are, else by the dtype of most
// weights in the output.
uint32_t GgufFileType(const Model& model, const ConvertOptions& options,
                      const std::vector<Choice>& choices) {
  const auto& metadata = model.source->metadata();
  const auto known = metadata.find("general.file_type");
  if (!options.dtype && model.source->format() == "gguf" && known != metadata.end()) {
    const char* end = known->second.data() + known->second.size();
    uint32_t number = 0;
    const auto [rest, code] = std::from_chars(known->second.data(), end, number);
    if (code == std::errc() && rest == end) return number;
  }
  std::map<DType, int64_t> elements;
  int64_t plain = 0;
  std::map<BlockType, int64_t> blocks;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Encoding& to = choices[i].encoding;
    const int64_t count = model.source->tensors()[i].elements();
    if (to.kind == Encoding::Kind::kBlock) blocks[to.block] += count;
    if (to.kind != Encoding::Kind::kPlain) continue;
    plain += count;
    elements[choices[i].encoding.dtype] += model.source->tensors()[i].elements();
  }
  const auto most = std::max_element(blocks.begin(), blocks.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  if (most != blocks.end() && most->second > plain) return FileTypeOf(most->first);
  const int64_t f32 = elements[DType::kF32];
  const int64_t bf16 = elements[DType::kBF16];
  const int64_t f16 = elements[DType::kF16];
  if (f32 > std::max(f16, bf16)) return 0;
  return bf16 > f16 ? 32 : 1;
}

Result<std::unique_ptr<TensorSink>> MakeSink(const Settings& settings, const Model& model,
                                             const std::vector<Choice>& choices, Journal* journal) {
  SinkOptions options;
  options.path = settings.output;
  options.journal = journal;
  options.force = settings.force;
  options.model = &model;
  options.folds = &model.folds;
  if (settings.options.gguf) {
    if (!model.folds.empty()) options.folds_bytes = FoldRecordToJson(model.folds).size();
    options.gguf_file_type = GgufFileType(model, settings.options, choices);
    options.provenance = {{"pennyweight.version", PENNYWEIGHT_VERSION}};
    return MakeGgufSink(options);
  }
  // Kept as it is, nothing added: there and back again gives the same file.
  if (model.source->format() == "safetensors") options.provenance = model.source->metadata();
  options.provenance.erase(std::string(kFoldsKey));
  if (settings.output.ends_with(".safetensors") && !model.folds.empty()) {
    options.provenance[std::string(kFoldsKey)] = FoldRecordToJson(model.folds);
  }
  options.weights_only = true;
  if (settings.shard_bytes) options.shard_bytes = *settings.shard_bytes;
  return MakeSafetensorsSink(options);
}

// What the output does not have, before the work.
Status NoteLosses(const Settings& settings, const Model& model, Console* console) {
  if (model.folds_error) {
    console->Note(
        fmt::format("warning: {}; the output computes the same, but what was folded into its "
                    "weights is not on record",
                    model.folds_error->ToString()));
  }
  if (settings.options.gguf) {
    std::vector<std::string> keys;
    if (model.source->format() == "safetensors") {
      for (const auto& [key, value] : model.source->metadata()) {
        if (key != "format" && key != kFoldsKey) keys.push_back(key);
      }
    }
    if (!keys.empty()) {
      console->Note(
          fmt::format("note: metadata that GGUF has no keys for: {}", fmt::join(keys, ", ")));
    }
    return OkStatus();
  }
  if (settings.output.ends_with(".safetensors")) return OkStatus();
  const bool has_config = model.directory.empty()
                              ? model.family != nullptr
                              : PathExists(JoinPath(model.directory, "config.json"));
  if (!has_config) {
    console->Note("note: the input has no config.json: the folder holds weights only");
  }
  if (model.family == nullptr && model.source->format() == "gguf") {
    console->Note("note: the architecture is not known: tensors keep the names of the GGUF file");
  }
  return NoteLeftBehind(model, console);
}

// "; 28 quantized tensors decoded to bf16"
std::string Decoded(const Model& model, const std::vector<Choice>& choices) {
  std::map<std::string, int> counts;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Encoding& from = model.source->tensors()[i].encoding;
    if (from.kind == Encoding::Kind::kPlain || from == choices[i].encoding ||
        choices[i].encoding.kind != Encoding::Kind::kPlain) {
      continue;
    }
    ++counts[choices[i].encoding.Name()];
  }
  std::string text;
  for (const auto& [name, count] : counts) {
    text +=
        fmt::format("; {} quantized tensor{} decoded to {}", count, count == 1 ? "" : "s", name);
  }
  return text;
}

std::string Summary(const Settings& settings, const Report& report) {
  const ReportTotals& t = report.totals;
  size_t copied = 0, repacked = 0;
  for (const TensorReport& row : report.tensors) {
    copied += row.method == "copy";
    repacked += row.method == "repack";
  }
  return fmt::format(
      "{}: {} -> {} ({:.2f} bits per weight), {:.1f} s, peak {}\n"
      "{} tensors copied, {}{} cast",
      settings.output, HumanBytes(t.bytes_in), HumanBytes(t.bytes_out), t.bits_per_weight,
      t.seconds, HumanBytes(t.peak_rss_bytes), copied,
      repacked > 0 ? fmt::format("{} repacked, ", repacked) : "",
      report.tensors.size() - copied - repacked);
}

}  // namespace

const CommandSpec kConvertSpec = {
    "convert",
    "container to container, dtype to dtype, quantized to float",
    "MODEL",
    1,
    "  pennyweight convert ./Llama-8B -o llama-8b.gguf\n"
    "  pennyweight convert llama-8b.gguf -o ./Llama-8B-bf16 --dtype bf16 --shard-size 2G\n"
    "  pennyweight convert ./Llama-8B -o llama-8b.safetensors\n"
    "  pennyweight convert ./Llama-8B-GPTQ -o llama-8b-q4_0.gguf --repack\n",
    kFlags};

Result<int> RunConvert(const Invocation& invocation) {
  const auto start = std::chrono::steady_clock::now();
  Console& console = invocation.console;
  PW_ASSIGN(const Settings settings, ReadSettings(invocation.arguments));
  PW_ASSIGN(Model model, OpenModelByKey(invocation.arguments.inputs()[0], invocation.arguments));
  PW_TRY(CheckOutput(settings.output, settings.reports, settings.force, model));
  if (!settings.options.gguf) UseCanonical(&model);
  PW_ASSIGN(std::vector<Choice> choices, ChooseConversions(model, settings.options));
  if (settings.options.repack) {
    PW_TRY(CheckRepacks(invocation.context, model,
                        settings.options.dtype.value_or(DecodedDType(model)), &choices));
  }
  const auto& tensors = model.source->tensors();
  std::vector<OutputTensor> outputs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    outputs.push_back({tensors[i].name, choices[i].encoding, tensors[i].shape});
  }
  for (const std::string& note : model.notes) console.Note("note: " + note);
  PW_TRY(NoteLosses(settings, model, &console));
  PW_ASSIGN(const OutputRun run,
            OutputRun::Begin(invocation, "convert", settings.output, model, outputs, {}));
  const auto make = [&](Journal* journal) { return MakeSink(settings, model, choices, journal); };
  Report report;
  const auto fill = [&](TensorSink* sink, Journal* journal) -> Status {
    PW_ASSIGN(report, ConvertModel(invocation.context, model, choices, sink, journal));
    return OkStatus();
  };
  PW_ASSIGN(const std::unique_ptr<TensorSink> sink, run.Write(make, fill));

  report.totals.bytes_out = sink->TotalBytes();
  FinishTotals(start, &report);
  PW_TRY(PublishReport(settings.reports, report, settings.force, &console));
  console.Note(Summary(settings, report) + Decoded(model, choices));
  return kExitDone;
}

}  // namespace pennyweight
