// Checkpoints that PyTorch itself wrote, from the shared folder: the same values as the safetensors
// file of the same model.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "formats/pytorch_reader.h"
#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "lib/dtype.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

// "../shared/NAME", or empty with a loud skip.
std::string SharedPath(const std::string& name) {
  const std::string folder = test::SharedFolder();
  if (!folder.empty() && std::filesystem::exists(folder + "/" + name)) return folder + "/" + name;
  MESSAGE("SKIPPED: ../shared/" << name << " is not there");
  return "";
}

std::vector<uint8_t> Bytes(const TensorSource& source, std::string_view name) {
  const int64_t index = source.Find(name);
  REQUIRE_MESSAGE(index >= 0, name);
  EncodedTensor rows;
  const auto i = static_cast<size_t>(index);
  const Status status = source.ReadRows(i, 0, source.tensors()[i].rows(), &rows);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  return rows.data;
}

std::vector<float> Floats(const TensorSource& source, std::string_view name) {
  const std::vector<uint8_t> bytes = Bytes(source, name);
  const TensorInfo& info = source.tensors()[static_cast<size_t>(source.Find(name))];
  std::vector<float> values(static_cast<size_t>(info.elements()));
  DecodeToFloat(info.encoding.dtype, bytes.data(), values.data(), values.size());
  return values;
}

TEST_CASE("checkpoints of stories260K hold what its safetensors file holds") {
  struct Case {
    const char* file;
    DType dtype;
    bool exact;  // else after one step of training, or rounded
    size_t tensors;
  };
  const std::string folder = SharedPath("pytorch");
  const std::string reference_path = SharedPath("models/stories260K/model.safetensors");
  if (folder.empty() || reference_path.empty()) return;
  const auto reference = SafetensorsSource::Open({reference_path});
  REQUIRE(reference.ok());
  const DType f32 = DType::kF32, f16 = DType::kF16, bf16 = DType::kBF16;
  // P45: the same state dict by protocols 2, 4 and 5.
  for (const Case& real : std::vector<Case>{
           {"zip_proto2.bin", f32, true, 47},
           {"zip_proto4.bin", f32, true, 47},
           {"zip_proto5.bin", f32, true, 47},
           {"zip_tied_lm_head.bin", f32, true, 48},
           {"zip_noncontig_offset.bin", f32, true, 47},
           {"zip_parameters.bin", f32, false, 47},
           {"zip_training_ckpt.pt", f32, false, 47},
           {"zip_fp16.bin", f16, false, 47},
           {"zip_bf16.bin", bf16, false, 47},
           {"legacy_proto2.bin", f32, true, 47},
           {"legacy_proto4.bin", f32, true, 47},
           {"legacy_tied_lm_head.bin", f32, true, 48},
           {"legacy_noncontig_offset.bin", f32, true, 47},
           {"legacy_bf16.bin", bf16, false, 47},
       }) {
    CAPTURE(real.file);
    const auto source = PytorchSource::Open({folder + "/" + real.file});
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    CHECK((*source)->tensors().size() == real.tensors);
    for (const TensorInfo& info : (*reference)->tensors()) {
      CAPTURE(info.name);
      const int64_t index = (*source)->Find(info.name);
      REQUIRE(index >= 0);
      const TensorInfo& found = (*source)->tensors()[static_cast<size_t>(index)];
      CHECK(found.shape == info.shape);
      CHECK(found.encoding == Encoding::Plain(real.dtype));
      if (real.exact) {
        CHECK(Bytes(**source, info.name) == Bytes(**reference, info.name));
        continue;
      }
      const std::vector<float> values = Floats(**source, info.name);
      const std::vector<float> wanted = Floats(**reference, info.name);
      float worst = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        worst = std::max(worst, std::abs(values[i] - wanted[i]));
      }
      // bf16 keeps 8 bits of values up to 6.
      CHECK(worst < (real.dtype == bf16 ? 0.02f : 0.0012f));
    }
    if (real.tensors == 48) {
      CHECK(Bytes(**source, "lm_head.weight") == Bytes(**source, "model.embed_tokens.weight"));
    }
  }
}

TEST_CASE("a training checkpoint gives the model and names what it leaves out") {
  const std::string path = SharedPath("pytorch/zip_training_ckpt.pt");
  if (path.empty()) return;
  const auto model = OpenPytorch(path);
  REQUIRE(model.ok());
  CHECK(model->source->metadata().at("state_dict") == "model");
  CHECK(model->source->metadata().at("not_read") == "best_val_loss, optimizer, rng");
}

TEST_CASE("modules saved whole and TorchScript give their state dict") {
  const std::string folder = SharedPath("pytorch");
  if (folder.empty()) return;
  std::vector<std::vector<uint8_t>> weights;
  for (const char* file : {"zip_whole_module.pt", "legacy_whole_module.pt", "torchscript.pt"}) {
    CAPTURE(file);
    const auto source = PytorchSource::Open({folder + "/" + file});
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    std::set<std::string> names;
    for (const TensorInfo& info : (*source)->tensors()) names.insert(info.name);
    CHECK(names == std::set<std::string>{"0.weight", "0.bias", "2.weight", "2.bias"});
    weights.push_back(Bytes(**source, "0.weight"));
    CHECK(Floats(**source, "2.weight") == std::vector<float>{1, 1, 1, 1});
  }
  CHECK(weights[0] == weights[1]);
  CHECK(weights[0] == weights[2]);
}

TEST_CASE("every dtype is listed as it is; quantized tensors are refused by name") {
  const std::string folder = SharedPath("pytorch");
  if (folder.empty()) return;
  const auto source = PytorchSource::Open({folder + "/zip_all_dtypes.pt"});
  REQUIRE_MESSAGE(source.ok(), source.error().ToString());
  const std::vector<std::pair<const char*, DType>> expected = {
      {"i8", DType::kI8},     {"u8", DType::kU8},    {"i16", DType::kI16},   {"i32", DType::kI32},
      {"i64", DType::kI64},   {"f64", DType::kF64},  {"b", DType::kBool},    {"c64", DType::kC64},
      {"empty", DType::kF32}, {"0d_i", DType::kI64}, {"scalar", DType::kF32}};
  CHECK((*source)->tensors().size() == expected.size());
  for (const auto& [name, dtype] : expected) {
    CAPTURE(name);
    const int64_t index = (*source)->Find(name);
    REQUIRE(index >= 0);
    CHECK((*source)->tensors()[static_cast<size_t>(index)].encoding.dtype == dtype);
  }
  CHECK(Bytes(**source, "i16") == std::vector<uint8_t>{0, 0, 1, 0, 2, 0, 3, 0, 4, 0});
  CHECK(Bytes(**source, "b") == std::vector<uint8_t>{1, 0});
  CHECK(Bytes(**source, "empty").empty());
  CHECK(Floats(**source, "scalar") == std::vector<float>{3.5f});
  CHECK(Bytes(**source, "0d_i") == std::vector<uint8_t>{7, 0, 0, 0, 0, 0, 0, 0});
  const auto refused = PytorchSource::Open({folder + "/zip_quantized_sparse.pt"});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kUnsupported);
  CHECK(refused.error().tensor == "q");
  CHECK_FALSE(refused.error().hint.empty());
}

TEST_CASE("a folder of PyTorch shards equals the same folder of safetensors") {
  namespace fs = std::filesystem;
  const std::string folder = SharedPath("models/stories260K-sharded");
  if (folder.empty()) return;
  const test::ScratchFolder copy;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.find("safetensors") == std::string::npos) fs::copy(entry.path(), copy.Path(name));
  }
  const auto bins = OpenHuggingFace(copy.path());
  REQUIRE_MESSAGE(bins.ok(), bins.error().ToString());
  const auto tensors = OpenHuggingFace(folder);
  REQUIRE(tensors.ok());
  CHECK(bins->source->format() == "pytorch");
  CHECK(tensors->source->format() == "safetensors");
  CHECK(bins->source->files().size() == 2);
  REQUIRE(bins->family != nullptr);
  CHECK(bins->vocabulary.has_value());
  REQUIRE(bins->source->tensors().size() == tensors->source->tensors().size());
  for (const TensorInfo& info : tensors->source->tensors()) {
    CAPTURE(info.name);
    CHECK(Bytes(*bins->source, info.name) == Bytes(*tensors->source, info.name));
  }
  // The same checks as of safetensors: a shard that is missing, a tensor in the wrong shard.
  const std::string second = copy.Path("pytorch_model-00002-of-00002.bin");
  const std::string first = copy.Path("pytorch_model-00001-of-00002.bin");
  const std::string moved = copy.Path("moved");
  fs::permissions(copy.path(), fs::perms::owner_all);
  fs::rename(second, moved);
  CHECK(OpenHuggingFace(copy.path()).error().code == ErrorCode::kShardMissing);
  fs::copy(first, second);
  CHECK(OpenHuggingFace(copy.path()).error().code == ErrorCode::kShardMismatch);
  fs::remove(first);
  fs::rename(moved, first);
  CHECK(OpenHuggingFace(copy.path()).error().code == ErrorCode::kShardMismatch);
}

}  // namespace
}  // namespace pennyweight
