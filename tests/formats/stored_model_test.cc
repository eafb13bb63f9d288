#include <doctest/doctest.h>

#include "formats/readers.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

using test::FileTensor;
using test::SafetensorsFile;
using test::ScratchFolder;

std::string Shard(const std::string& name) { return SafetensorsFile({{name, "U8", {3}, "abc"}}); }

std::vector<std::string> NamesOf(const Result<Model>& model) {
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  std::vector<std::string> names;
  for (const TensorInfo& tensor : model->source->tensors()) names.push_back(tensor.name);
  return names;
}

using Names = std::vector<std::string>;

TEST_CASE("a file is all shards of the set that it is named as one of") {
  const ScratchFolder temp;
  const std::string first = temp.Write("m-00001-of-00003.safetensors", Shard("b"));
  const std::string second = temp.Write("m-00002-of-00003.safetensors", Shard("a"));
  const auto missing = OpenStored(second);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().code == ErrorCode::kShardMissing);
  CHECK(missing.error().file == temp.Path("m-00003-of-00003.safetensors"));
  temp.Write("m-00003-of-00003.safetensors", Shard("c"));
  CHECK(NamesOf(OpenStored(second)) == Names{"b", "a", "c"});
  CHECK(OpenStored(first)->source->files().size() == 3);
  temp.Write("m-00003-of-00003.safetensors", Shard("a"));
  const auto twice = OpenStored(first);
  REQUIRE_FALSE(twice.ok());
  CHECK(twice.error().code == ErrorCode::kShardMismatch);
}

TEST_CASE("names that only look like a shard's are names of one file") {
  const ScratchFolder temp;
  for (const char* name : {"m-00004-of-00003.safetensors", "m-00000-of-00003.safetensors",
                           "m-0001-of-0003.safetensors", "m-+0001-of-00003.safetensors",
                           "m-00001-of-0000x.safetensors", "m00001-of-00003.safetensors",
                           "m-00001of-00003.safetensors", "-of-.safetensors", "m-00001-of-00003"}) {
    CAPTURE(name);
    CHECK(NamesOf(OpenStored(temp.Write(name, Shard("x")))) == Names{"x"});
  }
}

TEST_CASE("folders: parts of quantized tensors are listed as they are stored") {
  const ScratchFolder temp;
  temp.Write("model.safetensors",
             SafetensorsFile({{"w.weight_packed", "I32", {1, 1}, "abcd"},
                              {"w.weight_scale", "F16", {1, 1}, "ab"},
                              {"w.weight_shape", "I64", {2}, std::string(16, 1)}}));
  temp.Write(
      "config.json",
      R"({"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized"}})");
  const auto model = OpenStored(temp.path());
  CHECK(NamesOf(model) == Names{"w.weight_packed", "w.weight_scale", "w.weight_shape"});
  CHECK(model->directory == temp.path());
  CHECK_FALSE(model->config);
  // The index and its shards have to tell the same story here too.
  std::remove(temp.Path("model.safetensors").c_str());
  temp.Write("a.safetensors", Shard("x"));
  temp.Write("model.safetensors.index.json", R"({"weight_map":{"y":"a.safetensors"}})");
  const auto mismatch = OpenStored(temp.path());
  REQUIRE_FALSE(mismatch.ok());
  CHECK(mismatch.error().code == ErrorCode::kShardMismatch);
}

std::string SmallGguf(const char* tensor, uint32_t number, uint32_t count) {
  GgufBytes b;
  b.Start(1, 3).Text("general.architecture", "llama");
  b.U32("split.no", number).U32("split.count", count);
  b.Tensor(tensor, {8}, 0, 0).Align().Data(32);
  return b.text;
}

TEST_CASE("GGUF: stored names, and the only split model of a folder") {
  const ScratchFolder temp;
  temp.Write("m-00001-of-00002.gguf", SmallGguf("output_norm.weight", 0, 2));
  const std::string second = temp.Write("m-00002-of-00002.gguf", SmallGguf("blk.0.x", 1, 2));
  temp.Write("lone.gguf", SmallGguf("z", 0, 0));
  const Names names = {"output_norm.weight", "blk.0.x"};
  CHECK(NamesOf(OpenStored(second)) == names);
  const auto folder = OpenStored(temp.path());
  CHECK(NamesOf(folder) == names);
  CHECK(folder->path == temp.Path("m-00001-of-00002.gguf"));
  CHECK(folder->directory.empty());
  temp.Write("n-00001-of-00001.gguf", SmallGguf("z", 0, 1));
  const auto two = OpenStored(temp.path());
  REQUIRE_FALSE(two.ok());
  CHECK(two.error().code == ErrorCode::kUsage);
  CHECK(two.error().hint.find("00001-of") != std::string::npos);
}

TEST_CASE("what is neither split nor joined") {
  const ScratchFolder temp;
  const auto code_of = [&](const std::string& path) {
    const auto model = OpenStored(path);
    REQUIRE_FALSE(model.ok());
    return model.error().code;
  };
  CHECK(code_of(temp.Path("nowhere")) == ErrorCode::kNotFound);
  CHECK(code_of(temp.path()) == ErrorCode::kNotFound);
  CHECK(code_of(temp.Write("text.gguf", "not a model")) == ErrorCode::kUnknownFormat);
  const std::string pickle("\x80\x02}q\x00.", 6);
  CHECK(code_of(temp.Write("pytorch_model.bin", pickle)) == ErrorCode::kUnsupported);
  CHECK(code_of(temp.path()) == ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace pennyweight
