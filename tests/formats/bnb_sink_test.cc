#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "formats/readers.h"
#include "formats/sinks.h"
#include "lib/json.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

std::string Layer(const std::string& name) { return "model.layers.0." + name + ".weight"; }

Encoding Book(CodebookSpec::Book book, int64_t block = 64) {
  return Encoding::Codebook({.book = book, .block = block});
}

std::unique_ptr<TensorSink> MakeSink(const std::string& path, const Model& model) {
  return OpenSink(MakeBnbSink, path, model);
}

EncodedTensor RandomCodes(const Encoding& encoding, int64_t rows, int64_t cols) {
  std::mt19937 rng(std::random_device{}());
  EncodedTensor tile = EncodedTensor::Allocate(encoding, rows, cols);
  for (auto& c : tile.codes) c = static_cast<int8_t>(rng() % 16);
  for (auto& s : tile.scales) s = static_cast<uint8_t>(rng() % 127);
  for (size_t i = 0; i < 16; ++i) tile.levels[i] = static_cast<float>(i) / 15 - 0.5f;
  return tile;
}

// Rows [row, row + count) of a tile, which begin with a block.
EncodedTensor CodesOf(const EncodedTensor& tile, int64_t row, int64_t count) {
  const int64_t block = tile.encoding.codebook.block;
  const int64_t begin = row * tile.cols, end = begin + count * tile.cols;
  EncodedTensor part = tile;
  part.rows = count;
  part.codes.assign(tile.codes.begin() + begin, tile.codes.begin() + end);
  part.scales.assign(tile.scales.begin() + begin / block * 4,
                     tile.scales.begin() + (end + block - 1) / block * 4);
  return part;
}

TEST_CASE("both codebooks come back from the reader, with blocks that cross rows") {
  struct Case {
    CodebookSpec::Book book;
    int64_t rows, cols, step;
  };
  for (const Case& c :
       {Case{CodebookSpec::Book::kNf4, 97, 64, 32}, Case{CodebookSpec::Book::kFp4, 130, 37, 64},
        Case{CodebookSpec::Book::kNf4, 3, 5, 32}}) {
    CAPTURE(c.cols);
    TempFolder temp;
    const Model input = MakeInputFolder(temp);
    auto sink = MakeSink(temp / "out", input);
    const Encoding encoding = Book(c.book);
    const std::string q = Layer("self_attn.q_proj");
    REQUIRE(sink->Begin({{q, encoding, {c.rows, c.cols}}}).ok());
    const EncodedTensor whole = RandomCodes(encoding, c.rows, c.cols);
    for (int64_t row = 0; row < c.rows; row += c.step) {
      const Status status =
          sink->Write(0, row, CodesOf(whole, row, std::min(c.step, c.rows - row)));
      REQUIRE_MESSAGE(status.ok(), status.error().ToString());
    }
    const Status sealed = sink->Seal();
    REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
    REQUIRE(sink->Commit().ok());
    const auto model = OpenHuggingFace(temp / "out");
    REQUIRE(model.ok());
    EncodedTensor read;
    REQUIRE(model->source->ReadRows(0, 0, c.rows, &read).ok());
    CHECK(SameTile(read, whole));
    CHECK(read.levels == whole.levels);
    // The first code stands in the high half of the first byte.
    const auto raw = OpenStored(temp / "out");
    REQUIRE(raw.ok());
    EncodedTensor bytes;
    const auto codes = static_cast<size_t>(raw->source->Find(q));
    REQUIRE(raw->source->ReadRows(codes, 0, 1, &bytes).ok());
    CHECK(bytes.data[0] == (whole.codes[0] << 4 | whole.codes[1]));
    const auto config = Json::ParseFile(temp / "out/config.json");
    REQUIRE(config.ok());
    const Json& quantization = *config->Find("quantization_config");
    CHECK(quantization.Find("quant_method")->str() == "bitsandbytes");
    CHECK(quantization.Find("bnb_4bit_quant_type")->str() ==
          (c.book == CodebookSpec::Book::kNf4 ? "nf4" : "fp4"));
    CHECK(quantization.Find("llm_int8_skip_modules")->Dump() == "[\"lm_head\"]");
  }
}

TEST_CASE("codes outside four bits, and tiles that cut a block, are refused") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  auto sink = MakeSink(temp / "out", input);
  const Encoding encoding = Book(CodebookSpec::Book::kNf4);
  const std::string q = Layer("self_attn.q_proj");
  REQUIRE(sink->Begin({{q, encoding, {96, 5}}}).ok());
  for (const int8_t bad : {int8_t{16}, int8_t{-1}}) {
    EncodedTensor tile = RandomCodes(encoding, 64, 5);
    tile.codes[9] = bad;
    const Status status = sink->Write(0, 0, tile);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kInvalidTensor);
    CHECK(status.error().tensor == q);
  }
  // Row 32 is value 160, in the middle of a block.
  CHECK(sink->Write(0, 32, RandomCodes(encoding, 64, 5)).error().code == ErrorCode::kInvalidTensor);
  EncodedTensor few = RandomCodes(encoding, 64, 5);
  few.scales.pop_back();
  CHECK(!sink->Write(0, 0, few).ok());
  few = RandomCodes(encoding, 64, 5);
  few.levels.pop_back();
  CHECK(!sink->Write(0, 0, few).ok());
}

TEST_CASE("what the bnb layout cannot hold is refused with a remedy") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  const std::string q = Layer("self_attn.q_proj");
  const auto refusal = [&](const std::vector<OutputTensor>& tensors) {
    auto sink = MakeSink(temp / "out", input);
    const Status status = sink->Begin(tensors);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kUnsupported);
    return status.error().hint;
  };
  CHECK(!refusal({{q, Encoding::Integer({}), {64, 64}}}).empty());
  CHECK(!refusal({{q, Encoding::Codebook({.nested_block = 256}), {64, 64}}}).empty());
  CHECK(
      !refusal({{"model.embed_tokens.weight", Book(CodebookSpec::Book::kNf4), {64, 64}}}).empty());
  CHECK(!refusal({{q, Book(CodebookSpec::Book::kNf4), {64, 64}},
                  {Layer("mlp.up_proj"), Book(CodebookSpec::Book::kFp4), {64, 64}}})
             .empty());
  CHECK(!std::filesystem::exists(temp / "out"));
}

}  // namespace
}  // namespace pennyweight
