// pennyweight calibrate: what a model's own activations tell of its weights, as a file.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <unordered_set>
#include <utility>

#include "calib/collect_statistics.h"
#include "cmd/calibration_input.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "cmd/statistics_input.h"
#include "formats/imatrix_gguf.h"
#include "formats/imatrix_legacy.h"
#include "lib/file.h"
#include "lib/peak_rss.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT", "file to write"},
    {"--calib", "", "FILE",
     "text to run (default: the text built into the program; with --merge: none)"},
    {"--separator", "", "STR", "what parts the documents of --calib (\\n is understood)"},
    {"--tokens", "", "N", "tokens to run (default: 65536, or all there are)"},
    {"--context", "", "N", "tokens of a window (default: 512 or the model's limit)"},
    {"--to", "", "FORMAT",
     "imatrix, imatrix-legacy or statistics (default: by OUTPUT: .gguf, .dat, else statistics)"},
    {"--hessians", "", "", "keep the full second moments of every input (statistics only)"},
    {"--merge", "", "FILE", "add the sums and counts of this file; repeatable"},
    {"--process-output", "", "", "the head's input too"},
    {"--all-experts", "", "", "run every token through every expert, not only the chosen ones"},
    kKeyFlag,
    {"--force", "", "", "replace the output if it exists"},
};

using Kind = StatisticsFile::Kind;

// In the order of the enum.
constexpr std::string_view kKinds[] = {"statistics", "imatrix", "imatrix-legacy"};

struct Settings {
  std::string output;
  Kind kind = Kind::kStatistics;
  bool hessians = false;
  bool force = false;
  std::vector<std::string> merge;
  bool runs = true;  // the model, over a text
};

Result<Settings> ReadSettings(const Arguments& arguments) {
  Settings s;
  PW_ASSIGN(s.output, OutputPath("calibrate", arguments));
  PW_ASSIGN(const auto to, arguments.OneOf("--to", kKinds));
  if (to) {
    s.kind = static_cast<Kind>(std::ranges::find(kKinds, *to) - std::begin(kKinds));
  } else if (s.output.ends_with(".gguf")) {
    s.kind = Kind::kImatrix;
  } else if (s.output.ends_with(".dat")) {
    s.kind = Kind::kImatrixLegacy;
  }
  s.hessians = arguments.Has("--hessians");
  s.force = arguments.Has("--force");
  s.merge = arguments.All("--merge");
  s.runs = s.merge.empty() || arguments.Has("--calib");
  if (s.hessians && s.kind != Kind::kStatistics) {
    return Error(ErrorCode::kUsage, "an importance matrix has no room for Hessians")
        .Hint("--to statistics, or leave --hessians out");
  }
  if (!s.runs) {
    for (const char* flag : {"--separator", "--tokens", "--process-output", "--all-experts"}) {
      if (!arguments.Has(flag)) continue;
      return Error(ErrorCode::kUsage, fmt::format("{} needs --calib beside --merge", flag))
          .Hint("add --calib FILE: --merge without it runs no text");
    }
  }
  return s;
}

Status CheckFiles(const Settings& settings, const Arguments& arguments, const Model& model) {
  PW_TRY(CheckOutput(settings.output, {}, settings.force, model));
  std::vector<std::string> inputs = settings.merge;
  if (const auto text = arguments.Get("--calib")) inputs.push_back(*text);
  for (const std::string& input : inputs) {
    if (!SameFile(settings.output, input)) continue;
    return Error(ErrorCode::kOutputIsInput, "the output is one of the inputs")
        .Hint("give -o another name")
        .InFile(settings.output);
  }
  return OkStatus();
}

// Statistics of another model are refused, not passed over.
Status CheckMerged(const Settings& settings, const StatisticsInput& merge) {
  if (!merge.unknown.empty()) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("the model has no such matrix: the statistics are of another one "
                             "({} entries)",
                             merge.unknown.size()))
        .Hint("merge statistics of one model only")
        .InTensor(merge.unknown.front());
  }
  for (const StatisticsFile& file : merge.files) {
    if (!settings.hessians || file.HasHessians()) continue;
    return Error(ErrorCode::kUsage, "the file has no Hessians to add")
        .Hint("make it with --hessians, or leave --hessians out")
        .InFile(file.path());
  }
  return OkStatus();
}

// Takes the inputs of a run one by one, adds what the merged files know of each, and writes.
class StatisticsOutput {
 public:
  StatisticsOutput(const Context& context, const Settings& settings, const StatisticsInput& merge,
                   const StatisticsNames& names)
      : context_(context), settings_(settings), merge_(merge), names_(names) {
    for (const StatisticsFile& file : merge.files) {
      index_.push_back(IndexByWeight(file.statistics()));
    }
  }

  // `run`: model, window, windows and texts of this run alone.
  Status Begin(Statistics run) {
    all_ = std::move(run);
    if (!settings_.hessians) return OkStatus();
    all_.windows += merge_.merged.windows;
    all_.texts.insert(all_.texts.end(), merge_.merged.texts.begin(), merge_.merged.texts.end());
    PW_ASSIGN(writer_, StatisticsWriter::Create(settings_.output, settings_.force, all_));
    return OkStatus();
  }

  Status Add(InputSums sums, std::span<float> hessian) {
    if (writer_ != nullptr) {
      PW_TRY(AddMerged(&sums, hessian));
      PW_TRY(writer_->Add(context_, sums, hessian.data()));
    }
    all_.inputs.push_back(std::move(sums));
    return OkStatus();
  }

  // What is in the file in the end.
  Result<Statistics> Finish() {
    if (writer_ != nullptr) {
      PW_TRY(AddRest());
      PW_TRY(writer_->Finish());
    } else {
      PW_TRY(AddStatistics(merge_.merged, &all_));
      PW_TRY(WriteAll());
    }
    return std::move(all_);
  }

 private:
  Status AddMerged(InputSums* sums, std::span<float> hessian) {
    for (size_t f = 0; f < merge_.files.size(); ++f) {
      const auto it = index_[f].find(sums->weights.front());
      if (it == index_[f].end()) continue;
      const InputSums& other = merge_.files[f].statistics().inputs[it->second];
      if (other.weights != sums->weights) {
        return Error(ErrorCode::kConfigInvalid,
                     "the file groups the matrices of this input in another way")
            .Hint("leave --hessians out, or make the file anew")
            .InTensor(sums->weights.front())
            .InFile(merge_.files[f].path());
      }
      Statistics one, more;
      one.inputs.push_back(std::move(*sums));
      more.inputs.push_back(other);
      PW_TRY(AddStatistics(std::move(more), &one));
      *sums = std::move(one.inputs.front());
      PW_TRY(merge_.files[f].AddHessian(it->second, hessian.data()));
    }
    for (const std::string& name : sums->weights) written_.insert(name);
    return OkStatus();
  }

  // Inputs that only merged files know.
  Status AddRest() {
    std::vector<float> hessian;
    for (const StatisticsFile& file : merge_.files) {
      for (const InputSums& input : file.statistics().inputs) {
        if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
        if (written_.contains(input.weights.front())) continue;
        const uint64_t bytes = static_cast<uint64_t>(input.width * input.width) * sizeof(float);
        if (bytes > context_.memory_limit) {
          return Error(ErrorCode::kMemory,
                       fmt::format("a Hessian takes {} MB, the limit is {} MB", bytes / 1000000 + 1,
                                   context_.memory_limit / 1000000))
              .Hint(fmt::format("--memory {}M", bytes / 1000000 + 64));
        }
        InputSums sums = input;
        sums.tokens = 0;
        std::fill(sums.sum_sq.begin(), sums.sum_sq.end(), 0.0);
        std::fill(sums.sum.begin(), sums.sum.end(), 0.0);
        std::fill(sums.sum_abs.begin(), sums.sum_abs.end(), 0.0);
        std::fill(sums.max_abs.begin(), sums.max_abs.end(), 0.0f);
        hessian.assign(static_cast<size_t>(input.width * input.width), 0.0f);
        PW_TRY(Add(std::move(sums), hessian));
      }
    }
    return OkStatus();
  }

  Status WriteAll() {
    switch (settings_.kind) {
      case Kind::kImatrix:
        return WriteImatrixGguf(settings_.output, settings_.force, all_, names_);
      case Kind::kImatrixLegacy:
        return WriteImatrixLegacy(settings_.output, settings_.force, all_, names_);
      case Kind::kStatistics:
        break;
    }
    PW_ASSIGN(const auto writer, StatisticsWriter::Create(settings_.output, settings_.force, all_));
    for (const InputSums& input : all_.inputs) PW_TRY(writer->Add(context_, input, nullptr));
    return writer->Finish();
  }

  const Context& context_;
  const Settings& settings_;
  const StatisticsInput& merge_;
  const StatisticsNames names_;
  std::vector<std::unordered_map<std::string, size_t>> index_;  // by file of merge_
  std::unordered_set<std::string> written_;
  std::unique_ptr<StatisticsWriter> writer_;
  Statistics all_;
};

// Runs the model over the text of --calib.
Status Collect(const Invocation& invocation, const Settings& settings, const Model& model,
               const CalibrationInput& text, StatisticsOutput* output) {
  PW_ASSIGN(const RunnableModel runnable, MakeRunnable(model));
  CollectOptions options;
  options.hessians = settings.hessians;
  options.all_experts = invocation.arguments.Has("--all-experts");
  options.head = invocation.arguments.Has("--process-output");
  if (options.head && model.source->Find(model.family->head) < 0) {
    invocation.console.Note(
        "note: the model has no head of its own, its embedding serves as one: "
        "--process-output finds nothing");
  }
  const size_t slash = settings.output.rfind('/');
  options.scratch_dir = slash == std::string::npos ? "." : settings.output.substr(0, slash + 1);
  return CollectStatistics(invocation.context, runnable, text.windows, options,
                           [&](InputSums sums, std::span<float> hessian) {
                             return output->Add(std::move(sums), hessian);
                           });
}

// Matrices whose input saw no token.
std::vector<std::string> Unseen(const Statistics& statistics) {
  std::vector<std::string> names;
  for (const InputSums& input : statistics.inputs) {
    if (input.tokens > 0) continue;
    names.insert(names.end(), input.weights.begin(), input.weights.end());
  }
  return names;
}

std::string ResultJson(const Settings& settings, const Model& model, const Statistics& all,
                       int64_t tokens, double seconds, uint64_t bytes) {
  Json json = Json::Object();
  json.Set("output", Json::String(settings.output));
  json.Set("format", Json::String(std::string(kKinds[static_cast<size_t>(settings.kind)])));
  json.Set("hessians", Json::Bool(settings.hessians));
  json.Set("model", Json::String(all.model));
  json.Set("context", Json::Integer(all.window));
  json.Set("windows", Json::Integer(all.windows));
  json.Set("tokens", Json::Integer(tokens));
  Json texts = Json::Array();
  for (const StatisticsText& text : all.texts) {
    Json row = Json::Object();
    row.Set("name", Json::String(text.name));
    row.Set("hash", text.hash.empty() ? Json() : Json::String(text.hash));
    row.Set("tokens", text.tokens == 0 ? Json() : Json::Integer(text.tokens));
    texts.Push(std::move(row));
  }
  json.Set("texts", std::move(texts));
  Json inputs = Json::Array();
  for (const InputSums& input : all.inputs) {
    Json row = Json::Object();
    Json names = Json::Array();
    for (const std::string& name : input.weights) names.Push(Json::String(name));
    const TensorPlace place =
        model.family == nullptr ? TensorPlace() : PlaceOfHf(*model.family, input.weights.front());
    row.Set("weights", std::move(names));
    row.Set("layer", place.layer < 0 ? Json() : Json::Integer(place.layer));
    row.Set("expert", place.expert < 0 ? Json() : Json::Integer(place.expert));
    row.Set("channels", Json::Integer(input.width));
    row.Set("tokens", Json::Integer(input.tokens));
    inputs.Push(std::move(row));
  }
  json.Set("inputs", std::move(inputs));
  Json unseen = Json::Array();
  for (const std::string& name : Unseen(all)) unseen.Push(Json::String(name));
  json.Set("unseen", std::move(unseen));
  json.Set("bytes", Json::Unsigned(bytes));
  json.Set("seconds", Json::Double(seconds));
  json.Set("peak_rss_bytes", Json::Unsigned(PeakRssBytes()));
  return json.Dump();
}

// How evenly the experts of each layer were used; nothing for a dense model.
std::string ExpertTable(const Model& model, const Statistics& all) {
  struct Use {
    std::map<int64_t, int64_t> tokens;  // by expert
  };
  std::map<int64_t, Use> layers;
  for (const InputSums& input : all.inputs) {
    if (model.family == nullptr) break;
    for (const std::string& name : input.weights) {
      const TensorPlace place = PlaceOfHf(*model.family, name);
      if (place.expert >= 0) layers[place.layer].tokens[place.expert] = input.tokens;
    }
  }
  if (layers.empty()) return "";
  Table table{{"layer", "experts", "fewest tokens", "most tokens", "unseen"}, {}, {}};
  for (const auto& [layer, use] : layers) {
    int64_t fewest = use.tokens.begin()->second, most = 0, unseen = 0;
    for (const auto& [expert, tokens] : use.tokens) {
      fewest = std::min(fewest, tokens);
      most = std::max(most, tokens);
      unseen += tokens == 0;
    }
    table.rows.push_back({fmt::format("{}", layer), fmt::format("{}", use.tokens.size()),
                          fmt::format("{}", fewest), fmt::format("{}", most),
                          fmt::format("{}", unseen)});
  }
  return table.ToString();
}

}  // namespace

const CommandSpec kCalibrateSpec = {
    "calibrate",
    "activation statistics of a model, also as an imatrix for llama.cpp",
    "MODEL",
    1,
    "  pennyweight calibrate ./Llama-8B -o imatrix.gguf --calib wiki.txt\n"
    "  pennyweight calibrate ./Llama-8B -o llama-8b.stats --hessians\n"
    "  pennyweight calibrate ./Llama-8B -o both.gguf --merge a.gguf --merge b.dat\n",
    kFlags};

Result<int> RunCalibrate(const Invocation& invocation) {
  const auto start = std::chrono::steady_clock::now();
  const Arguments& arguments = invocation.arguments;
  Console& console = invocation.console;
  PW_ASSIGN(const Settings settings, ReadSettings(arguments));
  PW_ASSIGN(const Model model, OpenModelByKey(arguments.inputs()[0], arguments));
  PW_TRY(CheckFiles(settings, arguments, model));
  int64_t window = 512;
  if (model.config) {
    PW_ASSIGN(window, ContextLength(arguments, *model.config));
  }
  PW_ASSIGN(const StatisticsInput merge, OpenStatistics(settings.merge, model, window));
  PW_TRY(CheckMerged(settings, merge));
  for (const StatisticsFile& file : merge.files) {
    if (settings.hessians || !file.HasHessians()) continue;
    console.Note(
        fmt::format("note: the Hessians of {} are left out; --hessians keeps them", file.path()));
  }
  Statistics run;
  run.model = ModelFingerprint(*model.source);
  run.window = settings.runs ? window : merge.merged.window;
  std::optional<CalibrationInput> text;
  if (settings.runs) {
    PW_TRY(RequireRunnable(model));
    PW_ASSIGN(text, ReadCalibration(arguments, model));
    run.windows = static_cast<int64_t>(text->windows.lengths.size());
    run.texts.push_back({text->name, text->hash, text->windows.tokens()});
  }
  const int64_t tokens = text ? text->windows.tokens() : 0;
  StatisticsOutput output(invocation.context, settings, merge, NamesOf(model));
  PW_TRY(output.Begin(std::move(run)));
  if (text) PW_TRY(Collect(invocation, settings, model, *text, &output));
  PW_ASSIGN(const Statistics all, output.Finish());

  for (const std::string& name : Unseen(all)) {
    console.Note(fmt::format("warning: {}: its input saw no token", name));
  }
  PW_ASSIGN(const ReadFile written, ReadFile::Open(settings.output));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  console.Print(ExpertTable(model, all));
  console.PrintResult(
      console.json() ? ResultJson(settings, model, all, tokens, seconds, written.size()) : "");
  console.Note(fmt::format("{}: {} inputs, {} tokens run, {}, {:.1f} s, peak {}", settings.output,
                           all.inputs.size(), tokens, HumanBytes(written.size()), seconds,
                           HumanBytes(PeakRssBytes())));
  return kExitDone;
}

}  // namespace pennyweight
