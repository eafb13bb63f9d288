#include <doctest/doctest.h>

#include <thread>

#include "formats/hf_folder.h"
#include "formats/readers.h"
#include "formats/sinks.h"
#include "lib/json.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<TensorSink> MakeSink(const std::string& path, const Model* model = nullptr) {
  SinkOptions options;
  options.path = path;
  options.model = model;
  options.provenance = {{"pennyweight.version", "0.0.test"}};
  auto sink = MakeSafetensorsSink(options);
  REQUIRE(sink.ok());
  return std::move(*sink);
}

// Odd rows, a vector, a scalar, an empty tensor, and dtypes of all widths.
std::vector<OutputTensor> SomeTensors() {
  return {{"model.embed_tokens.weight", Encoding::Plain(DType::kBF16), {40, 64}},
          {"odd", Encoding::Plain(DType::kU8), {67, 3}},
          {"model.norm.weight", Encoding::Plain(DType::kF32), {64}},
          {"scalar", Encoding::Plain(DType::kI64), {}},
          {"empty", Encoding::Plain(DType::kF16), {0, 5}},
          {"cube", Encoding::Plain(DType::kF16), {3, 11, 5}}};
}

EncodedTensor WholeOf(const OutputTensor& tensor, uint32_t seed) {
  TensorInfo info;
  info.shape = tensor.shape;
  return RandomTile(tensor.encoding, info.rows(), info.cols(), seed);
}

void CheckContents(const TensorSource& source, const std::vector<OutputTensor>& tensors) {
  REQUIRE(source.tensors().size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t at = source.Find(tensors[i].name);
    REQUIRE(at >= 0);
    const TensorInfo& info = source.tensors()[static_cast<size_t>(at)];
    CHECK(info.shape == tensors[i].shape);
    // Aligned to its own elements.
    CHECK(info.offset % static_cast<uint64_t>(DTypeBits(info.encoding.dtype) / 8) == 0);
    EncodedTensor read;
    REQUIRE(source.ReadRows(static_cast<size_t>(at), 0, info.rows(), &read).ok());
    CHECK(SameTile(read, WholeOf(tensors[i], static_cast<uint32_t>(i))));
  }
}

TEST_CASE("one file: written in any order from threads, read back the same") {
  TempFolder temp;
  const auto tensors = SomeTensors();
  auto sink = MakeSink(temp / "out.safetensors");
  REQUIRE(sink->Begin(tensors).ok());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < tensors.size(); ++i) {
    threads.emplace_back(
        [&, i] { WriteInTiles(sink.get(), i, WholeOf(tensors[i], static_cast<uint32_t>(i)), 32); });
  }
  for (auto& thread : threads) thread.join();
  CHECK(sink->OutputName(1) == "odd");
  CHECK(sink->OutputBytes(1) == 67 * 3);
  const Status sealed = sink->Seal();
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  CHECK(!fs::exists(temp / "out.safetensors"));
  REQUIRE(sink->Commit().ok());
  CHECK(temp.Names() == std::vector<std::string>{"out.safetensors"});
  CHECK(sink->TotalBytes() == fs::file_size(temp / "out.safetensors"));
  const auto model = OpenSafetensors(temp / "out.safetensors");
  REQUIRE(model.ok());
  CheckContents(*model->source, tensors);
  CHECK(model->source->metadata().at("pennyweight.version") == "0.0.test");
  CHECK(model->source->metadata().at("format") == "pt");
}

TEST_CASE("a folder: config kept but for the dtype, companions copied, code left out") {
  TempFolder temp;
  const Model input =
      MakeInputFolder(temp, ", \"quantization_config\": {\"quant_method\": \"fp8\"}");
  std::vector<OutputTensor> tensors = {
      {"model.embed_tokens.weight", Encoding::Plain(DType::kF16), {40, 64}},
      {"model.norm.weight", Encoding::Plain(DType::kF32), {64}}};
  auto sink = MakeSink(temp / "out", &input);
  REQUIRE(sink->Begin(tensors).ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    WriteInTiles(sink.get(), i, WholeOf(tensors[i], static_cast<uint32_t>(i)), 64);
  }
  const Status sealed = sink->Seal();
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  REQUIRE(sink->Commit().ok());
  std::vector<std::string> names;
  uint64_t bytes = 0;
  for (const auto& path : FilesUnder(temp / "out")) {
    names.push_back(fs::path(path).filename().string());
    bytes += fs::file_size(path);
  }
  CHECK(names == std::vector<std::string>{"LICENSE.txt", "README.md", "config.json",
                                          "generation_config.json", "model.safetensors",
                                          "tokenizer.json", "tokenizer_config.json"});
  CHECK(sink->TotalBytes() == bytes);
  CHECK(ReadText(temp / "out/README.md") == "read me");
  const auto config = Json::ParseFile(temp / "out/config.json");
  REQUIRE(config.ok());
  CHECK(config->Find("torch_dtype")->str() == "float16");
  CHECK(config->Find("a_key_of_its_own")->Dump() == "[1,2.5,\"x\"]");
  // It speaks of stored tensors that were copied as they are.
  CHECK(config->Find("quantization_config") != nullptr);
  const auto files = ListCompanionFiles(input.directory);
  REQUIRE(files.ok());
  CHECK(files->code == std::vector<std::string>{"modeling_own.py"});
  CHECK(files->other == std::vector<std::string>{"optimizer.bin"});
}

TEST_CASE("shards: parts of a tensor stay together, the index maps them, the reader agrees") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  std::vector<OutputTensor> tensors;
  std::vector<TensorPart> parts;
  for (size_t i = 0; i < 7; ++i) {
    tensors.push_back(
        {std::string("t").append(std::to_string(i)), Encoding::Plain(DType::kF16), {33, 10}});
    parts.push_back({{tensors[i].name, DType::kF16, {33, 10}}, i});
  }
  SinkOptions options;
  options.path = temp / "out";
  options.model = &input;
  options.shard_bytes = 1400;  // 660 bytes each: two in a shard
  auto folder = HfFolder::Create(options, parts);
  REQUIRE(folder.ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const EncodedTensor tile = WholeOf(tensors[i], static_cast<uint32_t>(i));
    REQUIRE((*folder)->shards().Write(i, 0, tile.data.data(), tile.data.size()).ok());
  }
  const Status sealed = (*folder)->Seal(tensors, {});
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  REQUIRE((*folder)->Commit().ok());
  CHECK(fs::exists(temp / "out/model-00001-of-00004.safetensors"));
  CHECK(fs::exists(temp / "out/model-00004-of-00004.safetensors"));
  CHECK(!fs::exists(temp / "out/model.safetensors"));
  const auto index = Json::ParseFile(temp / "out/model.safetensors.index.json");
  REQUIRE(index.ok());
  CHECK(index->Find("metadata")->Find("total_size")->AsUnsigned() == 7u * 660);
  CHECK(index->Find("weight_map")->Find("t3")->str() == "model-00002-of-00004.safetensors");
  const auto model = OpenHuggingFace(temp / "out");
  REQUIRE(model.ok());
  CheckContents(*model->source, tensors);
}

// A folder of one file or of shards of at most `shard_bytes`, with bit-exact contents.
void WriteFolder(const std::string& path, const Model& model, uint64_t shard_bytes,
                 const std::vector<OutputTensor>& tensors) {
  SinkOptions options;
  options.path = path;
  options.model = &model;
  options.shard_bytes = shard_bytes;
  options.weights_only = true;
  options.provenance = {{"kept", "yes"}};
  auto sink = MakeSafetensorsSink(options);
  REQUIRE(sink.ok());
  REQUIRE((*sink)->Begin(tensors).ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    WriteInTiles(sink->get(), i, WholeOf(tensors[i], static_cast<uint32_t>(i)), 32);
  }
  const Status sealed = (*sink)->Seal();
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  REQUIRE((*sink)->Commit().ok());
}

TEST_CASE("measuring tells the exact size of one file, a folder and shards, and makes no file") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  std::vector<OutputTensor> tensors;
  for (size_t i = 0; i < 7; ++i) {
    tensors.push_back({"t" + std::to_string(i),
                       Encoding::Plain(DType::kF16),
                       {33, static_cast<int64_t>(10 + i)}});
  }
  const size_t before = FilesUnder(temp / "").size();
  for (const std::string name : {"one.safetensors", "folder", "shards"}) {
    CAPTURE(name);
    SinkOptions options;
    options.path = temp / name;
    options.model = &input;
    options.provenance = {{"kept", "yes"}};
    if (name == "shards") options.shard_bytes = 1700;
    options.measure = true;
    auto measured = MakeSafetensorsSink(options);
    REQUIRE(measured.ok());
    REQUIRE((*measured)->Begin(tensors).ok());
    REQUIRE((*measured)->Seal().ok());
    CHECK((*measured)->Commit().error().code == ErrorCode::kUsage);
    (*measured)->Keep();
    CHECK(FilesUnder(temp / "").size() == before);

    options.measure = false;
    auto sink = MakeSafetensorsSink(options);
    REQUIRE(sink.ok());
    REQUIRE((*sink)->Begin(tensors).ok());
    for (size_t i = 0; i < tensors.size(); ++i) {
      WriteInTiles(sink->get(), i, WholeOf(tensors[i], static_cast<uint32_t>(i)), 32);
      CHECK((*sink)->OutputBytes(i) == (*measured)->OutputBytes(i));
    }
    REQUIRE((*sink)->Seal().ok());
    REQUIRE((*sink)->Commit().ok());
    uint64_t bytes = 0;
    if (fs::is_directory(options.path)) {
      for (const auto& path : FilesUnder(options.path)) bytes += fs::file_size(path);
    } else {
      bytes = fs::file_size(options.path);
    }
    CHECK((*measured)->TotalBytes() == bytes);
    fs::remove_all(options.path);
  }
}

TEST_CASE("shard size: at the size, one byte under it, and a tensor larger than a shard") {
  const std::vector<OutputTensor> tensors = {
      {"a", Encoding::Plain(DType::kF16), {10, 5}},    // 100 bytes
      {"b", Encoding::Plain(DType::kU8), {4, 25}},     // 100
      {"big", Encoding::Plain(DType::kF32), {70, 9}},  // 2520
      {"c", Encoding::Plain(DType::kBF16), {50}},      // 100
      {"empty", Encoding::Plain(DType::kF16), {0, 5}}};
  const auto shards_of = [&](uint64_t shard_bytes) {
    TempFolder temp;
    const Model input = MakeInputFolder(temp);
    WriteFolder(temp / "out", input, shard_bytes, tensors);
    const auto model = OpenHuggingFace(temp / "out");
    REQUIRE(model.ok());
    CheckContents(*model->source, tensors);
    CHECK(model->source->metadata().at("kept") == "yes");
    if (!fs::exists(temp / "out/model.safetensors.index.json")) {
      CHECK(fs::exists(temp / "out/model.safetensors"));
      return std::string("one");
    }
    const auto index = Json::ParseFile(temp / "out/model.safetensors.index.json");
    REQUIRE(index.ok());
    CHECK(index->Find("metadata")->Find("total_size")->AsUnsigned() == 2820);
    std::string numbers;
    for (const OutputTensor& tensor : tensors) {
      // model-0000X-of-0000N.safetensors
      const std::string& shard = index->Find("weight_map")->Find(tensor.name)->str();
      CHECK(fs::exists(temp / "out/" + shard));
      numbers += shard.substr(10, 1) + "/" + shard.substr(19, 1) + " ";
    }
    return numbers;
  };
  CHECK(shards_of(2820) == "one");
  CHECK(shards_of(2819) == "1/2 1/2 1/2 2/2 2/2 ");
  CHECK(shards_of(200) == "1/3 1/3 2/3 3/3 3/3 ");
  CHECK(shards_of(199) == "1/4 2/4 3/4 4/4 4/4 ");
  CHECK(shards_of(1) == "1/5 2/5 3/5 4/5 5/5 ");
}

TEST_CASE("more shards than files may be open are refused, and nothing is left") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  std::vector<OutputTensor> tensors;
  for (int i = 0; i < 70'000; ++i) {
    tensors.push_back(
        {std::string("t").append(std::to_string(i)), Encoding::Plain(DType::kU8), {2}});
  }
  SinkOptions options;
  options.path = temp / "out";
  options.model = &input;
  options.shard_bytes = 1;
  auto sink = MakeSafetensorsSink(options);
  REQUIRE(sink.ok());
  const Status status = (*sink)->Begin(tensors);
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kLimit);
  CHECK(status.error().hint.find("--shard-size") != std::string::npos);
  sink->reset();
  CHECK(temp.Names() == std::vector<std::string>{"input"});
}

TEST_CASE("an input without a configuration becomes a folder of weights when that is asked for") {
  TempFolder temp;
  Model bare;
  bare.path = temp / "x.safetensors";
  const auto tensors = SomeTensors();
  WriteFolder(temp / "out", bare, 4000, tensors);
  CHECK(!fs::exists(temp / "out/config.json"));
  const auto model = OpenHuggingFace(temp / "out");
  REQUIRE(model.ok());
  CheckContents(*model->source, tensors);
}

TEST_CASE("a bit that changed on the disk is caught before anything has the final name") {
  for (const bool one_file : {true, false}) {
    TempFolder temp;
    TempFolder input_folder;
    const Model input = MakeInputFolder(input_folder);
    {
      auto sink = MakeSink(temp / (one_file ? "out.safetensors" : "out"), &input);
      const std::vector<OutputTensor> tensors = {{"a", Encoding::Plain(DType::kF32), {70, 9}},
                                                 {"b", Encoding::Plain(DType::kF32), {5}}};
      REQUIRE(sink->Begin(tensors).ok());
      WriteInTiles(sink.get(), 0, WholeOf(tensors[0], 1), 32);
      WriteInTiles(sink.get(), 1, WholeOf(tensors[1], 2), 32);
      const auto files = FilesUnder(temp.path());
      REQUIRE(files.size() == 1);
      FlipBit(files[0], 100);
      const Status sealed = sink->Seal();
      REQUIRE(!sealed.ok());
      CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
    }
    CHECK(temp.Names().empty());
  }
}

TEST_CASE("a missing row and a row written twice are caught; before the end there is no header") {
  const std::vector<OutputTensor> tensors = {{"a", Encoding::Plain(DType::kF32), {70, 9}}};
  const EncodedTensor whole = WholeOf(tensors[0], 1);
  for (const int what : {1, 2}) {
    TempFolder temp;
    auto sink = MakeSink(temp / "out.safetensors");
    REQUIRE(sink->Begin(tensors).ok());
    REQUIRE(sink->Write(0, 0, RowsOf(whole, 0, 32)).ok());
    if (what != 1) REQUIRE(sink->Write(0, 32, RowsOf(whole, 32, 32)).ok());
    if (what == 2) REQUIRE(sink->Write(0, 32, RowsOf(whole, 32, 32)).ok());
    REQUIRE(sink->Write(0, 64, RowsOf(whole, 64, 6)).ok());
    const auto partial = ReadWholeFile(FilesUnder(temp.path())[0], 1 << 20);
    REQUIRE(partial.ok());
    CHECK(partial->substr(0, 8) == std::string(8, '\0'));
    const Status sealed = sink->Seal();
    REQUIRE(!sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
    CHECK(sealed.error().tensor == "a");
    sink.reset();
    CHECK(temp.Names().empty());
  }
}

TEST_CASE("tiles that do not fit are refused") {
  TempFolder temp;
  auto sink = MakeSink(temp / "out.safetensors");
  const std::vector<OutputTensor> tensors = {{"a", Encoding::Plain(DType::kF16), {70, 9}}};
  REQUIRE(sink->Begin(tensors).ok());
  const EncodedTensor whole = WholeOf(tensors[0], 1);
  const auto code = [&](int64_t row, EncodedTensor tile) {
    const Status status = sink->Write(0, row, tile);
    return status.ok() ? ErrorCode::kUsage : status.error().code;
  };
  CHECK(code(16, RowsOf(whole, 0, 32)) == ErrorCode::kInvalidTensor);
  CHECK(code(0, RowsOf(whole, 0, 31)) == ErrorCode::kInvalidTensor);
  CHECK(code(64, RowsOf(whole, 0, 32)) == ErrorCode::kInvalidTensor);
  CHECK(code(-32, RowsOf(whole, 0, 32)) == ErrorCode::kInvalidTensor);
  CHECK(code(96, RowsOf(whole, 0, 0)) == ErrorCode::kInvalidTensor);
  CHECK(code(0, RandomTile(Encoding::Plain(DType::kBF16), 32, 9, 1)) == ErrorCode::kInvalidTensor);
  CHECK(code(0, RandomTile(Encoding::Plain(DType::kF16), 32, 8, 1)) == ErrorCode::kInvalidTensor);
  EncodedTensor shorter = RowsOf(whole, 0, 32);
  shorter.data.pop_back();
  CHECK(code(0, shorter) == ErrorCode::kInvalidTensor);
}

TEST_CASE("an output that exists or is the input is refused") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  WriteText(temp / "out.safetensors", "precious");
  const auto code = [&](const std::string& path, bool force) {
    SinkOptions options;
    options.path = path;
    options.model = &input;
    options.force = force;
    const auto sink = MakeSafetensorsSink(options);
    return sink.ok() ? std::string("ok") : std::string(ErrorCodeName(sink.error().code));
  };
  CHECK(code(temp / "out.safetensors", false) == "output_exists");
  CHECK(code(temp / "out.safetensors", true) == "ok");
  CHECK(code(temp / "input", false) == "output_is_input");
  CHECK(code(temp / "input/", true) == "output_is_input");
  fs::create_directory_symlink(temp / "input", temp / "link");
  CHECK(code(temp / "link", true) == "output_is_input");
  CHECK(code(temp / "fresh", false) == "ok");
  CHECK(code("", false) == "usage");
  CHECK(ReadText(temp / "out.safetensors") == "precious");
}

TEST_CASE("force replaces a file and a folder only at Commit") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  WriteText(temp / "out.safetensors", "old");
  fs::create_directories(temp / "out");
  WriteText(temp / "out/old", "old");
  const std::vector<OutputTensor> tensors = {{"a", Encoding::Plain(DType::kF16), {4, 8}}};
  for (const std::string name : {"out.safetensors", "out"}) {
    SinkOptions options;
    options.path = temp / name;
    options.model = &input;
    options.force = true;
    auto sink = MakeSafetensorsSink(options);
    REQUIRE(sink.ok());
    REQUIRE((*sink)->Begin(tensors).ok());
    WriteInTiles(sink->get(), 0, WholeOf(tensors[0], 5), 32);
    REQUIRE((*sink)->Seal().ok());
    CHECK(fs::exists(temp / "out/old"));
    REQUIRE((*sink)->Commit().ok());
    if (name == "out") CHECK(!fs::exists(temp / "out/old"));
  }
  CHECK(OpenSafetensors(temp / "out.safetensors").ok());
  CHECK(OpenHuggingFace(temp / "out").ok());
  CHECK(temp.Names() == std::vector<std::string>{"input", "out", "out.safetensors"});
}

TEST_CASE("blocks and integers are refused with where to put them") {
  TempFolder temp;
  auto sink = MakeSink(temp / "out.safetensors");
  Status status = sink->Begin({{"a", Encoding::Block(BlockType::kQ4_K), {4, 256}}});
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kUnsupported);
  CHECK(status.error().hint == "--to gguf");
  CHECK(status.error().tensor == "a");
  status = sink->Begin({{"a", Encoding::Integer({}), {4, 256}}});
  REQUIRE(!status.ok());
  CHECK(status.error().hint == "--to compressed-tensors");
  sink.reset();
  CHECK(temp.Names().empty());
}

TEST_CASE("a folder without any configuration is refused before the work") {
  TempFolder temp;
  Model bare;
  bare.path = temp / "x.safetensors";
  SinkOptions options;
  options.path = temp / "out";
  options.model = &bare;
  const auto sink = MakeSafetensorsSink(options);
  REQUIRE(!sink.ok());
  CHECK(sink.error().code == ErrorCode::kConfigMissing);
}

TEST_CASE("a model without a folder gets a configuration that the reader takes") {
  TempFolder temp;
  Model model;
  model.family = FindFamily("llama");
  REQUIRE(model.family != nullptr);
  ModelConfig config;
  config.family = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.layers = 3;
  config.heads = 8;
  config.kv_heads = 4;
  config.head_dim = 8;
  config.vocab_size = 40;
  config.context_length = 777;
  config.rms_norm_eps = 3e-6;
  config.rope_theta = 54321.0;
  config.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  config.rope_scaling.factor = 32;
  config.tie_embeddings = true;
  config.dtype = DType::kBF16;
  config.bos_id = 1;
  model.config = config;
  auto sink = MakeSink(temp / "out", &model);
  const std::vector<OutputTensor> tensors = {
      {"model.embed_tokens.weight", Encoding::Plain(DType::kF16), {40, 64}}};
  REQUIRE(sink->Begin(tensors).ok());
  WriteInTiles(sink.get(), 0, WholeOf(tensors[0], 3), 32);
  REQUIRE(sink->Seal().ok());
  REQUIRE(sink->Commit().ok());
  const auto read = OpenHuggingFace(temp / "out");
  REQUIRE(read.ok());
  REQUIRE(read->config.has_value());
  CHECK(read->family == model.family);
  CHECK(read->config->layers == 3);
  CHECK(read->config->kv_heads == 4);
  CHECK(read->config->context_length == 777);
  CHECK(read->config->rms_norm_eps == 3e-6);
  CHECK(read->config->rope_theta == 54321.0);
  CHECK(read->config->rope_scaling.kind == RopeScaling::Kind::kLlama3);
  CHECK(read->config->rope_scaling.factor == 32.0);
  CHECK(read->config->tie_embeddings);
  CHECK(read->config->dtype == DType::kF16);
}

}  // namespace
}  // namespace pennyweight
