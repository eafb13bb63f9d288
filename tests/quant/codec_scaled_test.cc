#include "quant/codec_scaled.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "lib/dtype.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

TEST_CASE("every byte of the 8-bit floats") {
  for (int i = 0; i < 256; ++i) {
    CAPTURE(i);
    const auto bits = static_cast<uint8_t>(i);
    // E5M2 is the upper half of f16, infinities and NaN included.
    const float e5m2 = SmallFloatValue(DType::kF8E5M2, bits);
    const float half = F16ToF32(static_cast<uint16_t>(i << 8));
    CHECK(((std::isnan(e5m2) && std::isnan(half)) || e5m2 == half));
    // E4M3 has an f16's fields with a bias of 7 instead of 15, and one NaN of each sign.
    const float e4m3 = SmallFloatValue(DType::kF8E4M3, bits);
    const float scaled = F16ToF32(static_cast<uint16_t>((i & 0x80) << 8 | (i & 0x7f) << 7)) * 256;
    CHECK(((i & 0x7f) == 0x7f ? std::isnan(e4m3) : e4m3 == scaled));
    CHECK(std::signbit(e4m3) == (i >= 128 && !std::isnan(e4m3)));
    const float e8m0 = SmallFloatValue(DType::kF8E8M0, bits);
    CHECK((i == 255 ? std::isnan(e8m0) : e8m0 == std::exp2(static_cast<float>(i - 127))));
  }
  CHECK(SmallFloatValue(DType::kF8E4M3, 0x7e) == 448);
  CHECK(SmallFloatValue(DType::kF8E5M2, 0x7b) == 57344);
  const float levels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int i = 0; i < 16; ++i) {
    const float value = SmallFloatValue(DType::kF4, static_cast<uint8_t>(i | 0xa0));
    CHECK(value == (i < 8 ? levels[i] : -levels[i - 8]));
  }
}

TEST_CASE("elements times scales, the last block partial, rows on their own") {
  EncodedTensor tile = EncodedTensor::Allocate(Encoding::Scaled({.element = DType::kF8E4M3,
                                                                 .block_rows = 128,
                                                                 .block_cols = 4,
                                                                 .scale_dtype = DType::kBF16}),
                                               2, 10);
  REQUIRE(tile.data.size() == 20);
  REQUIRE(tile.scales.size() == 2 * 3 * 2);
  for (size_t i = 0; i < 20; ++i) tile.data[i] = static_cast<uint8_t>(0x30 + i);
  const float scales[] = {1, -2, 0.5f, 3, 4, 0.25f};
  EncodeFromFloat(DType::kBF16, scales, tile.scales.data(), 6);
  REQUIRE(CanDecode(tile.encoding));
  float out[10];
  DecodeRows(tile, 1, 1, out);
  for (size_t c = 0; c < 10; ++c) {
    CHECK(out[c] == SmallFloatValue(DType::kF8E4M3, tile.data[10 + c]) * scales[3 + c / 4]);
  }
}

TEST_CASE("what has no decoder says so") {
  CHECK_FALSE(CanDecode(Encoding::Scaled({.element = DType::kI16})));
  CHECK_FALSE(CanDecode(Encoding::Scaled({.scale_dtype = DType::kI32})));
  CHECK_FALSE(CanDecode(Encoding::Scaled({.element = DType::kF8E4M3, .absmax = true})));
  CHECK_FALSE(CanDecode(Encoding::Codebook({.block = 0})));
}

TEST_CASE("a codebook whose tile begins inside a block, nested") {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1, 1);
  EncodedTensor tile =
      EncodedTensor::Allocate(Encoding::Codebook({.block = 6, .nested_block = 2}), 3, 10);
  CHECK(tile.scales.size() == 5);
  CHECK(tile.nested.absmax.size() == 3);
  // The tile is the rows after 14 values: 2 into the third block, which is 0 into the second pair.
  tile.first = 2;
  tile.scales.resize(6);
  tile.nested.first = 1;
  tile.nested.absmax.resize(4);
  tile.nested.offset = 0.125f;
  for (float& level : tile.levels) level = uniform(random);
  for (float& level : tile.nested.levels) level = uniform(random);
  for (float& absmax : tile.nested.absmax) absmax = uniform(random);
  for (uint8_t& byte : tile.scales) byte = static_cast<uint8_t>(random());
  for (int8_t& code : tile.codes) code = static_cast<int8_t>(random() % 16);
  std::vector<float> out(30), row(10);
  DecodeRows(tile, 0, 3, out.data());
  for (size_t i = 0; i < 30; ++i) {
    const size_t block = (2 + i) / 6;
    const float absmax =
        tile.nested.levels[tile.scales[block]] * tile.nested.absmax[(1 + block) / 2] + 0.125f;
    CHECK(out[i] == tile.levels[static_cast<size_t>(tile.codes[i])] * absmax);
  }
  for (int64_t r = 0; r < 3; ++r) {
    DecodeRows(tile, r, 1, row.data());
    CHECK(std::memcmp(row.data(), out.data() + r * 10, 40) == 0);
  }
}

}  // namespace
}  // namespace pennyweight
