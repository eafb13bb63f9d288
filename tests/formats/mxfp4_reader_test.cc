#include "formats/mxfp4_reader.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "quant/transposed_source.h"
#include "tests/formats/quantized_builder.h"

namespace pennyweight {
namespace {

using test::FileTensor;

constexpr float kLevels[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                               -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// [E, R, 32 G]: the low half of a byte comes first.
struct Experts {
  std::vector<FileTensor> parts;
  std::vector<float> values;
};

Experts MakeExperts(int64_t e, int64_t r, int64_t g) {
  std::mt19937 random(9);
  std::vector<uint8_t> blocks(static_cast<size_t>(e * r * g * 16));
  std::vector<uint8_t> scales(static_cast<size_t>(e * r * g));
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : scales) byte = static_cast<uint8_t>(random() % 250);
  Experts experts;
  for (size_t i = 0; i < blocks.size() * 2; ++i) {
    const int code = blocks[i / 2] >> (i % 2 * 4) & 15;
    experts.values.push_back(std::ldexp(kLevels[code], scales[i / 32] - 127));
  }
  experts.parts = {{"x.gate_up_proj_blocks", "U8", {e, r, g, 16}, test::BytesOf(blocks)},
                   {"x.gate_up_proj_scales", "U8", {e, r, g}, test::BytesOf(scales)}};
  return experts;
}

TEST_CASE("experts of gpt-oss are MXFP4 blocks, with a config and without") {
  const Experts experts = MakeExperts(3, 10, 2);
  for (const std::string& config :
       {test::QuantizationText(R"("quant_method": "mxfp4")"), std::string()}) {
    const auto opened = test::OpenParts(experts.parts, config);
    test::CheckDecoded(*opened, "mxfp4", {3, 10, 64}, experts.values);
    CHECK(opened->source->tensors()[0].name == "x.gate_up_proj");
    CHECK(opened->source->tensors()[0].transposed);
  }
}

TEST_CASE("their values under transformers' name are transposed, in every tile") {
  const Experts experts = MakeExperts(3, 10, 2);
  std::vector<FileTensor> parts = experts.parts;
  parts.push_back({"plain", "F32", {2}, test::BytesOf(std::vector<float>{1, 2})});
  auto opened = test::OpenParts(parts, "");
  REQUIRE(opened->source != nullptr);
  std::vector<float> want(experts.values.size());
  for (size_t e = 0; e < 3; ++e) {
    for (size_t i = 0; i < 640; ++i) {
      want[e * 640 + i % 64 * 10 + i / 64] = experts.values[e * 640 + i];
    }
  }
  const auto canonical = MakeCanonical(std::move(opened->source), DType::kBF16);
  CHECK(canonical->tensors()[0].shape == Shape{3, 64, 10});
  CHECK(canonical->tensors()[0].encoding == Encoding::Plain(DType::kBF16));
  CHECK_FALSE(canonical->tensors()[0].transposed);
  for (const int64_t step : {1, 7, 64, 100, 192}) {
    CHECK(test::DecodeAll(*canonical, 0, step) == want);
  }
  CHECK(test::DecodeAll(*canonical, 1, 1) == std::vector<float>{1, 2});
}

TEST_CASE("a source without transposed tensors is given back as it is") {
  auto opened = test::OpenParts({{"plain", "F32", {1}, "1234"}}, "");
  const TensorSource* before = opened->source.get();
  CHECK(MakeCanonical(std::move(opened->source), DType::kF32).get() == before);
}

TEST_CASE("mxfp4 linears of compressed-tensors") {
  const Experts experts = MakeExperts(1, 6, 3);
  const std::string config = test::QuantizationText(
      R"("quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups":
         {"g": {"weights": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}}})");
  const std::vector<FileTensor> parts = {{"p.weight_packed", "U8", {6, 48}, experts.parts[0].bytes},
                                         {"p.weight_scale", "U8", {6, 3}, experts.parts[1].bytes}};
  const auto opened = test::OpenParts(parts, config);
  test::CheckDecoded(*opened, "mxfp4", {6, 96}, experts.values);
  CHECK_FALSE(opened->source->tensors()[0].transposed);
  test::CheckRefused({
      {"rows of 24 pairs", test::Reshaped(parts, "packed", {12, 24}), config,
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"scales transposed", test::Reshaped(parts, "scale", {3, 6}), config,
       ErrorCode::kInvalidTensor, "p.weight_scale"},
  });
}

TEST_CASE("experts whose parts do not fit are refused") {
  const std::vector<FileTensor> parts = MakeExperts(3, 10, 2).parts;
  const std::string config = test::QuantizationText(R"("quant_method": "mxfp4")");
  constexpr auto kInvalid = ErrorCode::kInvalidTensor;
  test::CheckRefused({
      {"no scales", test::Without(parts, "_scales"), config, ErrorCode::kTensorMissing,
       "x.gate_up_proj_scales"},
      {"groups of 64", test::Reshaped(parts, "_blocks", {3, 10, 1, 32}), config, kInvalid,
       "x.gate_up_proj_blocks"},
      {"in one matrix", test::Reshaped(parts, "_blocks", {30, 32}), config, kInvalid,
       "x.gate_up_proj_blocks"},
      {"scales transposed", test::Reshaped(parts, "_scales", {3, 2, 10}), config, kInvalid,
       "x.gate_up_proj_scales"},
      {"scales of signed bytes",
       test::Changed(parts, "_scales", [](FileTensor& t) { t.dtype = "I8"; }), config, kInvalid,
       "x.gate_up_proj_scales"},
  });
}

}  // namespace
}  // namespace pennyweight
