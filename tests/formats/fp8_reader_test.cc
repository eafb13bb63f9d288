#include "formats/fp8_reader.h"

#include <doctest/doctest.h>

#include <random>

#include "lib/dtype.h"
#include "tests/formats/quantized_builder.h"

namespace pennyweight {
namespace {

using test::FileTensor;

// E5M2 is the upper half of f16; E4M3 has its fields, less one bit of exponent, under another bias.
float Value(const std::string& dtype, uint8_t bits) {
  if (dtype == "F8_E5M2") return F16ToF32(static_cast<uint16_t>(bits << 8));
  const int f16 = (bits & 0x80) << 8 | (bits & 0x7f) << 7;
  return F16ToF32(static_cast<uint16_t>(f16)) * 256;
}

// A finite byte of either dtype.
std::string RandomBytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) {
    bytes += static_cast<char>((random() % 0x7b) | (random() % 2) << 7);
  }
  return bytes;
}

struct Fp8 {
  std::vector<FileTensor> parts;
  std::vector<float> values;
};

// Blocks of bn x bk; scales of `scale` in `scale_dtype`, a random power of two each, which all of
// the dtypes hold.
Fp8 MakeFp8(const std::string& dtype, Shape shape, int64_t bn, int64_t bk,
            const std::string& suffix, const std::string& scale_dtype, Shape scale_shape) {
  Fp8 fp8;
  const int64_t cols = shape.back(), height = shape[shape.size() - 2];
  const int64_t count = *ElementCount(shape);
  const std::string bytes = RandomBytes(count, 3);
  const int64_t across = (cols + bk - 1) / bk, down = (height + bn - 1) / bn;
  std::vector<uint8_t> exponents(static_cast<size_t>(count / cols / height * down * across));
  std::mt19937 random(4);
  for (uint8_t& e : exponents) e = static_cast<uint8_t>(120 + random() % 10);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i / cols;
    const int64_t at = (row / height * down + row % height / bn) * across + i % cols / bk;
    const float scale = std::ldexp(1.0f, exponents[static_cast<size_t>(at)] - 127);
    fp8.values.push_back(Value(dtype, static_cast<uint8_t>(bytes[static_cast<size_t>(i)])) * scale);
  }
  std::string scales(exponents.begin(), exponents.end());
  if (scale_dtype != "F8_E8M0" && scale_dtype != "U8") {
    const DType type = *DTypeFromName(scale_dtype);
    scales.assign(exponents.size() * static_cast<size_t>(DTypeBits(type)) / 8, '\0');
    for (size_t i = 0; i < exponents.size(); ++i) {
      const float value = std::ldexp(1.0f, exponents[i] - 127);
      EncodeFromFloat(type, &value, scales.data() + i * static_cast<size_t>(DTypeBits(type)) / 8,
                      1);
    }
  }
  fp8.parts = {{"p.weight", dtype, shape, bytes},
               {"p.weight" + suffix, scale_dtype, scale_shape, scales}};
  return fp8;
}

std::string Config(const std::string& blocks) {
  return test::QuantizationText(R"("quant_method": "fp8", "weight_block_size": )" + blocks);
}

TEST_CASE("8-bit floats in blocks, with partial blocks at the edges") {
  for (const std::string dtype : {"F8_E4M3", "F8_E5M2"}) {
    for (const std::string scale : {"F32", "BF16", "F16", "F8_E8M0", "U8"}) {
      CAPTURE(scale);
      const Fp8 fp8 = MakeFp8(dtype, {37, 22}, 8, 5, "_scale_inv", scale, {5, 5});
      const std::string name = dtype == "F8_E4M3" ? "fp8_e4m3_b8x5" : "fp8_e5m2_b8x5";
      test::CheckDecoded(*test::OpenParts(fp8.parts, Config("[8, 5]")), name, {37, 22}, fp8.values);
    }
  }
  // DeepSeek's blocks, without a config.
  const Fp8 large = MakeFp8("F8_E4M3", {130, 257}, 128, 128, "_scale_inv", "F32", {2, 3});
  test::CheckDecoded(*test::OpenParts(large.parts, ""), "fp8_e4m3_b128x128", {130, 257},
                     large.values);
  const Fp8 experts = MakeFp8("F8_E4M3", {3, 10, 9}, 4, 4, "_scale_inv", "F32", {3, 3, 3});
  test::CheckDecoded(*test::OpenParts(experts.parts, Config("[4, 4]")), "fp8_e4m3_b4x4", {3, 10, 9},
                     experts.values);
}

TEST_CASE("one scale, one for each row, one for each expert") {
  const std::string config = Config("null");
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 1}}) {
    const Fp8 one = MakeFp8("F8_E4M3", {6, 7}, 6, 7, "_scale", "F32", shape);
    test::CheckDecoded(*test::OpenParts(one.parts, config), "fp8_e4m3_tensor", {6, 7}, one.values);
  }
  for (const Shape& shape : {Shape{6}, Shape{6, 1}}) {
    const Fp8 rows = MakeFp8("F8_E5M2", {6, 7}, 1, 7, "_scale", "BF16", shape);
    test::CheckDecoded(*test::OpenParts(rows.parts, config), "fp8_e5m2_channel", {6, 7},
                       rows.values);
  }
  const Fp8 experts = MakeFp8("F8_E4M3", {4, 6, 7}, 6, 7, "_scale", "F32", {4, 1, 1});
  const auto opened = test::OpenParts(experts.parts, config);
  REQUIRE(opened->source != nullptr);
  CHECK(test::DecodeAll(*opened->source, 0, 5) == experts.values);
}

TEST_CASE("scales of activations are left out beside the weights that they belong to") {
  Fp8 fp8 = MakeFp8("F8_E4M3", {6, 7}, 6, 7, "_scale", "F32", {1});
  for (FileTensor& part : fp8.parts) part.name = "attn.k_proj." + part.name.substr(2);
  for (const char* name : {"attn.k_proj.input_scale", "attn.k_scale", "attn.v_scale"}) {
    fp8.parts.push_back({name, "F32", {1}, "1234"});
  }
  const auto opened = test::OpenParts(fp8.parts, "");
  REQUIRE_MESSAGE(!opened->error, opened->error->ToString());
  // There is no v_proj that v_scale would belong to.
  REQUIRE(opened->source->tensors().size() == 2);
  CHECK(opened->source->tensors()[0].name == "attn.k_proj.weight");
  CHECK(opened->source->tensors()[1].name == "attn.v_scale");
  REQUIRE(opened->notes.size() == 1);
  CHECK(opened->notes[0].find("2 scales of activations") != std::string::npos);
}

TEST_CASE("what has no scales stays as it is where nothing asks for them") {
  const std::vector<FileTensor> bare = {{"w", "F8_E4M3", {2, 2}, "1234"},
                                        {"w_scale", "F8_E4M3", {2, 2}, "1234"}};
  const auto opened = test::OpenParts({bare[0]}, "");
  REQUIRE(opened->source != nullptr);
  CHECK(opened->source->tensors()[0].encoding == Encoding::Plain(DType::kF8E4M3));
}

TEST_CASE("scales of 8-bit floats that do not fit are refused") {
  const Fp8 fp8 = MakeFp8("F8_E4M3", {37, 22}, 8, 5, "_scale_inv", "F32", {5, 5});
  const std::string config = Config("[8, 5]");
  std::vector<FileTensor> both = fp8.parts;
  both.push_back({"p.weight_scale", "F32", {1}, "1234"});
  constexpr auto kInvalid = ErrorCode::kInvalidTensor;
  test::CheckRefused({
      {"no scales", test::Without(fp8.parts, "_scale_inv"), config, ErrorCode::kTensorMissing,
       "p.weight_scale"},
      {"two of them", both, config, ErrorCode::kDuplicateKey, "p.weight"},
      {"in one row", test::Reshaped(fp8.parts, "_inv", {1, 25}), config, kInvalid,
       "p.weight_scale_inv"},
      {"in a vector", test::Reshaped(fp8.parts, "_inv", {25}), config, kInvalid,
       "p.weight_scale_inv"},
      {"of integers", test::Changed(fp8.parts, "_inv", [](FileTensor& t) { t.dtype = "I32"; }),
       config, kInvalid, "p.weight_scale_inv"},
      {"of other blocks", fp8.parts, Config("[8, 4]"), kInvalid, "p.weight_scale_inv"},
      {"none at all",
       test::Changed(fp8.parts, "_inv",
                     [](FileTensor& t) {
                       t.shape = {0, 5};
                       t.bytes.clear();
                     }),
       config, kInvalid, "p.weight_scale_inv"},
      {"blocks of one number", fp8.parts, Config("[8]"), ErrorCode::kConfigInvalid, ""},
      {"blocks of 0", fp8.parts, Config("[0, 5]"), ErrorCode::kConfigInvalid, ""},
      {"blocks of text", fp8.parts, Config("\"8x5\""), ErrorCode::kConfigInvalid, ""},
  });
}

}  // namespace
}  // namespace pennyweight
