#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "quant/codec.h"
#include "quant/method.h"
#include "quant/metrics.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

bool SameBytes(const EncodedTensor& a, const EncodedTensor& b) {
  return a.data == b.data && a.codes == b.codes && a.scales == b.scales && a.zeros == b.zeros;
}

double RelMse(const EncodedTensor& tile, const std::vector<float>& w) {
  std::vector<float> v(w.size());
  DecodeRows(tile, 0, tile.rows, v.data());
  WeightError error;
  error.Add(w.data(), v.data(), static_cast<int64_t>(w.size()));
  return error.RelMse();
}

TEST_CASE("rtn error lies in the band of its type and below min/max") {
  const int64_t rows = 24, cols = 512;
  const std::vector<float> w = RandomWeights(rows * cols, 42);
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    EncodedTensor plain, best;
    REQUIRE(
        QuantizeRtn({}, c.encoding, w.data(), rows, cols, {}, ScaleSearch::kMinMax, &plain).ok());
    REQUIRE(
        QuantizeRtn({}, c.encoding, w.data(), rows, cols, {}, ScaleSearch::kSearch, &best).ok());
    const double error = RelMse(best, w);
    CHECK(error <= (c.coarse ? 1.0 : 0.999) * RelMse(plain, w));
    CHECK(error > c.low);
    CHECK(error < c.high);
  }
}

TEST_CASE("rows do not depend on their neighbours or on threads") {
  const int64_t rows = 37, cols = 256;
  const std::vector<float> w = RandomWeights(rows * cols, 7);
  std::vector<float> h = RandomWeights(cols, 8, 1);
  for (float& v : h) v *= v;
  Context four;
  four.threads = 4;
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    EncodedTensor all, threaded, tail;
    REQUIRE(QuantizeRtn({}, c.encoding, w.data(), rows, cols, h, ScaleSearch::kSearch, &all).ok());
    REQUIRE(QuantizeRtn(four, c.encoding, w.data(), rows, cols, h, ScaleSearch::kSearch, &threaded)
                .ok());
    CHECK(SameBytes(all, threaded));
    REQUIRE(
        QuantizeRtn({}, c.encoding, w.data() + 30 * cols, 7, cols, h, ScaleSearch::kSearch, &tail)
            .ok());
    std::vector<float> a(static_cast<size_t>(7 * cols)), b(a.size());
    DecodeRows(all, 30, 7, a.data());
    DecodeRows(tail, 0, 7, b.data());
    CHECK(a == b);
  }
}

TEST_CASE("ragged rows take one scale, plain dtypes are cast") {
  const int64_t rows = 5, cols = 172;
  const std::vector<float> w = RandomWeights(rows * cols, 3);
  EncodedTensor out;
  const Encoding int8 = Encoding::Integer(Ints(8, 0, true, DType::kF16));
  REQUIRE(QuantizeRtn({}, int8, w.data(), rows, cols, {}, ScaleSearch::kSearch, &out).ok());
  CHECK(RelMse(out, w) < 5e-4);
  REQUIRE(QuantizeRtn({}, Encoding::Plain(DType::kBF16), w.data(), rows, cols, {},
                      ScaleSearch::kMinMax, &out)
              .ok());
  const double error = RelMse(out, w);
  CHECK(error < 4e-6);
  CHECK(error > 5e-7);
}

TEST_CASE("a NaN or infinity is named by row and column, the first one first") {
  const int64_t rows = 40, cols = 256;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> w = RandomWeights(rows * cols, 5);
    w[static_cast<size_t>(33 * cols + 7)] = bad;
    w[static_cast<size_t>(21 * cols + 130)] = bad;
    for (const Encoding& encoding :
         {Encoding::Block(BlockType::kQ4_K), Encoding::Plain(DType::kF16)}) {
      EncodedTensor out;
      const Status status =
          QuantizeRtn({}, encoding, w.data(), rows, cols, {}, ScaleSearch::kSearch, &out);
      REQUIRE_FALSE(status.ok());
      CHECK(status.error().code == ErrorCode::kNonFinite);
      CHECK(status.error().message.find("row 21, column 130") != std::string::npos);
    }
  }
}

TEST_CASE("the first row is named, also where a later one is looked at earlier") {
  const int64_t rows = 16, cols = 1024;
  std::vector<float> w = RandomWeights(rows * cols, 6);
  w[3 * cols + 900] = std::numeric_limits<float>::infinity();
  w[9 * cols + 5] = std::numeric_limits<float>::quiet_NaN();
  EncodedTensor out;
  const Status status = QuantizeRtn({}, Encoding::Block(BlockType::kQ4_0), w.data(), rows, cols, {},
                                    ScaleSearch::kSearch, &out);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().message == "infinity at row 3, column 900");
}

TEST_CASE("a tile that is used again gives the same bytes as a new one") {
  const std::vector<float> a = RandomWeights(40 * 256, 61), b = RandomWeights(24 * 256, 62);
  EncodedTensor reused;
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
      EncodedTensor fresh;
      REQUIRE(QuantizeRtn({}, c.encoding, a.data(), 40, 256, {}, search, &reused).ok());
      REQUIRE(QuantizeRtn({}, c.encoding, b.data(), 24, 256, {}, search, &reused).ok());
      REQUIRE(QuantizeRtn({}, c.encoding, b.data(), 24, 256, {}, search, &fresh).ok());
      CHECK(SameBytes(reused, fresh));
      CHECK(reused.rows == 24);
    }
  }
}

TEST_CASE("a type that does not fit the row is refused") {
  const std::vector<float> w = RandomWeights(172, 1);
  EncodedTensor out;
  const Status status = QuantizeRtn({}, Encoding::Block(BlockType::kQ8_0), w.data(), 1, 172, {},
                                    ScaleSearch::kSearch, &out);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kUnsupported);
  CHECK(status.error().message.find("172") != std::string::npos);
}

}  // namespace
}  // namespace pennyweight
