// OpenHuggingFace and the rules of its shards' index (formats/huggingface.cc,
// formats/shard_index.cc).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/readers.h"
#include "formats/shard_index.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

using test::ScratchFolder;

constexpr const char* kIndexName = "model.safetensors.index.json";

// Two shards: a, b in the first, c in the second; the index as given.
void WriteShards(const ScratchFolder& folder, const std::string& weight_map) {
  folder.Write("model-00001-of-00002.safetensors",
               test::SafetensorsFile({{"a", "F32", {1, 2}, "01234567"}, {"b", "U8", {3}, "abc"}}));
  folder.Write("model-00002-of-00002.safetensors",
               test::SafetensorsFile({{"c", "F32", {2, 1}, "76543210"}}));
  // S40: total_size is far off, which is no error (verify notes it: IDX-TOTAL-SIZE).
  folder.Write(kIndexName,
               fmt::format(R"({{"metadata": {{"total_size": 1}}, "weight_map": {}}})", weight_map));
}

constexpr const char* kGoodMap = R"({"a": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"})";

TEST_CASE("shards are one source, in the order of files and offsets") {
  const ScratchFolder folder;
  WriteShards(folder, kGoodMap);
  const auto model = OpenHuggingFace(folder.path());
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  REQUIRE(model->source->tensors().size() == 3);
  CHECK(model->source->tensors()[2].name == "c");
  CHECK(model->source->tensors()[2].file == folder.Path("model-00002-of-00002.safetensors"));
  CHECK(model->source->files().size() == 2);
  EncodedTensor rows;
  REQUIRE(model->source->ReadRows(2, 1, 1, &rows).ok());
  CHECK(std::string(rows.data.begin(), rows.data.end()) == "3210");
  // No config.json: tensors alone.
  CHECK_FALSE(model->config.has_value());
  REQUIRE(model->config_error.has_value());
  CHECK(model->config_error->code == ErrorCode::kConfigMissing);
  CHECK(model->config_error->file == folder.Path("config.json"));
  CHECK(model->vocabulary_error->code == ErrorCode::kTokenizer);
}

TEST_CASE("indexes that lie are refused") {
  struct Case {
    const char* id;
    std::string map;
    ErrorCode code;
    const char* says;
  };
  const auto b_in = [](const std::string& shard) {
    return fmt::format(R"({{"a": "model-00001-of-00002.safetensors", "b": "{}",
        "c": "model-00002-of-00002.safetensors"}})",
                       shard);
  };
  const std::vector<Case> cases = {
      {"S36", b_in("../../etc/passwd"), ErrorCode::kBadPath, "../../etc/passwd"},
      {"absolute", b_in("/etc/passwd"), ErrorCode::kBadPath, "/etc/passwd"},
      {"dots", b_in(".."), ErrorCode::kBadPath, ".."},
      {"backslash", b_in("..\\\\x"), ErrorCode::kBadPath, "plain file name"},
      {"NUL", b_in("model\\u0000"), ErrorCode::kBadPath, "plain file name"},
      {"empty name", b_in(""), ErrorCode::kBadPath, "plain file name"},
      {"S37", b_in("model-00003-of-00002.safetensors"), ErrorCode::kShardMissing,
       "model-00003-of-00002.safetensors"},
      {"S38", b_in("model-00002-of-00002.safetensors"), ErrorCode::kShardMismatch,
       "model-00002-of-00002.safetensors"},
      {"not listed", R"({"a": "model-00001-of-00002.safetensors",
          "c": "model-00002-of-00002.safetensors"})",
       ErrorCode::kShardMismatch, "does not list"},
      {"listed, but nowhere", R"({"a": "model-00001-of-00002.safetensors",
          "b": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors",
          "d": "model-00002-of-00002.safetensors"})",
       ErrorCode::kShardMismatch, "where it is not"},
      {"shard is a number", R"({"a": 1})", ErrorCode::kInvalidHeader, "string"},
      {"twice", R"({"a": "x", "\u0061": "y"})", ErrorCode::kDuplicateKey, ""},
      {"no map", "null", ErrorCode::kInvalidHeader, "weight_map"},
      {"empty map", "{}", ErrorCode::kInvalidHeader, "weight_map"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const ScratchFolder folder;
    WriteShards(folder, wrong.map);
    const auto model = OpenHuggingFace(folder.path());
    REQUIRE_FALSE(model.ok());
    CAPTURE(model.error().ToString());
    CHECK(std::string(ErrorCodeName(model.error().code)) == ErrorCodeName(wrong.code));
    CHECK(model.error().message.find(wrong.says) != std::string::npos);
    CHECK(model.error().file.find(folder.path()) == 0);
  }
}

TEST_CASE("S39: a tensor in two shards") {
  const ScratchFolder folder;
  WriteShards(folder, kGoodMap);
  folder.Write("model-00002-of-00002.safetensors",
               test::SafetensorsFile({{"c", "U8", {1}, "1"}, {"a", "U8", {1}, "1"}}));
  const auto model = OpenHuggingFace(folder.path());
  REQUIRE_FALSE(model.ok());
  CHECK(model.error().code == ErrorCode::kShardMismatch);
  CHECK(model.error().tensor == "a");
}

TEST_CASE("S41: links out of the folder are refused, those of the cache are followed") {
  namespace fs = std::filesystem;
  const ScratchFolder root;
  const ScratchFolder outside;
  const std::string shard = "model-00002-of-00002.safetensors";
  const auto lay_out = [&](const std::string& dir, const fs::path& target) {
    fs::create_directories(root.Path(dir));
    fs::create_directories(root.Path("blobs"));
    const ScratchFolder built;
    WriteShards(built, kGoodMap);
    fs::copy(built.path(), root.Path(dir), fs::copy_options::recursive);
    fs::remove(target);
    fs::rename(fs::path(root.Path(dir)) / shard, target);
    fs::create_symlink(target, fs::path(root.Path(dir)) / shard);
    return OpenHuggingFace(root.Path(dir));
  };
  const auto refused = lay_out("plain", outside.Path("blob"));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kBadPath);
  CHECK(lay_out("snapshots/0a1b", root.Path("blobs/ff00")).ok());
}

TEST_CASE("a truncated shard names file, tensor and offset; a pointer of git-lfs is named") {
  const ScratchFolder folder;
  WriteShards(folder, kGoodMap);
  const std::string path = folder.Path("model-00001-of-00002.safetensors");
  const auto size = std::filesystem::file_size(path);
  std::filesystem::resize_file(path, size - 2);
  const auto cut = OpenHuggingFace(folder.path());
  REQUIRE_FALSE(cut.ok());
  CHECK(cut.error().code == ErrorCode::kTruncated);
  CHECK(cut.error().file == path);
  CHECK(cut.error().tensor == "b");
  CHECK(cut.error().offset == static_cast<int64_t>(size) - 2);

  folder.Write("model-00001-of-00002.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n");
  CHECK(OpenHuggingFace(folder.path()).error().code == ErrorCode::kLfsPointer);
}

TEST_CASE("which files are the weights") {
  const ScratchFolder folder;
  const std::string bytes = test::SafetensorsFile({{"a", "U8", {1}, "1"}});
  CHECK(OpenHuggingFace(folder.path()).error().code == ErrorCode::kNotFound);
  folder.Write("training_args.bin", "PK");
  const auto other = OpenHuggingFace(folder.path());
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().code == ErrorCode::kUnknownFormat);
  CHECK(other.error().hint.find("training_args.bin") != std::string::npos);
  folder.Write("pytorch_model.bin", "PK");
  // Taken for the weights, but no zip archive.
  CHECK(OpenHuggingFace(folder.path()).error().code == ErrorCode::kUnknownFormat);
  folder.Write("weights.safetensors", bytes);
  CHECK(OpenHuggingFace(folder.path()).ok());
  folder.Write("more.safetensors", bytes);
  CHECK(OpenHuggingFace(folder.path()).error().code == ErrorCode::kShardMissing);
  folder.Write("model.safetensors", bytes);
  const auto model = OpenHuggingFace(folder.path());
  REQUIRE(model.ok());
  CHECK(model->source->files() == std::vector<std::string>{folder.Path("model.safetensors")});
  CHECK(OpenHuggingFace(folder.Path("none")).error().code == ErrorCode::kNotFound);
}

TEST_CASE("configs that cannot be used leave the tensors readable") {
  struct Case {
    const char* id;
    const char* config;
    ErrorCode code;
    bool has_config;
  };
  const std::vector<Case> cases = {
      {"not JSON", "{", ErrorCode::kConfigInvalid, false},
      {"unknown", R"({"architectures": ["Other"]})", ErrorCode::kUnknownFamily, true},
      {"missing key", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})",
       ErrorCode::kConfigMissing, false},
      {"other quantization", R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4,
          "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
          "vocab_size": 4, "rms_norm_eps": 1e-5,
          "quantization_config": {"quant_method": "exl3", "bits": 4}})",
       ErrorCode::kUnsupported, true},
      {"quantization of no tensor", R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4,
          "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
          "vocab_size": 4, "rms_norm_eps": 1e-5,
          "quantization_config": {"quant_method": "gptq", "bits": 4}})",
       ErrorCode::kConfigInvalid, true},
      {"broken quantization", R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4,
          "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
          "vocab_size": 4, "rms_norm_eps": 1e-5,
          "quantization_config": {"quant_method": "compressed-tensors"}})",
       ErrorCode::kConfigMissing, true},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const ScratchFolder folder;
    folder.Write("model.safetensors", test::SafetensorsFile({{"a", "BF16", {1, 2}, "1234"}}));
    folder.Write("config.json", wrong.config);
    const auto model = OpenHuggingFace(folder.path());
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    CHECK(model->source->tensors().size() == 1);
    CHECK(model->family == nullptr);
    REQUIRE(model->config_error.has_value());
    CHECK(std::string(ErrorCodeName(model->config_error->code)) == ErrorCodeName(wrong.code));
    CHECK(model->config_error->file == folder.Path("config.json"));
    CHECK(model->config.has_value() == wrong.has_config);
    // No word on the dtype: it is that of the weights.
    if (wrong.has_config) CHECK(model->config->dtype == DType::kBF16);
  }
}

TEST_CASE("real models open with configuration, family and vocabulary") {
  const std::string shared = test::SharedFolder();
  if (shared.empty()) {
    MESSAGE("SKIPPED: ../shared is not there");
    return;
  }
  for (const char* name : {"pd-llama-4M", "stories260K", "stories260K-sharded", "babyllama105",
                           "pd-qwen2-4M", "pd-mixtral-4M"}) {
    CAPTURE(name);
    const auto model = OpenHuggingFace(fmt::format("{}/models/{}", shared, name));
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    REQUIRE_FALSE(model->config_error.has_value());
    REQUIRE(model->family != nullptr);
    const std::string_view part = std::string_view(name).substr(0, 4);
    CHECK(model->family->name == (part != "pd-q" && part != "pd-m" ? "llama"
                                  : part == "pd-q"                 ? "qwen2"
                                                                   : "mixtral"));
    REQUIRE(model->vocabulary.has_value());
    CHECK(static_cast<int64_t>(model->vocabulary->tokens.size()) == model->config->vocab_size);
    CHECK(model->config->name == name);
    const int64_t embedding = model->source->Find("model.embed_tokens.weight");
    REQUIRE(embedding >= 0);
    const TensorInfo& info = model->source->tensors()[static_cast<size_t>(embedding)];
    CHECK(info.shape == Shape{model->config->vocab_size, model->config->hidden_size});
    CHECK(info.encoding.dtype == model->config->dtype);
    for (const TensorInfo& tensor : model->source->tensors()) {
      CHECK(PlaceOfHf(*model->family, tensor.name).rule != nullptr);
    }
  }
  // The shards are another export of the same model: values differ by 0.001.
  const auto single = OpenHuggingFace(shared + "/models/stories260K");
  const auto sharded = OpenHuggingFace(shared + "/models/stories260K-sharded");
  REQUIRE(single->source->tensors().size() == sharded->source->tensors().size());
  for (size_t i = 0; i < single->source->tensors().size(); ++i) {
    const TensorInfo& info = single->source->tensors()[i];
    const int64_t other = sharded->source->Find(info.name);
    REQUIRE(other >= 0);
    EncodedTensor a, b;
    REQUIRE(single->source->ReadRows(i, 0, info.rows(), &a).ok());
    REQUIRE(sharded->source->ReadRows(static_cast<size_t>(other), 0, info.rows(), &b).ok());
    REQUIRE(a.data.size() == b.data.size());
    std::vector<float> x(a.data.size() / 4), y(x.size());
    std::memcpy(x.data(), a.data.data(), a.data.size());
    std::memcpy(y.data(), b.data.data(), b.data.size());
    float worst = 0, largest = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      worst = std::max(worst, std::abs(x[k] - y[k]));
      largest = std::max(largest, std::abs(x[k]));
    }
    CHECK(largest > 0.01f);
    CHECK(worst < 0.002f);
  }
}

TEST_CASE("weights in parts do not decide the dtype; plain ones do") {
  const ScratchFolder folder;
  folder.Write("model.safetensors", test::SafetensorsFile({{"a.weight", "F8_E4M3", {1, 2}, "12"},
                                                           {"a.weight_scale", "F32", {1}, "1234"},
                                                           {"b.weight", "BF16", {1, 2}, "1234"}}));
  folder.Write("config.json", R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4,
      "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 4,
      "rms_norm_eps": 1e-5, "quantization_config": {"quant_method": "fp8"}})");
  const auto model = OpenHuggingFace(folder.path());
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  REQUIRE(model->config.has_value());
  CHECK(model->config->dtype == DType::kBF16);
  CHECK(model->source->tensors()[0].encoding.Name() == "fp8_e4m3_tensor");
}

}  // namespace
}  // namespace pennyweight
