// pennyweight compare: the error of each tensor, and with --text of each layer, between two models
// in any two formats; thresholds for CI.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <regex>
#include <set>

#include "calib/compare_layers.h"
#include "calib/quantize_model.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/report_output.h"
#include "lib/nearest.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--text", "", "FILE", "also run both models on this text and compare every layer"},
    {"--separator", "", "STR", "what parts the documents of --text (\\n is understood)"},
    {"--tokens", "", "N", "tokens of the text (default: 16384, or all there are)"},
    {"--context", "", "N", "tokens of a window (default: 512 or the model's limit)"},
    {"--fail-above", "", "METRIC=X[:REGEX]", "exit 1 when a row is above; repeatable"},
    {"--report", "", "FILE", "write the report as .json or .csv; repeatable"},
    {"--force", "", "", "replace report files that exist"},
};

// One --fail-above.
struct Threshold {
  std::string text;
  std::string metric;
  double limit = 0;
  std::regex pattern;
  bool matched = false;
};

// Metrics of a row, by the names of the report's keys.
std::map<std::string, std::optional<double>> Metrics(const TensorReport& t) {
  return {{"weight_rel_mse", t.weight_rel_mse}, {"max_abs_error", t.max_abs_error}};
}
std::map<std::string, std::optional<double>> Metrics(const LayerReport& l) {
  return {{"hidden_rel_error", l.hidden_rel_error}};
}

Result<Threshold> ParseThreshold(const std::string& text, bool layers) {
  const auto bad = [&](const std::string& why) {
    return Error(ErrorCode::kUsage, fmt::format("--fail-above \"{}\": {}", text, why))
        .Hint("--fail-above weight_rel_mse=0.01:down_proj");
  };
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return bad("METRIC=X[:REGEX] is wanted");
  Threshold t;
  t.text = text;
  t.metric = text.substr(0, equals);
  std::vector<std::string> names;
  for (const auto& [name, value] : Metrics(TensorReport())) names.push_back(name);
  for (const auto& [name, value] : Metrics(LayerReport())) names.push_back(name);
  if (std::find(names.begin(), names.end(), t.metric) == names.end()) {
    return bad(fmt::format("metrics are {}", fmt::join(names, ", ")));
  }
  if (Metrics(LayerReport()).contains(t.metric) && !layers) {
    return bad("this metric needs --text");
  }
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data() + equals + 1, end, t.limit);
  if (code != std::errc() || (rest != end && *rest != ':')) return bad("X is not a number");
  const std::string pattern = rest == end ? "" : std::string(rest + 1, end);
  // std::regex reports a bad pattern by throwing, and only so.
  try {
    t.pattern = std::regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error&) {
    return bad(fmt::format("\"{}\" is not a regular expression", pattern));
  }
  return t;
}

// True when a row is above; remembers that the pattern met something.
template <class Row>
bool Exceeds(const Row& row, const std::string& name, Threshold* t) {
  const auto metrics = Metrics(row);
  const auto it = metrics.find(t->metric);
  if (it == metrics.end() || !std::regex_search(name, t->pattern)) return false;
  t->matched = true;
  return it->second && !(*it->second <= t->limit);
}

Result<std::vector<std::string>> CheckThresholds(const Report& report,
                                                 std::vector<Threshold>* thresholds) {
  std::vector<std::string> findings;
  for (Threshold& t : *thresholds) {
    for (const TensorReport& row : report.tensors) {
      if (Exceeds(row, row.name, &t)) {
        findings.push_back(fmt::format("{}: {} {} is above {}", row.name, t.metric,
                                       Short(Metrics(row).at(t.metric)), t.limit));
      }
    }
    for (const LayerReport& row : report.layers) {
      const std::string name = fmt::format("layer {}", row.layer);
      if (Exceeds(row, name, &t)) {
        findings.push_back(fmt::format("{}: {} {} is above {}", name, t.metric,
                                       Short(Metrics(row).at(t.metric)), t.limit));
      }
    }
    if (!t.matched) {
      return Error(ErrorCode::kUsage, fmt::format("--fail-above \"{}\" matches nothing", t.text));
    }
  }
  return findings;
}

Status CompareTensor(const Context& context, const Model& a, const Model& b, size_t ia, size_t ib,
                     TensorReport* row, WeightError* total) {
  const TensorInfo& ta = a.source->tensors()[ia];
  const TensorInfo& tb = b.source->tensors()[ib];
  if (ta.shape != tb.shape) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("its shape is {} in {} and {} in {}", ShapeToString(ta.shape), a.path,
                             ShapeToString(tb.shape), b.path))
        .InTensor(ta.name);
  }
  if (!CanDecode(ta.encoding) || !CanDecode(tb.encoding)) {
    row->fallback = "cannot be decoded: not compared";
    return OkStatus();
  }
  const int64_t cols = ta.cols(), step = TileRows(cols);
  std::vector<float> x, y;
  WeightError error;
  for (int64_t r = 0; r < ta.rows(); r += step) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t count = std::min(step, ta.rows() - r);
    x.resize(static_cast<size_t>(count * cols));
    y.resize(x.size());
    PW_TRY(ReadFloatRows(*a.source, ia, r, count, x.data()));
    PW_TRY(ReadFloatRows(*b.source, ib, r, count, y.data()));
    error.Add(x.data(), y.data(), static_cast<int64_t>(x.size()));
  }
  row->weight_rel_mse = error.RelMse();
  row->sqnr_db = error.SqnrDb();
  row->max_abs_error = error.max_abs_error;
  row->cosine = error.Cosine();
  total->Merge(error);
  return OkStatus();
}

// The tensors as the files have them.
struct StoredLists {
  std::vector<TensorInfo> a, b;
};

// A row per tensor of either model; those of only one say so.
Result<Report> CompareTensors(const Context& context, const Model& a, const Model& b,
                              const StoredLists& stored) {
  std::map<std::string, size_t> other;
  for (size_t i = 0; i < b.source->tensors().size(); ++i) {
    other[b.source->tensors()[i].name] = i;
  }
  Report report;
  WeightError total;
  size_t common = 0;
  for (size_t i = 0; i < a.source->tensors().size(); ++i) {
    const TensorInfo& info = stored.a[i];
    TensorReport row = DescribeTensor(a, info);
    const auto it = other.find(info.name);
    if (it == other.end()) {
      row.fallback = "not in " + b.path;
    } else {
      const TensorInfo& theirs = stored.b[it->second];
      row.output_name = theirs.stored_name;
      row.to = theirs.encoding.Name();
      row.bytes = theirs.bytes;
      row.bits_per_weight = static_cast<double>(theirs.bytes) * 8 /
                            static_cast<double>(std::max<int64_t>(1, theirs.elements()));
      PW_TRY(CompareTensor(context, a, b, i, it->second, &row, &total));
      other.erase(it);
      ++common;
    }
    report.tensors.push_back(std::move(row));
  }
  if (common == 0) {
    return Error(ErrorCode::kTensorMissing,
                 fmt::format("{} and {} have no tensor in common", a.path, b.path));
  }
  for (const auto& [name, index] : other) {
    const TensorInfo& info = stored.b[index];
    TensorReport row = DescribeTensor(b, info);
    row.bytes_in = 0;
    row.from.clear();
    row.output_name = info.stored_name;
    row.to = info.encoding.Name();
    row.bytes = info.bytes;
    row.fallback = "not in " + a.path;
    report.tensors.push_back(std::move(row));
  }
  if (total.count > 0) report.totals.weight_rel_mse = total.RelMse();
  return report;
}

Result<std::vector<LayerReport>> CompareOnText(const Invocation& invocation, const Model& a,
                                               const Model& b) {
  PW_TRY(RequireRunnable(a));
  PW_TRY(RequireRunnable(b));
  PW_ASSIGN(const std::string text, ReadText(*invocation.arguments.Get("--text")));
  WindowOptions options;
  PW_ASSIGN(options.context, ContextLength(invocation.arguments, *a.config));
  PW_ASSIGN(const auto tokens, invocation.arguments.Integer("--tokens", 1, int64_t{1} << 32));
  options.max_tokens = tokens.value_or(16384);
  options.separator = Separator(invocation.arguments);
  PW_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*a.vocabulary));
  PW_ASSIGN(const Windows windows, MakeWindows(*tokenizer, *a.vocabulary, text, options));
  return CompareLayers(invocation.context, a, b, windows, ".");
}

}  // namespace

const CommandSpec kCompareSpec = {"compare",
                                  "the error of each tensor and layer between two models",
                                  "ORIGINAL OTHER",
                                  2,
                                  "  pennyweight compare ./Llama-8B llama-8b.gguf\n"
                                  "  pennyweight compare ./Llama-8B llama-8b.gguf --text wiki.txt "
                                  "--fail-above weight_rel_mse=0.01\n",
                                  kFlags};

Result<int> RunCompare(const Invocation& invocation) {
  const auto start = std::chrono::steady_clock::now();
  const Arguments& arguments = invocation.arguments;
  Console& console = invocation.console;
  const bool text = arguments.Has("--text");
  std::vector<Threshold> thresholds;
  for (const std::string& t : arguments.All("--fail-above")) {
    PW_ASSIGN(Threshold threshold, ParseThreshold(t, text));
    thresholds.push_back(std::move(threshold));
  }
  const std::vector<std::string> reports = arguments.All("--report");
  PW_TRY(CheckReportFiles(reports, arguments.Has("--force")));
  PW_ASSIGN(Model a, OpenModel(arguments.inputs()[0]));
  PW_ASSIGN(Model b, OpenModel(arguments.inputs()[1]));
  UseCanonical(&a);
  UseCanonical(&b);
  const StoredLists stored{a.source->tensors(), b.source->tensors()};
  PW_TRY(UndoFolds(&a));
  PW_TRY(UndoFolds(&b));
  for (const Model* model : {&a, &b}) {
    for (const std::string& note : model->notes) console.Note("note: " + note);
  }
  PW_ASSIGN(Report report, CompareTensors(invocation.context, a, b, stored));
  if (text) {
    PW_ASSIGN(report.layers, CompareOnText(invocation, a, b));
  }
  SummariseTensors(&report);
  for (const TensorReport& t : report.tensors) report.totals.bytes_out += t.bytes;
  FinishTotals(start, &report);
  PW_ASSIGN(const std::vector<std::string> findings, CheckThresholds(report, &thresholds));
  PW_TRY(PublishReport(reports, report, arguments.Has("--force"), &console));
  for (const std::string& finding : findings) console.Note(finding);
  return findings.empty() ? kExitDone : kExitFound;
}

}  // namespace pennyweight
