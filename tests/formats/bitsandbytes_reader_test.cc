#include "formats/bitsandbytes_reader.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/formats/quantized_builder.h"

namespace pennyweight {
namespace {

using test::FileTensor;

// 5 x 22 values in blocks of 16: blocks cross rows, and the last is partial.
constexpr int64_t kRows = 5, kCols = 22, kBlock = 16, kBlocks = 7;

struct Codebook {
  std::vector<FileTensor> parts;
  std::vector<float> values;
};

FileTensor State(const std::string& kind, const std::string& more) {
  const std::string json = fmt::format(
      R"({{"quant_type": "{}", "blocksize": {}, "dtype": "bfloat16", "shape": [{}, {}]{}}})", kind,
      kBlock, kRows, kCols, more);
  return {"p.weight.quant_state.bitsandbytes__" + kind,
          "U8",
          {static_cast<int64_t>(json.size())},
          json};
}

Codebook MakeCodebook(const std::string& kind, bool nested, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> levels(16), nested_levels(256), nested_absmax(3);
  for (float& level : levels) level = uniform(random);
  for (float& level : nested_levels) level = uniform(random);
  for (float& absmax : nested_absmax) absmax = uniform(random) + 2;
  std::vector<uint8_t> bytes(kRows * kCols / 2), coded(kBlocks);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : coded) byte = static_cast<uint8_t>(random());
  std::vector<float> absmax(kBlocks);
  for (size_t i = 0; i < absmax.size(); ++i) {
    absmax[i] = uniform(random);
    if (nested) absmax[i] = nested_levels[coded[i]] * nested_absmax[i / 3] + 0.375f;
  }
  Codebook book;
  for (size_t i = 0; i < bytes.size() * 2; ++i) {
    const int code = i % 2 == 0 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
    book.values.push_back(levels[static_cast<size_t>(code)] * absmax[i / kBlock]);
  }
  book.parts = {{"p.weight", "U8", {kRows * kCols / 2, 1}, test::BytesOf(bytes)},
                {"p.weight.absmax", "F32", {kBlocks}, test::BytesOf(absmax)},
                {"p.weight.quant_map", "F32", {16}, test::BytesOf(levels)},
                State(kind, nested ? R"(, "nested_blocksize": 3, "nested_offset": 0.375)" : "")};
  if (!nested) return book;
  book.parts[1] = {"p.weight.absmax", "U8", {kBlocks}, test::BytesOf(coded)};
  book.parts.push_back({"p.weight.nested_absmax", "F32", {3}, test::BytesOf(nested_absmax)});
  book.parts.push_back({"p.weight.nested_quant_map", "F32", {256}, test::BytesOf(nested_levels)});
  return book;
}

const std::string kConfig = test::QuantizationText(R"("quant_method": "bitsandbytes")");

TEST_CASE("4-bit codebooks, plain and nested, with a config and without") {
  for (const std::string kind : {"nf4", "fp4"}) {
    for (const bool nested : {false, true}) {
      const Codebook book = MakeCodebook(kind, nested, 21);
      const std::string name = kind + "_b16" + (nested ? "_nested" : "");
      test::CheckDecoded(*test::OpenParts(book.parts, kConfig), name, {kRows, kCols}, book.values);
      test::CheckDecoded(*test::OpenParts(book.parts, ""), name, {kRows, kCols}, book.values);
    }
  }
}

TEST_CASE("the same bytes under another dtype") {
  // 55 bytes are no whole bf16s: one more stands at the end.
  Codebook book = MakeCodebook("nf4", false, 22);
  book.parts[0].bytes += '\x12';
  book.parts[0].dtype = "BF16";
  book.parts[0].shape = {28, 1};
  test::CheckDecoded(*test::OpenParts(book.parts, kConfig), "nf4_b16", {kRows, kCols}, book.values);
  book.parts[0].dtype = "F32";
  book.parts[0].shape = {14, 1};
  test::CheckDecoded(*test::OpenParts(book.parts, kConfig), "nf4_b16", {kRows, kCols}, book.values);
}

TEST_CASE("LLM.int8: code * absmax / 127") {
  const std::vector<int8_t> codes = {127, -127, 0, 64, -1, 1};
  const std::vector<float> absmax = {2, 0.5f};
  const std::vector<FileTensor> parts = {{"p.weight", "I8", {2, 3}, test::BytesOf(codes)},
                                         {"p.SCB", "F32", {2}, test::BytesOf(absmax)},
                                         {"p.weight_format", "U8", {}, std::string(1, '\0')}};
  const auto opened = test::OpenParts(parts, kConfig);
  REQUIRE_MESSAGE(!opened->error, opened->error->ToString());
  REQUIRE(opened->source->tensors().size() == 1);
  CHECK(opened->source->tensors()[0].encoding.Name() == "int8_absmax");
  const std::vector<float> got = test::DecodeAll(*opened->source, 0, 1);
  for (size_t i = 0; i < 6; ++i) {
    CHECK(got[i] == doctest::Approx(codes[i] * absmax[i / 3] / 127.0).epsilon(1e-6));
  }
  test::CheckRefused({
      {"tiles", test::Changed(parts, "_format", [](FileTensor& t) { t.bytes = "\1"; }), kConfig,
       ErrorCode::kUnsupported, "p.weight_format"},
      {"no codes", test::Without(parts, "p.weight"), kConfig, ErrorCode::kTensorMissing,
       "p.weight"},
      {"absmax of columns",
       test::Changed(parts, "SCB",
                     [](FileTensor& t) {
                       t.shape = {3};
                       t.bytes.resize(12);
                     }),
       kConfig, ErrorCode::kInvalidTensor, "p.SCB"},
      {"codes of other bytes",
       test::Changed(parts, "p.weight", [](FileTensor& t) { t.dtype = "U8"; }), kConfig,
       ErrorCode::kInvalidTensor, "p.weight"},
  });
}

TEST_CASE("4-bit parts that contradict each other are refused") {
  const std::vector<FileTensor> parts = MakeCodebook("nf4", true, 23).parts;
  const std::string state_name = "p.weight.quant_state.bitsandbytes__nf4";
  const auto state = [&](const std::string& json) {
    return test::Changed(parts, "__nf4", [&](FileTensor& t) {
      t.shape = {static_cast<int64_t>(json.size())};
      t.bytes = json;
    });
  };
  constexpr auto kInvalid = ErrorCode::kInvalidTensor;
  constexpr auto kMissing = ErrorCode::kTensorMissing;
  test::CheckRefused({
      {"no codes", test::Without(parts, "p.weight"), kConfig, kMissing, "p.weight"},
      {"no absmax", test::Without(parts, "weight.absmax"), kConfig, kMissing, "p.weight.absmax"},
      {"no levels", test::Without(parts, "weight.quant_map"), kConfig, kMissing,
       "p.weight.quant_map"},
      {"no nested absmax", test::Without(parts, "nested_absmax"), kConfig, kMissing,
       "p.weight.nested_absmax"},
      {"no nested levels", test::Without(parts, "nested_quant_map"), kConfig, kMissing,
       "p.weight.nested_quant_map"},
      {"codes in a row", test::Reshaped(parts, "p.weight", {1, 55}), kConfig, kInvalid, "p.weight"},
      {"other shape", state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [5, 24]})"), kConfig,
       kInvalid, "p.weight"},
      {"huge shape",
       state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [9223372036854775807, 1]})"),
       kConfig, kInvalid, "p.weight"},
      {"overflowing shape",
       state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [9223372036854775807, 2]})"),
       kConfig, kInvalid, state_name},
      {"negative shape", state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [-5, -22]})"),
       kConfig, kInvalid, state_name},
      {"no shape", state(R"({"quant_type": "nf4", "blocksize": 16})"), kConfig, kInvalid,
       state_name},
      {"blocks of 0", state(R"({"quant_type": "nf4", "blocksize": 0, "shape": [5, 22]})"), kConfig,
       kInvalid, state_name},
      {"not nested after all", state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [5, 22]})"),
       kConfig, kInvalid, "p.weight.absmax"},
      {"other blocks",
       state(R"({"quant_type": "nf4", "blocksize": 32, "shape": [5, 22], "nested_blocksize": 3,
              "nested_offset": 0})"),
       kConfig, kInvalid, "p.weight.absmax"},
      {"other nested blocks",
       state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [5, 22], "nested_blocksize": 2,
              "nested_offset": 0})"),
       kConfig, kInvalid, "p.weight.nested_absmax"},
      {"offset beyond floats",
       state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [5, 22], "nested_blocksize": 3,
              "nested_offset": 1e39})"),
       kConfig, kInvalid, state_name},
      {"no offset",
       state(R"({"quant_type": "nf4", "blocksize": 16, "shape": [5, 22], "nested_blocksize": 3})"),
       kConfig, kInvalid, state_name},
      {"unknown type", state(R"({"quant_type": "nf3", "blocksize": 16, "shape": [5, 22]})"),
       kConfig, ErrorCode::kUnsupported, state_name},
      {"no JSON", state("{"), kConfig, kInvalid, state_name},
      {"no object", state("[1]"), kConfig, kInvalid, state_name},
      {"endless JSON", state(std::string(5000, ' ') + "{}"), kConfig, kInvalid, state_name},
  });
}

}  // namespace
}  // namespace pennyweight
