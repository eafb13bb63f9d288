#include "quant/repack.h"

#include <doctest/doctest.h>

#include <limits>
#include <random>

#include "lib/dtype.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

EncodedTensor RandomIntegers(const IntegerSpec& spec, int64_t rows, int64_t cols,
                             const std::vector<float>& scales, uint32_t seed) {
  std::mt19937 random(seed);
  EncodedTensor tile = EncodedTensor::Allocate(Encoding::Integer(spec), rows, cols);
  const int half = 1 << (spec.bits - 1);
  const auto code = [&] {
    return static_cast<int8_t>(static_cast<int>(random() % (2u * half)) - half);
  };
  for (int8_t& c : tile.codes) c = code();
  for (int8_t& z : tile.zeros) z = code();
  const auto bytes = static_cast<size_t>(DTypeBits(spec.scale_dtype) / 8);
  for (size_t i = 0; i < tile.scales.size() / bytes; ++i) {
    const float scale = scales[random() % scales.size()];
    EncodeFromFloat(spec.scale_dtype, &scale, tile.scales.data() + i * bytes, 1);
  }
  return tile;
}

const std::vector<float> kScales = {0.5f, -0.25f, 0.0078125f, 3, 1.5f, 0};

TEST_CASE("integers of every width become blocks of the same values") {
  struct Case {
    int bits;
    bool symmetric;
    BlockType to;
  };
  const Case cases[] = {
      {2, true, BlockType::kQ4_0},  {3, true, BlockType::kQ4_0},  {4, true, BlockType::kQ4_0},
      {5, true, BlockType::kQ5_0},  {6, true, BlockType::kQ8_0},  {7, true, BlockType::kQ8_0},
      {8, true, BlockType::kQ8_0},  {2, false, BlockType::kQ4_1}, {3, false, BlockType::kQ4_1},
      {4, false, BlockType::kQ4_1}, {5, false, BlockType::kQ5_1}};
  for (const Case& c : cases) {
    for (const int64_t group : {0, 32, 64, 192}) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
        CAPTURE(c.bits);
        CAPTURE(group);
        const IntegerSpec spec{
            .bits = c.bits, .group_size = group, .symmetric = c.symmetric, .scale_dtype = dtype};
        const EncodedTensor from = RandomIntegers(spec, 5, 192, kScales, 5);
        std::string why_not;
        REQUIRE(FindRepack(from.encoding, 192, &why_not) == c.to);
        EncodedTensor packed;
        REQUIRE(RepackRows(from, c.to, &packed));
        CHECK(packed.encoding == Encoding::Block(c.to));
        std::vector<float> want(5 * 192), have(5 * 192);
        DecodeRows(from, 0, 5, want.data());
        DecodeRows(packed, 0, 5, have.data());
        CHECK(want == have);
      }
    }
  }
}

TEST_CASE("scales and minima that f16 does not hold are not rounded") {
  IntegerSpec spec{.bits = 4, .group_size = 32, .symmetric = true, .scale_dtype = DType::kF32};
  EncodedTensor packed;
  for (const float scale : {0.1f, 1e-9f, 70000.0f, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    CAPTURE(scale);
    CHECK_FALSE(RepackRows(RandomIntegers(spec, 2, 64, {scale}, 6), BlockType::kQ4_0, &packed));
  }
  spec.symmetric = false;
  spec.scale_dtype = DType::kF16;
  // 11 significant bits, times a zero point other than a power of two.
  EncodedTensor from = RandomIntegers(spec, 1, 32, {1.0009765625f}, 7);
  from.zeros[0] = -5;
  CHECK_FALSE(RepackRows(from, BlockType::kQ4_1, &packed));
  from.zeros[0] = -4;
  CHECK(RepackRows(from, BlockType::kQ4_1, &packed));
}

TEST_CASE("what no block holds is told why") {
  const auto why = [](const Encoding& from, int64_t cols) {
    std::string text;
    CHECK_FALSE(FindRepack(from, cols, &text).has_value());
    return text;
  };
  CHECK(why(Encoding::Integer({.bits = 8, .group_size = 32, .symmetric = false}), 64)
            .find("8 bits with zero points") != std::string::npos);
  CHECK(why(Encoding::Integer({.bits = 4, .group_size = 16}), 64).find("groups of 16") !=
        std::string::npos);
  CHECK(why(Encoding::Integer({.bits = 4, .group_size = 0}), 80).find("groups of 80") !=
        std::string::npos);
  CHECK(why(Encoding::Integer({.bits = 4, .group_size = 32, .act_order = true}), 64)
            .find("activation order") != std::string::npos);
  CHECK(why(Encoding::Codebook({}), 64).find("nf4_b64") != std::string::npos);
}

}  // namespace
}  // namespace pennyweight
