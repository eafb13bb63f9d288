#include <doctest/doctest.h>

#include <cstring>
#include <numeric>

#include "formats/gguf_reader.h"
#include "formats/gguf_rows.h"
#include "formats/readers.h"
#include "formats/sinks.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/gguf_test_model.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

// llama with one layer of 2 heads of 4; `extra` keys and the tensors by hand.
GgufBytes TinyHeader(uint64_t tensors, uint64_t extra_keys = 0) {
  GgufBytes b;
  b.Start(tensors, 7 + extra_keys).Text("general.architecture", "llama");
  b.U32("llama.block_count", 1).U32("llama.context_length", 64).U32("llama.embedding_length", 8);
  b.U32("llama.feed_forward_length", 16).U32("llama.attention.head_count", 2);
  return b.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

// Row r of a matrix holds the value 100 + r, `cols` times.
void PutRows(GgufBytes* b, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) b->Put<float>(static_cast<float>(100 + r));
  }
}

std::vector<float> FirstColumn(const TensorSource& source, const char* name, int64_t row,
                               int64_t count) {
  const int64_t at = source.Find(name);
  REQUIRE(at >= 0);
  EncodedTensor tile;
  const Status status = source.ReadRows(static_cast<size_t>(at), row, count, &tile);
  REQUIRE(status.ok());
  REQUIRE(tile.rows == count);
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) {
    std::memcpy(&out[i], tile.data.data() + i * static_cast<size_t>(tile.cols) * 4, 4);
  }
  return out;
}

TEST_CASE("q and k are listed under Hugging Face's names, in its row order") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(3);
  b.Tensor("blk.0.attn_q.weight", {8, 8}, 0, 0).Tensor("blk.0.attn_v.weight", {8, 8}, 0, 256);
  b.Tensor("blk.0.attn_q.bias", {8}, 0, 512).Align();
  PutRows(&b, 8, 8);
  PutRows(&b, 8, 8);
  PutRows(&b, 8, 1);
  WriteText(temp / "m.gguf", b.text);
  const auto model = OpenGguf(temp / "m.gguf");
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  REQUIRE(model->config);
  CHECK(model->family == FindFamily("llama"));
  CHECK(model->vocabulary_error);
  CHECK(model->source->format() == "gguf");
  CHECK(model->source->metadata().at("llama.block_count") == "1");
  const TensorSource& source = *model->source;
  CHECK(source.tensors()[0].stored_name == "blk.0.attn_q.weight");
  // Canonical row (h, p * 2 + i) is stored row (h, 2 * i + p).
  const char* q = "model.layers.0.self_attn.q_proj.weight";
  const std::vector<float> want = {100, 102, 101, 103, 104, 106, 105, 107};
  CHECK(FirstColumn(source, q, 0, 8) == want);
  for (int64_t row = 0; row < 8; ++row) {
    for (int64_t count = 0; row + count <= 8; ++count) {
      CHECK(FirstColumn(source, q, row, count) ==
            std::vector<float>(want.begin() + row, want.begin() + row + count));
    }
  }
  std::vector<float> plain(8);
  std::iota(plain.begin(), plain.end(), 100.0f);
  CHECK(FirstColumn(source, "model.layers.0.self_attn.v_proj.weight", 0, 8) == plain);
  EncodedTensor bias;
  const int64_t at = source.Find("model.layers.0.self_attn.q_proj.bias");
  REQUIRE(source.ReadRows(static_cast<size_t>(at), 0, 1, &bias).ok());
  CHECK(std::memcmp(bias.data.data(), want.data(), 32) == 0);
}

TEST_CASE("tensors that contradict the metadata: as stored, and the reason is kept") {
  const TempFolder temp;
  const auto open = [&](const char* name, std::vector<int64_t> dims) {
    GgufBytes b = TinyHeader(1);
    b.Tensor(name, dims, 0, 0).Align().Data(4096);
    WriteText(temp / "m.gguf", b.text);
    auto model = OpenGguf(temp / "m.gguf");
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    CHECK_FALSE(model->config);
    CHECK(model->family == nullptr);
    REQUIRE(model->config_error);
    CHECK(model->config_error->code == ErrorCode::kConfigInvalid);
    CHECK(model->config_error->tensor == name);
    CHECK(model->source->Find(name) == 0);
  };
  open("blk.0.attn_q.weight", {8, 6});
  open("blk.7.attn_v.weight", {8, 8});
}

TEST_CASE("two tensors that would get one name are told") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(2);
  b.Tensor("output_norm.weight", {8}, 0, 0).Tensor("model.norm.weight", {8}, 0, 32);
  b.Align().Data(64);
  WriteText(temp / "m.gguf", b.text);
  const auto model = OpenGguf(temp / "m.gguf");
  REQUIRE(model.ok());
  REQUIRE(model->config_error);
  CHECK(model->config_error->code == ErrorCode::kDuplicateKey);
}

TEST_CASE("a scale beside a weight: the model is not taken for what its weights alone say") {
  const TempFolder temp;
  const auto open = [&](const char* scale) {
    GgufBytes b = TinyHeader(2);
    b.Tensor("blk.0.attn_v.weight", {8, 8}, 0, 0).Tensor(scale, {1}, 0, 256).Align().Data(288);
    WriteText(temp / "m.gguf", b.text);
    auto model = OpenGguf(temp / "m.gguf");
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    return std::move(model).value();
  };
  const Model scaled = open("blk.0.attn_v.scale");
  CHECK(scaled.family == nullptr);
  REQUIRE(scaled.config_error);
  CHECK(scaled.config_error->code == ErrorCode::kUnsupported);
  CHECK(scaled.config_error->tensor == "blk.0.attn_v.scale");
  CHECK(scaled.source->Find("blk.0.attn_v.weight") == 0);
  // A name that only looks like one.
  CHECK(open("blk.0.attn_x.scale").family == FindFamily("llama"));
}

TEST_CASE("a file that shrinks while it is read says which tensor it was") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(1);
  b.Tensor("output_norm.weight", {8}, 0, 0).Align().Data(32);
  WriteText(temp / "m.gguf", b.text);
  const auto model = OpenGguf(temp / "m.gguf");
  REQUIRE(model.ok());
  std::filesystem::resize_file(temp / "m.gguf", b.text.size() - 1);
  EncodedTensor tile;
  const Status status = model->source->ReadRows(0, 0, 1, &tile);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kTruncated);
  CHECK(status.error().tensor == "model.norm.weight");
  CHECK(status.error().file == temp / "m.gguf");
}

TEST_CASE("U41: a tensor past the end is refused at opening") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(1);
  b.Tensor("output_norm.weight", {1 << 20}, 0, 0).Align().Data(32);
  WriteText(temp / "m.gguf", b.text);
  CHECK(OpenGguf(temp / "m.gguf").error().code == ErrorCode::kTruncated);
  CHECK(OpenGguf(temp / "none.gguf").error().code == ErrorCode::kNotFound);
  CHECK(OpenGguf(temp.path()).error().code == ErrorCode::kNotRegularFile);
}

// Copies every tensor of a GGUF model into another file.
void Copy(const Model& model, const std::string& path) {
  SinkOptions options;
  options.path = path;
  options.model = &model;
  options.gguf_file_type = 1;
  options.provenance = {{"version", "9"}};
  auto sink = MakeGgufSink(options);
  REQUIRE_MESSAGE(sink.ok(), sink.error().ToString());
  std::vector<OutputTensor> tensors;
  for (const TensorInfo& info : model.source->tensors()) {
    tensors.push_back({info.name, info.encoding, info.shape});
  }
  const Status begun = (*sink)->Begin(tensors);
  REQUIRE_MESSAGE(begun.ok(), (begun.ok() ? "" : begun.error().ToString()));
  for (size_t i = 0; i < tensors.size(); ++i) {
    EncodedTensor whole;
    REQUIRE(model.source->ReadRows(i, 0, model.source->tensors()[i].rows(), &whole).ok());
    WriteInTiles(sink->get(), i, whole, 32);
  }
  REQUIRE((*sink)->Seal().ok());
  REQUIRE((*sink)->Commit().ok());
}

TEST_CASE("GGUF to GGUF keeps metadata that this program does not understand") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(2, 9);
  b.Text("general.license", "cc0-1.0").U32("llama.unheard_of", 77);
  b.Text("tokenizer.ggml.model", "gpt2").ArrayStart("tokenizer.ggml.tokens", 8, 3);
  b.Str("a").Str("b").Str("c").ArrayStart("tokenizer.ggml.merges", 8, 1).Str("a b");
  b.U32("tokenizer.ggml.eot_token_id", 2).U32("general.alignment", 64);
  b.Text("pennyweight.recipe", "old").U32("general.file_type", 15);
  b.Tensor("token_embd.weight", {8, 3}, 0, 0).Tensor("blk.0.attn_k.weight", {8, 8}, 0, 128);
  b.Align(64);
  PutRows(&b, 3, 8);
  b.Data(32);
  PutRows(&b, 8, 8);
  WriteText(temp / "in.gguf", b.text);
  const auto model = OpenGguf(temp / "in.gguf");
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  REQUIRE(model->config);
  Copy(*model, temp / "out.gguf");
  const auto in = GgufFile::Open(temp / "in.gguf");
  const auto out = GgufFile::Open(temp / "out.gguf");
  REQUIRE(out.ok());
  for (const char* key : {"general.license", "llama.unheard_of", "tokenizer.ggml.model",
                          "tokenizer.ggml.merges", "tokenizer.ggml.eot_token_id"}) {
    CAPTURE(key);
    REQUIRE(out->Find(key) != nullptr);
    CHECK(out->Payload(*out->Find(key)) == in->Payload(*in->Find(key)));
  }
  CHECK(out->Find("general.alignment") == nullptr);
  CHECK(out->Find("pennyweight.recipe") == nullptr);
  CHECK(out->AsString(*out->Find("pennyweight.version")) == "9");
  CHECK(out->AsInteger(*out->Find("general.file_type")) == 1);
  const std::string in_bytes = ReadText(temp / "in.gguf");
  const std::string out_bytes = ReadText(temp / "out.gguf");
  for (const GgufTensor& tensor : in->tensors()) {
    const GgufTensor* other = out->FindTensor(tensor.name);
    REQUIRE(other != nullptr);
    CHECK(in_bytes.substr(tensor.offset, tensor.bytes) ==
          out_bytes.substr(other->offset, other->bytes));
  }
}

TEST_CASE("an unknown family passes from GGUF to GGUF under its own names") {
  const TempFolder temp;
  GgufBytes b;
  b.Start(1, 2).Text("general.architecture", "mamba").U32("mamba.x", 5);
  b.Tensor("blk.0.ssm_in.weight", {32, 2}, 8, 0).Align().Data(68);
  WriteText(temp / "in.gguf", b.text);
  const auto model = OpenGguf(temp / "in.gguf");
  REQUIRE(model.ok());
  REQUIRE(model->config_error);
  CHECK(model->config_error->code == ErrorCode::kUnknownFamily);
  REQUIRE(model->config);
  CHECK(model->config->architecture == "mamba");
  CHECK(model->source->tensors()[0].name == "blk.0.ssm_in.weight");
  Copy(*model, temp / "out.gguf");
  const auto out = GgufFile::Open(temp / "out.gguf");
  REQUIRE(out.ok());
  CHECK(out->AsString(*out->Find("general.architecture")) == "mamba");
  CHECK(out->AsInteger(*out->Find("mamba.x")) == 5);
  CHECK(out->FindTensor("blk.0.ssm_in.weight") != nullptr);
}

TEST_CASE("the output may not be the input") {
  const TempFolder temp;
  GgufBytes b = TinyHeader(1);
  b.Tensor("output_norm.weight", {8}, 0, 0).Align().Data(32);
  WriteText(temp / "m.gguf", b.text);
  const auto model = OpenGguf(temp / "m.gguf");
  REQUIRE(model.ok());
  SinkOptions options;
  options.path = temp / "m.gguf";
  options.force = true;
  options.model = &*model;
  CHECK(MakeGgufSink(options).error().code == ErrorCode::kOutputIsInput);
}

TEST_CASE("row order: any range of any head size, there and back") {
  for (const auto& [heads, head_dim] :
       {std::pair<int64_t, int64_t>{1, 2}, {3, 6}, {2, 64}, {5, 32}}) {
    ModelConfig config;
    config.heads = heads;
    config.head_dim = head_dim;
    const int64_t rows = heads * head_dim;
    const auto order =
        RowOrder::Make(RowMap::kRopeQ, config, Encoding::Plain(DType::kI16), {rows, 3});
    REQUIRE(order.ok());
    std::vector<uint8_t> canonical(static_cast<size_t>(rows * 6));
    for (size_t i = 0; i < canonical.size(); ++i) canonical[i] = static_cast<uint8_t>(i * 89 + 3);
    for (const int64_t step : {int64_t{1}, int64_t{7}, int64_t{32}, rows}) {
      std::vector<uint8_t> stored(canonical.size());
      const auto write = [&](uint64_t offset, const void* from, uint64_t bytes) {
        REQUIRE(offset + bytes <= stored.size());
        std::memcpy(stored.data() + offset, from, bytes);
        return OkStatus();
      };
      const auto read = [&](uint64_t offset, void* to, uint64_t bytes) {
        REQUIRE(offset + bytes <= stored.size());
        std::memcpy(to, stored.data() + offset, bytes);
        return OkStatus();
      };
      for (int64_t row = 0; row < rows; row += step) {
        const int64_t count = std::min(step, rows - row);
        REQUIRE(order->Write(write, 6, row, count, canonical.data() + row * 6).ok());
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = CanonicalRow(RowMap::kRopeQ, config, r);
        CHECK(std::memcmp(stored.data() + r * 6, canonical.data() + from * 6, 6) == 0);
      }
      std::vector<uint8_t> back(canonical.size());
      for (int64_t row = 0; row < rows; row += step) {
        const int64_t count = std::min(step, rows - row);
        REQUIRE(order->Read(read, 6, row, count, back.data() + row * 6).ok());
      }
      CHECK(back == canonical);
    }
  }
}

}  // namespace
}  // namespace pennyweight
