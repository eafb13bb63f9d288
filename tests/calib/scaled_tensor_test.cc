#include "calib/scaled_tensor.h"

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "calib/matrix_job.h"
#include "calib/stream_tensors.h"
#include "lib/nvfp4.h"
#include "quant/method.h"
#include "quant/type_table.h"
#include "test_model.h"

namespace pennyweight {
namespace {

// Joins the tiles again, and checks where they begin.
class JoiningSink : public TensorSink {
 public:
  Status Begin(const std::vector<OutputTensor>&) override { return OkStatus(); }
  Status Write(size_t, int64_t row, const EncodedTensor& tile) override {
    CHECK(row == rows);
    CHECK(row % kTileRows == 0);
    rows += tile.rows;
    ++tiles;
    const auto append = [](auto* to, const auto& from) {
      to->insert(to->end(), from.begin(), from.end());
    };
    append(&joined.data, tile.data);
    append(&joined.codes, tile.codes);
    append(&joined.scales, tile.scales);
    joined.divisor = tile.divisor;
    return OkStatus();
  }
  Status Seal() override { return OkStatus(); }
  Status Commit() override { return OkStatus(); }
  std::string OutputName(size_t) const override { return ""; }
  uint64_t OutputBytes(size_t) const override { return 0; }
  uint64_t TotalBytes() const override { return 0; }

  EncodedTensor joined;
  int64_t rows = 0;
  int tiles = 0;
};

// What a type is outside GGUF.
Encoding TypeNamed(const char* name) {
  if (std::string_view(name) == "nvfp4") return Nvfp4Encoding();
  return *NamedType(name, IntegerSpec());
}

Status StreamOne(const TensorSource& source, const Choice& choice, Method method,
                 TensorSink* sink) {
  std::vector<TensorReport> reports(1);
  ErrorSums sums;
  StreamJob job;
  job.source = &source;
  job.choices = std::span(&choice, 1);
  job.method = method;
  job.sink = sink;
  job.reports = &reports;
  job.sums = &sums;
  const size_t index = 0;
  return StreamTensors({}, job, std::span(&index, 1), nullptr);
}

std::vector<float> Weights(int64_t count) {
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> w(static_cast<size_t>(count));
  for (float& v : w) v = normal(rng);
  // The largest of all stands in the last tile.
  w[w.size() - 3] = 1.5f;
  return w;
}

TEST_CASE("a streamed tensor has the bytes that it has as a whole, wherever tiles end") {
  // Wide rows, so that there are many tiles; an odd width, so that codebook blocks cross rows.
  for (const int64_t cols : {int64_t{60000}, int64_t{60001}}) {
    const int64_t rows = 170;
    const std::vector<float> w = Weights(rows * cols);
    MemorySource source;
    source.AddFloats("w", {rows, cols}, w);
    for (const char* name : {"fp8_e4m3_tensor", "fp8_e5m2_b128x128", "fp8_e4m3_b40x64", "nvfp4",
                             "mxfp4", "nf4", "fp4_b128"}) {
      CAPTURE(name);
      Choice choice;
      choice.encoding = TypeNamed(name);
      choice.quantize = true;
      const bool fits =
          cols % 32 == 0 || (std::string(name) != "nvfp4" && std::string(name) != "mxfp4");
      if (!fits) continue;
      JoiningSink sink;
      const Status status = StreamOne(source, choice, Method::kMinMax, &sink);
      REQUIRE_MESSAGE(status.ok(), status.error().ToString());
      CHECK(sink.rows == rows);
      CHECK(sink.tiles > 1);
      EncodedTensor whole;
      REQUIRE(
          QuantizeRtn({}, choice.encoding, w.data(), rows, cols, {}, ScaleSearch::kMinMax, &whole)
              .ok());
      CHECK((sink.joined.data == whole.data));
      CHECK((sink.joined.codes == whole.codes));
      CHECK((sink.joined.scales == whole.scales));
      CHECK(sink.joined.divisor == whole.divisor);
    }
  }
}

TEST_CASE("the rows of tiles") {
  CHECK(AlignTileRows(32, TypeNamed("fp8_e4m3_b128x128"), 100) == 128);
  CHECK(AlignTileRows(160, TypeNamed("fp8_e4m3_b128x128"), 100) == 256);
  CHECK(AlignTileRows(32, TypeNamed("fp8_e4m3_b48x64"), 100) == 96);
  CHECK(AlignTileRows(96, TypeNamed("fp8_e4m3_tensor"), 100) == 96);
  CHECK(AlignTileRows(32, TypeNamed("nf4"), 64) == 32);
  CHECK(AlignTileRows(32, TypeNamed("nf4"), 7) == 64);
  CHECK(AlignTileRows(32, TypeNamed("nf4_b4096"), 2) == 2048);
}

TEST_CASE("a NaN in a later tile stops the first reading, by its tensor") {
  const int64_t rows = 100, cols = 60000;
  std::vector<float> w = Weights(rows * cols);
  w[static_cast<size_t>(90 * cols + 4)] = std::numeric_limits<float>::quiet_NaN();
  MemorySource source;
  source.AddFloats("w", {rows, cols}, w);
  Choice choice;
  choice.encoding = TypeNamed("fp8_e4m3_tensor");
  choice.quantize = true;
  JoiningSink sink;
  const Status status = StreamOne(source, choice, Method::kRtn, &sink);
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kNonFinite);
  CHECK(status.error().tensor == "w");
  CHECK(sink.tiles == 0);
}

TEST_CASE("a scale of the whole tensor is found once, and only where there is one") {
  MemorySource source;
  source.AddFloats("w", {40, 64}, Weights(40 * 64));
  const auto channel =
      ReadTensorScale({}, source, 0, TypeNamed("fp8_e4m3"), {}, ScaleSearch::kMinMax);
  REQUIRE(channel.ok());
  CHECK_FALSE(channel->has_value());
  const auto tensor =
      ReadTensorScale({}, source, 0, TypeNamed("fp8_e4m3_tensor"), {}, ScaleSearch::kMinMax);
  REQUIRE(tensor.ok());
  CHECK(**tensor == 1.5f / 448);
  const auto divisor = ReadTensorScale({}, source, 0, TypeNamed("nvfp4"), {}, ScaleSearch::kMinMax);
  REQUIRE(divisor.ok());
  CHECK(**divisor == 448.0f * 6 / 1.5f);
}

}  // namespace
}  // namespace pennyweight
