#include "lib/encoding.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <set>
#include <string>

namespace pennyweight {
namespace {

// Ids: enum ggml_type of ggml.h. Bytes: the fields of the structs of ggml-common.h, in their order.
// gguf-py's GGML_QUANT_SIZES agrees on all that it has but q8_1, which is never stored in a file.
struct Golden {
  const char* name;
  uint32_t id;
  int elements;
  int bytes;
};
constexpr Golden kGolden[] = {
    {"q4_0", 2, 32, 2 + 16},
    {"q4_1", 3, 32, 2 + 2 + 16},
    {"q5_0", 6, 32, 2 + 4 + 16},
    {"q5_1", 7, 32, 2 + 2 + 4 + 16},
    {"q8_0", 8, 32, 2 + 32},
    {"q8_1", 9, 32, 4 + 32},
    {"q2_k", 10, 256, 2 + 2 + 256 / 16 + 256 / 4},
    {"q3_k", 11, 256, 2 + 256 / 4 + 256 / 8 + 12},
    {"q4_k", 12, 256, 2 + 2 + 256 / 2 + 12},
    {"q5_k", 13, 256, 2 + 2 + 256 / 2 + 256 / 8 + 12},
    {"q6_k", 14, 256, 2 + 256 / 2 + 256 / 4 + 256 / 16},
    {"q8_k", 15, 256, 4 + 256 + 2 * 256 / 16},
    {"iq2_xxs", 16, 256, 2 + 256 / 4},
    {"iq2_xs", 17, 256, 2 + 256 / 4 + 256 / 32},
    {"iq3_xxs", 18, 256, 2 + 256 / 4 + 256 / 8},
    {"iq1_s", 19, 256, 2 + 256 / 8 + 256 / 16},
    {"iq4_nl", 20, 32, 2 + 16},
    {"iq3_s", 21, 256, 2 + 256 / 4 + 256 / 8 + 256 / 32 + 4},
    {"iq2_s", 22, 256, 2 + 256 / 4 + 256 / 16},
    {"iq4_xs", 23, 256, 2 + 2 + 256 / 2 + 256 / 64},
    {"iq1_m", 29, 256, 256 / 8 + 256 / 16 + 256 / 32},
    {"tq1_0", 34, 256, 2 + 4 * 13},
    {"tq2_0", 35, 256, 2 + 64},
    {"mxfp4", 39, 32, 1 + 16},
    {"nvfp4", 40, 64, 4 + 32},
    {"q1_0", 41, 128, 2 + 16},
    {"q2_0", 42, 64, 2 + 16},
};

TEST_CASE("block types are those of ggml") {
  std::set<uint32_t> ids;
  for (const Golden& golden : kGolden) {
    CAPTURE(golden.name);
    const BlockTraits* traits = FindBlockType(golden.name);
    REQUIRE(traits != nullptr);
    CHECK(traits->ggml_id == golden.id);
    CHECK(traits->elements == golden.elements);
    CHECK(traits->bytes == golden.bytes);
    CHECK(FindBlockTypeByGgmlId(golden.id) == traits);
    CHECK(&TraitsOf(traits->type) == traits);
    ids.insert(golden.id);
  }
  // Plain types (0 F32, 1 F16, 24 to 28, 30 BF16), removed ids and unknown ids are no blocks.
  for (uint32_t id = 0; id < 300; ++id) {
    CAPTURE(id);
    CHECK((FindBlockTypeByGgmlId(id) != nullptr) == (ids.count(id) == 1));
  }
  CHECK(FindBlockTypeByGgmlId(0xffffffffu) == nullptr);
  for (const char* bad : {"", "Q4_K", "q4", "q4_k ", "q4_k_m", "f16"}) {
    CHECK(FindBlockType(bad) == nullptr);
  }
}

TEST_CASE("names of encodings") {
  CHECK(Encoding::Plain(DType::kF16).Name() == "f16");
  CHECK(Encoding::Plain(DType::kBF16).Name() == "bf16");
  CHECK(Encoding::Plain(DType::kF8E4M3).Name() == "f8_e4m3");
  CHECK(Encoding::Block(BlockType::kQ4_K).Name() == "q4_k");
  CHECK(Encoding::Block(BlockType::kIQ2_XXS).Name() == "iq2_xxs");
  CHECK(Encoding::Integer({4, 128, true, DType::kBF16}).Name() == "int4_g128");
  CHECK(Encoding::Integer({4, 32, false, DType::kF16}).Name() == "int4_g32_asym");
  CHECK(Encoding::Integer({8, 0, true, DType::kF16}).Name() == "int8_channel");
  CHECK(Encoding::Integer({8, 0, false, DType::kF16}).Name() == "int8_channel_asym");
}

TEST_CASE("encodings are equal by what their kind uses") {
  Encoding a = Encoding::Plain(DType::kF16);
  Encoding b = a;
  b.block = BlockType::kQ6_K;  // not used by kPlain
  b.integer.bits = 8;
  CHECK(a == b);
  b.dtype = DType::kBF16;
  CHECK_FALSE(a == b);
  CHECK_FALSE(Encoding::Plain(DType::kF32) == Encoding::Block(BlockType::kQ4_0));
  CHECK_FALSE(Encoding::Block(BlockType::kQ4_0) == Encoding::Block(BlockType::kQ4_1));
  const IntegerSpec spec = {4, 128, true, DType::kF16};
  CHECK(Encoding::Integer(spec) == Encoding::Integer(spec));
  CHECK_FALSE(Encoding::Integer(spec) == Encoding::Integer({4, 128, true, DType::kBF16}));
  CHECK_FALSE(Encoding::Integer(spec) == Encoding::Integer({4, 128, false, DType::kF16}));
}

TEST_CASE("bits per weight count scales and zero points") {
  CHECK(Encoding::Plain(DType::kBF16).BitsPerWeight(100) == 16.0);
  CHECK(Encoding::Block(BlockType::kQ4_0).BitsPerWeight(4096) == 4.5);
  CHECK(Encoding::Block(BlockType::kQ4_K).BitsPerWeight(4096) == 4.5);
  CHECK(Encoding::Block(BlockType::kQ6_K).BitsPerWeight(4096) == 6.5625);
  CHECK(Encoding::Block(BlockType::kMXFP4).BitsPerWeight(4096) == 4.25);
  CHECK(Encoding::Integer({4, 128, true, DType::kF16}).BitsPerWeight(4096) == 4.0 + 16.0 / 128);
  CHECK(Encoding::Integer({4, 32, false, DType::kF16}).BitsPerWeight(4096) ==
        4.0 + (16.0 + 4.0) / 32);
  CHECK(Encoding::Integer({8, 0, false, DType::kF32}).BitsPerWeight(512) ==
        8.0 + (32.0 + 8.0) / 512);
  CHECK(Encoding::Integer({8, 0, true, DType::kF16}).BitsPerWeight(0) == 8.0);
}

TEST_CASE("bytes of a row") {
  CHECK(Encoding::Plain(DType::kF32).RowBytes(172) == 688);
  CHECK(Encoding::Plain(DType::kF32).RowBytes(0) == 0);
  CHECK(Encoding::Plain(DType::kF4).RowBytes(6) == 3);
  CHECK(Encoding::Plain(DType::kF6E2M3).RowBytes(4) == 3);
  CHECK(Encoding::Block(BlockType::kQ4_K).RowBytes(512) == 288);
  CHECK(Encoding::Block(BlockType::kQ8_0).RowBytes(96) == 102);
  CHECK(Encoding::Block(BlockType::kNVFP4).RowBytes(64) == 36);
  // Half a byte, half a block, a negative count, an overflow, parts.
  CHECK_FALSE(Encoding::Plain(DType::kF4).RowBytes(5).has_value());
  CHECK_FALSE(Encoding::Plain(DType::kF6E2M3).RowBytes(2).has_value());
  CHECK_FALSE(Encoding::Block(BlockType::kQ4_K).RowBytes(128).has_value());
  CHECK_FALSE(Encoding::Block(BlockType::kQ8_0).RowBytes(172).has_value());
  CHECK_FALSE(Encoding::Plain(DType::kF32).RowBytes(-4).has_value());
  const int64_t huge = std::numeric_limits<int64_t>::max();
  CHECK_FALSE(Encoding::Plain(DType::kF64).RowBytes(huge).has_value());
  CHECK_FALSE(Encoding::Block(BlockType::kQ8_K).RowBytes(-256).has_value());
  CHECK_FALSE(Encoding::Integer({4, 32, true, DType::kF16}).RowBytes(64).has_value());
  // The largest row of blocks that a signed count can name still fits.
  CHECK(Encoding::Block(BlockType::kQ8_0).RowBytes(huge - 31) ==
        (static_cast<uint64_t>(huge) - 31) / 32 * 34);
}

TEST_CASE("scaled floats, codebooks and activation order have names, bits and no row bytes") {
  const Encoding blocks = Encoding::Scaled({.block_rows = 128, .block_cols = 128});
  CHECK(blocks.Name() == "fp8_e4m3_b128x128");
  CHECK(blocks.BitsPerWeight(256) == 8 + 32.0 / 128 / 128);
  CHECK(blocks.scaled.Groups(257) == 3);
  CHECK(blocks.RowBytes(128) == std::nullopt);
  const Encoding rows = Encoding::Scaled({.element = DType::kF8E5M2, .block_rows = 1});
  CHECK(rows.Name() == "fp8_e5m2_channel");
  CHECK(rows.BitsPerWeight(64) == 8.5);
  CHECK(Encoding::Scaled({}).Name() == "fp8_e4m3_tensor");
  CHECK(Encoding::Scaled({}).BitsPerWeight(64) == 8);
  CHECK(Encoding::Scaled({.element = DType::kI8, .block_rows = 1, .absmax = true}).Name() ==
        "int8_absmax");
  CHECK(Encoding::Codebook({}).Name() == "nf4_b64");
  CHECK(Encoding::Codebook({}).BitsPerWeight(64) == 4.5);
  const Encoding nested =
      Encoding::Codebook({.book = CodebookSpec::Book::kFp4, .block = 128, .nested_block = 256});
  CHECK(nested.Name() == "fp4_b128_nested");
  CHECK(nested.BitsPerWeight(64) == 4 + (8 + 0.125) / 128);
  CHECK_FALSE(nested == Encoding::Codebook({}));
  CHECK_FALSE(blocks == rows);
  IntegerSpec spec{.group_size = 128, .symmetric = false, .act_order = true};
  CHECK(Encoding::Integer(spec).Name() == "int4_g128_asym_actorder");
  CHECK_FALSE(Encoding::Integer(spec) ==
              Encoding::Integer({.group_size = 128, .symmetric = false}));
}

}  // namespace
}  // namespace pennyweight
