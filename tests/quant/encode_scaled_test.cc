#include "quant/encode_scaled.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "lib/dtype.h"
#include "lib/nvfp4.h"
#include "quant/codec.h"
#include "quant/codec_scaled.h"
#include "quant/element_kernels.h"
#include "quant/encode_codebook.h"
#include "quant/method.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

Encoding Fp8(DType element, int64_t rows, int64_t cols, DType scale = DType::kF32) {
  return Encoding::Scaled(
      {.element = element, .block_rows = rows, .block_cols = cols, .scale_dtype = scale});
}

Encoding Mxfp4() { return Encoding::Block(BlockType::kMXFP4); }

Encoding Book(CodebookSpec::Book book) { return Encoding::Codebook({.book = book}); }

struct Expected {
  Encoding encoding;
  double low, high;  // relative squared error of minmax on RandomWeights
};

std::vector<Expected> AllEncodings() {
  return {
      {Fp8(DType::kF8E4M3, 0, 0), 3e-4, 1.5e-3},
      {Fp8(DType::kF8E4M3, 1, 0, DType::kBF16), 3e-4, 1.5e-3},
      {Fp8(DType::kF8E4M3, 128, 128), 3e-4, 1.5e-3},
      {Fp8(DType::kF8E5M2, 1, 0, DType::kF16), 1e-3, 6e-3},
      {Fp8(DType::kF8E5M2, 40, 24), 1e-3, 6e-3},
      {Nvfp4Encoding(), 4e-3, 1.5e-2},
      {Mxfp4(), 6e-3, 3e-2},
      {Book(CodebookSpec::Book::kNf4), 4e-3, 1.6e-2},
      {Book(CodebookSpec::Book::kFp4), 6e-3, 3e-2},
  };
}

EncodedTensor Encode(const Encoding& encoding, const std::vector<float>& w, int64_t rows,
                     ScaleSearch search, std::span<const float> importance = {}) {
  EncodedTensor tile;
  const auto cols = static_cast<int64_t>(w.size()) / rows;
  const Status status = QuantizeRtn({}, encoding, w.data(), rows, cols, importance, search, &tile);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  return tile;
}

double RelError(const EncodedTensor& tile, const std::vector<float>& w,
                std::span<const float> importance = {}) {
  std::vector<float> decoded(w.size());
  DecodeRows(tile, 0, tile.rows, decoded.data());
  double error = 0, total = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double h = importance.empty() ? 1 : importance[i % static_cast<size_t>(tile.cols)];
    error += h * std::pow(static_cast<double>(w[i]) - decoded[i], 2);
    total += h * static_cast<double>(w[i]) * w[i];
  }
  return error / total;
}

bool Same(const EncodedTensor& a, const EncodedTensor& b) {
  return a.data == b.data && a.codes == b.codes && a.scales == b.scales && a.divisor == b.divisor;
}

TEST_CASE("minmax is as good as the type, rtn is better") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  const std::vector<float> w = RandomWeights(200 * 320, seed);
  std::vector<float> importance = RandomWeights(320, seed + 1, 1);
  for (float& v : importance) v *= v;
  for (const Expected& expected : AllEncodings()) {
    CAPTURE(expected.encoding.Name());
    const EncodedTensor plain = Encode(expected.encoding, w, 200, ScaleSearch::kMinMax);
    const EncodedTensor found = Encode(expected.encoding, w, 200, ScaleSearch::kSearch);
    const double error = RelError(plain, w);
    CHECK(error > expected.low);
    CHECK(error < expected.high);
    // One scale for the tensor has little to find.
    const double gain = expected.encoding.scaled.block_rows == 0 ? 1.0 : 0.999;
    CHECK(RelError(found, w) <= gain * error);
    const EncodedTensor weighed =
        Encode(expected.encoding, w, 200, ScaleSearch::kSearch, importance);
    CHECK(RelError(weighed, w, importance) <= gain * RelError(plain, w, importance));
  }
}

TEST_CASE("what was encoded is encoded to the same values again") {
  const std::vector<float> w = RandomWeights(64 * 256, std::random_device()());
  for (const Expected& expected : AllEncodings()) {
    CAPTURE(expected.encoding.Name());
    const EncodedTensor once = Encode(expected.encoding, w, 64, ScaleSearch::kMinMax);
    std::vector<float> decoded(w.size()), again(w.size());
    DecodeRows(once, 0, 64, decoded.data());
    const EncodedTensor twice = Encode(expected.encoding, decoded, 64, ScaleSearch::kMinMax);
    DecodeRows(twice, 0, 64, again.data());
    for (size_t i = 0; i < w.size(); ++i) {
      CHECK(again[i] == doctest::Approx(decoded[i]).epsilon(0.01));
    }
  }
}

// The definition, one value at a time: division by the scale as stored, the nearest of all
// elements.
TEST_CASE("fp8 minmax by its definition: tensor, row, block") {
  const int64_t rows = 150, cols = 200;
  const std::vector<float> w = RandomWeights(rows * cols, std::random_device()());
  for (const DType element : {DType::kF8E4M3, DType::kF8E5M2}) {
    const float most = element == DType::kF8E4M3 ? 448 : 57344;
    for (const auto& [block_rows, block_cols] :
         {std::pair<int64_t, int64_t>{0, 0}, {1, 0}, {128, 128}, {32, 96}}) {
      const Encoding encoding = Fp8(element, block_rows, block_cols);
      CAPTURE(encoding.Name());
      const EncodedTensor tile = Encode(encoding, w, rows, ScaleSearch::kMinMax);
      const int64_t high = block_rows == 0 ? rows : block_rows;
      const int64_t wide = block_cols == 0 ? cols : block_cols;
      const int64_t groups = (cols + wide - 1) / wide;
      int64_t wrong = 0;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          float largest = 0;
          const int64_t r0 = r / high * high, c0 = c / wide * wide;
          for (int64_t i = r0; i < std::min(rows, r0 + high); ++i) {
            for (int64_t j = c0; j < std::min(cols, c0 + wide); ++j) {
              largest = std::max(largest, std::abs(w[static_cast<size_t>(i * cols + j)]));
            }
          }
          const float scale = largest / most;
          float stored = 0;
          std::memcpy(&stored, tile.scales.data() + (r * groups + c / wide) * 4, 4);
          wrong += stored != scale;
          // No element is nearer than the one that was chosen.
          const auto at = static_cast<size_t>(r * cols + c);
          const float v = w[at] / scale;
          const float got = SmallFloatValue(element, tile.data[at]);
          for (int code = 0; code < 256; ++code) {
            const float other = SmallFloatValue(element, static_cast<uint8_t>(code));
            if (std::isfinite(other) && std::abs(v - other) < std::abs(v - got)) ++wrong;
          }
          if (c % 7 == 3) c += 60;  // a sample of every row is enough
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("tiles that begin where they may give the bytes of the whole") {
  const uint32_t seed = std::random_device()();
  const int64_t rows = 300, cols = 160;
  const std::vector<float> w = RandomWeights(rows * cols, seed);
  for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
    for (const Expected& expected : AllEncodings()) {
      const Encoding& encoding = expected.encoding;
      CAPTURE(encoding.Name());
      const EncodedTensor whole = Encode(encoding, w, rows, search);
      std::optional<float> tensor_scale;
      const int64_t step = 2 * std::lcm(int64_t{32}, SharedRows(encoding));
      if (HasTensorScale(encoding)) {
        const auto each = [&](const RowVisitor& visit) -> Status {
          for (int64_t row = 0; row < rows; row += 64) {
            PW_TRY(visit(w.data() + row * cols, std::min<int64_t>(64, rows - row)));
          }
          return OkStatus();
        };
        const auto found = FindTensorScale({}, encoding, cols, {}, search, each);
        REQUIRE(found.ok());
        tensor_scale = *found;
      }
      EncodedTensor joined = EncodedTensor::Allocate(encoding, 0, cols);
      for (int64_t row = 0; row < rows; row += step) {
        EncodedTensor tile;
        REQUIRE(QuantizeRtn({}, encoding, w.data() + row * cols, std::min(step, rows - row), cols,
                            {}, search, &tile, Effort::kNormal, tensor_scale)
                    .ok());
        joined.data.insert(joined.data.end(), tile.data.begin(), tile.data.end());
        joined.codes.insert(joined.codes.end(), tile.codes.begin(), tile.codes.end());
        joined.scales.insert(joined.scales.end(), tile.scales.begin(), tile.scales.end());
        joined.divisor = tile.divisor;
      }
      CHECK(Same(joined, whole));
      Context four;
      four.threads = 4;
      EncodedTensor threaded;
      REQUIRE(QuantizeRtn(four, encoding, w.data(), rows, cols, {}, search, &threaded).ok());
      CHECK(Same(threaded, whole));
    }
  }
}

TEST_CASE("zeros, the smallest and the largest weights") {
  for (const Expected& expected : AllEncodings()) {
    CAPTURE(expected.encoding.Name());
    for (const float size : {0.0f, 1e-44f, 1e-30f, 1e30f}) {
      CAPTURE(size);
      std::vector<float> w = RandomWeights(32 * 64, 4, 1);
      for (float& v : w) v *= size;
      for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
        const EncodedTensor tile = Encode(expected.encoding, w, 32, search);
        std::vector<float> decoded(w.size());
        DecodeRows(tile, 0, 32, decoded.data());
        for (size_t i = 0; i < w.size(); ++i) {
          CHECK(std::isfinite(decoded[i]));
          if (size == 0) CHECK(decoded[i] == 0);
        }
        // f16 scales and E4M3 scales end before this; all others follow.
        const bool wide = expected.encoding.kind != Encoding::Kind::kScaled ||
                          expected.encoding.scaled.scale_dtype == DType::kF32;
        if (wide && (size == 1e-30f || size == 1e30f)) CHECK(RelError(tile, w) < 0.05);
      }
    }
  }
}

TEST_CASE("a NaN and an infinity are named by row and column") {
  for (const Expected& expected : AllEncodings()) {
    CAPTURE(expected.encoding.Name());
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> w = RandomWeights(70 * 96, 8);
      w[53 * 96 + 41] = bad;
      EncodedTensor tile;
      const Status status =
          QuantizeRtn({}, expected.encoding, w.data(), 70, 96, {}, ScaleSearch::kMinMax, &tile);
      REQUIRE(!status.ok());
      CHECK(status.error().code == ErrorCode::kNonFinite);
      CHECK(status.error().message.find("row 53, column 41") != std::string::npos);
    }
  }
}

TEST_CASE("what cannot be encoded is not taken for it") {
  CHECK(!CanEncodeScaled(Nvfp4Encoding(), 40));
  CHECK(!CanEncodeScaled(Mxfp4(), 48));
  CHECK(!CanEncodeScaled(Encoding::Block(BlockType::kQ4_0), 64));
  CHECK(!CanEncodeScaled(Encoding::Scaled({.element = DType::kI8, .absmax = true}), 64));
  CHECK(!CanEncodeScaled(Fp8(DType::kF8E4M3, 1, 32, DType::kF8E8M0), 64));
  CHECK(!CanEncodeCodebook(Encoding::Codebook({.nested_block = 256})));
  EncodedTensor tile;
  const std::vector<float> w(80);
  CHECK(QuantizeRtn({}, Nvfp4Encoding(), w.data(), 2, 40, {}, ScaleSearch::kMinMax, &tile)
            .error()
            .code == ErrorCode::kUnsupported);
}

TEST_CASE("codebook blocks cross rows where the columns do not divide") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  const int64_t rows = 13, cols = 37;
  const std::vector<float> w = RandomWeights(rows * cols, seed);
  for (const auto book : {CodebookSpec::Book::kNf4, CodebookSpec::Book::kFp4}) {
    const EncodedTensor tile = Encode(Book(book), w, rows, ScaleSearch::kMinMax);
    REQUIRE(tile.scales.size() == 4 * 8);
    for (size_t block = 0; block < 8; ++block) {
      float absmax = 0, stored = 0;
      std::memcpy(&stored, tile.scales.data() + block * 4, 4);
      for (size_t i = block * 64; i < std::min(w.size(), block * 64 + 64); ++i) {
        absmax = std::max(absmax, std::abs(w[i]));
      }
      CHECK(stored == absmax);
      for (size_t i = block * 64; i < std::min(w.size(), block * 64 + 64); ++i) {
        const auto levels = LevelsOf(book);
        const float v = w[i] / absmax;
        const float got = levels[static_cast<size_t>(tile.codes[i])];
        for (const float level : levels) CHECK(std::abs(v - got) <= std::abs(v - level) + 1e-6f);
      }
    }
  }
}

}  // namespace
}  // namespace pennyweight
