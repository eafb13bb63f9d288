#include "calib/known_statistics.h"

#include <cmath>

#include "calib/hessian_job.h"
#include "calib/input_statistics.h"
#include "calib/stream_tensors.h"
#include "lib/linalg.h"
#include "quant/codec.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

constexpr int64_t kRows = 96, kCols = 256, kTokens = 700;

// Keeps the decoded rows of every tensor.
class DecodedSink : public TensorSink {
 public:
  explicit DecodedSink(const TensorSource& source) {
    for (const TensorInfo& info : source.tensors()) {
      values.emplace_back(static_cast<size_t>(info.elements()));
    }
  }
  Status Begin(const std::vector<OutputTensor>&) override { return OkStatus(); }
  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    DecodeRows(tile, 0, tile.rows, values[index].data() + row * tile.cols);
    return OkStatus();
  }
  Status Seal() override { return OkStatus(); }
  Status Commit() override { return OkStatus(); }
  std::string OutputName(size_t) const override { return ""; }
  uint64_t OutputBytes(size_t) const override { return 0; }
  uint64_t TotalBytes() const override { return 0; }

  std::vector<std::vector<float>> values;
};

std::vector<float> Normals(std::mt19937* random, int64_t n, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = normal(*random);
  return values;
}

// Two matrices of one input whose channels differ much and go together, and one of no known input.
struct Bench {
  MemorySource source;
  std::vector<Choice> choices;
  std::vector<float> x;
  std::vector<float> hessian;
  Statistics statistics;
  std::vector<TensorReport> reports;

  explicit Bench(const char* type) : hessian(kCols * kCols) {
    std::mt19937 random(21);
    for (const char* name : {"a", "b", "stranger"}) {
      source.AddFloats(name, {kRows, kCols}, Normals(&random, kRows * kCols, 0.1f));
      Choice choice;
      choice.encoding = *FindType(type, {});
      choice.quantize = true;
      choices.push_back(choice);
    }
    x = Normals(&random, kTokens * kCols, 1);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t i = 1; i < kCols; ++i) {
        float* row = x.data() + t * kCols;
        row[i] = (0.6f * row[i - 1] + row[i]) * (i % 8 == 0 ? 2.5f : 0.8f);
        if (std::abs(row[i]) > 30) row[i] = 30;
      }
    }
    SyrkUpper({}, kTokens, kCols, x.data(), kCols, hessian.data(), kCols);
    InputSums sums;
    sums.weights = {"a", "b"};
    sums.width = kCols;
    sums.tokens = kTokens;
    for (int64_t i = 0; i < kCols; ++i) {
      sums.sum_sq.push_back(static_cast<double>(hessian[static_cast<size_t>(i * kCols + i)]));
    }
    statistics.inputs = {sums};
    reports.resize(3);
  }
  // tr(dW H dW^T) of matrix `i`, H of x; `diagonal`: of its diagonal alone.
  double Error(size_t i, const std::vector<float>& q, bool diagonal) const {
    std::vector<float> w(q.size());
    REQUIRE(ReadFloatRows(source, i, 0, kRows, w.data()).ok());
    double error = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      const auto d = [&](int64_t c) {
        const auto at = static_cast<size_t>(r * kCols + c);
        return double{w[at]} - q[at];
      };
      for (int64_t c = 0; c < kCols; ++c) {
        const double h = hessian[static_cast<size_t>(c * kCols + c)];
        error += d(c) * d(c) * h;
        for (int64_t k = c + 1; k < kCols && !diagonal; ++k) {
          error += 2 * d(c) * d(k) * double{hessian[static_cast<size_t>(c * kCols + k)]};
        }
      }
    }
    return error;
  }
};

std::vector<std::vector<float>> Stream(Bench* bench, const KnownStatistics* known) {
  DecodedSink sink(bench->source);
  ErrorSums sums;
  StreamJob job;
  job.source = &bench->source;
  job.choices = bench->choices;
  job.known = known;
  job.sink = &sink;
  job.reports = &bench->reports;
  job.sums = &sums;
  const std::vector<size_t> all = {0, 1, 2};
  REQUIRE(StreamTensors({}, job, all, nullptr).ok());
  return sink.values;
}

TEST_CASE("known statistics: rtn is weighted by them, what they do not know is as before") {
  for (const char* type : {"q4_k", "q3_k", "q4_0", "iq4_xs", "q2_k"}) {
    CAPTURE(type);
    Bench bench(type);
    const auto plain = Stream(&bench, nullptr);
    const KnownStatistics known(bench.source, bench.statistics, nullptr);
    const auto weighted = Stream(&bench, &known);
    for (const size_t i : {0u, 1u}) {
      CHECK(bench.Error(i, weighted[i], true) < 0.97 * bench.Error(i, plain[i], true));
      CHECK(bench.reports[i].tokens == kTokens);
      CHECK_FALSE(bench.reports[i].fallback.has_value());
    }
    CHECK(weighted[2] == plain[2]);
    CHECK(bench.reports[2].fallback == "no entry in the statistics: unweighted");
    CHECK_FALSE(bench.reports[2].tokens.has_value());
  }
}

TEST_CASE("known statistics: channels of no importance make no NaN, inputs of no token none") {
  for (const char* type : {"q4_k", "q5_k", "q6_k", "q3_k", "q2_k", "q4_0", "q5_1", "iq4_nl",
                           "iq3_xxs", "iq2_xs", "iq1_m", "mxfp4", "nf4"}) {
    if (!FindType(type, {})) continue;
    CAPTURE(type);
    Bench bench(type);
    // A whole block, and single channels.
    for (size_t i = 0; i < 100; ++i) bench.statistics.inputs[0].sum_sq[i] = 0;
    for (size_t i = 130; i < kCols; i += 3) bench.statistics.inputs[0].sum_sq[i] = 0;
    const KnownStatistics known(bench.source, bench.statistics, nullptr);
    for (const auto& values : Stream(&bench, &known)) {
      for (const float v : values) REQUIRE(std::isfinite(v));
    }
    const auto plain = Stream(&bench, nullptr);
    bench.statistics.inputs[0].tokens = 0;
    const KnownStatistics unseen(bench.source, bench.statistics, nullptr);
    bench.reports.assign(3, {});
    CHECK(Stream(&bench, &unseen) == plain);
    CHECK(bench.reports[0].fallback == "its input saw no token: unweighted");
    CHECK(bench.reports[0].tokens == 0);
  }
}

TEST_CASE("known statistics: gptq by a file's Hessian is gptq by the same tokens") {
  Bench bench("q4_0");
  const KnownStatistics known(bench.source, bench.statistics,
                              [&](size_t input, float* h) -> Status {
                                CHECK(input == 0);
                                for (size_t i = 0; i < bench.hessian.size(); ++i) {
                                  h[i] += bench.hessian[i];
                                }
                                return OkStatus();
                              });
  const auto plain = Stream(&bench, nullptr);
  bench.reports.assign(3, {});
  DecodedSink sink(bench.source);
  std::vector<char> done(3);
  ErrorSums sums;
  HessianJob job;
  job.source = &bench.source;
  job.choices = bench.choices;
  job.known = &known;
  job.sink = &sink;
  job.reports = &bench.reports;
  job.done = &done;
  job.sums = &sums;
  REQUIRE(QuantizeByHessian({}, job, 0).ok());
  CHECK(done == std::vector<char>{1, 1, 0});

  InputStatistics direct(kCols, 0, false);
  REQUIRE(direct.Add({}, bench.x.data(), nullptr, kTokens).ok());
  REQUIRE(*direct.Factor({}, kDamp));
  for (const size_t i : {0u, 1u}) {
    MatrixJob matrix;
    matrix.source = &bench.source;
    matrix.index = i;
    matrix.choice = &bench.choices[i];
    matrix.method = Method::kGptq;
    matrix.statistics = &direct;
    matrix.factored = true;
    DecodedSink other(bench.source);
    TensorReport report;
    const auto result = QuantizeMatrix({}, matrix, &report, &sums);
    REQUIRE(result.ok());
    REQUIRE(WriteTiles(result->chosen.tiles, i, &other).ok());
    CHECK(other.values[i] == sink.values[i]);
    CHECK(bench.reports[i].method == "gptq");
    CHECK(bench.reports[i].tokens == kTokens);
    CHECK_FALSE(bench.reports[i].output_rel_error_heldout.has_value());
    CHECK(bench.Error(i, sink.values[i], false) < 0.8 * bench.Error(i, plain[i], false));
  }
  // Too little memory is said, not taken.
  Context tight;
  tight.memory_limit = 1 << 20;
  const Status refused = QuantizeByHessian(tight, job, 0);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kMemory);
}

}  // namespace
}  // namespace pennyweight
