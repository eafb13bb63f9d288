#include "calib/stream_tensors.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "calib/tile_work.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

// Keeps block and plain tiles, from any thread.
class BytesSink : public TensorSink {
 public:
  explicit BytesSink(size_t tensors) : bytes(tensors) {}
  Status Begin(const std::vector<OutputTensor>&) override { return OkStatus(); }
  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t width = tile.data.size() / static_cast<size_t>(tile.rows);
    std::vector<uint8_t>& to = bytes[index];
    const size_t at = static_cast<size_t>(row) * width;
    to.resize(std::max(to.size(), at + tile.data.size()));
    std::copy(tile.data.begin(), tile.data.end(), to.begin() + static_cast<std::ptrdiff_t>(at));
    return OkStatus();
  }
  Status Seal() override { return OkStatus(); }
  Status Commit() override { return OkStatus(); }
  std::string OutputName(size_t) const override { return ""; }
  uint64_t OutputBytes(size_t index) const override { return bytes[index].size(); }
  uint64_t TotalBytes() const override { return 0; }

  std::vector<std::vector<uint8_t>> bytes;

 private:
  std::mutex mutex_;
};

struct Case {
  MemorySource source;
  std::vector<Choice> choices;
  std::vector<std::vector<float>> values;

  void Add(const std::string& name, Shape shape, const Encoding& to, std::mt19937* rng) {
    std::normal_distribution<float> normal(0, 0.05f);
    std::vector<float> w(static_cast<size_t>(*ElementCount(shape)));
    for (float& v : w) v = normal(*rng);
    source.AddFloats(name, std::move(shape), w);
    choices.push_back({to, to.kind != Encoding::Kind::kPlain, {}});
    values.push_back(std::move(w));
  }
};

// Several tiles, many small tensors, three dimensions, a copy, casts.
std::unique_ptr<Case> RandomCase() {
  std::random_device device;
  std::mt19937 rng(device());
  auto made = std::make_unique<Case>();
  made->Add("tall", {5003, 256}, Encoding::Block(BlockType::kQ4_K), &rng);
  for (int i = 0; i < 9; ++i) {
    made->Add("small" + std::to_string(i), {33 + i, 64}, Encoding::Block(BlockType::kQ8_0), &rng);
  }
  made->Add("experts", {3, 171, 512}, Encoding::Block(BlockType::kQ6_K), &rng);
  made->Add("wide", {40, 32768}, Encoding::Block(BlockType::kQ4_0), &rng);
  made->Add("copy", {700, 500}, Encoding::Plain(DType::kF32), &rng);
  made->Add("cast", {700, 500}, Encoding::Plain(DType::kF16), &rng);
  made->Add("norm", {77}, Encoding::Plain(DType::kBF16), &rng);
  made->Add("empty", {0, 64}, Encoding::Block(BlockType::kQ8_0), &rng);
  return made;
}

struct Streamed {
  Status status = OkStatus();
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<TensorReport> reports;
  ErrorSums sums;
};

Streamed Stream(const Case& from, int threads, uint64_t memory, const RowsCallback& on_rows) {
  const size_t count = from.source.tensors().size();
  BytesSink sink(count);
  Streamed out;
  out.reports.resize(count);
  StreamJob job;
  job.source = &from.source;
  job.choices = from.choices;
  job.method = Method::kMinMax;
  job.sink = &sink;
  job.reports = &out.reports;
  job.sums = &out.sums;
  Context context;
  context.threads = threads;
  context.memory_limit = memory;
  std::vector<size_t> all(count);
  std::iota(all.begin(), all.end(), size_t{0});
  out.status = StreamTensors(context, job, all, on_rows);
  out.bytes = std::move(sink.bytes);
  return out;
}

constexpr uint64_t kPlenty = 1ull << 40;

TEST_CASE("streamed tiles are the matrix quantized whole, on any number of threads") {
  const auto made = RandomCase();
  const Streamed one = Stream(*made, 1, kPlenty, nullptr);
  const Streamed four = Stream(*made, 4, kPlenty, nullptr);
  REQUIRE(one.status.ok());
  REQUIRE(four.status.ok());
  CHECK(one.bytes == four.bytes);
  CHECK(one.sums.weight.sum_sq == four.sums.weight.sum_sq);
  CHECK(one.sums.weight.sum_sq_error == four.sums.weight.sum_sq_error);
  for (size_t i = 0; i < made->values.size(); ++i) {
    const TensorInfo& info = made->source.tensors()[i];
    CAPTURE(info.name);
    CHECK(one.reports[i].weight_rel_mse == four.reports[i].weight_rel_mse);
    CHECK(one.reports[i].cosine == four.reports[i].cosine);
    CHECK(one.reports[i].max_abs_error == four.reports[i].max_abs_error);
    if (info.rows() == 0) continue;
    EncodedTensor whole;
    REQUIRE(QuantizeRtn(Context(), made->choices[i].encoding, made->values[i].data(), info.rows(),
                        info.cols(), {}, ScaleSearch::kMinMax, &whole)
                .ok());
    CHECK(one.bytes[i] == whole.data);
    std::vector<float> decoded(made->values[i].size());
    DecodeRows(whole, 0, info.rows(), decoded.data());
    double error = 0, total = 0;
    for (size_t k = 0; k < decoded.size(); ++k) {
      const double w = made->values[i][k];
      error += (w - decoded[k]) * (w - decoded[k]);
      total += w * w;
    }
    CHECK(*one.reports[i].weight_rel_mse == doctest::Approx(error / total).epsilon(1e-9));
  }
  CHECK(one.reports[0].method == "minmax");
  const auto report = [&](const char* name) {
    return one.reports[static_cast<size_t>(made->source.Find(name))];
  };
  CHECK(report("copy").method == "copy");
  CHECK(*report("copy").weight_rel_mse == 0);
  CHECK(report("cast").method == "cast");
  CHECK(*report("cast").weight_rel_mse > 0);
}

TEST_CASE("every row that was written is shown once, decoded") {
  const auto made = std::make_unique<Case>();
  std::mt19937 rng(std::random_device{}());
  made->Add("w", {4100, 192}, Encoding::Block(BlockType::kQ5_0), &rng);
  std::vector<int> shown(4100);
  std::vector<float> decoded(4100 * 192);
  const Streamed out = Stream(*made, 4, kPlenty, [&](int64_t row, int64_t rows, const float* v) {
    for (int64_t r = row; r < row + rows; ++r) ++shown[static_cast<size_t>(r)];
    std::copy_n(v, rows * 192, decoded.begin() + row * 192);
    return OkStatus();
  });
  REQUIRE(out.status.ok());
  CHECK(std::count(shown.begin(), shown.end(), 1) == 4100);
  EncodedTensor whole = EncodedTensor::Allocate(made->choices[0].encoding, 4100, 192);
  whole.data = out.bytes[0];
  std::vector<float> want(decoded.size());
  DecodeRows(whole, 0, 4100, want.data());
  CHECK(decoded == want);
}

TEST_CASE("the first tensor with a value that is no number is named, whatever the threads") {
  const auto made = RandomCase();
  for (const char* name : {"cast", "small7", "experts"}) {
    float bad = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(made->source.data(name).data() + 4 * 2000, &bad, 4);
  }
  // A copy may hold anything: its bytes are not looked into.
  float infinite = std::numeric_limits<float>::infinity();
  std::memcpy(made->source.data("copy").data(), &infinite, 4);
  for (const int threads : {1, 4}) {
    const Streamed out = Stream(*made, threads, kPlenty, nullptr);
    REQUIRE(!out.status.ok());
    CHECK(out.status.error().code == ErrorCode::kNonFinite);
    CHECK(out.status.error().tensor == "small7");
    // 2000 = 31 * 64 + 16.
    CHECK(out.status.error().message == "NaN at element 2000 (row 31, column 16)");
  }
}

TEST_CASE("a bad value far down a large tensor is named by its row there") {
  auto made = std::make_unique<Case>();
  std::mt19937 rng(std::random_device{}());
  made->Add("w", {9000, 128}, Encoding::Block(BlockType::kQ4_0), &rng);
  const float bad = std::numeric_limits<float>::infinity();
  std::memcpy(made->source.data("w").data() + 4 * (8765 * 128 + 43), &bad, 4);
  const Streamed out = Stream(*made, 2, kPlenty, nullptr);
  REQUIRE(!out.status.ok());
  CHECK(out.status.error().message == "infinity at element 1121963 (row 8765, column 43)");
}

TEST_CASE("a limit that not one tile fits under is an error that says what would do") {
  const auto made = RandomCase();
  const Streamed out = Stream(*made, 2, 1u << 20, nullptr);
  REQUIRE(!out.status.ok());
  CHECK(out.status.error().code == ErrorCode::kMemory);
  CHECK(out.status.error().hint.find("--memory") != std::string::npos);
}

TEST_CASE("tiles cover every row once, are small whatever the tensor, and do not grow in number") {
  const auto info = [](Shape shape) {
    TensorInfo made;
    made.encoding = Encoding::Plain(DType::kF16);
    made.shape = std::move(shape);
    return made;
  };
  // Among them stacked experts of 7.5 GB.
  const std::vector<TensorInfo> tensors = {
      info({256, 2048, 7168}), info({32000, 4096}), info({4096}),
      info({7, 131072}),       info({0, 64}),       info({100'000, 3})};
  std::vector<size_t> all(tensors.size());
  std::iota(all.begin(), all.end(), size_t{0});
  size_t tensor = 0;
  int64_t row = 0;
  for (const Tile& tile : CutTiles(tensors, all)) {
    if (tile.tensor != tensor) {
      CHECK(row == tensors[tensor].rows());
      tensor = tile.tensor;
      row = 0;
    }
    CHECK(tile.row == row);
    CHECK(tile.row % TensorSink::kTileRows == 0);
    const int64_t cols = tensors[tensor].cols();
    CHECK(tile.rows * cols <= std::max(int64_t{1} << 20, TensorSink::kTileRows * cols));
    row += tile.rows;
  }
  CHECK(tensor == 5);
  CHECK(row == 100'000);
  // A model of 10^12 weights.
  const std::vector<TensorInfo> huge(100, info({1'000'000, 10'000}));
  all.resize(100);
  std::iota(all.begin(), all.end(), size_t{0});
  CHECK(CutTiles(huge, all).size() < 300'000);
}

}  // namespace
}  // namespace pennyweight
