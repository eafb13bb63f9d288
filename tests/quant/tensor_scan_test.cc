#include "quant/tensor_scan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "quant/codec.h"

namespace pennyweight {
namespace {

TensorInfo Info(const Encoding& encoding, Shape shape) {
  TensorInfo info;
  info.name = "w";
  info.encoding = encoding;
  info.shape = std::move(shape);
  return info;
}

// The scan of a tensor whose rows are given in tiles of `step`.
TensorScan ScanOf(const Encoding& encoding, int64_t rows, int64_t cols,
                  const std::vector<uint8_t>& bytes, int64_t step) {
  TensorScanner scanner(Info(encoding, {rows, cols}));
  const size_t row_bytes = bytes.size() / static_cast<size_t>(rows);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t n = std::min(step, rows - row);
    EncodedTensor tile;
    tile.encoding = encoding;
    tile.rows = n;
    tile.cols = cols;
    const auto begin = bytes.begin() + row * static_cast<int64_t>(row_bytes);
    tile.data.assign(begin, begin + n * static_cast<int64_t>(row_bytes));
    scanner.Add(tile);
  }
  return scanner.Finish();
}

template <class T>
std::vector<uint8_t> Bytes(const std::vector<T>& values) {
  std::vector<uint8_t> out(values.size() * sizeof(T));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

std::vector<float> RandomFloats(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

TEST_CASE("NaN and Inf are counted and placed, whatever the tiles") {
  std::vector<float> values = RandomFloats(300 * 64, 3);
  values[123] = std::nanf("");
  values[19000] = -std::nanf("");
  values[7000] = INFINITY;
  values[7001] = -INFINITY;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(DTypeBits(dtype)) / 8);
    EncodeFromFloat(dtype, values.data(), bytes.data(), values.size());
    for (const int64_t step : {1, 7, 300}) {
      const TensorScan scan = ScanOf(Encoding::Plain(dtype), 300, 64, bytes, step);
      CAPTURE(DTypeName(dtype));
      CHECK(scan.nan.count == 2);
      CHECK(scan.nan.first == 123);
      CHECK(scan.inf.count == 2);
      CHECK(scan.inf.first == 7000);
      CHECK_FALSE(scan.zero);
      CHECK_FALSE(scan.constant);
      CHECK(scan.hash == HashBytes(bytes.data(), bytes.size()));
    }
  }
}

TEST_CASE("zero, constant and upcast tensors") {
  const Encoding f32 = Encoding::Plain(DType::kF32);
  std::vector<float> values(40 * 50, 0.0f);
  values[777] = -0.0f;
  TensorScan scan = ScanOf(f32, 40, 50, Bytes(values), 9);
  CHECK(scan.zero);
  CHECK_FALSE(scan.constant);
  std::fill(values.begin(), values.end(), 0.1f);
  scan = ScanOf(f32, 40, 50, Bytes(values), 9);
  CHECK(scan.constant);
  CHECK_FALSE(scan.zero);
  CHECK_FALSE(scan.fits_bf16);
  values = RandomFloats(2000, 8);
  CHECK_FALSE(ScanOf(f32, 40, 50, Bytes(values), 9).fits_f16);
  std::vector<float> rounded = values;
  for (float& v : rounded) v = BF16ToF32(F32ToBF16(v));
  scan = ScanOf(f32, 40, 50, Bytes(rounded), 9);
  CHECK(scan.fits_bf16);
  rounded[1999] = values[1999];
  CHECK_FALSE(ScanOf(f32, 40, 50, Bytes(rounded), 9).fits_bf16);
  rounded = values;
  for (float& v : rounded) v = F16ToF32(F32ToF16(v));
  scan = ScanOf(f32, 40, 50, Bytes(rounded), 9);
  CHECK(scan.fits_f16);
  CHECK_FALSE(scan.fits_bf16);
  rounded[1999] = values[1999];
  CHECK_FALSE(ScanOf(f32, 40, 50, Bytes(rounded), 9).fits_f16);
  // The least E8M0 is a number, and all zeros of it no zeros.
  const std::vector<uint8_t> scales(64, 0);
  CHECK_FALSE(ScanOf(Encoding::Plain(DType::kF8E8M0), 8, 8, scales, 3).zero);
  CHECK(ScanOf(Encoding::Plain(DType::kF8E4M3), 8, 8, scales, 3).zero);
}

TEST_CASE("fp8, f64 and complex values") {
  std::vector<uint8_t> bytes(64, 0x38);
  bytes[17] = 0xFF;
  CHECK(ScanOf(Encoding::Plain(DType::kF8E4M3), 8, 8, bytes, 3).nan.first == 17);
  bytes[17] = 0x80;
  CHECK(ScanOf(Encoding::Plain(DType::kF8E4M3Fnuz), 8, 8, bytes, 3).nan.first == 17);
  CHECK(ScanOf(Encoding::Plain(DType::kF8E4M3), 8, 8, bytes, 3).nan.count == 0);
  bytes[17] = 0xFC;
  const TensorScan e5m2 = ScanOf(Encoding::Plain(DType::kF8E5M2), 8, 8, bytes, 3);
  CHECK(e5m2.inf.first == 17);
  CHECK(e5m2.nan.count == 0);
  std::vector<double> doubles(30, 1e300);
  doubles[29] = std::nan("");
  doubles[28] = INFINITY;
  const TensorScan f64 = ScanOf(Encoding::Plain(DType::kF64), 5, 6, Bytes(doubles), 2);
  CHECK(f64.nan.first == 29);
  CHECK(f64.inf.first == 28);
  std::vector<float> parts(20, 1.0f);
  parts[13] = std::nanf("");
  CHECK(ScanOf(Encoding::Plain(DType::kC64), 5, 2, Bytes(parts), 2).nan.first == 13);
  const std::vector<uint8_t> ones(64, 0xFF);
  CHECK(ScanOf(Encoding::Plain(DType::kI32), 4, 4, ones, 1).nan.count == 0);
}

// A block type, and bytes of a block that must not be there: { offset, value } of an fp16, or of a
// byte where `wide` is false.
struct BadScale {
  BlockType type;
  int offset;
  uint16_t value;
  bool wide = true;
};

// Offsets by the structs of ggml-common.h, written down apart from the table that is tested.
constexpr BadScale kBadScales[] = {
    {BlockType::kQ4_0, 0, 0x7E00},       {BlockType::kQ4_1, 0, 0x7C00},
    {BlockType::kQ4_1, 2, 0xFC00},       {BlockType::kQ5_0, 0, 0x7C01},
    {BlockType::kQ5_1, 2, 0x7E00},       {BlockType::kQ8_0, 0, 0xFE00},
    {BlockType::kQ2_K, 80, 0x7C00},      {BlockType::kQ2_K, 82, 0x7E00},
    {BlockType::kQ3_K, 108, 0x7E00},     {BlockType::kQ4_K, 0, 0x7E00},
    {BlockType::kQ4_K, 2, 0x7C00},       {BlockType::kQ5_K, 2, 0x7E00},
    {BlockType::kQ6_K, 208, 0x7E00},     {BlockType::kIQ2_XXS, 0, 0x7E00},
    {BlockType::kIQ2_XS, 0, 0x7E00},     {BlockType::kIQ3_XXS, 0, 0x7E00},
    {BlockType::kIQ1_S, 0, 0x7E00},      {BlockType::kIQ4_NL, 0, 0x7E00},
    {BlockType::kIQ3_S, 0, 0x7E00},      {BlockType::kIQ2_S, 0, 0x7E00},
    {BlockType::kIQ4_XS, 0, 0x7E00},     {BlockType::kTQ1_0, 52, 0x7E00},
    {BlockType::kTQ2_0, 64, 0x7E00},     {BlockType::kMXFP4, 0, 0xFF, false},
    {BlockType::kNVFP4, 3, 0x7F, false}, {BlockType::kNVFP4, 1, 0x81, false},
    {BlockType::kQ1_0, 0, 0x7C00},       {BlockType::kQ2_0, 0, 0x7C00},
};

TEST_CASE("a bad scale of each block type is found, and nothing else is") {
  std::mt19937 random(12);
  for (const BadScale& bad : kBadScales) {
    const Encoding encoding = Encoding::Block(bad.type);
    const BlockTraits& traits = TraitsOf(bad.type);
    const int64_t rows = 6, blocks = 5;
    std::vector<uint8_t> bytes(static_cast<size_t>(rows * blocks * traits.bytes));
    // Codes are all ones wherever that is no scale: NaN, if they were taken for one.
    for (uint8_t& byte : bytes) byte = 0xFF;
    for (int64_t b = 0; b < rows * blocks; ++b) {
      for (const BadScale& field : kBadScales) {
        if (field.type != bad.type) continue;
        uint8_t* at = bytes.data() + b * traits.bytes + field.offset;
        at[0] = static_cast<uint8_t>(random() % 100 + 1);
        if (field.wide) at[1] = 0x2C;
      }
      // Fields that the list has no bad value for.
      uint8_t* block = bytes.data() + b * traits.bytes;
      if (bad.type == BlockType::kQ5_K || bad.type == BlockType::kQ5_1) block[1] = 0x2C;
      if (bad.type == BlockType::kNVFP4) block[0] = block[2] = 0x38;
    }
    CAPTURE(traits.name);
    TensorScan scan = ScanOf(encoding, rows, blocks * traits.elements, bytes, 4);
    CHECK(scan.bad_scales.count == 0);
    CHECK_FALSE(scan.zero);
    for (const int64_t b : {17, 23}) {
      uint8_t* at = bytes.data() + b * traits.bytes + bad.offset;
      at[0] = static_cast<uint8_t>(bad.value);
      if (bad.wide) at[1] = static_cast<uint8_t>(bad.value >> 8);
    }
    scan = ScanOf(encoding, rows, blocks * traits.elements, bytes, 4);
    CHECK(scan.bad_scales.count == 2);
    CHECK(scan.bad_scales.first == 17);
    CHECK(scan.hash == HashBytes(bytes.data(), bytes.size()));
  }
}

TEST_CASE("the scale of IQ1_M is put together from four words") {
  std::vector<uint8_t> bytes(8 * 56, 0xFF);
  for (size_t b = 0; b < 8; ++b) {
    for (size_t word = 0; word < 4; ++word) bytes[b * 56 + 48 + 2 * word + 1] = 0x2F;
  }
  CHECK(ScanOf(Encoding::Block(BlockType::kIQ1_M), 4, 512, bytes, 1).bad_scales.count == 0);
  bytes[5 * 56 + 48 + 7] = 0x7F;  // exponent 11111: the top bits of the fourth and third word
  bytes[5 * 56 + 48 + 5] = 0xCF;
  const TensorScan scan = ScanOf(Encoding::Block(BlockType::kIQ1_M), 4, 512, bytes, 1);
  CHECK(scan.bad_scales.count == 1);
  CHECK(scan.bad_scales.first == 5);
}

TEST_CASE("codes under the scale 0, and tensors of nothing but such blocks") {
  const Encoding q8 = Encoding::Block(BlockType::kQ8_0);
  std::vector<uint8_t> bytes(4 * 34, 0);
  CHECK(ScanOf(q8, 2, 64, bytes, 1).zero);
  CHECK(ScanOf(q8, 2, 64, bytes, 1).lost_codes.count == 0);
  bytes[2 * 34 + 33] = 3;
  CHECK(ScanOf(q8, 2, 64, bytes, 1).lost_codes.first == 2);
  bytes[1] = 0x2C;
  CHECK_FALSE(ScanOf(q8, 2, 64, bytes, 1).zero);
  std::vector<uint8_t> q4(2 * 18, 0x88);
  q4[0] = q4[1] = q4[18] = q4[19] = 0;
  CHECK(ScanOf(Encoding::Block(BlockType::kQ4_0), 1, 64, q4, 1).lost_codes.count == 0);
  q4[20] = 0x98;
  CHECK(ScanOf(Encoding::Block(BlockType::kQ4_0), 1, 64, q4, 1).lost_codes.first == 1);
}

TEST_CASE("groups of integers: scales, codes and a fingerprint that no tile changes") {
  std::mt19937 random(9);
  IntegerSpec spec;
  spec.group_size = 32;
  spec.symmetric = false;
  spec.scale_dtype = DType::kBF16;
  const Encoding encoding = Encoding::Integer(spec);
  const int64_t rows = 10, cols = 128;
  EncodedTensor whole = EncodedTensor::Allocate(encoding, rows, cols);
  for (int8_t& code : whole.codes) code = static_cast<int8_t>(static_cast<int>(random() % 15) - 7);
  for (int8_t& zero : whole.zeros) zero = static_cast<int8_t>(static_cast<int>(random() % 15) - 7);
  std::vector<float> scales(static_cast<size_t>(rows) * 4);
  for (float& scale : scales) scale = 0.01f + static_cast<float>(random() % 100) * 1e-4f;
  const auto scan = [&](int64_t step) {
    EncodeFromFloat(DType::kBF16, scales.data(), whole.scales.data(), scales.size());
    TensorScanner scanner(Info(encoding, {rows, cols}));
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t n = std::min(step, rows - row);
      EncodedTensor tile = EncodedTensor::Allocate(encoding, n, cols);
      std::copy_n(whole.codes.begin() + row * cols, n * cols, tile.codes.begin());
      std::copy_n(whole.scales.begin() + row * 8, n * 8, tile.scales.begin());
      std::copy_n(whole.zeros.begin() + row * 4, n * 4, tile.zeros.begin());
      scanner.Add(tile);
    }
    return scanner.Finish();
  };
  const TensorScan good = scan(3);
  CHECK(good.bad_scales.count == 0);
  CHECK(good.negative_scales.count == 0);
  CHECK(good.lost_codes.count == 0);
  CHECK(good.hash == scan(10).hash);
  scales[13] = -0.5f;
  scales[21] = std::nanf("");
  scales[30] = 0;
  const TensorScan bad = scan(3);
  CHECK(bad.hash != good.hash);
  CHECK(bad.negative_scales.first == 13);
  CHECK(bad.bad_scales.first == 21);
  CHECK(bad.lost_codes.first == 30);
  // Codes at the zero point are no loss.
  std::fill_n(whole.codes.begin() + 30 * 32, 32, whole.zeros[30]);
  CHECK(scan(4).lost_codes.count == 0);
  whole.codes[5] = static_cast<int8_t>(whole.codes[5] ^ 1);
  CHECK(scan(4).hash != bad.hash);
}

TEST_CASE("scales of small floats and of codebooks are looked at as what they are") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const auto fp8 = [](DType scale) {
    return Encoding::Scaled({.block_rows = 1, .block_cols = 32, .scale_dtype = scale});
  };
  for (const Encoding& encoding :
       {fp8(DType::kF32), fp8(DType::kBF16), Encoding::Codebook({}),
        Encoding::Codebook({.book = CodebookSpec::Book::kFp4, .block = 32})}) {
    CAPTURE(encoding.Name());
    const DType dtype =
        encoding.kind == Encoding::Kind::kScaled ? encoding.scaled.scale_dtype : DType::kF32;
    EncodedTensor tile = EncodedTensor::Allocate(encoding, 16, 128);
    for (auto& byte : tile.data) byte = static_cast<uint8_t>(rng() % 0x7f);
    for (auto& code : tile.codes) code = static_cast<int8_t>(rng() % 16);
    const size_t width = static_cast<size_t>(DTypeBits(dtype)) / 8;
    const size_t groups = tile.scales.size() / width;
    for (size_t g = 0; g < groups; ++g) {
      // All kinds of numbers, so that the halves of an F32 look like anything in F16.
      const float scale = std::exp2(static_cast<float>(rng() % 4000) / 100 - 30);
      EncodeFromFloat(dtype, &scale, tile.scales.data() + g * width, 1);
    }
    const auto scan = [&] {
      TensorScanner scanner(Info(encoding, {16, 128}));
      scanner.Add(tile);
      return scanner.Finish();
    };
    CHECK(scan().bad_scales.count == 0);
    CHECK(scan().negative_scales.count == 0);
    CHECK(scan().lost_codes.count == 0);
    CHECK_FALSE(scan().zero);
    const float infinite = std::numeric_limits<float>::infinity();
    EncodeFromFloat(dtype, &infinite, tile.scales.data() + 5 * width, 1);
    CHECK(scan().bad_scales.count == 1);
    CHECK(scan().bad_scales.first == 5);
  }
}

}  // namespace
}  // namespace pennyweight
