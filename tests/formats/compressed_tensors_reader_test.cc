#include "formats/compressed_tensors_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "formats/safetensors_reader.h"
#include "lib/dtype.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

using test::FileTensor;

// Values as b-bit fields of 32-bit words, low bits first, as the layout says it; a word at a time,
// unlike the reader, which takes bytes.
std::vector<uint32_t> Stream(const std::vector<int>& codes, int bits) {
  std::vector<uint32_t> words((codes.size() * static_cast<size_t>(bits) + 31) / 32, 0);
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t bit = i * static_cast<size_t>(bits);
    const uint32_t value = static_cast<uint32_t>(codes[i] + (1 << (bits - 1)));
    words[bit / 32] |= value << (bit % 32);
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
                  bool symmetric, uint32_t seed) {
  std::mt19937 random(seed);
  const int half = 1 << (bits - 1);
  const auto code = [&] { return static_cast<int>(random() % (2u * half)) - half; };
  Linear linear{bits, rows, cols, groups, {}, {}, {}, {}};
  std::vector<uint32_t> packed;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int> row(static_cast<size_t>(cols));
    for (int& value : row) value = code();
    linear.codes.insert(linear.codes.end(), row.begin(), row.end());
    const std::vector<uint32_t> words = Stream(row, bits);
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
  const int64_t zero_rows = (rows * bits + 31) / 32;
  std::vector<uint32_t> zero_words(static_cast<size_t>(zero_rows * groups));
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<int> column;
    for (int64_t r = 0; r < rows; ++r) {
      column.push_back(linear.zeros[static_cast<size_t>(r * groups + g)]);
    }
    const std::vector<uint32_t> words = Stream(column, bits);
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

struct Opened {
  test::ScratchFolder folder;
  std::unique_ptr<TensorSource> source;
  std::optional<Error> error;
};

std::unique_ptr<Opened> Open(const std::vector<FileTensor>& tensors, const std::string& config) {
  auto opened = std::make_unique<Opened>();
  auto parts = SafetensorsSource::Open(
      {opened->folder.Write("x.safetensors", test::SafetensorsFile(tensors))});
  REQUIRE_MESSAGE(parts.ok(), parts.error().ToString());
  const auto json = Json::Parse(config);
  REQUIRE_MESSAGE(json.ok(), json.error().ToString());
  std::unique_ptr<TensorSource> stored = std::move(parts).value();
  auto wrapped = WrapCompressedTensors(*json, "config.json", &stored);
  CHECK((stored == nullptr) == wrapped.ok());
  if (wrapped.ok()) {
    opened->source = std::move(wrapped).value();
  } else {
    opened->error = std::move(wrapped).TakeError();
  }
  return opened;
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
  };
  // Widths and heights that do not fill words, too.
  const std::vector<Case> cases = {
      {4, 16, 64, 32, true, "int4_g32"},   {4, 13, 96, 32, false, "int4_g32_asym"},
      {4, 5, 27, 0, true, "int4_channel"}, {4, 9, 27, 0, false, "int4_channel_asym"},
      {8, 16, 64, 16, true, "int8_g16"},   {8, 7, 48, 16, false, "int8_g16_asym"},
      {8, 6, 11, 0, true, "int8_channel"}};
  for (const Case& c : cases) {
    CAPTURE(c.name);
    const int64_t groups = c.group == 0 ? 1 : c.cols / c.group;
    const Linear linear = MakeLinear("m.q_proj", c.bits, c.rows, c.cols, groups, c.symmetric, 5);
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
  struct Case {
    const char* id;
    std::vector<FileTensor> tensors;
    std::string config;
    ErrorCode code;
    std::string tensor;
  };
  const std::vector<Case> cases = {
      {"no scale", rename("weight_scale"), config, ErrorCode::kTensorMissing, "p.weight_scale"},
      {"no shape", rename("weight_shape"), config, ErrorCode::kTensorMissing, "p.weight_shape"},
      {"no zeros", rename("weight_zero_point"), config, ErrorCode::kInvalidTensor,
       "p.weight_packed"},
      {"other rows", shape(7, 64), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
      {"too wide", shape(8, 65), config, ErrorCode::kInvalidTensor, "p.weight_shape"},
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
      {"activation order", with({"p.weight_g_idx", "I32", {1}, "1234"}), config,
       ErrorCode::kUnsupported, "p.weight_g_idx"},
      {"config says symmetric", base.parts, Config({Weights(4, "group", 32, true)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"config says 8 bits", base.parts, Config({Weights(8, "group", 32, false)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"config says groups of 16", base.parts, Config({Weights(4, "group", 16, false)}),
       ErrorCode::kInvalidTensor, "p.weight_packed"},
      {"groups of 40 leave a rest", base.parts, Config({Weights(4, "group", 40, false)}),
       ErrorCode::kUnsupported, "p.weight"},
      {"3 bits", base.parts, Config({Weights(3, "group", 32, false)}), ErrorCode::kUnsupported, ""},
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
      {"no config", base.parts, "{}", ErrorCode::kConfigMissing, ""},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const auto opened = Open(wrong.tensors, wrong.config);
    REQUIRE(opened->error.has_value());
    CAPTURE(opened->error->ToString());
    CHECK(std::string(ErrorCodeName(opened->error->code)) == ErrorCodeName(wrong.code));
    CHECK(opened->error->tensor == wrong.tensor);
    CHECK_FALSE(opened->error->file.empty());
  }
}

TEST_CASE("quantization_config is recognised by its method") {
  CHECK(IsCompressedTensors(*Json::Parse(Config({Weights(4, "group", 32, true)}))));
  CHECK_FALSE(
      IsCompressedTensors(*Json::Parse(R"({"quantization_config": {"quant_method": "gptq"}})")));
  CHECK_FALSE(IsCompressedTensors(*Json::Parse(R"({"quantization_config": null})")));
  CHECK_FALSE(IsCompressedTensors(*Json::Parse("{}")));
}

}  // namespace
}  // namespace pennyweight
