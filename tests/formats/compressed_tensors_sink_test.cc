#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "formats/readers.h"
#include "formats/sinks.h"
#include "lib/checked.h"
#include "lib/json.h"
#include "lib/nvfp4.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<TensorSink> MakeSink(const std::string& path, const Model& model) {
  return OpenSink(MakeCompressedTensorsSink, path, model);
}

IntegerSpec Spec(int bits, int64_t group, bool symmetric, DType scale = DType::kF16) {
  return {.bits = bits, .group_size = group, .symmetric = symmetric, .scale_dtype = scale};
}

std::string Layer(const std::string& name) { return "model.layers.0." + name + ".weight"; }

void Finish(TensorSink* sink) {
  const Status sealed = sink->Seal();
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  REQUIRE(sink->Commit().ok());
}

// A stored part, read as plain bytes.
EncodedTensor RawPart(const std::string& folder, const std::string& name) {
  const auto model = OpenSafetensors(folder + "/model.safetensors");
  REQUIRE(model.ok());
  const int64_t at = model->source->Find(name);
  REQUIRE_MESSAGE(at >= 0, name);
  const auto i = static_cast<size_t>(at);
  EncodedTensor out;
  REQUIRE(model->source->ReadRows(i, 0, model->source->tensors()[i].rows(), &out).ok());
  return out;
}

std::vector<uint32_t> Words(const EncodedTensor& part) {
  std::vector<uint32_t> words(part.data.size() / 4);
  std::memcpy(words.data(), part.data.data(), part.data.size());
  return words;
}

TEST_CASE("golden words") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const std::string q = Layer("self_attn.q_proj");
  const std::string k = Layer("self_attn.k_proj");
  const std::vector<OutputTensor> tensors = {{q, Encoding::Integer(Spec(4, 0, false)), {9, 11}},
                                             {k, Encoding::Integer(Spec(8, 0, true)), {1, 6}}};
  REQUIRE(sink->Begin(tensors).ok());
  EncodedTensor tile = EncodedTensor::Allocate(tensors[0].encoding, 9, 11);
  for (size_t r = 0; r < 9; ++r) {
    for (size_t c = 0; c < 11; ++c) tile.codes[r * 11 + c] = static_cast<int8_t>((r + c) % 16 - 8);
    tile.zeros[r] = static_cast<int8_t>(static_cast<int>(r) - 8);
  }
  REQUIRE(sink->Write(0, 0, tile).ok());
  EncodedTensor wide = EncodedTensor::Allocate(tensors[1].encoding, 1, 6);
  wide.codes = {-128, -127, -126, -125, 127, 0};
  REQUIRE(sink->Write(1, 0, wide).ok());
  Finish(sink.get());

  // -8..-1 is 0x76543210; a row's last word holds 3 values and zeros.
  const auto packed = Words(RawPart(temp / "out", q + "_packed"));
  REQUIRE(packed.size() == 18);
  CHECK(packed[0] == 0x76543210u);
  CHECK(packed[1] == 0x00000a98u);
  CHECK(packed[2] == 0x87654321u);
  CHECK(packed[3] == 0x00000ba9u);
  // Zero points -8..0 run down the column.
  const auto zeros = Words(RawPart(temp / "out", q + "_zero_point"));
  REQUIRE(zeros.size() == 2);
  CHECK(zeros[0] == 0x76543210u);
  CHECK(zeros[1] == 0x00000008u);
  const auto bytes = Words(RawPart(temp / "out", k + "_packed"));
  REQUIRE(bytes.size() == 2);
  CHECK(bytes[0] == 0x03020100u);
  CHECK(bytes[1] == 0x000080ffu);
  const EncodedTensor shape = RawPart(temp / "out", q + "_shape");
  int64_t dims[2];
  REQUIRE(shape.data.size() == sizeof(dims));
  std::memcpy(dims, shape.data.data(), sizeof(dims));
  CHECK(dims[0] == 9);
  CHECK(dims[1] == 11);
  const auto raw = OpenSafetensors(temp / "out/model.safetensors");
  REQUIRE(raw.ok());
  CHECK(raw->source->Find(k + "_zero_point") == -1);
}

TEST_CASE("every spec and row count comes back from the reader as it was handed over") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  struct Case {
    const char* module;
    IntegerSpec spec;
    int64_t rows;
    int64_t cols;
  };
  const std::vector<Case> cases = {
      {"self_attn.q_proj", Spec(4, 32, false), 97, 64},
      {"self_attn.k_proj", Spec(4, 32, false, DType::kBF16), 32, 64},
      {"self_attn.v_proj", Spec(4, 32, false), 33, 96},
      {"self_attn.o_proj", Spec(8, 0, false, DType::kF32), 65, 13},
      {"mlp.gate_proj", Spec(4, 0, true), 31, 43},
      {"mlp.up_proj", Spec(8, 16, true), 1, 64},
      {"mlp.down_proj", Spec(4, 4, false), 130, 172},
  };
  std::vector<OutputTensor> tensors = {
      {"model.embed_tokens.weight", Encoding::Plain(DType::kBF16), {40, 64}}};
  for (const Case& c : cases) {
    tensors.push_back({Layer(c.module), Encoding::Integer(c.spec), {c.rows, c.cols}});
  }
  auto sink = MakeSink(temp / "out", input);
  REQUIRE(sink->Begin(tensors).ok());
  std::vector<EncodedTensor> wholes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    wholes.push_back(RandomTile(tensors[i].encoding, tensors[i].shape[0], tensors[i].shape[1],
                                static_cast<uint32_t>(i)));
    WriteInTiles(sink.get(), i, wholes[i], i % 2 == 0 ? 32 : 64);
  }
  // q_proj: 97 rows of 8 words, 2 scales; zeros 13 words (97 * 4 bits) by 2; the shape.
  CHECK(sink->OutputBytes(1) == 97 * 8 * 4 + 97 * 2 * 2 + 13 * 2 * 4 + 16);
  CHECK(sink->OutputName(1) == Layer("self_attn.q_proj") + "_packed");
  CHECK(sink->OutputName(0) == "model.embed_tokens.weight");
  Finish(sink.get());
  const auto model = OpenHuggingFace(temp / "out");
  REQUIRE(model.ok());
  REQUIRE(model->source->tensors().size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(tensors[i].name);
    const int64_t at = model->source->Find(tensors[i].name);
    REQUIRE(at >= 0);
    EncodedTensor read;
    REQUIRE(model->source->ReadRows(static_cast<size_t>(at), 0, wholes[i].rows, &read).ok());
    CHECK(SameTile(read, wholes[i]));
  }
  // All parts lie aligned to their elements, although row counts are odd.
  const auto raw = OpenSafetensors(temp / "out/model.safetensors");
  REQUIRE(raw.ok());
  for (const TensorInfo& info : raw->source->tensors()) {
    CHECK(info.offset % static_cast<uint64_t>(DTypeBits(info.encoding.dtype) / 8) == 0);
  }
}

TEST_CASE("3 bits are a dense stream over the words") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const std::string q = Layer("self_attn.q_proj");
  const Encoding encoding = Encoding::Integer(Spec(3, 0, true));
  REQUIRE(sink->Begin({{q, encoding, {33, 32}}}).ok());
  EncodedTensor whole = EncodedTensor::Allocate(encoding, 33, 32);
  for (size_t i = 0; i < whole.codes.size(); ++i) whole.codes[i] = static_cast<int8_t>(i % 8) - 4;
  WriteInTiles(sink.get(), 0, whole, 32);
  Finish(sink.get());
  // 0 1 2 3 4 5 6 7 and so on: the words that compressed-tensors' own packer gives.
  const auto packed = Words(RawPart(temp / "out", q + "_packed"));
  REQUIRE(packed.size() == 33 * 3);
  const uint32_t golden[] = {0x88FAC688u, 0xC688FAC6u, 0xFAC688FAu};
  for (size_t i = 0; i < 3; ++i) {
    CHECK(packed[i] == golden[i]);
    CHECK(packed[96 + i] == golden[i]);
  }
}

TEST_CASE("integers of every number of bits come back from the reader") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      if (!symmetric && 32 % bits != 0) continue;  // refused
      CAPTURE(bits);
      CAPTURE(symmetric);
      TempFolder temp;
      const Model input = MakeInputFolder(temp);
      auto sink = MakeSink(temp / "out", input);
      const std::vector<OutputTensor> tensors = {
          {Layer("mlp.up_proj"), Encoding::Integer(Spec(bits, 16, symmetric)), {97, 80}},
          {Layer("mlp.down_proj"), Encoding::Integer(Spec(bits, 0, symmetric)), {45, 43}}};
      REQUIRE(sink->Begin(tensors).ok());
      std::vector<EncodedTensor> wholes;
      for (size_t i = 0; i < 2; ++i) {
        wholes.push_back(RandomTile(tensors[i].encoding, tensors[i].shape[0], tensors[i].shape[1],
                                    std::random_device()()));
        WriteInTiles(sink.get(), i, wholes[i], 32);
      }
      Finish(sink.get());
      const auto model = OpenHuggingFace(temp / "out");
      REQUIRE(model.ok());
      for (size_t i = 0; i < 2; ++i) {
        const auto at = static_cast<size_t>(model->source->Find(tensors[i].name));
        EncodedTensor read;
        REQUIRE(model->source->ReadRows(at, 0, wholes[i].rows, &read).ok());
        CHECK(SameTile(read, wholes[i]));
      }
    }
  }
}

// A tile of 8-bit floats whose rows share scales in blocks of `block_rows` (0: all).
EncodedTensor RandomScaledTile(const Encoding& encoding, int64_t rows, int64_t cols) {
  EncodedTensor tile = RandomTile(encoding, rows, cols, std::random_device()());
  const int64_t block = encoding.scaled.block_rows == 0 ? rows : encoding.scaled.block_rows;
  const auto bytes = static_cast<std::ptrdiff_t>(tile.scales.size()) / rows;
  for (int64_t r = 0; r < rows; ++r) {
    if (r % block != 0)
      std::copy_n(tile.scales.begin() + (r - 1) * bytes, bytes, tile.scales.begin() + r * bytes);
  }
  return tile;
}

Encoding Fp8(int64_t block_rows, int64_t block_cols, DType scale) {
  return Encoding::Scaled(
      {.block_rows = block_rows, .block_cols = block_cols, .scale_dtype = scale});
}

TEST_CASE("8-bit floats, NVFP4 and MXFP4 come back from the reader, each in its group") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const Encoding nvfp4 = Nvfp4Encoding();
  const std::vector<OutputTensor> tensors = {
      {Layer("self_attn.q_proj"), Fp8(0, 0, DType::kF32), {97, 40}},
      {Layer("self_attn.k_proj"), Fp8(1, 0, DType::kBF16), {97, 41}},
      {Layer("self_attn.v_proj"), Fp8(128, 128, DType::kF32), {300, 256}},
      {Layer("self_attn.o_proj"), nvfp4, {97, 48}},
      {Layer("mlp.gate_proj"), Encoding::Block(BlockType::kMXFP4), {97, 96}},
      {Layer("mlp.up_proj"), Encoding::Integer(Spec(4, 32, true)), {33, 64}},
      {Layer("mlp.down_proj"), Encoding::Integer(Spec(4, 32, true)), {33, 64}}};
  REQUIRE(sink->Begin(tensors).ok());
  std::vector<EncodedTensor> wholes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Shape& shape = tensors[i].shape;
    const bool scaled = tensors[i].encoding.kind == Encoding::Kind::kScaled;
    wholes.push_back(
        scaled ? RandomScaledTile(tensors[i].encoding, shape[0], shape[1])
               : RandomTile(tensors[i].encoding, shape[0], shape[1], std::random_device()()));
    wholes[i].divisor = tensors[i].encoding == nvfp4 ? 1234.5f : 1;
    WriteInTiles(sink.get(), i, wholes[i], 32);
  }
  CHECK(sink->OutputBytes(0) == 97 * 40 + 4);
  CHECK(sink->OutputBytes(1) == 97 * 41 + 97 * 2);
  CHECK(sink->OutputBytes(2) == 300 * 256 + 3 * 2 * 4);
  CHECK(sink->OutputBytes(3) == 97 * 24 + 97 * 3 + 4);
  CHECK(sink->OutputBytes(4) == 97 * 48 + 97 * 3);
  Finish(sink.get());
  const auto model = OpenHuggingFace(temp / "out");
  REQUIRE(model.ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(tensors[i].name);
    const auto at = static_cast<size_t>(model->source->Find(tensors[i].name));
    EncodedTensor read;
    REQUIRE(model->source->ReadRows(at, 0, wholes[i].rows, &read).ok());
    CHECK(SameTile(read, wholes[i]));
    CHECK(read.divisor == wholes[i].divisor);
  }
  const auto config = Json::ParseFile(temp / "out/config.json");
  REQUIRE(config.ok());
  const Json& q = *config->Find("quantization_config");
  CHECK(q.Find("format")->str() == "mixed-precision");
  const Json& groups = *q.Find("config_groups");
  REQUIRE(groups.members().size() == 6);
  CHECK(groups.Find("group_5")->Find("format")->str() == "pack-quantized");
  CHECK(groups.Find("group_5")->Find("targets")->Dump() == "[\"Linear\"]");
  CHECK(groups.Find("group_2")->Dump() ==
        "{\"targets\":[\"model.layers.0.self_attn.v_proj\"],\"weights\":{\"num_bits\":8,"
        "\"type\":\"float\",\"symmetric\":true,\"strategy\":\"block\",\"group_size\":null,"
        "\"block_structure\":[128,128],\"dynamic\":false},\"input_activations\":null,"
        "\"output_activations\":null,\"format\":\"float-quantized\"}");
}

TEST_CASE("rows of one block with different scales, and a divisor of zero, are refused") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const Encoding nvfp4 = Nvfp4Encoding();
  const std::vector<OutputTensor> tensors = {
      {Layer("self_attn.q_proj"), Fp8(0, 0, DType::kF32), {64, 40}},
      {Layer("self_attn.k_proj"), Fp8(128, 128, DType::kF32), {200, 128}},
      {Layer("self_attn.v_proj"), nvfp4, {8, 32}}};
  REQUIRE(sink->Begin(tensors).ok());
  for (size_t i = 0; i < 2; ++i) {
    EncodedTensor tile = RandomScaledTile(tensors[i].encoding, 64, tensors[i].shape[1]);
    tile.scales[tile.scales.size() - 1] ^= 1;
    const Status status = sink->Write(i, 0, tile);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kInvalidTensor);
    CHECK(status.error().tensor == tensors[i].name);
  }
  for (const float divisor : {0.0f, std::numeric_limits<float>::infinity()}) {
    EncodedTensor tile = RandomScaledTile(nvfp4, 8, 32);
    tile.divisor = divisor;
    CHECK(!sink->Write(2, 0, tile).ok());
  }
}

TEST_CASE("quantization_config: groups by spec, the most common by class, the rest by name") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp, ", \"quantization_config\": {\"stale\": 1}");
  const std::vector<OutputTensor> tensors = {
      {"model.embed_tokens.weight", Encoding::Plain(DType::kF16), {40, 64}},
      {Layer("self_attn.q_proj"), Encoding::Integer(Spec(8, 0, true)), {64, 64}},
      {Layer("self_attn.k_proj"), Encoding::Integer(Spec(4, 32, false)), {64, 64}},
      {Layer("self_attn.v_proj"), Encoding::Integer(Spec(4, 32, false)), {64, 64}},
      {Layer("mlp.down_proj"), Encoding::Plain(DType::kF16), {64, 96}},
      {Layer("input_layernorm"), Encoding::Plain(DType::kF16), {64}}};
  auto sink = MakeSink(temp / "out", input);
  REQUIRE(sink->Begin(tensors).ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    TensorInfo info;
    info.shape = tensors[i].shape;
    WriteInTiles(sink.get(), i, RandomTile(tensors[i].encoding, info.rows(), info.cols(), 7), 32);
  }
  Finish(sink.get());
  const auto config = Json::ParseFile(temp / "out/config.json");
  REQUIRE(config.ok());
  CHECK(config->members().back().first == "quantization_config");
  CHECK(config->Find("torch_dtype")->str() == "bfloat16");
  const Json& q = *config->Find("quantization_config");
  CHECK(q.Find("stale") == nullptr);
  CHECK(q.Find("quant_method")->str() == "compressed-tensors");
  CHECK(q.Find("format")->str() == "pack-quantized");
  CHECK(q.Find("quantization_status")->str() == "compressed");
  // No lm_head is in the file: the model ties it, clients still make the module.
  CHECK(q.Find("ignore")->Dump() == "[\"model.layers.0.mlp.down_proj\",\"lm_head\"]");
  CHECK(q.Find("config_groups")->Find("group_1")->Dump() ==
        "{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"type\":\"int\","
        "\"symmetric\":false,\"strategy\":\"group\",\"group_size\":32,\"dynamic\":false},"
        "\"input_activations\":null,\"output_activations\":null}");
  CHECK(q.Find("config_groups")->Find("group_0")->Dump() ==
        "{\"targets\":[\"model.layers.0.self_attn.q_proj\"],\"weights\":{\"num_bits\":8,"
        "\"type\":\"int\",\"symmetric\":true,\"strategy\":\"channel\",\"group_size\":null,"
        "\"dynamic\":false},\"input_activations\":null,\"output_activations\":null}");
  CHECK(q.Find("config_groups")->members().size() == 2);
}

TEST_CASE("nothing quantized: no quantization_config") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  REQUIRE(sink->Begin({{"lm_head.weight", Encoding::Plain(DType::kF16), {40, 64}}}).ok());
  WriteInTiles(sink.get(), 0, RandomTile(Encoding::Plain(DType::kF16), 40, 64, 1), 64);
  Finish(sink.get());
  const auto config = Json::ParseFile(temp / "out/config.json");
  REQUIRE(config.ok());
  CHECK(config->Find("quantization_config") == nullptr);
}

TEST_CASE("a flipped bit in any part, and a tile never written, are caught; nothing stays") {
  const std::vector<OutputTensor> tensors = {
      {Layer("self_attn.q_proj"), Encoding::Integer(Spec(4, 32, false)), {70, 64}}};
  const EncodedTensor whole = RandomTile(tensors[0].encoding, 70, 64, 9);
  // File order: shape 16, packed 70 * 32, zero points 9 * 2 * 4, scales 70 * 2 * 2 bytes.
  const std::vector<int64_t> from_end = {1, 280 + 30, 280 + 72 + 1000, 280 + 72 + 2240 + 3};
  for (size_t i = 0; i <= from_end.size(); ++i) {
    TempFolder temp;
    TempFolder input_folder;
    const Model input = MakeInputFolder(input_folder);
    auto sink = MakeSink(temp / "out", input);
    REQUIRE(sink->Begin(tensors).ok());
    if (i < from_end.size()) {
      WriteInTiles(sink.get(), 0, whole, 32);
      const auto files = FilesUnder(temp.path());
      REQUIRE(files.size() == 1);
      FlipBit(files[0], from_end[i]);
    } else {
      REQUIRE(sink->Write(0, 0, RowsOf(whole, 0, 64)).ok());
    }
    const Status sealed = sink->Seal();
    REQUIRE(!sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
    sink.reset();
    CHECK(temp.Names().empty());
  }
}

TEST_CASE("destroyed after Seal but before Commit: nothing stays") {
  TempFolder temp;
  TempFolder input_folder;
  const Model input = MakeInputFolder(input_folder);
  auto sink = MakeSink(temp / "out", input);
  const Encoding encoding = Encoding::Integer(Spec(4, 32, true));
  REQUIRE(sink->Begin({{Layer("self_attn.q_proj"), encoding, {3, 64}}}).ok());
  WriteInTiles(sink.get(), 0, RandomTile(encoding, 3, 64, 2), 32);
  REQUIRE(sink->Seal().ok());
  CHECK(!fs::exists(temp / "out"));
  sink.reset();
  CHECK(temp.Names().empty());
}

TEST_CASE("what the layout cannot hold is refused with a remedy") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const auto refusal = [&](const std::string& name, const Encoding& encoding, Shape shape) {
    const Status status = sink->Begin({{name, encoding, std::move(shape)}});
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kUnsupported);
    CHECK(status.error().tensor == name);
    return status.error().hint;
  };
  const std::string q = Layer("self_attn.q_proj");
  const Encoding int4 = Encoding::Integer(Spec(4, 32, true));
  CHECK(refusal(q, Encoding::Block(BlockType::kQ4_K), {4, 256}) == "--to gguf");
  CHECK(!refusal("model.embed_tokens.weight", int4, {40, 64}).empty());
  CHECK(!refusal(Layer("input_layernorm"), int4, {64}).empty());
  CHECK(!refusal("model.layers.0.mlp.experts", int4, {2, 64, 64}).empty());
  CHECK(!refusal(q, Encoding::Integer(Spec(9, 32, true)), {64, 64}).empty());
  CHECK(!refusal(q, Encoding::Integer(Spec(1, 32, true)), {64, 64}).empty());
  for (const int bits : {3, 5, 6, 7}) {
    const std::string hint = refusal(q, Encoding::Integer(Spec(bits, 32, false)), {64, 64});
    CHECK(hint.find("--symmetric") == 0);
  }
  CHECK(refusal(q, Encoding::Codebook({}), {64, 64}) == "--to bnb");
  CHECK(refusal(q, Encoding::Scaled({.element = DType::kF8E5M2}), {64, 64}).find("--to fp8") == 0);
  CHECK(!refusal(q, Encoding::Block(BlockType::kMXFP4), {64, 48}).empty());
  CHECK(!refusal(q, Encoding::Scaled({.element = DType::kI8, .absmax = true}), {64, 64}).empty());
  CHECK(!refusal(q, int4, {64, 48}).empty());
  CHECK(!refusal(q, Encoding::Integer(Spec(4, 32, true, DType::kI32)), {64, 64}).empty());
}

TEST_CASE("a code outside its bits is refused rather than spilled into its neighbour") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const Encoding encoding = Encoding::Integer(Spec(4, 0, false));
  REQUIRE(sink->Begin({{Layer("self_attn.q_proj"), encoding, {3, 8}}}).ok());
  for (const bool in_zeros : {false, true}) {
    for (const int8_t bad : {int8_t{8}, int8_t{-9}}) {
      EncodedTensor tile = RandomTile(encoding, 3, 8, 4);
      (in_zeros ? tile.zeros : tile.codes)[1] = bad;
      const Status status = sink->Write(0, 0, tile);
      REQUIRE(!status.ok());
      CHECK(status.error().code == ErrorCode::kInvalidTensor);
    }
  }
}

}  // namespace
}  // namespace pennyweight
