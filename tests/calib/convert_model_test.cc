#include "calib/convert_model.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

// What a table test says of each tensor; nothing is read.
class ListedSource : public TensorSource {
 public:
  ListedSource(std::string_view format, std::vector<TensorInfo> tensors)
      : format_(format), tensors_(std::move(tensors)) {}
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t, int64_t, int64_t, EncodedTensor*) const override {
    return Error(ErrorCode::kIo, "not read");
  }
  std::string_view format() const override { return format_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::string_view format_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

TensorInfo Listed(const std::string& name, const Encoding& encoding, Shape shape) {
  TensorInfo info;
  info.name = info.stored_name = name;
  info.encoding = encoding;
  info.shape = std::move(shape);
  return info;
}

Model ListedModel(std::string_view format, std::vector<TensorInfo> tensors) {
  Model model;
  model.source = std::make_unique<ListedSource>(format, std::move(tensors));
  return model;
}

// Names of the chosen encodings; an error's tensor in brackets.
std::string Chosen(const Model& model, bool gguf, std::optional<DType> dtype) {
  const auto choices = ChooseConversions(model, {gguf, dtype});
  if (!choices.ok()) {
    CHECK(choices.error().code == ErrorCode::kUnsupported);
    return "[" + choices.error().tensor + "]";
  }
  std::string names;
  for (const Choice& choice : *choices) {
    CHECK(!choice.quantize);
    names += (names.empty() ? "" : " ") + choice.encoding.Name() + (choice.fallback ? "!" : "");
  }
  return names;
}

// Takes tiles from any thread and keeps their bytes.
class KeepingSink : public TensorSink {
 public:
  Status Begin(const std::vector<OutputTensor>& tensors) override {
    tensors_ = tensors;
    for (const OutputTensor& t : tensors) {
      bytes.emplace_back(static_cast<size_t>(OutputBytesOf(t)));
    }
    return OkStatus();
  }
  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    CHECK(row % kTileRows == 0);
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t at = static_cast<size_t>(row * tile.cols * DTypeBits(tile.encoding.dtype) / 8);
    REQUIRE(at + tile.data.size() <= bytes[index].size());
    std::copy(tile.data.begin(), tile.data.end(),
              bytes[index].begin() + static_cast<std::ptrdiff_t>(at));
    if (cancel_at_write != nullptr) cancel_at_write->store(true);
    return OkStatus();
  }
  Status Seal() override { return OkStatus(); }
  Status Commit() override { return OkStatus(); }
  std::string OutputName(size_t index) const override { return tensors_[index].name; }
  uint64_t OutputBytes(size_t index) const override { return bytes[index].size(); }
  uint64_t TotalBytes() const override { return 0; }

  std::vector<std::vector<uint8_t>> bytes;
  std::atomic<bool>* cancel_at_write = nullptr;

 private:
  static int64_t OutputBytesOf(const OutputTensor& t) {
    return *ElementCount(t.shape) * DTypeBits(t.encoding.dtype) / 8;
  }
  std::vector<OutputTensor> tensors_;
  std::mutex mutex_;
};

struct Converted {
  Result<Report> report;
  std::vector<std::vector<uint8_t>> bytes;
};

Converted Convert(const Model& model, std::optional<DType> dtype, const Context& context,
                  std::atomic<bool>* cancel_at_write = nullptr) {
  const auto choices = ChooseConversions(model, {false, dtype});
  REQUIRE(choices.ok());
  std::vector<OutputTensor> outputs;
  for (size_t i = 0; i < choices->size(); ++i) {
    const TensorInfo& info = model.source->tensors()[i];
    outputs.push_back({info.name, (*choices)[i].encoding, info.shape});
  }
  KeepingSink sink;
  sink.cancel_at_write = cancel_at_write;
  REQUIRE(sink.Begin(outputs).ok());
  auto report = ConvertModel(context, model, *choices, &sink);
  return {std::move(report), std::move(sink.bytes)};
}

// Several tiles, a tail of odd rows, a vector and an empty tensor.
Model RandomModel() {
  std::random_device device;
  std::mt19937 rng(device());
  std::normal_distribution<float> normal;
  auto source = std::make_unique<MemorySource>();
  const auto add = [&](const char* name, Shape shape) {
    std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
    for (float& v : values) v = normal(rng);
    source->AddFloats(name, std::move(shape), values);
  };
  add("wide.weight", {131, 16384});
  add("tall.weight", {300'001, 3});
  add("cube", {3, 11, 5});
  add("model.norm.weight", {64});
  add("empty", {0, 5});
  Model model;
  model.source = std::move(source);
  return model;
}

TEST_CASE("what becomes what: floats, norms, integers, blocks, and what cannot be decoded") {
  const Model plain =
      ListedModel("safetensors", {Listed("w.weight", Encoding::Plain(DType::kBF16), {4, 64}),
                                  Listed("model.norm.weight", Encoding::Plain(DType::kF16), {64}),
                                  Listed("ids", Encoding::Plain(DType::kI64), {4}),
                                  Listed("d", Encoding::Plain(DType::kF64), {4, 4}),
                                  Listed("f8", Encoding::Plain(DType::kF8E4M3), {4, 4})});
  CHECK(Chosen(plain, false, {}) == "bf16 f16 i64 f64 f8_e4m3");
  CHECK(Chosen(plain, false, DType::kF32) == "f32 f32 i64! f64! f8_e4m3!");
  CHECK(Chosen(plain, true, {}) == "bf16 f32 i64 f64 f8_e4m3");
  CHECK(Chosen(plain, true, DType::kF16) == "f16 f32! i64! f64! f8_e4m3!");

  const Model blocks =
      ListedModel("gguf", {Listed("a.weight", Encoding::Block(BlockType::kQ4_K), {4, 256}),
                           Listed("a_norm.weight", Encoding::Plain(DType::kF32), {256})});
  CHECK(Chosen(blocks, true, {}) == "q4_k f32");
  CHECK(Chosen(blocks, true, DType::kBF16) == "bf16 f32!");
  CHECK(Chosen(blocks, false, {}) == "f16 f32");  // f16 is what nobody contradicts
  CHECK(Chosen(blocks, false, DType::kBF16) == "bf16 bf16");

  const Model codebook =
      ListedModel("gguf", {Listed("a.weight", Encoding::Block(BlockType::kIQ1_S), {4, 256})});
  CHECK(Chosen(codebook, true, {}) == "iq1_s");
  CHECK(Chosen(codebook, true, DType::kF32) == "f32");
  CHECK(Chosen(codebook, false, {}) == "f16");

  const IntegerSpec odd_scales{4, 32, true, DType::kF8E4M3};
  const Model unknown =
      ListedModel("safetensors", {Listed("a.weight", Encoding::Integer(odd_scales), {4, 64})});
  CHECK(Chosen(unknown, true, DType::kF16) == "[a.weight]");
  CHECK(Chosen(unknown, false, {}) == "[a.weight]");

  Model integers = ListedModel(
      "safetensors", {Listed("a.weight", Encoding::Integer({4, 32, true, DType::kBF16}), {4, 64}),
                      Listed("head.weight", Encoding::Plain(DType::kBF16), {4, 64})});
  CHECK(Chosen(integers, false, {}) == "bf16 bf16");  // as most plain weights are
  integers.directory = "somewhere";
  integers.config = ModelConfig();
  integers.config->dtype = DType::kF32;  // the configuration's own word comes first
  CHECK(Chosen(integers, true, {}) == "f32 bf16");
}

TEST_CASE("a copy is exact, a cast rounds every value, and threads change nothing") {
  const Model model = RandomModel();
  Context one;
  const auto& source = static_cast<const MemorySource&>(*model.source);
  const Converted copy = Convert(model, DType::kF32, one);
  REQUIRE(copy.report.ok());
  CHECK(copy.report->totals.weight_rel_mse == 0.0);
  CHECK(copy.report->layers.empty());
  for (size_t i = 0; i < copy.bytes.size(); ++i) {
    const auto& name = source.tensors()[i].name;
    CHECK(copy.bytes[i] == const_cast<MemorySource&>(source).data(name));
    CHECK(copy.report->tensors[i].method == "copy");
  }
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const Converted cast = Convert(model, dtype, one);
    REQUIRE(cast.report.ok());
    for (size_t i = 0; i < cast.bytes.size(); ++i) {
      const std::vector<uint8_t>& stored = copy.bytes[i];
      std::vector<uint8_t> want(stored.size() / 2);
      EncodeFromFloat(dtype, reinterpret_cast<const float*>(stored.data()), want.data(),
                      want.size() / 2);
      CHECK(cast.bytes[i] == want);
      CHECK(cast.report->tensors[i].method == "cast");
    }
    // Rounding to 8 or 11 bits of uniform mantissas: about 2^-2p / 6 of the energy, two-sided.
    const double bits = dtype == DType::kF16 ? 11 : 8;
    const double expected = std::exp2(-2 * bits) / 6;
    CHECK(*cast.report->totals.weight_rel_mse > expected / 2);
    CHECK(*cast.report->totals.weight_rel_mse < expected * 2);
    Context many;
    many.threads = 5;
    const Converted again = Convert(model, dtype, many);
    REQUIRE(again.report.ok());
    CHECK(again.bytes == cast.bytes);
    CHECK(again.report->totals.weight_rel_mse == cast.report->totals.weight_rel_mse);
  }
}

TEST_CASE("NaN and infinity pass, and copied beside a cast they are no error") {
  auto source = std::make_unique<MemorySource>();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  source->AddFloats("a", {1, 4}, {nan, inf, -0.0f, 1e30f});
  source->Add("b", DType::kF16, {1, 2}, {0x01, 0x7E, 0x00, 0xFC});
  Model model;
  model.source = std::move(source);
  const Converted cast = Convert(model, DType::kF16, Context());
  REQUIRE(cast.report.ok());
  uint16_t halves[4];
  std::memcpy(halves, cast.bytes[0].data(), sizeof(halves));
  CHECK((halves[0] & 0x7FFF) > 0x7C00);
  CHECK(halves[1] == 0x7C00);
  CHECK(halves[2] == 0x8000);
  CHECK(halves[3] == 0x7C00);
  CHECK(cast.bytes[1] == std::vector<uint8_t>{0x01, 0x7E, 0x00, 0xFC});
  CHECK(cast.report->tensors[1].weight_rel_mse == 0.0);
  CHECK(cast.report->tensors[0].weight_rel_mse != 0.0);
}

TEST_CASE("too little memory is refused, and a cancelled run stops") {
  const Model model = RandomModel();
  Context little;
  little.memory_limit = 1'000'000;
  const Converted refused = Convert(model, DType::kF16, little);
  REQUIRE(!refused.report.ok());
  CHECK(refused.report.error().code == ErrorCode::kMemory);
  CHECK(refused.report.error().hint.find("--memory") != std::string::npos);

  std::atomic<bool> cancel{false};
  Context cancelled;
  cancelled.cancel = &cancel;
  const Converted stopped = Convert(model, DType::kF16, cancelled, &cancel);
  REQUIRE(!stopped.report.ok());
  CHECK(stopped.report.error().code == ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace pennyweight
