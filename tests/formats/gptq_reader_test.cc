#include "formats/gptq_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "lib/dtype.h"
#include "tests/formats/quantized_builder.h"

namespace pennyweight {
namespace {

using test::FileTensor;

// A linear of N outputs and K inputs with random codes, zero points and scales, as GPTQ has them.
struct Linear {
  int bits = 4;
  int64_t n = 0, k = 0, groups = 1;
  std::vector<int> codes;     // [n, k]
  std::vector<int> zeros;     // [groups, n]
  std::vector<float> scales;  // [groups, n]
  std::vector<int32_t> g_idx;

  std::vector<float> Values() const {
    std::vector<float> values;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t col = 0; col < k; ++col) {
        const auto at = static_cast<size_t>(g_idx[static_cast<size_t>(col)] * n + row);
        const int code = codes[static_cast<size_t>(row * k + col)];
        values.push_back(static_cast<float>(code - zeros[at]) * scales[at]);
      }
    }
    return values;
  }
};

Linear MakeLinear(int bits, int64_t n, int64_t k, int64_t groups, bool symmetric, bool act_order,
                  uint32_t seed) {
  std::mt19937 random(seed);
  Linear linear{.bits = bits,
                .n = n,
                .k = k,
                .groups = groups,
                .codes = {},
                .zeros = {},
                .scales = {},
                .g_idx = {}};
  const auto all = 1u << bits;
  for (int64_t i = 0; i < n * k; ++i) linear.codes.push_back(static_cast<int>(random() % all));
  for (int64_t i = 0; i < groups * n; ++i) {
    // From 1: v1 has no clean form of 0.
    const int zero = 1 + static_cast<int>(random() % (all - 1));
    linear.zeros.push_back(symmetric ? 1 << (bits - 1) : zero);
    linear.scales.push_back(
        F16ToF32(static_cast<uint16_t>(0x2000 + random() % 0x1000 + (random() % 2) * 0x8000)));
  }
  for (int64_t i = 0; i < k; ++i) linear.g_idx.push_back(static_cast<int32_t>(i / (k / groups)));
  if (act_order) std::shuffle(linear.g_idx.begin(), linear.g_idx.end(), random);
  return linear;
}

std::vector<uint32_t> RowStreams(const std::vector<int>& values, int64_t rows, int bits) {
  std::vector<uint32_t> words;
  const auto width = values.size() / static_cast<size_t>(rows);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(r * width);
    const auto row = test::StreamWords({begin, begin + static_cast<std::ptrdiff_t>(width)}, bits);
    words.insert(words.end(), row.begin(), row.end());
  }
  return words;
}

// `less`: what is taken from stored zero points, 1 in v1.
std::vector<FileTensor> GptqParts(const Linear& linear, int less,
                                  const std::string& dtype = "F16") {
  std::vector<uint32_t> words = RowStreams(linear.codes, linear.n, linear.bits);
  const int64_t packed = linear.k * linear.bits / 32;
  words = test::Transposed(words, static_cast<size_t>(linear.n));
  std::vector<int> stored = linear.zeros;
  for (int& zero : stored) zero -= less;
  const std::vector<uint32_t> zeros = RowStreams(stored, linear.groups, linear.bits);
  std::string scales;
  const DType type = *DTypeFromName(dtype);
  scales.resize(linear.scales.size() * static_cast<size_t>(DTypeBits(type)) / 8);
  EncodeFromFloat(type, linear.scales.data(), scales.data(), linear.scales.size());
  return {{"m.q.qweight", "I32", {packed, linear.n}, test::BytesOf(words)},
          {"m.q.qzeros", "I32", {linear.groups, linear.n * linear.bits / 32}, test::BytesOf(zeros)},
          {"m.q.scales", dtype, {linear.groups, linear.n}, scales},
          {"m.q.g_idx", "I32", {linear.k}, test::BytesOf(linear.g_idx)}};
}

std::string Config(int bits, int64_t group, const std::string& more = "") {
  return test::QuantizationText(
      fmt::format(R"("quant_method": "gptq", "bits": {}, "group_size": {}{})", bits, group, more));
}

constexpr const char* kV2 = R"(, "checkpoint_format": "gptq_v2")";
constexpr const char* kV1 = R"(, "checkpoint_format": "gptq")";

TEST_CASE("GPTQ of every width, grouping and order, in v1 and v2") {
  uint32_t seed = 1;
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {16, 32, -1}) {
      for (const bool symmetric : {true, false}) {
        for (const bool order : {false, true}) {
          for (const bool v2 : {false, true}) {
            const int64_t groups = group < 0 ? 1 : 96 / group;
            if (order && groups == 1) continue;
            CAPTURE(bits);
            CAPTURE(group);
            CAPTURE(v2);
            const Linear linear = MakeLinear(bits, 64, 96, groups, symmetric, order, seed++);
            const auto opened =
                test::OpenParts(GptqParts(linear, v2 ? 0 : 1), Config(bits, group, v2 ? kV2 : kV1));
            const std::string name =
                fmt::format("int{}_{}{}{}", bits, group < 0 ? "channel" : fmt::format("g{}", group),
                            symmetric ? "" : "_asym", order ? "_actorder" : "");
            test::CheckDecoded(*opened, name, {64, 96}, linear.Values());
            CHECK(opened->source->tensors()[0].name == "m.q.weight");
            // Only what cannot be told from the words is worth a note.
            CHECK(opened->notes.empty() == symmetric);
          }
        }
      }
    }
  }
}

TEST_CASE("symmetric zero points are recognised by their words, whatever the config says") {
  for (const int bits : {2, 3, 4, 8}) {
    const Linear linear = MakeLinear(bits, 32, 64, 2, true, false, 7);
    const auto opened = test::OpenParts(GptqParts(linear, 0), Config(bits, 32, kV1));
    const std::string name = fmt::format("int{}_g32", bits);
    test::CheckDecoded(*opened, name, {32, 64}, linear.Values());
    REQUIRE(opened->notes.size() == 1);
    CHECK(opened->notes[0].find("by their words") != std::string::npos);
    // Without a config, too.
    const auto bare = test::OpenParts(GptqParts(linear, 1), "");
    test::CheckDecoded(*bare, name, {32, 64}, linear.Values());
  }
  // One zero point that is another makes all of them count, as the config says.
  Linear linear = MakeLinear(4, 32, 64, 2, true, false, 7);
  linear.zeros[33] = 3;
  test::CheckDecoded(*test::OpenParts(GptqParts(linear, 0), Config(4, 32, kV2)), "int4_g32_asym",
                     {32, 64}, linear.Values());
}

TEST_CASE("golden words of GPTQ") {
  std::vector<int> values;
  for (int i = 0; i < 32; ++i) values.push_back(i % 8);
  CHECK(test::StreamWords(values, 3) ==
        std::vector<uint32_t>{0x88fac688u, 0xc688fac6u, 0xfac688fau});
  struct Golden {
    int bits;
    std::vector<uint32_t> codes;  // of one output
    std::vector<uint32_t> zeros;  // of a group, 32 outputs
  };
  const std::vector<Golden> cases = {
      {4, {0x76543210, 0x76543210, 0x76543210, 0x76543210}, {0x77777777}},
      {4, {0x76543210, 0x76543210, 0x76543210, 0x76543210}, {0x88888888}},
      {3, {0x88fac688, 0xc688fac6, 0xfac688fa}, {0xdb6db6db, 0xb6db6db6, 0x6db6db6d}},
      {3, {0x88fac688, 0xc688fac6, 0xfac688fa}, {0x24924924, 0x49249249, 0x92492492}},
      // The wrong constants of GPTQModel before April 2026.
      {3, {0x88fac688, 0xc688fac6, 0xfac688fa}, {0x00000000, 0xb6db6db7, 0x49249249}},
  };
  for (const Golden& golden : cases) {
    const size_t words = static_cast<size_t>(golden.bits);
    std::vector<uint32_t> codes, zeros;
    for (size_t w = 0; w < words; ++w) codes.insert(codes.end(), 32, golden.codes[w]);
    for (size_t w = 0; w < words; ++w) zeros.push_back(golden.zeros[w % golden.zeros.size()]);
    const std::vector<FileTensor> parts = {
        {"p.qweight", "I32", {golden.bits, 32}, test::BytesOf(codes)},
        {"p.qzeros", "I32", {1, golden.bits}, test::BytesOf(zeros)},
        {"p.scales", "F32", {1, 32}, test::BytesOf(std::vector<float>(32, 0.5f))}};
    std::vector<float> want;
    for (int i = 0; i < 32 * 32; ++i) {
      want.push_back(static_cast<float>(i % 8 - (1 << (golden.bits - 1))) * 0.5f);
    }
    test::CheckDecoded(*test::OpenParts(parts, Config(golden.bits, -1)),
                       fmt::format("int{}_channel", golden.bits), {32, 32}, want);
  }
}

TEST_CASE("a zero point of 0 in v1 borrows from its word, and whole words undo it") {
  Linear linear = MakeLinear(4, 16, 32, 1, false, false, 3);
  linear.zeros = {0, 5, 0, 0, 9, 15, 1, 2, 3, 0, 8, 7, 6, 5, 4, 3};
  std::vector<FileTensor> parts = GptqParts(linear, 0);
  std::vector<uint32_t> words = test::StreamWords(linear.zeros, 4);
  for (uint32_t& word : words) word -= 0x11111111u;
  parts[1].bytes = test::BytesOf(words);
  test::CheckDecoded(*test::OpenParts(parts, Config(4, -1, kV1)), "int4_channel_asym", {16, 32},
                     linear.Values());
}

TEST_CASE("scales keep their dtype, and g_idx may be absent") {
  Linear linear = MakeLinear(4, 32, 64, 2, true, false, 5);
  // Numbers that every dtype holds.
  for (float& scale : linear.scales) scale = RoundThrough(DType::kBF16, scale);
  for (const char* dtype : {"F16", "BF16", "F32"}) {
    std::vector<FileTensor> parts = GptqParts(linear, 1, dtype);
    parts.pop_back();
    const auto opened = test::OpenParts(parts, Config(4, 32));
    test::CheckDecoded(*opened, "int4_g32", {32, 64}, linear.Values());
    CHECK(DTypeName(opened->source->tensors()[0].encoding.integer.scale_dtype) == dtype);
  }
}

// Nibble i of word c holds output 8c + kOrder[i].
constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

std::vector<uint32_t> AwqWords(const std::vector<int>& values) {
  std::vector<uint32_t> words(values.size() / 8, 0);
  for (size_t w = 0; w < words.size(); ++w) {
    for (size_t i = 0; i < 8; ++i) {
      words[w] |= static_cast<uint32_t>(values[w * 8 + static_cast<size_t>(kOrder[i])]) << (4 * i);
    }
  }
  return words;
}

std::vector<FileTensor> AwqParts(const Linear& linear) {
  const auto codes = AwqWords(test::Transposed(linear.codes, static_cast<size_t>(linear.n)));
  std::vector<FileTensor> parts = GptqParts(linear, 0);
  parts.pop_back();
  parts[0] = {"m.q.qweight", "I32", {linear.k, linear.n / 8}, test::BytesOf(codes)};
  parts[1] = {
      "m.q.qzeros", "I32", {linear.groups, linear.n / 8}, test::BytesOf(AwqWords(linear.zeros))};
  return parts;
}

std::string AwqConfig(int64_t group, const std::string& more = "") {
  return test::QuantizationText(fmt::format(
      R"("quant_method": "awq", "bits": 4, "group_size": {}, "version": "gemm"{})", group, more));
}

TEST_CASE("AWQ, symmetric or not, with a config and without") {
  CHECK(AwqWords({0, 1, 2, 3, 4, 5, 6, 7}) == std::vector<uint32_t>{0x75316420u});
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {32, 96}) {
      const Linear linear = MakeLinear(4, 40, 96, 96 / group, symmetric, false, 11);
      const std::string name =
          fmt::format("int4_{}{}", group == 96 ? "channel" : "g32", symmetric ? "" : "_asym");
      for (const std::string& config : {AwqConfig(group), std::string()}) {
        test::CheckDecoded(*test::OpenParts(AwqParts(linear), config), name, {40, 96},
                           linear.Values());
      }
    }
  }
}

TEST_CASE("AutoRound names the layout that it wrote") {
  const Linear linear = MakeLinear(4, 32, 64, 2, false, false, 13);
  const auto config = [](const char* format) {
    return test::QuantizationText(fmt::format(
        R"("quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": "{}")",
        format));
  };
  test::CheckDecoded(*test::OpenParts(GptqParts(linear, 1), config("auto_round:auto_gptq")),
                     "int4_g32_asym", {32, 64}, linear.Values());
  test::CheckDecoded(*test::OpenParts(AwqParts(linear), config("auto_round:auto_awq")),
                     "int4_g32_asym", {32, 64}, linear.Values());
}

TEST_CASE("GPTQ and AWQ parts that contradict each other or the config are refused") {
  const Linear linear = MakeLinear(4, 32, 64, 2, false, true, 17);
  const std::vector<FileTensor> parts = GptqParts(linear, 1);
  const std::vector<FileTensor> awq = AwqParts(MakeLinear(4, 32, 64, 2, false, false, 17));
  const std::string config = Config(4, 32);
  const auto g_idx = [&](size_t at, int32_t group) {
    std::vector<int32_t> groups = linear.g_idx;
    groups[at] = group;
    return test::Changed(parts, ".g_idx", [&](FileTensor& t) { t.bytes = test::BytesOf(groups); });
  };
  std::vector<FileTensor> twice = parts;
  twice.push_back({"m.q.weight", "F16", {1}, "12"});
  constexpr auto kInvalid = ErrorCode::kInvalidTensor;
  test::CheckRefused({
      {"no zeros", test::Without(parts, ".qzeros"), config, ErrorCode::kTensorMissing,
       "m.q.qzeros"},
      {"no scales", test::Without(parts, ".scales"), config, ErrorCode::kTensorMissing,
       "m.q.scales"},
      {"both forms", twice, config, ErrorCode::kDuplicateKey, "m.q.weight"},
      {"group too high", g_idx(3, 2), config, kInvalid, "m.q.g_idx"},
      {"group below 0", g_idx(63, -1), config, kInvalid, "m.q.g_idx"},
      {"g_idx too short",
       test::Changed(parts, ".g_idx",
                     [](FileTensor& t) {
                       t.shape = {63};
                       t.bytes.resize(63 * 4);
                     }),
       config, kInvalid, "m.q.g_idx"},
      {"g_idx of floats", test::Changed(parts, ".g_idx", [](FileTensor& t) { t.dtype = "F32"; }),
       config, kInvalid, "m.q.g_idx"},
      {"codes transposed", test::Reshaped(parts, ".qweight", {32, 8}), config, kInvalid,
       "m.q.qweight"},
      {"codes in a row", test::Reshaped(parts, ".qweight", {256}), config, kInvalid, "m.q.qweight"},
      {"codes of floats", test::Changed(parts, ".qweight", [](FileTensor& t) { t.dtype = "F32"; }),
       config, kInvalid, "m.q.qweight"},
      {"scales transposed", test::Reshaped(parts, ".scales", {32, 2}), config, kInvalid,
       "m.q.qzeros"},
      {"scales of integers",
       test::Changed(parts, ".scales", [](FileTensor& t) { t.dtype = "I16"; }), config, kInvalid,
       "m.q.scales"},
      {"zeros transposed", test::Reshaped(parts, ".qzeros", {4, 2}), config, kInvalid,
       "m.q.qzeros"},
      {"zeros of no width", test::Reshaped(parts, ".qzeros", {2, 1, 4}), config, kInvalid,
       "m.q.qzeros"},
      {"config of 8 bits", parts, Config(8, 32), kInvalid, "m.q.qzeros"},
      {"config of groups of 16", parts, Config(4, 16), kInvalid, "m.q.scales"},
      {"config of whole rows", parts, Config(4, -1), kInvalid, "m.q.scales"},
      {"groups that leave a rest", parts, Config(4, 48), ErrorCode::kUnsupported, "m.q.scales"},
      {"marlin", parts, Config(4, 32, R"(, "checkpoint_format": "marlin")"),
       ErrorCode::kUnsupported, ""},
      {"bits as text", parts, test::QuantizationText(R"("quant_method": "gptq", "bits": "4")"),
       ErrorCode::kConfigInvalid, ""},
      {"awq as gptq", awq, config, kInvalid, "m.q.qweight"},
      {"gptq as awq", parts, AwqConfig(32), kInvalid, "m.q.qweight"},
      {"awq of 8 bits", awq,
       test::QuantizationText(R"("quant_method": "awq", "bits": 8, "group_size": 32)"),
       ErrorCode::kUnsupported, ""},
      {"awq gemv", awq,
       test::QuantizationText(R"("quant_method": "awq", "bits": 4, "version": "gemv")"),
       ErrorCode::kUnsupported, ""},
      {"awq outputs", test::Reshaped(awq, ".scales", {4, 16}), AwqConfig(32), kInvalid,
       "m.q.qzeros"},
      {"nothing is so", {{"m.q.weight", "F16", {1}, "12"}}, config, ErrorCode::kConfigInvalid, ""},
      {"unknown method", parts, test::QuantizationText(R"("quant_method": "exl3")"),
       ErrorCode::kUnsupported, ""},
      {"no method", parts, test::QuantizationText(R"("bits": 4)"), ErrorCode::kConfigMissing, ""},
  });
}

TEST_CASE("a single shard without some of the parts lists the others as they are") {
  std::vector<FileTensor> parts = GptqParts(MakeLinear(4, 32, 64, 2, false, false, 19), 1);
  // Another linear that is whole makes the layout known.
  for (FileTensor part : std::vector<FileTensor>(parts)) {
    part.name[2] = 'k';
    parts.push_back(part);
  }
  const auto opened = test::OpenParts(test::Without(parts, "q.qzeros"), "");
  REQUIRE(opened->source != nullptr);
  CHECK(opened->source->tensors().size() == 8);
  REQUIRE(opened->notes.size() == 1);
  CHECK(opened->notes[0].find("m.q.qzeros") != std::string::npos);
}

TEST_CASE("an unknown method is named") {
  const auto opened = test::OpenParts({{"w", "F16", {1}, "12"}},
                                      test::QuantizationText(R"("quant_method": "exl3")"));
  REQUIRE(opened->error.has_value());
  CHECK(opened->error->message.find("exl3") != std::string::npos);
  CHECK(opened->error->hint.find("gptq") != std::string::npos);
}

}  // namespace
}  // namespace pennyweight
