#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "formats/readers.h"
#include "formats/sinks.h"
#include "lib/json.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

std::string Layer(const std::string& name) { return "model.layers.0." + name + ".weight"; }

Encoding Fp8(DType element, int64_t rows, int64_t cols, DType scale = DType::kF32) {
  return Encoding::Scaled(
      {.element = element, .block_rows = rows, .block_cols = cols, .scale_dtype = scale});
}

std::unique_ptr<TensorSink> MakeSink(const std::string& path, const Model& model) {
  return OpenSink(MakeFp8Sink, path, model);
}

// Rows of one block share their scales.
EncodedTensor RandomBlocks(const Encoding& encoding, int64_t rows, int64_t cols) {
  EncodedTensor tile = RandomTile(encoding, rows, cols, std::random_device()());
  const int64_t block = encoding.scaled.block_rows == 0 ? rows : encoding.scaled.block_rows;
  const auto bytes = static_cast<std::ptrdiff_t>(tile.scales.size()) / rows;
  for (int64_t r = 0; r < rows; ++r) {
    if (r % block == 0) continue;
    std::copy_n(tile.scales.begin() + (r - 1) * bytes, bytes, tile.scales.begin() + r * bytes);
  }
  return tile;
}

TEST_CASE(
    "blocks with rests in both directions, and one scale for all, come back from the reader") {
  for (const DType element : {DType::kF8E4M3, DType::kF8E5M2}) {
    for (const int64_t block : {0, 128, 48}) {
      CAPTURE(block);
      TempFolder temp;
      const Model input = MakeInputFolder(temp);
      auto sink = MakeSink(temp / "out", input);
      const Encoding encoding = Fp8(element, block, block);
      const std::vector<OutputTensor> tensors = {
          {"model.embed_tokens.weight", Encoding::Plain(DType::kBF16), {40, 64}},
          {Layer("self_attn.q_proj"), encoding, {300, 200}},
          {Layer("mlp.up_proj"), encoding, {128, 131}}};
      REQUIRE(sink->Begin(tensors).ok());
      std::vector<EncodedTensor> wholes;
      for (size_t i = 0; i < tensors.size(); ++i) {
        const Shape& shape = tensors[i].shape;
        wholes.push_back(i == 0 ? RandomTile(tensors[0].encoding, 40, 64, 1)
                                : RandomBlocks(encoding, shape[0], shape[1]));
        WriteInTiles(sink.get(), i, wholes[i], i == 1 ? 32 : 64);
      }
      if (block == 128) CHECK(sink->OutputBytes(1) == 300 * 200 + 3 * 2 * 4);
      if (block == 0) CHECK(sink->OutputBytes(1) == 300 * 200 + 4);
      const Status sealed = sink->Seal();
      REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
      REQUIRE(sink->Commit().ok());
      const auto model = OpenHuggingFace(temp / "out");
      REQUIRE(model.ok());
      for (size_t i = 0; i < tensors.size(); ++i) {
        const auto at = static_cast<size_t>(model->source->Find(tensors[i].name));
        EncodedTensor read;
        REQUIRE(model->source->ReadRows(at, 0, wholes[i].rows, &read).ok());
        CHECK(SameTile(read, wholes[i]));
      }
      const auto config = Json::ParseFile(temp / "out/config.json");
      REQUIRE(config.ok());
      const Json& q = *config->Find("quantization_config");
      CHECK(q.Find("quant_method")->str() == "fp8");
      CHECK(q.Find("fmt")->str() == (element == DType::kF8E4M3 ? "e4m3" : "e5m2"));
      CHECK(q.Find("weight_block_size")->Dump() == (block == 0    ? "null"
                                                    : block == 48 ? "[48,48]"
                                                                  : "[128,128]"));
      CHECK(q.Find("modules_to_not_convert")->Dump() == "[\"lm_head\"]");
    }
  }
}

TEST_CASE("what the fp8 layout cannot hold is refused with a remedy") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  const std::string q = Layer("self_attn.q_proj");
  const auto refusal = [&](const std::vector<OutputTensor>& tensors) {
    auto sink = MakeSink(temp / "out", input);
    const Status status = sink->Begin(tensors);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kUnsupported);
    CHECK(!status.error().tensor.empty());
    return status.error().hint;
  };
  const Encoding blocks = Fp8(DType::kF8E4M3, 128, 128);
  CHECK(refusal({{q, Fp8(DType::kF8E4M3, 1, 0), {64, 64}}}).find("compressed-tensors") !=
        std::string::npos);
  CHECK(!refusal({{q, Fp8(DType::kF8E4M3, 128, 128, DType::kBF16), {64, 64}}}).empty());
  CHECK(!refusal({{q, Encoding::Integer({}), {64, 64}}}).empty());
  CHECK(!refusal({{q, Encoding::Block(BlockType::kQ8_0), {64, 64}}}).empty());
  CHECK(!refusal({{"model.embed_tokens.weight", blocks, {64, 64}}}).empty());
  CHECK(refusal(
            {{q, blocks, {64, 64}}, {Layer("mlp.up_proj"), Fp8(DType::kF8E4M3, 0, 0), {64, 64}}}) ==
        "--to compressed-tensors");
  CHECK(!std::filesystem::exists(temp / "out"));
}

}  // namespace
}  // namespace pennyweight
