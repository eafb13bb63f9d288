// Speed (millions of weights a second of one thread's processor time) and error of the encoders,
// and beside them those of the reference where its library is given. Usage: bench_quant --help
//
// Ours and the reference take turns on the same data within one run, and the best of each counts:
// on a shared machine only their ratio means something. Errors are of the bytes written, decoded by
// quant/codec.h: rrmse = |x' - x| / |x|, and wrmse, where the squares are weighted by importance.
#include <fmt/format.h>
#include <hwy/targets.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/codec.h"
#include "quant/method.h"
#include "quant/mix.h"
#include "tests/bench/bench_data.h"
#include "tests/bench/bench_print.h"
#include "tests/bench/error_bounds.h"
#include "tests/bench/ggml_library.h"

namespace pennyweight {
namespace {

constexpr std::string_view kUsage = R"(usage: bench_quant [OPTION...]
  --types A,B,...     types to measure: those that can be written (default), or `all` for every
                      block type of GGUF as well, which the reference alone may encode
  --data WHAT         peer (default) | gauss | FILE.safetensors:TENSOR | FILE (raw F32)
  --importance FILE   raw F32, one per column (default: log-normal)
  --rows N --cols N   4096 and 256; of a file, the most rows to take
  --rounds N          measurements of each, of which the best counts (5; 0: errors only)
  --target NAME       sse4 | avx2 | avx3 | avx3_dl: that instruction set instead of the best
  --ggml LIB.so       the reference's libggml-base.so, measured in turn with ours
  --markdown KIND     errors | speed: that table in Markdown to stdout instead of JSON
  --bounds            the least error that each type allows, too (slow: take few rows)
A table is written to stderr, JSON to stdout.
)";

struct Options {
  std::vector<std::string> types;
  std::string data = "peer";
  std::string importance;
  std::string target;
  std::string ggml;
  std::string markdown;
  int64_t rows = 4096, cols = 256, rounds = 5;
  bool bounds = false;
};

// A way to encode the whole matrix, and what it gave.
struct Run {
  std::string name;
  std::function<void(EncodedTensor*)> encode;
  EncodedTensor out;
  int64_t repeats = 1;  // per measurement
  double seconds = 1e30;
  Figures figures;
};

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds of one encoding, of `repeats`.
double Seconds(Run* run, int64_t repeats) {
  const double start = ThreadSeconds();
  for (int64_t i = 0; i < repeats; ++i) run->encode(&run->out);
  return (ThreadSeconds() - start) / static_cast<double>(repeats);
}

// Square roots of the ratios of squared errors to the squares of the weights.
void SetErrors(const BenchData& data, double error, double weighted_error, Figures* figures) {
  double square = 0, weighted_square = 0;
  for (size_t i = 0; i < data.w.size(); ++i) {
    const double x = data.w[i];
    square += x * x;
    weighted_square += data.importance[i % static_cast<size_t>(data.cols)] * x * x;
  }
  figures->rrmse = square > 0 ? std::sqrt(error / square) : 0;
  figures->wrmse = weighted_square > 0 ? std::sqrt(weighted_error / weighted_square) : 0;
}

void FindErrors(const BenchData& data, Run* run) {
  std::vector<float> decoded(data.w.size());
  DecodeRows(run->out, 0, data.rows, decoded.data());
  double error = 0, weighted_error = 0;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const double e = static_cast<double>(decoded[i]) - data.w[i];
    error += e * e;
    weighted_error += data.importance[i % static_cast<size_t>(data.cols)] * e * e;
  }
  SetErrors(data, error, weighted_error, &run->figures);
}

void FindBounds(const BenchData& data, const Encoding& encoding, BenchRow* row) {
  const auto error = LeastError(encoding, data.w.data(), data.rows, data.cols, nullptr);
  const auto weighted =
      LeastError(encoding, data.w.data(), data.rows, data.cols, data.importance.data());
  if (error && weighted) SetErrors(data, *error, *weighted, &row->ways["bound"]);
}

// Measures all runs in turn. A measurement of a fast encoder takes some milliseconds all the same.
void Measure(const BenchData& data, int64_t rounds, std::vector<Run>* runs) {
  constexpr double kLeast = 0.01;
  for (Run& run : *runs) {
    const double first = Seconds(&run, 1);
    run.repeats =
        std::clamp<int64_t>(static_cast<int64_t>(kLeast / std::max(first, 1e-7)), 1, 1000);
    FindErrors(data, &run);
  }
  for (int64_t round = 0; round < rounds; ++round) {
    for (Run& run : *runs) run.seconds = std::min(run.seconds, Seconds(&run, run.repeats));
  }
  for (Run& run : *runs) {
    if (rounds > 0) run.figures.speed = static_cast<double>(data.w.size()) / run.seconds * 1e-6;
  }
}

// What QuantizeRtn takes of a type: the first row tells.
void AddOurs(const BenchData& data, const Encoding& encoding, std::vector<Run>* runs) {
  const auto add = [&](std::string_view name, ScaleSearch search, bool weighted) {
    const auto encode = [&data, encoding, search, weighted](int64_t rows, EncodedTensor* out) {
      const std::span<const float> importance(data.importance.data(),
                                              weighted ? data.importance.size() : 0);
      return QuantizeRtn(Context(), encoding, data.w.data(), rows, data.cols, importance, search,
                         out);
    };
    EncodedTensor row;
    if (!encode(1, &row).ok()) return;
    Run run;
    run.name = name;
    run.encode = [&data, encode](EncodedTensor* out) {
      const Status status = encode(data.rows, out);
      if (status.ok()) return;
      fmt::print(stderr, "bench_quant: {}\n", status.error().message);
      std::exit(2);
    };
    runs->push_back(std::move(run));
  };
  add("rtn", ScaleSearch::kSearch, false);
  add("rtn_importance", ScaleSearch::kSearch, true);
  add("minmax", ScaleSearch::kMinMax, false);
}

void AddReference(const BenchData& data, const BlockTraits& traits, const GgmlLibrary& library,
                  std::vector<Run>* runs) {
  library.Prepare(traits);
  for (const bool weighted : {false, true}) {
    if (!weighted && GgmlLibrary::NeedsImportance(traits)) continue;
    Run run;
    run.name = weighted ? "ggml_importance" : "ggml";
    run.out = EncodedTensor::Allocate(Encoding::Block(traits.type), data.rows, data.cols);
    run.encode = [&data, &traits, &library, weighted](EncodedTensor* out) {
      library.Encode(traits, data.w.data(), data.rows, data.cols,
                     weighted ? data.importance.data() : nullptr, out);
    };
    runs->push_back(std::move(run));
  }
}

// Copies the f32 weights: what minmax is held against.
void AddCopy(const BenchData& data, std::vector<Run>* runs) {
  Run run;
  run.name = "memcpy";
  run.encode = [&data](EncodedTensor* out) {
    out->Resize(Encoding::Plain(DType::kF32), data.rows, data.cols);
    std::memcpy(out->data.data(), data.w.data(), data.w.size() * sizeof(float));
  };
  runs->push_back(std::move(run));
}

Error UnknownType(const std::string& name) {
  return Error(ErrorCode::kUsage, "no type " + name).Hint("pennyweight types lists them");
}

Result<BenchRow> MeasureType(const Options& options, const BenchData& data, const std::string& name,
                             const GgmlLibrary* library) {
  IntegerSpec integer;
  integer.group_size = 128;
  std::optional<Encoding> encoding = FindType(name, integer);
  if (!encoding) {
    const BlockTraits* traits = FindBlockType(name);
    if (traits == nullptr) return UnknownType(name);
    encoding = Encoding::Block(traits->type);
  }
  std::vector<Run> runs;
  AddOurs(data, *encoding, &runs);
  AddCopy(data, &runs);
  if (library != nullptr && encoding->kind == Encoding::Kind::kBlock) {
    const BlockTraits& traits = TraitsOf(encoding->block);
    if (GgmlLibrary::Encodes(traits, data.cols)) AddReference(data, traits, *library, &runs);
  }
  Measure(data, options.rounds, &runs);
  BenchRow row;
  row.type = encoding->Name();
  row.bits = encoding->BitsPerWeight(data.cols);
  for (const Run& run : runs) row.ways[run.name] = run.figures;
  if (options.bounds) FindBounds(data, *encoding, &row);
  return row;
}

// The types to measure when none are named: those that can be written, then the others of GGUF.
std::vector<std::string> DefaultTypes(bool all) {
  std::vector<std::string> names;
  IntegerSpec integer;
  integer.group_size = 128;
  for (const std::string& name : TypeNames()) {
    const auto encoding = FindType(name, integer);
    if (encoding && encoding->kind != Encoding::Kind::kPlain) names.push_back(name);
  }
  for (int i = 0; all && i <= static_cast<int>(BlockType::kQ2_0); ++i) {
    const std::string name(TraitsOf(static_cast<BlockType>(i)).name);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::vector<std::string> Split(std::string_view list) {
  std::vector<std::string> parts;
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (comma != 0) parts.emplace_back(list.substr(0, comma));
    list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
  }
  return parts;
}

Result<Options> ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--bounds") {
      options.bounds = true;
      --i;
      continue;
    }
    if (i + 1 == argc) return Error(ErrorCode::kUsage, std::string(flag) + " needs a value");
    const std::string_view value = argv[i + 1];
    int64_t* number = flag == "--rows"     ? &options.rows
                      : flag == "--cols"   ? &options.cols
                      : flag == "--rounds" ? &options.rounds
                                           : nullptr;
    std::string* text = flag == "--data"         ? &options.data
                        : flag == "--importance" ? &options.importance
                        : flag == "--target"     ? &options.target
                        : flag == "--ggml"       ? &options.ggml
                        : flag == "--markdown"   ? &options.markdown
                                                 : nullptr;
    if (number != nullptr) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *number);
      if (error != std::errc() || end != value.data() + value.size() || *number < 0) {
        return Error(ErrorCode::kUsage, std::string(flag) + " needs a number");
      }
    } else if (text != nullptr) {
      *text = value;
    } else if (flag == "--types") {
      options.types = value == "all" ? DefaultTypes(true) : Split(value);
    } else {
      return Error(ErrorCode::kUsage, "no option " + std::string(flag));
    }
  }
  if (!options.markdown.empty() && options.markdown != "errors" && options.markdown != "speed") {
    return Error(ErrorCode::kUsage, "--markdown needs errors or speed");
  }
  if (options.types.empty()) options.types = DefaultTypes(false);
  return options;
}

Status ChooseTarget(const std::string& name) {
  if (name.empty()) return OkStatus();
  const int64_t target = name == "sse4"      ? HWY_SSE4
                         : name == "avx2"    ? HWY_AVX2
                         : name == "avx3"    ? HWY_AVX3
                         : name == "avx3_dl" ? HWY_AVX3_DL
                                             : 0;
  if (target == 0) return Error(ErrorCode::kUsage, "no target " + name);
  if ((hwy::SupportedTargets() & target) == 0) {
    return Error(ErrorCode::kUnsupported, "this processor or build has no " + name);
  }
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(target);
  return OkStatus();
}

Status RunBench(const Options& options) {
  PW_TRY(ChooseTarget(options.target));
  PW_ASSIGN(const BenchData data,
            MakeBenchData(options.data, options.rows, options.cols, options.importance));
  std::optional<GgmlLibrary> library;
  if (!options.ggml.empty()) {
    PW_ASSIGN(library, GgmlLibrary::Load(options.ggml));
  }
  const int64_t best = hwy::SupportedTargets() & -hwy::SupportedTargets();
  const std::string matrix = fmt::format("{} [{}, {}]", data.name, data.rows, data.cols);
  const std::string title = fmt::format("{}, {}", matrix, hwy::TargetName(best));
  const bool json = options.markdown.empty();
  if (json) {
    fmt::print(
        "{{\"schema\": \"pennyweight.bench.quant/1\",\n  \"data\": \"{}\", \"rows\": {}, "
        "\"cols\": {}, \"target\": \"{}\", \"reference\": {},\n  \"results\": [\n",
        data.name, data.rows, data.cols, hwy::TargetName(best), library ? "true" : "false");
  } else {
    const bool speed = options.markdown == "speed";  // errors do not depend on the target
    PrintMarkdownHead(speed, speed ? title : matrix);
  }
  PrintTableHead(title, options.bounds);
  bool first = true;
  for (const std::string& name : options.types) {
    PW_ASSIGN(const BenchRow row, MeasureType(options, data, name, library ? &*library : nullptr));
    if (row.ways.empty()) {
      fmt::print(stderr, "{:14} rows of {} columns are not encoded\n", name, data.cols);
      continue;
    }
    PrintTableRow(row);
    if (json) PrintJson(row, first);
    if (!json) PrintMarkdownRow(options.markdown == "speed", row);
    first = false;
  }
  if (json) fmt::print("\n  ]\n}}\n");
  return OkStatus();
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--help") {
    fmt::print("{}", kUsage);
    return 0;
  }
  const Result<Options> options = ParseOptions(argc, argv);
  const Status status = options.ok() ? RunBench(*options) : Status(options.error());
  if (status.ok()) return 0;
  const Error& error = status.error();
  fmt::print(stderr, "bench_quant: {}{}\n", error.message,
             error.file.empty() ? "" : " (" + error.file + ")");
  if (!options.ok()) fmt::print(stderr, "{}", kUsage);
  return 2;
}

}  // namespace
}  // namespace pennyweight

int main(int argc, char** argv) { return pennyweight::Main(argc, argv); }
