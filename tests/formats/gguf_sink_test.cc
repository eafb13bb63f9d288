#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include "formats/gguf_metadata.h"
#include "formats/gguf_rope.h"
#include "formats/readers.h"
#include "formats/sinks.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/gguf_test_model.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

std::vector<EncodedTensor> RandomContents(const std::vector<OutputTensor>& tensors) {
  std::vector<EncodedTensor> out;
  uint32_t seed = 11;
  for (const OutputTensor& tensor : tensors) {
    const TensorInfo info = InfoOf(tensor);
    out.push_back(RandomTile(tensor.encoding, info.rows(), info.cols(), seed++));
  }
  return out;
}

std::unique_ptr<TensorSink> MakeSink(const Model& model, const std::string& path,
                                     bool force = false) {
  SinkOptions options;
  options.path = path;
  options.force = force;
  options.model = &model;
  options.gguf_file_type = 15;
  options.provenance = {{"pennyweight.version", "1.2.3"}, {"recipe", "q4_k_m"}};
  auto sink = MakeGgufSink(options);
  REQUIRE_MESSAGE(sink.ok(), sink.error().ToString());
  return std::move(sink).value();
}

void RequireOk(const Status& status) {
  REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().ToString()));
}

void WriteModel(const Model& model, const std::string& path,
                const std::vector<OutputTensor>& tensors,
                const std::vector<EncodedTensor>& contents, int64_t tile_rows) {
  const auto sink = MakeSink(model, path);
  RequireOk(sink->Begin(tensors));
  for (size_t i = tensors.size(); i-- > 0;) WriteInTiles(sink.get(), i, contents[i], tile_rows);
  RequireOk(sink->Seal());
  CHECK_FALSE(PathExists(path));
  RequireOk(sink->Commit());
  CHECK(sink->TotalBytes() == ReadText(path).size());
}

std::vector<Encoding> WritableEncodings() {
  std::vector<Encoding> out;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF64, DType::kI8,
                            DType::kI16, DType::kI32, DType::kI64}) {
    out.push_back(Encoding::Plain(dtype));
  }
  for (int type = 0; type <= static_cast<int>(BlockType::kQ2_0); ++type) {
    const auto block = static_cast<BlockType>(type);
    if (block == BlockType::kQ8_1 || block == BlockType::kQ8_K) continue;
    out.push_back(Encoding::Block(block));
  }
  return out;
}

TEST_CASE("every writable encoding comes back equal through the reader") {
  for (const Encoding& encoding : WritableEncodings()) {
    CAPTURE(encoding.Name());
    const TempFolder temp;
    const auto tensors = TinyTensors(encoding);
    const auto contents = RandomContents(tensors);
    WriteModel(TinyLlama(), temp / "a.gguf", tensors, contents, 32);
    const auto model = OpenGguf(temp / "a.gguf");
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    REQUIRE_FALSE(model->config_error);
    REQUIRE(model->source->tensors().size() == tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      const int64_t at = model->source->Find(tensors[i].name);
      REQUIRE(at >= 0);
      const TensorInfo& info = model->source->tensors()[static_cast<size_t>(at)];
      CHECK(info.shape == tensors[i].shape);
      CHECK(info.encoding == tensors[i].encoding);
      EncodedTensor read;
      RequireOk(model->source->ReadRows(static_cast<size_t>(at), 0, info.rows(), &read));
      CHECK(SameTile(read, contents[i]));
    }
  }
}

TEST_CASE("the bytes of the file do not depend on the tiles") {
  const TempFolder temp;
  const auto tensors = TinyTensors(Encoding::Block(BlockType::kQ5_K));
  const auto contents = RandomContents(tensors);
  WriteModel(TinyLlama(), temp / "32.gguf", tensors, contents, 32);
  for (const int64_t rows : {64, 96, 256}) {
    WriteModel(TinyLlama(), temp / "other.gguf", tensors, contents, rows);
    CHECK(ReadText(temp / "32.gguf") == ReadText(temp / "other.gguf"));
    std::filesystem::remove(temp / "other.gguf");
  }
}

TEST_CASE("rows of q stand where llama.cpp looks for them") {
  const TempFolder temp;
  const auto tensors = TinyTensors(Encoding::Block(BlockType::kQ4_K));
  const auto contents = RandomContents(tensors);
  WriteModel(TinyLlama(), temp / "a.gguf", tensors, contents, 32);
  const auto file = GgufFile::Open(temp / "a.gguf");
  REQUIRE(file.ok());
  const std::string bytes = ReadText(temp / "a.gguf");
  const auto check = [&](const char* hf, const char* gguf, int64_t units, size_t unit_bytes) {
    size_t index = 0;
    while (tensors[index].name != hf) ++index;
    const GgufTensor* tensor = file->FindTensor(gguf);
    REQUIRE(tensor != nullptr);
    for (int64_t head = 0; head < units / 64; ++head) {
      for (int64_t i = 0; i < 32; ++i) {
        for (int64_t p = 0; p < 2; ++p) {
          const auto stored = static_cast<size_t>(head * 64 + 2 * i + p);
          const auto canonical = static_cast<size_t>(head * 64 + p * 32 + i);
          CHECK(std::memcmp(bytes.data() + tensor->offset + stored * unit_bytes,
                            contents[index].data.data() + canonical * unit_bytes, unit_bytes) == 0);
        }
      }
    }
  };
  check("model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight", 256, 144);
  check("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", 128, 144);
  check("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias", 256, 4);
}

TEST_CASE("tensors stand in the order of llama.cpp's converter") {
  const TempFolder temp;
  const auto tensors = TinyTensors(Encoding::Plain(DType::kF16));
  Model model = TinyLlama();
  model.config->rope_scaling.kind = RopeScaling::Kind::kLlama3;
  model.config->rope_scaling.factor = 8;
  WriteModel(model, temp / "a.gguf", tensors, RandomContents(tensors), 64);
  const auto file = GgufFile::Open(temp / "a.gguf");
  REQUIRE(file.ok());
  std::vector<std::string> names;
  for (const GgufTensor& tensor : file->tensors()) {
    names.push_back(tensor.name);
    CHECK(tensor.offset % 32 == 0);
  }
  REQUIRE(names.size() == tensors.size() + 1);
  CHECK(names[0] == "rope_freqs.weight");
  CHECK(names[1] == "token_embd.weight");
  CHECK(names[2] == "blk.0.attn_norm.weight");
  CHECK(names[3] == "blk.0.attn_q.weight");
  CHECK(names[13] == "blk.1.attn_norm.weight");
  CHECK(names[names.size() - 2] == "output_norm.weight");
  CHECK(names.back() == "output.weight");
  CHECK(file->notes().empty());
  const auto again = OpenGguf(temp / "a.gguf");
  REQUIRE(again.ok());
  REQUIRE(again->config);
  CHECK(again->config->rope_scaling.kind == RopeScaling::Kind::kLlama3);
  CHECK(again->config->rope_scaling.factor == 8);
  CHECK(again->source->Find("rope_freqs.weight") == -1);
}

TEST_CASE("metadata: what llama.cpp needs, and where the file comes from") {
  const TempFolder temp;
  const auto tensors = TinyTensors(Encoding::Block(BlockType::kQ8_0));
  WriteModel(TinyLlama(), temp / "a.gguf", tensors, RandomContents(tensors), 32);
  const auto file = GgufFile::Open(temp / "a.gguf");
  REQUIRE(file.ok());
  const auto integer = [&](const char* key) {
    const GgufEntry* entry = file->Find(key);
    REQUIRE_MESSAGE(entry != nullptr, key);
    CHECK(entry->type == GgufType::kU32);
    return file->AsInteger(*entry).value_or(-1);
  };
  CHECK(integer("general.file_type") == 15);
  CHECK(integer("general.quantization_version") == 2);
  CHECK(integer("llama.block_count") == 2);
  CHECK(integer("llama.attention.head_count_kv") == 2);
  CHECK(integer("llama.attention.key_length") == 64);
  CHECK(integer("llama.attention.value_length") == 64);
  CHECK(integer("llama.rope.dimension_count") == 64);
  CHECK(integer("llama.vocab_size") == 40);
  CHECK(file->AsString(*file->Find("general.architecture")) == "llama");
  CHECK(file->AsString(*file->Find("pennyweight.version")) == "1.2.3");
  CHECK(file->AsString(*file->Find("pennyweight.recipe")) == "q4_k_m");
  const auto vocabulary = ReadGgufVocabulary(*file);
  REQUIRE(vocabulary.ok());
  CHECK(vocabulary->tokens.size() == 40);  // as many as the embedding has rows
  CHECK(vocabulary->tokens[39].text == "[PAD39]");
  CHECK(vocabulary->chat_template == TinyLlama().vocabulary->chat_template);
}

TEST_CASE("encodings and tensors that GGUF does not hold are refused") {
  const TempFolder temp;
  const Model model = TinyLlama();
  IntegerSpec spec;
  spec.group_size = 32;
  struct Case {
    const char* what;
    OutputTensor tensor;
    ErrorCode code;
  };
  const Encoding f32 = Encoding::Plain(DType::kF32);
  const std::string q = "model.layers.0.self_attn.q_proj.";
  const std::vector<Case> cases = {
      {"integers", {q + "weight", Encoding::Integer(spec), {256, 256}}, ErrorCode::kUnsupported},
      {"fp8", {q + "weight", Encoding::Plain(DType::kF8E4M3), {256, 256}}, ErrorCode::kUnsupported},
      {"q8_k",
       {q + "weight", Encoding::Block(BlockType::kQ8_K), {256, 256}},
       ErrorCode::kUnsupported},
      {"unknown name", {"model.vision.weight", f32, {4, 4}}, ErrorCode::kUnsupported},
      {"no heads", {q + "weight", f32, {255, 256}}, ErrorCode::kConfigInvalid},
      {"rows of 100",
       {q + "weight", Encoding::Block(BlockType::kQ4_0), {256, 100}},
       ErrorCode::kInvalidTensor},
      {"empty", {"model.norm.weight", f32, {0}}, ErrorCode::kInvalidTensor},
      {"bias in blocks",
       {q + "bias", Encoding::Block(BlockType::kQ8_0), {256}},
       ErrorCode::kUnsupported},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    const Status status = MakeSink(model, temp / "a.gguf")->Begin({c.tensor});
    REQUIRE_FALSE(status.ok());
    CHECK_MESSAGE(status.error().code == c.code, status.error().ToString());
    CHECK(status.error().tensor == c.tensor.name);
  }
  CHECK(temp.Names().empty());
}

TEST_CASE("a table of rotation frequencies is left out") {
  const TempFolder temp;
  const Model model = TinyLlama();
  const auto sink = MakeSink(model, temp / "a.gguf");
  const Encoding f32 = Encoding::Plain(DType::kF32);
  const std::vector<OutputTensor> tensors = {
      {"model.layers.0.self_attn.rotary_emb.inv_freq", f32, {32}},
      {"model.norm.weight", f32, {256}}};
  RequireOk(sink->Begin(tensors));
  CHECK(sink->OutputName(0).empty());
  CHECK(sink->OutputBytes(0) == 0);
  CHECK(sink->OutputName(1) == "output_norm.weight");
  CHECK(sink->OutputBytes(1) == 1024);
  const auto contents = RandomContents(tensors);
  WriteInTiles(sink.get(), 0, contents[0], 32);
  WriteInTiles(sink.get(), 1, contents[1], 32);
  RequireOk(sink->Seal());
}

TEST_CASE("Seal finds rows that are missing, written twice, or changed on the disk") {
  const TempFolder temp;
  const Model model = TinyLlama();
  const auto tensors = TinyTensors(Encoding::Block(BlockType::kQ6_K));
  const auto contents = RandomContents(tensors);
  const auto begin = [&] {
    auto sink = MakeSink(model, temp / "a.gguf");
    RequireOk(sink->Begin(tensors));
    for (size_t i = 1; i < tensors.size(); ++i) WriteInTiles(sink.get(), i, contents[i], 32);
    return sink;
  };
  {
    const auto sink = begin();  // the head has no rows
    const Status sealed = sink->Seal();
    REQUIRE_FALSE(sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
    CHECK(sealed.error().tensor == "output.weight");
    CHECK(sink->Commit().error().code == ErrorCode::kVerifyFailed);
  }
  {
    const auto sink = begin();
    WriteInTiles(sink.get(), 0, contents[0], 32);
    RequireOk(sink->Write(6, 32, RowsOf(contents[6], 32, 32)));  // q again
    CHECK(sink->Seal().error().code == ErrorCode::kVerifyFailed);
  }
  {
    const auto sink = begin();
    WriteInTiles(sink.get(), 0, contents[0], 32);
    const auto names = temp.Names();
    REQUIRE(names.size() == 1);
    FlipBit(temp / names[0], 5000);  // in the head, the last tensor
    const Status sealed = sink->Seal();
    REQUIRE_FALSE(sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
    CHECK(sealed.error().tensor == "output.weight");
  }
  CHECK(temp.Names().empty());
  const auto sink = begin();
  CHECK(sink->Write(0, 8, RowsOf(contents[0], 0, 32)).error().code == ErrorCode::kInvalidTensor);
  CHECK(sink->Write(0, 0, contents[1]).error().code == ErrorCode::kInvalidTensor);
  CHECK(sink->Write(999, 0, contents[0]).error().code == ErrorCode::kUsage);
}

TEST_CASE("tiles may come from several threads") {
  const TempFolder temp;
  const Model model = TinyLlama();
  const auto tensors = TinyTensors(Encoding::Plain(DType::kBF16));
  const auto contents = RandomContents(tensors);
  const auto sink = MakeSink(model, temp / "a.gguf");
  RequireOk(sink->Begin(tensors));
  std::vector<std::thread> threads;
  std::vector<int> bad(4, 0);
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < tensors.size(); i += 4) {
        for (int64_t row = 0; row < contents[i].rows; row += 32) {
          const int64_t count = std::min<int64_t>(32, contents[i].rows - row);
          if (!sink->Write(i, row, RowsOf(contents[i], row, count)).ok()) ++bad[t];
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(bad == std::vector<int>(4, 0));
  RequireOk(sink->Seal());
  RequireOk(sink->Commit());
  WriteModel(model, temp / "b.gguf", tensors, contents, 32);
  CHECK(ReadText(temp / "a.gguf") == ReadText(temp / "b.gguf"));
}

TEST_CASE("what cannot become GGUF is refused before anything is written") {
  const TempFolder temp;
  const auto code = [&](const Model& model, const char* name = "a.gguf") {
    SinkOptions options;
    options.path = temp / name;
    options.model = &model;
    auto sink = MakeGgufSink(options);
    if (!sink.ok()) return sink.error().code;
    return (*sink)->Begin(TinyTensors(Encoding::Plain(DType::kF16))).error().code;
  };
  Model model = TinyLlama();
  model.family = nullptr;
  CHECK(code(model) == ErrorCode::kUnknownFamily);
  model.config_error = Error(ErrorCode::kConfigMissing, "no heads");
  CHECK(code(model) == ErrorCode::kConfigMissing);
  model = TinyLlama();
  model.vocabulary.reset();
  CHECK(code(model) == ErrorCode::kTokenizer);
  WriteText(temp / "there.gguf", "x");
  CHECK(code(TinyLlama(), "there.gguf") == ErrorCode::kOutputExists);
  CHECK(temp.Names() == std::vector<std::string>{"there.gguf"});
}

}  // namespace
}  // namespace pennyweight
