#include "formats/fold_file.h"

#include <doctest/doctest.h>

#include "formats/readers.h"
#include "formats/sinks.h"
#include "tests/formats/gguf_test_model.h"
#include "tests/formats/model_files.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

FoldRecord TinyRecord() {
  std::vector<float> norm(256), value(128);
  for (size_t i = 0; i < norm.size(); ++i) norm[i] = 0.5f + 0.01f * static_cast<float>(i);
  for (size_t i = 0; i < value.size(); ++i) value[i] = OctaveScale(static_cast<int>(i) - 64);
  const std::string p = "model.layers.1.";
  return {{{norm,
            {p + "input_layernorm.weight"},
            {p + "self_attn.q_proj.weight", p + "self_attn.k_proj.weight",
             p + "self_attn.v_proj.weight"},
            1,
            1},
           {value, {p + "self_attn.v_proj.weight"}, {p + "self_attn.o_proj.weight"}, 2, 64}}};
}

// A GGUF file of random tensors with `record` in a room of `bytes`.
Status WriteGguf(const std::string& path, const FoldRecord* record, uint64_t bytes) {
  const Model model = TinyLlama();
  SinkOptions options;
  options.path = path;
  options.model = &model;
  options.folds = record;
  options.folds_bytes = bytes;
  PW_ASSIGN(const auto sink, MakeGgufSink(options));
  const auto tensors = TinyTensors(Encoding::Plain(DType::kF16));
  PW_TRY(sink->Begin(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo info = InfoOf(tensors[i]);
    PW_TRY(sink->Write(i, 0, RandomTile(tensors[i].encoding, info.rows(), info.cols(), 5)));
  }
  PW_TRY(sink->Seal());
  return sink->Commit();
}

TEST_CASE("a GGUF file keeps its record of folds in the room that was set aside") {
  const TempFolder temp;
  const FoldRecord record = TinyRecord();
  const uint64_t bytes = FoldRecordToJson(record).size();
  REQUIRE(WriteGguf(temp / "exact.gguf", &record, bytes).ok());
  REQUIRE(WriteGguf(temp / "roomy.gguf", &record, bytes + 1000).ok());
  const FoldRecord none;
  REQUIRE(WriteGguf(temp / "none.gguf", &none, bytes).ok());
  REQUIRE(WriteGguf(temp / "plain.gguf", nullptr, 0).ok());
  for (const char* name : {"exact.gguf", "roomy.gguf"}) {
    const auto model = OpenGguf(temp / name);
    REQUIRE(model.ok());
    CHECK_FALSE(model->folds_error);
    CHECK(model->folds == record);
    CHECK(model->source->metadata().at("pennyweight.folds").ends_with("bytes]"));
  }
  for (const char* name : {"none.gguf", "plain.gguf"}) {
    const auto model = OpenGguf(temp / name);
    REQUIRE(model.ok());
    CHECK_FALSE(model->folds_error);
    CHECK(model->folds.empty());
  }
  // The room does not depend on what comes into it.
  CHECK(ReadText(temp / "none.gguf").size() == ReadText(temp / "exact.gguf").size());
  const Status status = WriteGguf(temp / "short.gguf", &record, bytes - 1);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kVerifyFailed);
}

TEST_CASE("a damaged record leaves the model readable, and says what is wrong") {
  const TempFolder temp;
  FoldRecord record = TinyRecord();
  record.folds[0].multiplied[1] = "model.layers.1.self_attn.nosuch.weight";
  REQUIRE(WriteGguf(temp / "a.gguf", &record, FoldRecordToJson(record).size()).ok());
  auto model = OpenGguf(temp / "a.gguf");
  REQUIRE(model.ok());
  CHECK(model->folds.empty());
  REQUIRE(model->folds_error);
  CHECK(model->folds_error->code == ErrorCode::kInvalidHeader);
  CHECK(model->folds_error->tensor == "model.layers.1.self_attn.nosuch.weight");
  CHECK(model->folds_error->file == temp / "a.gguf");
  CHECK(model->source->tensors().size() > 10);
}

TEST_CASE("a file of safetensors has the record in its metadata, a folder in a file of its own") {
  const TempFolder temp;
  const Model input = MakeInputFolder(temp);
  const FoldRecord record = {{{{0.5f, 2.0f, 1.0f}, {"n"}, {"w"}, 1, 1}}};
  const std::vector<OutputTensor> tensors = {{"n", Encoding::Plain(DType::kF32), {3}},
                                             {"w", Encoding::Plain(DType::kBF16), {2, 3}}};
  for (const char* name : {"one.safetensors", "folder"}) {
    CAPTURE(name);
    SinkOptions options;
    options.path = temp / name;
    options.model = &input;
    options.folds = &record;
    if (options.path.ends_with(".safetensors")) {
      options.provenance[std::string(kFoldsKey)] = FoldRecordToJson(record);
    }
    auto sink = MakeSafetensorsSink(options);
    REQUIRE(sink.ok());
    REQUIRE((*sink)->Begin(tensors).ok());
    REQUIRE((*sink)->Write(0, 0, RandomTile(tensors[0].encoding, 1, 3, 1)).ok());
    REQUIRE((*sink)->Write(1, 0, RandomTile(tensors[1].encoding, 2, 3, 2)).ok());
    REQUIRE((*sink)->Seal().ok());
    REQUIRE((*sink)->Commit().ok());
    const auto model = options.path.ends_with(".safetensors") ? OpenSafetensors(options.path)
                                                              : OpenHuggingFace(options.path);
    REQUIRE(model.ok());
    CHECK_FALSE(model->folds_error);
    CHECK(model->folds == record);
  }
  const std::string file = temp / "folder/pennyweight.folds.json";
  REQUIRE(PathExists(file));
  const std::pair<const char*, ErrorCode> cases[] = {
      {"{", ErrorCode::kInvalidHeader},
      {R"({"version":1,"folds":[{"scale":"AAAA","encoding":"octave16","divided":["n"],)"
       R"("multiplied":["w"],"repeat":1,"head_dim":2}]})",
       ErrorCode::kInvalidHeader},
      {R"({"version":1,"folds":[{"scale":"AAAAAAAA","encoding":"octave16","divided":["n"],)"
       R"("multiplied":["w"],"repeat":1,"head_dim":1}]})",
       ErrorCode::kInvalidHeader}};
  for (const auto& [text, code] : cases) {
    WriteText(file, text);
    const auto model = OpenHuggingFace(temp / "folder");
    REQUIRE(model.ok());
    REQUIRE(model->folds_error);
    CHECK(model->folds_error->code == code);
    CHECK(model->folds_error->file == file);
  }
}

}  // namespace
}  // namespace pennyweight
