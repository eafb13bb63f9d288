#include "quant/row_minmax.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "hwy/highway.h"
#include "quant/grid.h"
#include "quant/method.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

// Rows of many sizes, among them rows of zeros, of one outlier, of one value and of denormals.
std::vector<float> Rows(int64_t rows, int64_t cols) {
  std::vector<float> w;
  for (int64_t r = 0; r < rows; ++r) {
    const float sizes[] = {0.05f, 1e-6f, 1e-30f, 3000.0f, 1e30f, 1e-38f, 0.0f, 1e-3f};
    const float size = sizes[r % 8];
    std::vector<float> row = RandomWeights(cols, static_cast<uint32_t>(r + 1), size);
    if (r % 11 == 9) std::fill(row.begin(), row.end(), -0.3f);
    if (r % 11 == 10) {
      std::fill(row.begin(), row.end(), 0.0f);
      row[static_cast<size_t>(cols / 2)] = -2.5f;
    }
    w.insert(w.end(), row.begin(), row.end());
  }
  return w;
}

EncodedTensor ByGrid(const Encoding& encoding, const std::vector<float>& w, int64_t rows,
                     int64_t cols) {
  EncodedTensor out = EncodedTensor::Allocate(encoding, rows, cols);
  const auto grid = MakeGrid(encoding, cols);
  const int64_t width = grid->block();
  LaneArray<float> lanes(width * kLanes);
  std::vector<uint8_t> packed(static_cast<size_t>(grid->packed_bytes() * kLanes));
  const std::vector<float> h(static_cast<size_t>(width), 1.0f);
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t count = std::min(kLanes, rows - r);
    for (int64_t b = 0; b * width < cols; ++b) {
      LoadLanes(w.data() + r * cols + b * width, cols, count, width, lanes.data());
      grid->Encode(lanes.data(), h.data(), ScaleSearch::kMinMax, packed.data());
      for (int64_t l = 0; l < count; ++l) {
        StorePacked(packed.data() + l * grid->packed_bytes(), r + l, b, &out);
      }
    }
  }
  return out;
}

struct Case {
  Encoding encoding;
  int64_t cols;
};

std::vector<Case> Cases() {
  std::vector<Case> cases = {{Encoding::Block(BlockType::kQ4_0), 32 * 19},
                             {Encoding::Block(BlockType::kQ8_0), 32 * 19}};
  for (int bits = 2; bits <= 8; ++bits) {
    cases.push_back({Encoding::Integer(Ints(bits, 16, true, DType::kF16)), 16 * 18});
    cases.push_back({Encoding::Integer(Ints(bits, 37, true, DType::kBF16)), 37 * 17});
    cases.push_back({Encoding::Integer(Ints(bits, 128, true, DType::kF32)), 256});
    cases.push_back({Encoding::Integer(Ints(bits, 0, true, DType::kF16)), 173});
    cases.push_back({Encoding::Integer(Ints(bits, 0, true, DType::kF32)), 5});
  }
  return cases;
}

TEST_CASE("rows are coded as their type's grid codes them, on every instruction set") {
  const int64_t rows = 41;
  for (const Case& c : Cases()) {
    CAPTURE(c.encoding.Name());
    REQUIRE(HasRowMinMax(c.encoding));
    const std::vector<float> w = Rows(rows, c.cols);
    const EncodedTensor want = ByGrid(c.encoding, w, rows, c.cols);
    int64_t targets = hwy::SupportedTargets();
    for (; targets != 0; targets &= targets - 1) {
      hwy::SetSupportedTargetsForTest(targets & -targets);
      hwy::GetChosenTarget().Update(targets & -targets);
      CAPTURE(hwy::TargetName(targets & -targets));
      EncodedTensor out;
      REQUIRE(
          QuantizeRtn({}, c.encoding, w.data(), rows, c.cols, {}, ScaleSearch::kMinMax, &out).ok());
      CHECK(out.data == want.data);
      CHECK(out.codes == want.codes);
      CHECK(out.scales == want.scales);
      CHECK(out.zeros.empty());
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

TEST_CASE("other types go through their grids") {
  CHECK_FALSE(HasRowMinMax(Encoding::Block(BlockType::kQ4_1)));
  CHECK_FALSE(HasRowMinMax(Encoding::Block(BlockType::kQ6_K)));
  CHECK_FALSE(HasRowMinMax(Encoding::Integer(Ints(4, 32, false, DType::kF16))));
  CHECK_FALSE(HasRowMinMax(Encoding::Plain(DType::kF16)));
}

TEST_CASE("a row that is not finite is refused by name") {
  std::vector<float> w = Rows(20, 64);
  w[17 * 64 + 63] = std::numeric_limits<float>::infinity();
  w[18 * 64] = std::numeric_limits<float>::quiet_NaN();
  EncodedTensor out;
  const Status status = QuantizeRtn({}, Encoding::Block(BlockType::kQ8_0), w.data(), 20, 64, {},
                                    ScaleSearch::kMinMax, &out);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kNonFinite);
  CHECK(status.error().message == "infinity at row 17, column 63");
}

}  // namespace
}  // namespace pennyweight
