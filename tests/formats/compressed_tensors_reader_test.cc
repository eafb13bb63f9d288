#include "formats/compressed_tensors_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "lib/dtype.h"
#include "tests/formats/quantized_builder.h"

namespace pennyweight {
namespace {

using test::FileTensor;

// Signed codes as b-bit fields of 32-bit words, low bits first; or, as up to version 0.16, with no
// value across words.
std::vector<uint32_t> Stream(const std::vector<int>& codes, int bits, bool dense = true) {
  std::vector<int> values;
  for (const int code : codes) values.push_back(code + (1 << (bits - 1)));
  if (dense) return test::StreamWords(values, bits);
  const size_t per_word = 32 / static_cast<size_t>(bits);
  std::vector<uint32_t> words((values.size() + per_word - 1) / per_word, 0);
  for (size_t i = 0; i < values.size(); ++i) {
    words[i / per_word] |= static_cast<uint32_t>(values[i])
                           << (i % per_word * static_cast<size_t>(bits));
  }
  return words;
}

// A linear with random codes, scales and zero points, and its parts as they are stored.
struct Linear {
  int bits;
  int64_t rows, cols, groups;
  std::vector<int> codes;  // [rows, cols]
  std::vector<int> zeros;  // [rows, groups]
  std::vector<uint16_t> scales;
  std::vector<FileTensor> parts;
};

Linear MakeLinear(const std::string& name, int bits, int64_t rows, int64_t cols, int64_t groups,
                  bool symmetric, uint32_t seed, bool dense = true) {
  std::mt19937 random(seed);
  const int half = 1 << (bits - 1);
  const auto code = [&] { return static_cast<int>(random() % (2u * half)) - half; };
  Linear linear{bits, rows, cols, groups, {}, {}, {}, {}};
  std::vector<uint32_t> packed;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int> row(static_cast<size_t>(cols));
    for (int& value : row) value = code();
    linear.codes.insert(linear.codes.end(), row.begin(), row.end());
    const std::vector<uint32_t> words = Stream(row, bits, dense);
    packed.insert(packed.end(), words.begin(), words.end());
    for (int64_t g = 0; g < groups; ++g) {
      linear.scales.push_back(static_cast<uint16_t>(0x3c00 + random() % 512));
      if (!symmetric) linear.zeros.push_back(code());
    }
  }
  const int64_t width = static_cast<int64_t>(packed.size()) / rows;
  linear.parts = {
      {name + ".weight_packed", "I32", {rows, width}, test::BytesOf(packed)},
      {name + ".weight_scale", "BF16", {rows, groups}, test::BytesOf(linear.scales)},
      {name + ".weight_shape", "I64", {2}, test::BytesOf(std::vector<int64_t>{rows, cols})}};
  if (symmetric) return linear;
  const auto zero_rows =
      static_cast<int64_t>(Stream(std::vector<int>(static_cast<size_t>(rows)), bits, dense).size());
  std::vector<uint32_t> zero_words(static_cast<size_t>(zero_rows * groups));
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<int> column;
    for (int64_t r = 0; r < rows; ++r) {
      column.push_back(linear.zeros[static_cast<size_t>(r * groups + g)]);
    }
    const std::vector<uint32_t> words = Stream(column, bits, dense);
    for (size_t w = 0; w < words.size(); ++w) {
      zero_words[w * static_cast<size_t>(groups) + static_cast<size_t>(g)] = words[w];
    }
  }
  linear.parts.push_back(
      {name + ".weight_zero_point", "I32", {zero_rows, groups}, test::BytesOf(zero_words)});
  return linear;
}

std::string Weights(int bits, const std::string& strategy, int64_t group, bool symmetric) {
  return fmt::format(
      R"({{"num_bits": {}, "type": "int", "symmetric": {}, "strategy": "{}", "group_size": {}}})",
      bits, symmetric, strategy, group == 0 ? "null" : std::to_string(group));
}

std::string Config(const std::vector<std::string>& weights, const std::string& more = "") {
  std::string groups;
  for (size_t i = 0; i < weights.size(); ++i) {
    groups += fmt::format(R"({}"group_{}": {{"targets": ["Linear"], "weights": {}}})",
                          i == 0 ? "" : ", ", i, weights[i]);
  }
  return fmt::format(R"({{"quantization_config": {{"quant_method": "compressed-tensors",
      "format": "pack-quantized", "config_groups": {{{}}}{}}}}})",
                     groups, more);
}

std::unique_ptr<test::OpenedParts> Open(const std::vector<FileTensor>& tensors,
                                        const std::string& config) {
  return test::OpenParts(tensors, config);
}

// Every row of tensor `index`, in tiles of `step` rows, against what was packed.
void CheckRows(const TensorSource& source, size_t index, const Linear& linear, int64_t step) {
  for (int64_t row = 0; row < linear.rows; row += step) {
    const int64_t count = std::min(step, linear.rows - row);
    EncodedTensor tile;
    REQUIRE(source.ReadRows(index, row, count, &tile).ok());
    REQUIRE(tile.rows == count);
    REQUIRE(tile.cols == linear.cols);
    CHECK(tile.data.empty());
    const auto same = [&](const std::vector<int8_t>& got, const std::vector<int>& all) {
      const int64_t width = static_cast<int64_t>(all.size()) / linear.rows;
      REQUIRE(static_cast<int64_t>(got.size()) == count * width);
      return std::equal(got.begin(), got.end(), all.begin() + row * width);
    };
    CHECK(same(tile.codes, linear.codes));
    CHECK(same(tile.zeros, linear.zeros));
    const std::string scales = test::BytesOf(linear.scales);
    const size_t bytes = static_cast<size_t>(linear.groups) * 2;
    CHECK(std::string(tile.scales.begin(), tile.scales.end()) ==
          scales.substr(static_cast<size_t>(row) * bytes, static_cast<size_t>(count) * bytes));
  }
}

TEST_CASE("codes, scales and zero points of every shape of the layout") {
  struct Case {
    int bits;
    int64_t rows, cols, group;
    bool symmetric;
    const char* name;
    bool dense = true;
  };
  // Widths and heights that do not fill words, too.
  const std::vector<Case> cases = {{4, 16, 64, 32, true, "int4_g32"},
                                   {4, 13, 96, 32, false, "int4_g32_asym"},
                                   {4, 5, 27, 0, true, "int4_channel"},
                                   {4, 9, 27, 0, false, "int4_channel_asym"},
                                   {8, 16, 64, 16, true, "int8_g16"},
                                   {8, 7, 48, 16, false, "int8_g16_asym"},
                                   {8, 6, 11, 0, true, "int8_channel"},
                                   {2, 17, 64, 32, false, "int2_g32_asym"},
                                   {3, 35, 64, 32, true, "int3_g32"},
                                   {3, 35, 96, 32, false, "int3_g32_asym"},
                                   {3, 35, 96, 32, false, "int3_g32_asym", false},
                                   {5, 40, 64, 32, false, "int5_g32_asym"},
                                   {5, 40, 64, 32, false, "int5_g32_asym", false},
                                   {6, 21, 64, 32, false, "int6_g32_asym"},
                                   {6, 21, 64, 32, true, "int6_g32", false},
                                   {7, 33, 64, 64, false, "int7_g64_asym"},
                                   {7, 33, 64, 64, false, "int7_g64_asym", false}};
  for (const Case& c : cases) {
    CAPTURE(c.name);
    const int64_t groups = c.group == 0 ? 1 : c.cols / c.group;
    const Linear linear =
        MakeLinear("m.q_proj", c.bits, c.rows, c.cols, groups, c.symmetric, 5, c.dense);
    const auto opened =
        Open(linear.parts,
             Config({Weights(c.bits, c.group == 0 ? "channel" : "group", c.group, c.symmetric)}));
    REQUIRE_MESSAGE(!opened->error, opened->error->ToString());
    REQUIRE(opened->source->tensors().size() == 1);
    const TensorInfo& info = opened->source->tensors()[0];
    CHECK(info.name == "m.q_proj.weight");
    CHECK(info.stored_name == "m.q_proj.weight_packed");
    CHECK(info.shape == Shape{c.rows, c.cols});
    CHECK(info.encoding.Name() == c.name);
    CHECK(info.encoding.integer.scale_dtype == DType::kBF16);
    uint64_t bytes = 0;
    for (const FileTensor& part : linear.parts) bytes += part.bytes.size();
    CHECK(info.bytes == bytes);
    for (const int64_t step : {1, 3, 32}) CheckRows(*opened->source, 0, linear, step);
  }
}

TEST_CASE("golden words: 4-bit codes -8 .. -1 are 0x76543210") {
  const std::vector<int> codes = {-8, -7, -6, -5, -4, -3, -2, -1};
  CHECK(Stream(codes, 4) == std::vector<uint32_t>{0x76543210u});
  const std::vector<FileTensor> parts = {
      {"p.weight_packed", "I32", {1, 1}, test::BytesOf(std::vector<uint32_t>{0x76543210u})},
      {"p.weight_scale", "F32", {1, 1}, test::BytesOf(std::vector<float>{0.25f})},
      {"p.weight_shape", "I64", {2}, test::BytesOf(std::vector<int64_t>{1, 8})}};
  const auto opened = Open(parts, Config({Weights(4, "channel", 0, true)}));
  REQUIRE(opened->source != nullptr);
  EncodedTensor tile;
  REQUIRE(opened->source->ReadRows(0, 0, 1, &tile).ok());
  CHECK(std::equal(tile.codes.begin(), tile.codes.end(), codes.begin(), codes.end()));
}

TEST_CASE("plain tensors stay, in their place, and groups are told apart by their shapes") {
  const Linear q = MakeLinear("m.q", 4, 8, 64, 2, false, 1);
  const Linear d = MakeLinear("m.down", 8, 8, 64, 1, true, 2);
  std::vector<FileTensor> tensors = {{"embed.weight", "F16", {2, 4}, std::string(16, 'e')}};
  tensors.insert(tensors.end(), q.parts.begin(), q.parts.end());
  tensors.push_back({"norm.weight", "F16", {4}, std::string(8, 'n')});
  tensors.insert(tensors.end(), d.parts.begin(), d.parts.end());
  tensors.push_back({"m.k_scale", "F32", {1}, "1234"});
  const auto opened =
      Open(tensors, Config({Weights(8, "channel", 0, true), Weights(4, "group", 32, false)}));
  REQUIRE_MESSAGE(!opened->error, opened->error->ToString());
  std::vector<std::string> names;
  for (const TensorInfo& info : opened->source->tensors()) names.push_back(info.name);
  CHECK(names == std::vector<std::string>{"embed.weight", "m.q.weight", "norm.weight",
                                          "m.down.weight", "m.k_scale"});
  CHECK(opened->source->tensors()[1].encoding.Name() == "int4_g32_asym");
  CHECK(opened->source->tensors()[3].encoding.Name() == "int8_channel");
  CheckRows(*opened->source, 1, q, 3);
  CheckRows(*opened->source, 3, d, 32);
  EncodedTensor rows;
  REQUIRE(opened->source->ReadRows(0, 1, 1, &rows).ok());
  CHECK(rows.data == std::vector<uint8_t>(8, 'e'));
}

TEST_CASE("parts that contradict each other or the config are refused") {
  const Linear base = MakeLinear("p", 4, 8, 64, 2, false, 3);
  const std::string config = Config({Weights(4, "group", 32, false)});
  const auto part = [](std::vector<FileTensor> parts, const std::string& suffix,
                       const std::function<void(FileTensor&)>& change) {
    for (FileTensor& tensor : parts) {
      if (tensor.name == "p." + suffix) change(tensor);
    }
    return parts;
  };
  const auto shape = [&](int64_t rows, int64_t cols) {
    return part(base.parts, "weight_shape", [&](FileTensor& t) {
      t.bytes = test::BytesOf(std::vector<int64_t>{rows, cols});
    });
  };
  const auto rename = [&](const std::string& suffix) {
    return part(base.parts, suffix, [](FileTensor& t) { t.name = "elsewhere"; });
  };
  const auto with = [&](FileTensor extra) {
    std::vector<FileTensor> parts = base.parts;
    parts.push_back(std::move(extra));
    return parts;
  };
  const std::vector<test::BadParts> cases = {
      {"no scale", rename("weight_scale"), config, ErrorCode::kTensorMissing, "p.weight_scale"},
      {"no shape", rename("weight_shape"), config, ErrorCode::kTensorMissing, "p.weight_shape"},
      {"no zeros", rename("weight_zero_point"), config, ErrorCode::kInvalidTensor,
       "p.weight_packed"},
      {"other rows", shape(7, 64), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
      {"too wide", shape(8, 129), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
      {"a little too wide", shape(8, 65), config, ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"huge", shape(8, INT64_MAX), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
      {"negative", shape(8, -64), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
      {"too narrow", shape(8, 56), config, ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"packed as U8",
       part(base.parts, "weight_packed",
            [](FileTensor& t) {
              t.dtype = "U8";
              t.shape = {8, 32};
            }),
       config, ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"scale as I16", part(base.parts, "weight_scale", [](FileTensor& t) { t.dtype = "I16"; }),
       config, ErrorCode::kInvalidTensor, "p.weight_scale"},
      {"scale transposed",
       part(base.parts, "weight_scale",
            [](FileTensor& t) {
              t.shape = {2, 8};
            }),
       config, ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"zeros transposed",
       part(base.parts, "weight_zero_point",
            [](FileTensor& t) {
              t.shape = {2, 1};
            }),
       config, ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"both forms", with({"p.weight", "F16", {1}, "12"}), config, ErrorCode::kDuplicateKey,
       "p.weight"},
      {"activation order of one", with({"p.weight_g_idx", "I32", {1}, "1234"}), config,
       ErrorCode::kInvalidTensor, "p.weight_g_idx"},
      {"activation order out of range",
       with({"p.weight_g_idx", "I32", {64}, test::BytesOf(std::vector<int32_t>(64, 2))}), config,
       ErrorCode::kInvalidTensor, "p.weight_g_idx"},
      {"config says symmetric", base.parts, Config({Weights(4, "group", 32, true)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"config says 8 bits", base.parts, Config({Weights(8, "group", 32, false)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"config says groups of 16", base.parts, Config({Weights(4, "group", 16, false)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"groups of 40 leave a rest", base.parts, Config({Weights(4, "group", 40, false)}),
       ErrorCode::kUnsupported, "p.weight"},
      {"3 bits", base.parts, Config({Weights(3, "group", 32, false)}), ErrorCode::kInvalidTensor,
       "p.weight_packed"},
      {"9 bits", base.parts, Config({Weights(9, "group", 32, false)}), ErrorCode::kUnsupported, ""},
      {"blocks", base.parts, Config({Weights(4, "block", 32, false)}), ErrorCode::kUnsupported, ""},
      {"group without size", base.parts, Config({Weights(4, "group", 0, false)}),
       ErrorCode::kConfigMissing, ""},
      {"no groups", base.parts, Config({}), ErrorCode::kConfigInvalid, ""},
      {"rotated", base.parts,
       Config({Weights(4, "group", 32, false)},
              R"(, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}})"),
       ErrorCode::kUnsupported, ""},
      {"sparse", base.parts,
       Config({Weights(4, "group", 32, false)}, R"(, "sparsity_config": {"format": "sparse-24"})"),
       ErrorCode::kUnsupported, ""},
  };
  test::CheckRefused(cases);
}

TEST_CASE("columns in activation order, unpacked zero points, and g_idx that says nothing") {
  const std::string config = Config({Weights(4, "group", 32, false)});
  Linear linear = MakeLinear("p", 4, 9, 64, 2, false, 9);
  std::vector<int32_t> groups;
  for (int32_t i = 0; i < 64; ++i) groups.push_back(i % 2);
  std::vector<FileTensor> parts = linear.parts;
  parts.push_back({"p.weight_g_idx", "I32", {64}, test::BytesOf(groups)});
  std::vector<float> want;
  for (size_t i = 0; i < linear.codes.size(); ++i) {
    const size_t at = i / 64 * 2 + i % 2;
    want.push_back(static_cast<float>(linear.codes[i] - linear.zeros[at]) *
                   BF16ToF32(linear.scales[at]));
  }
  test::CheckDecoded(*Open(parts, config), "int4_g32_asym_actorder", {9, 64}, want);

  parts.back().bytes = test::BytesOf(std::vector<int32_t>(64, -1));
  auto opened = Open(parts, config);
  REQUIRE(opened->source != nullptr);
  CHECK(opened->source->tensors()[0].encoding.Name() == "int4_g32_asym");
  CheckRows(*opened->source, 0, linear, 4);

  parts = test::Changed(linear.parts, "zero_point", [&](FileTensor& part) {
    part = {part.name,
            "I8",
            {9, 2},
            test::BytesOf(std::vector<int8_t>(linear.zeros.begin(), linear.zeros.end()))};
  });
  opened = Open(parts, config);
  REQUIRE(opened->source != nullptr);
  CheckRows(*opened->source, 0, linear, 4);
}

std::string FloatConfig(const std::string& format, int bits, const std::string& more) {
  return test::QuantizationText(fmt::format(
      R"("quant_method": "compressed-tensors", "format": "{}", "config_groups": {{"g": {{"targets":
         ["Linear"], "weights": {{"num_bits": {}, {}}}}}}})",
      format, bits, more));
}

TEST_CASE("int-quantized, by channel and as a whole") {
  std::mt19937 random(3);
  std::vector<int8_t> codes(6 * 5);
  for (int8_t& code : codes) code = static_cast<int8_t>(random());
  const std::vector<float> scales = {0.5f, 0.25f, 2, 3, -1, 0.125f};
  const auto config = [](const char* strategy, bool symmetric) {
    return FloatConfig(
        "int-quantized", 8,
        fmt::format(R"("type": "int", "strategy": "{}", "symmetric": {})", strategy, symmetric));
  };
  const auto want = [&](bool one, const std::vector<int8_t>& zeros) {
    std::vector<float> values;
    for (size_t i = 0; i < codes.size(); ++i) {
      const int zero = zeros.empty() ? 0 : zeros[i / 5];
      values.push_back(static_cast<float>(codes[i] - zero) * scales[one ? 0 : i / 5]);
    }
    return values;
  };
  const FileTensor weight = {"p.weight", "I8", {6, 5}, test::BytesOf(codes)};
  const FileTensor rows = {"p.weight_scale", "F32", {6, 1}, test::BytesOf(scales)};
  const FileTensor one = {"p.weight_scale", "F32", {1}, test::BytesOf(std::vector<float>{0.5f})};
  const FileTensor input = {"p.input_scale", "F32", {1}, "1234"};
  const auto opened = Open({weight, rows, input}, config("channel", true));
  test::CheckDecoded(*opened, "int8_channel", {6, 5}, want(false, {}));
  REQUIRE(opened->notes.size() == 1);
  CHECK(opened->notes[0].find("activations") != std::string::npos);
  test::CheckDecoded(*Open({weight, one}, config("tensor", true)), "int8_channel", {6, 5},
                     want(true, {}));
  const std::vector<int8_t> zeros = {1, -2, 127, -128, 0, 5};
  const FileTensor points = {"p.weight_zero_point", "I8", {6, 1}, test::BytesOf(zeros)};
  test::CheckDecoded(*Open({weight, rows, points}, config("channel", false)), "int8_channel_asym",
                     {6, 5}, want(false, zeros));
  test::CheckRefused({
      {"asymmetric",
       {weight, rows},
       config("channel", false),
       ErrorCode::kInvalidTensor,
       "p.weight_scale"},
      {"symmetric",
       {weight, rows, points},
       config("channel", true),
       ErrorCode::kInvalidTensor,
       "p.weight_scale"},
      {"no scale", {weight}, config("channel", true), ErrorCode::kTensorMissing, "p.weight_scale"},
      {"scales of other rows",
       {weight, {"p.weight_scale", "F32", {3, 2}, test::BytesOf(scales)}},
       config("channel", true),
       ErrorCode::kInvalidTensor,
       "p.weight_scale"},
  });
}

TEST_CASE("nvfp4: codes, small scales, and one number that divides them") {
  std::vector<uint8_t> codes(3 * 16);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 37 + 11);
  // E4M3: 1, 1.5, 0.5, -2, 448, 2^-9
  const std::vector<uint8_t> scales = {0x38, 0x3c, 0x30, 0xc0, 0x7e, 0x01};
  const float values[] = {1, 1.5f, 0.5f, -2, 448, 0.001953125f};
  const float levels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  std::vector<float> want;
  for (size_t i = 0; i < 96; ++i) {
    const int code = codes[i / 2] >> (i % 2 * 4) & 15;
    want.push_back((code > 7 ? -levels[code - 8] : levels[code]) * (values[i / 16] / 3.0f));
  }
  const std::vector<FileTensor> parts = {
      {"p.weight_packed", "U8", {3, 16}, test::BytesOf(codes)},
      {"p.weight_scale", "F8_E4M3", {3, 2}, test::BytesOf(scales)},
      {"p.weight_global_scale", "F32", {1}, test::BytesOf(std::vector<float>{3})}};
  const std::string config =
      FloatConfig("nvfp4-pack-quantized", 4,
                  R"("type": "float", "strategy": "tensor_group", "group_size": 16)");
  test::CheckDecoded(*Open(parts, config), "fp4_e2m1_b1x16", {3, 32}, want);
  const auto global = [&](float value) {
    return test::Changed(parts, "global_scale", [&](FileTensor& part) {
      part.bytes = test::BytesOf(std::vector<float>{value});
    });
  };
  test::CheckRefused({
      {"no global", test::Without(parts, "global_scale"), config, ErrorCode::kTensorMissing,
       "p.weight_global_scale"},
      {"divided by 0", global(0), config, ErrorCode::kInvalidTensor, "p.weight_global_scale"},
      {"divided by nothing", global(std::nanf("")), config, ErrorCode::kInvalidTensor,
       "p.weight_global_scale"},
      {"scales of other groups", test::Reshaped(parts, "weight_scale", {2, 3}), config,
       ErrorCode::kInvalidTensor, "p.weight_scale"},
  });
}

TEST_CASE("float-quantized by blocks, and a weight without its scales") {
  std::vector<uint8_t> codes(5 * 6, 0x38);  // 1
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6};
  std::vector<float> want;
  for (size_t i = 0; i < 30; ++i) want.push_back(scales[i / 6 / 2 * 2 + i % 6 / 4]);
  const std::vector<FileTensor> parts = {{"p.weight", "F8_E4M3", {5, 6}, test::BytesOf(codes)},
                                         {"p.weight_scale", "F32", {3, 2}, test::BytesOf(scales)}};
  const std::string config = FloatConfig(
      "float-quantized", 8, R"("type": "float", "strategy": "block", "block_structure": [2, 4])");
  test::CheckDecoded(*Open(parts, config), "fp8_e4m3_b2x4", {5, 6}, want);
  test::CheckRefused({
      {"no scale", test::Without(parts, "_scale"), config, ErrorCode::kTensorMissing,
       "p.weight_scale"},
      {"other blocks", parts,
       FloatConfig("float-quantized", 8,
                   R"("type": "float", "strategy": "block", "block_structure": [2, 2])"),
       ErrorCode::kInvalidTensor, "p.weight_scale"},
      {"blocks of 0", parts,
       FloatConfig("float-quantized", 8,
                   R"("type": "float", "strategy": "block", "block_structure": [0, 2])"),
       ErrorCode::kConfigInvalid, ""},
      {"16 bits", parts, FloatConfig("float-quantized", 16, R"("type": "float")"),
       ErrorCode::kUnsupported, ""},
      {"marlin", parts, FloatConfig("marlin-24", 4, R"("type": "int")"), ErrorCode::kUnsupported,
       ""},
  });
}

}  // namespace
}  // namespace pennyweight
