#include "quant/codec.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>

#include "lib/sha256.h"
#include "quant/codec_blocks.h"
#include "quant/iq_grids.h"
#include "tests/quant/kquants_pack.h"

namespace pennyweight {
namespace {

std::vector<uint8_t> ReadGolden(const std::string& name) {
  std::ifstream file(PENNYWEIGHT_SOURCE_DIR "/testdata/golden/" + name + ".bin", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_CASE("every decoded block type equals the reference decoder bit for bit") {
  for (int type = 0; type <= static_cast<int>(BlockType::kQ2_0); ++type) {
    const BlockTraits* traits = &TraitsOf(static_cast<BlockType>(type));
    CAPTURE(traits->name);
    const std::vector<uint8_t> golden = ReadGolden(std::string(traits->name));
    const int64_t blocks = 8;
    const auto coded = static_cast<size_t>(blocks * traits->bytes);
    const auto count = static_cast<size_t>(blocks * traits->elements);
    REQUIRE(golden.size() == coded + count * 4);

    // Two rows of four blocks; the second row alone must decode to the second half.
    EncodedTensor tile =
        EncodedTensor::Allocate(Encoding::Block(traits->type), 2, blocks / 2 * traits->elements);
    REQUIRE(tile.data.size() == coded);
    std::memcpy(tile.data.data(), golden.data(), coded);
    REQUIRE(CanDecode(tile.encoding));
    std::vector<float> values(count);
    DecodeRows(tile, 0, 1, values.data());
    DecodeRows(tile, 1, 1, values.data() + count / 2);
    CHECK(std::memcmp(values.data(), golden.data() + coded, count * 4) == 0);
  }
}

// Number `counter` of SplitMix64.
uint64_t SplitMix(uint64_t counter) {
  uint64_t z = counter * 0x9E3779B97F4A7C15;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

constexpr uint64_t kAnyBlocks = 2048;

// The blocks of any_blocks in tests/interop/make_golden_blocks.py: random bytes all through, scales
// included; in the first ones a random half of the 32-bit words has the bits of an edge instead.
std::vector<uint8_t> AnyBlocks(const BlockTraits& traits) {
  constexpr uint32_t kEdges[] = {
      0x00000000, 0x80008000, 0x00010001, 0x80018001, 0x03FF03FF, 0x04000400,
      0x7BFF7BFF, 0xFBFFFBFF, 0x7C007C00, 0xFC00FC00, 0x7C017C01, 0xFE00FE00,
      0x00000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
  };
  const auto size = static_cast<size_t>(traits.bytes);
  std::vector<uint32_t> words((size + 7) / 8 * 2);
  std::vector<uint8_t> blocks(kAnyBlocks * size);
  for (uint64_t b = 0; b < kAnyBlocks; ++b) {
    const uint64_t counter = (uint64_t{traits.ggml_id} << 32) + b * 64;
    for (size_t i = 0; i < words.size(); ++i) {
      words[i] = static_cast<uint32_t>(SplitMix(counter + i / 2) >> (i % 2 * 32));
      const bool edge = (SplitMix(counter + 63) >> (i % 64) & 1) != 0;
      if (edge && b / 16 < std::size(kEdges)) words[i] = kEdges[b / 16];
    }
    std::memcpy(blocks.data() + b * size, words.data(), size);
  }
  return blocks;
}

TEST_CASE("any bits of any block type decode as the reference decodes them, NaN and infinity too") {
  std::map<std::string, std::string> want;
  std::ifstream file(PENNYWEIGHT_SOURCE_DIR "/testdata/golden/any_bits.sha256");
  for (std::string hash, name; file >> hash >> name;) want[name] = hash;
  for (int type = 0; type <= static_cast<int>(BlockType::kQ2_0); ++type) {
    const BlockTraits& traits = TraitsOf(static_cast<BlockType>(type));
    CAPTURE(traits.name);
    EncodedTensor tile = EncodedTensor::Allocate(Encoding::Block(traits.type), 1,
                                                 int64_t{kAnyBlocks} * traits.elements);
    tile.data = AnyBlocks(traits);
    std::vector<float> values(static_cast<size_t>(tile.cols));
    DecodeRows(tile, 0, 1, values.data());
    for (float& value : values) {
      if (std::isnan(value)) value = std::bit_cast<float>(0x7FC00000);
    }
    Sha256 hash;
    hash.Update(values.data(), values.size() * sizeof(float));
    CHECK(hash.HexDigest() == want[std::string(traits.name)]);
  }
}

// FNV-1a, 64 bits, of the values of a codebook as bytes.
template <size_t kEntries>
uint64_t CodebookHash(const uint16_t (&grid)[kEntries], int values, int bits, auto value_of) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint16_t entry : grid) {
    for (int j = 0; j < values; ++j) {
      const int code = entry >> (bits * j) & ((1 << bits) - 1);
      hash = (hash ^ static_cast<uint8_t>(value_of(code))) * 0x100000001b3;
    }
  }
  return hash;
}

TEST_CASE("codebooks are those of ggml-common.h") {
  // Of the bytes of iq2xxs_grid and so on, computed from that file.
  const auto iq2 = [](int code) { return kIq2Values[code]; };
  CHECK(CodebookHash(kIq2XxsGrid, 8, 2, iq2) == 0xbb4ee025b5ac6e8e);
  CHECK(CodebookHash(kIq2XsGrid, 8, 2, iq2) == 0xc9b1ee61e79909bd);
  CHECK(CodebookHash(kIq2SGrid, 8, 2, iq2) == 0x123edd38a3b62b90);
  CHECK(CodebookHash(kIq1SGrid, 8, 2, [](int code) { return code - 1; }) == 0x6703ed863501ae2e);
  const auto iq3_xxs = [](int code) { return code < 8 ? kIq3XxsValues[code] : 0; };
  CHECK(CodebookHash(kIq3XxsGrid, 4, 4, iq3_xxs) == 0xdfa5dc83d6a155d5);
  CHECK(CodebookHash(kIq3SGrid, 4, 4, [](int c) { return 2 * c + 1; }) == 0xfa37020c25b44829);
}

TEST_CASE("every code of NVFP4 times every scale is the product of the two values") {
  for (int scale = 0; scale < 256; ++scale) {
    // E4M3 with bias 7, without its sign; 0x7F is 0.
    const int exponent = scale >> 3 & 15;
    const float mantissa = static_cast<float>(scale & 7) / 8;
    float d = std::ldexp(exponent == 0 ? mantissa : 1 + mantissa, std::max(exponent, 1) - 7);
    if (scale == 0x7F) d = 0;
    uint8_t block[36];
    for (int s = 0; s < 4; ++s) block[s] = static_cast<uint8_t>(s == 2 ? scale : 0x38);
    for (int i = 0; i < 32; ++i) block[4 + i] = static_cast<uint8_t>(i % 8 | (i % 8 + 8) << 4);
    float out[64];
    DecodeNVFP4(block, out);
    constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int i = 0; i < 64; ++i) {
      const float magnitude = kMagnitudes[i % 8] * (i / 16 == 2 ? d : 1.0f);
      CHECK(out[i] == (i % 16 < 8 ? magnitude : -magnitude));
    }
  }
}

TEST_CASE("k-quant packers are the inverse of the decoders, for every scale, minimum and code") {
  struct Range {
    BlockType type;
    int subs, scale_lo, scale_hi, code_lo, code_hi;
    bool mins;
  };
  constexpr Range kRanges[] = {
      {BlockType::kQ2_K, 16, 0, 15, 0, 3, true},
      {BlockType::kQ3_K, 16, -32, 31, -4, 3, false},
      {BlockType::kQ4_K, 8, 0, 63, 0, 15, true},
      {BlockType::kQ5_K, 8, 0, 63, 0, 31, true},
      {BlockType::kQ6_K, 16, -128, 127, -32, 31, false},
  };
  std::mt19937 rng(5);
  const auto pick = [&](int lo, int hi) {
    return lo + static_cast<int>(rng() % static_cast<uint32_t>(hi - lo + 1));
  };
  for (const Range& range : kRanges) {
    for (int trial = 0; trial < 20; ++trial) {
      KBlock block;
      block.d = 0.5f;
      block.dmin = range.mins ? 0.25f : 0.0f;
      for (int j = 0; j < range.subs; ++j) {
        block.scales[j] = pick(range.scale_lo, range.scale_hi);
        block.mins[j] = range.mins ? pick(range.scale_lo, range.scale_hi) : 0;
      }
      for (int8_t& q : block.codes) q = static_cast<int8_t>(pick(range.code_lo, range.code_hi));
      std::vector<uint8_t> bytes(static_cast<size_t>(TraitsOf(range.type).bytes), 0xAA);
      PackKBlock(range.type, block, bytes.data());
      float out[256];
      FindBlockDecoder(range.type)(bytes.data(), out);
      for (int i = 0; i < 256; ++i) {
        const int j = i / (256 / range.subs);
        const float want = 0.5f * static_cast<float>(block.scales[j]) * block.codes[i] -
                           block.dmin * static_cast<float>(block.mins[j]);
        REQUIRE(out[i] == want);
      }
    }
  }
}

TEST_CASE("integer groups decode as (code - zero) * scale") {
  IntegerSpec spec;
  spec.bits = 4;
  spec.group_size = 2;
  spec.symmetric = false;
  spec.scale_dtype = DType::kBF16;
  EncodedTensor tile = EncodedTensor::Allocate(Encoding::Integer(spec), 2, 4);
  tile.codes = {-8, 7, 3, 0, 1, 2, 3, 4};
  tile.zeros = {-8, 3, 0, 7};
  const float scales[] = {0.5f, -2.0f, 1.0f, 0.25f};
  EncodeFromFloat(DType::kBF16, scales, tile.scales.data(), 4);
  float out[8];
  DecodeRows(tile, 0, 2, out);
  const float want[] = {0, 7.5f, 0, 6, 1, 2, -1, -0.75f};
  for (int i = 0; i < 8; ++i) CHECK(out[i] == want[i]);

  spec.symmetric = true;
  spec.group_size = 0;
  EncodedTensor row = EncodedTensor::Allocate(Encoding::Integer(spec), 1, 4);
  row.codes = {-8, 7, 1, 0};
  EncodeFromFloat(DType::kBF16, scales, row.scales.data(), 1);
  DecodeRows(row, 0, 1, out);
  CHECK(out[0] == -4.0f);
  CHECK(out[1] == 3.5f);
}

TEST_CASE("plain rows, and what cannot be decoded") {
  EncodedTensor tile = EncodedTensor::Allocate(Encoding::Plain(DType::kF16), 2, 3);
  const float values[] = {1, -2, 0.5f, 65504, -0.0f, 3};
  EncodeFromFloat(DType::kF16, values, tile.data.data(), 6);
  float out[3];
  DecodeRows(tile, 1, 1, out);
  CHECK(out[0] == 65504);
  CHECK(std::signbit(out[1]));
  CHECK(out[2] == 3);
  CHECK_FALSE(CanDecode(Encoding::Plain(DType::kI64)));
  CHECK_FALSE(CanDecode(Encoding::Plain(DType::kF8E4M3)));
}

// A source with one tensor of an encoding nobody decodes, or of bf16.
class OneTensor final : public TensorSource {
 public:
  explicit OneTensor(const Encoding& encoding) {
    TensorInfo info;
    info.name = "w";
    info.file = "model.bin";
    info.encoding = encoding;
    info.shape = {2, 256};
    tensors_.push_back(info);
  }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t, int64_t row, int64_t count, EncodedTensor* out) const override {
    *out = EncodedTensor::Allocate(tensors_[0].encoding, count, 256);
    std::vector<float> values(static_cast<size_t>(count * 256), static_cast<float>(row + 1));
    EncodeFromFloat(DType::kBF16, values.data(), out->data.data(), values.size());
    return OkStatus();
  }
  std::string_view format() const override { return "test"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

TEST_CASE("ReadFloatRows decodes rows of a source, and names what it cannot decode") {
  std::vector<float> out(256);
  const OneTensor good(Encoding::Plain(DType::kBF16));
  REQUIRE(ReadFloatRows(good, 0, 1, 1, out.data()).ok());
  CHECK(out[255] == 2.0f);

  const OneTensor bad(Encoding::Plain(DType::kI64));
  const Status status = ReadFloatRows(bad, 0, 0, 1, out.data());
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kUnsupported);
  CHECK(status.error().tensor == "w");
  CHECK(status.error().message.find("i64") != std::string::npos);
}

}  // namespace
}  // namespace pennyweight
