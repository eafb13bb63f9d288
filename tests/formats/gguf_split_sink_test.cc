#include "formats/gguf_split_sink.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>

#include "formats/readers.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

struct Entry {
  std::string name;
  std::vector<int64_t> dims;  // innermost first
  BlockType block = BlockType::kQ4_0;
  bool plain = false;  // f32

  Encoding encoding() const {
    return plain ? Encoding::Plain(DType::kF32) : Encoding::Block(block);
  }
  uint64_t bytes() const {
    int64_t rows = 1;
    for (size_t i = 1; i < dims.size(); ++i) rows *= dims[i];
    return *encoding().RowBytes(dims.empty() ? 1 : dims[0]) * static_cast<uint64_t>(rows);
  }
};

const std::vector<Entry>& Entries() {
  static const std::vector<Entry> entries = {
      {"scalar", {}, {}, true},
      {"vector", {5}, {}, true},
      {"output_norm.weight", {256, 3}, BlockType::kIQ1_M},
      {"cube", {64, 2, 3}, BlockType::kNVFP4},
      {"four", {32, 1, 2, 1}, BlockType::kQ8_0},
      {"long", {256, 70}, BlockType::kQ4_K},
      {"last", {3, 3}, {}, true},
  };
  return entries;
}

// A file whose metadata hold every trap: an alignment of its own, a boolean of 2, split.* and
// pennyweight.* keys of an earlier life.
std::string OddFile(uint64_t alignment, bool split_keys) {
  GgufBytes b;
  b.Start(Entries().size(), split_keys ? 7 : 5);
  b.Text("general.architecture", "unheard-of");
  b.U32("general.alignment", static_cast<uint32_t>(alignment)).Bool("odd", 2);
  if (split_keys) b.U32("split.count", 0).U32("split.no", 0);
  b.ArrayStart("words", 8, 2).Str("").Str("\xC3\xBC");
  b.Text("pennyweight.version", "0.0.1");
  uint64_t offset = 0;
  const auto padded = [&](uint64_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  };
  for (const Entry& entry : Entries()) {
    const uint32_t id = entry.plain ? 0 : TraitsOf(entry.block).ggml_id;
    b.Tensor(entry.name, entry.dims, id, offset);
    offset += padded(entry.bytes());
  }
  b.Align(alignment);
  for (const Entry& entry : Entries()) {
    std::string data;
    for (uint64_t i = 0; i < entry.bytes(); ++i) {
      data.push_back(static_cast<char>(i * 31 + entry.name.size()));
    }
    b.Raw(data).Align(alignment);
  }
  return b.text;
}

void RequireOk(const Status& status) {
  REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().ToString()));
}

std::unique_ptr<GgufSplitSink> Make(const Model& model, const std::string& path,
                                    uint64_t shard_bytes, bool split, bool force = false) {
  SinkOptions options;
  options.path = path;
  options.force = force;
  options.model = &model;
  options.shard_bytes = shard_bytes;
  auto sink = split ? GgufSplitSink::Split(options) : GgufSplitSink::Join(options);
  REQUIRE_MESSAGE(sink.ok(), sink.error().ToString());
  return std::move(sink).value();
}

Model Open(const std::string& path) {
  auto model = OpenStored(path);
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  return std::move(model).value();
}

std::vector<OutputTensor> OutputsOf(const Model& model) {
  std::vector<OutputTensor> out;
  for (const TensorInfo& t : model.source->tensors()) out.push_back({t.name, t.encoding, t.shape});
  return out;
}

void Copy(const Model& model, GgufSplitSink* sink) {
  const auto& tensors = model.source->tensors();
  for (size_t i = tensors.size(); i-- > 0;) {
    EncodedTensor whole;
    RequireOk(model.source->ReadRows(i, 0, tensors[i].rows(), &whole));
    WriteInTiles(sink, i, whole, 32);
  }
}

// The names of the tensors of each file.
std::vector<std::vector<std::string>> NamesOf(const std::vector<std::string>& paths) {
  std::vector<std::vector<std::string>> out;
  for (const std::string& path : paths) {
    const auto file = GgufFile::Open(path);
    REQUIRE_MESSAGE(file.ok(), file.error().ToString());
    out.emplace_back();
    for (const GgufTensor& tensor : file->tensors()) out.back().push_back(tensor.name);
  }
  return out;
}

using Groups = std::vector<std::vector<std::string>>;

TEST_CASE("parts are filled in order, and joined they are the file again") {
  struct Case {
    uint64_t shard_bytes;
    Groups groups;
  };
  // Padded to 32: 32, 32, 192, 224, 96, 10080, 64.
  const std::vector<Case> cases = {
      {1, {{"scalar"}, {"vector"}, {"output_norm.weight"}, {"cube"}, {"four"}, {"long"}, {"last"}}},
      {256, {{"scalar", "vector", "output_norm.weight"}, {"cube"}, {"four"}, {"long"}, {"last"}}},
      {255, {{"scalar", "vector"}, {"output_norm.weight"}, {"cube"}, {"four"}, {"long"}, {"last"}}},
      {10176, {{"scalar", "vector", "output_norm.weight", "cube", "four"}, {"long", "last"}}},
      {1u << 30, {{"scalar", "vector", "output_norm.weight", "cube", "four", "long", "last"}}},
  };
  for (const uint64_t alignment : {32, 64, 4096}) {
    for (const Case& c : cases) {
      CAPTURE(alignment);
      CAPTURE(c.shard_bytes);
      const TempFolder temp;
      const std::string original = OddFile(alignment, false);
      WriteText(temp / "m.gguf", original);
      const Model model = Open(temp / "m.gguf");
      const auto sink = Make(model, temp / "part", c.shard_bytes, true);
      RequireOk(sink->Begin(OutputsOf(model)));
      REQUIRE(sink->paths().size() == c.groups.size());
      Copy(model, sink.get());
      RequireOk(sink->Seal());
      for (const std::string& path : sink->paths()) CHECK_FALSE(PathExists(path));
      RequireOk(sink->Commit());
      CHECK(NamesOf(sink->paths()) == c.groups);
      uint64_t total = 0;
      for (const std::string& path : sink->paths()) total += ReadText(path).size();
      CHECK(sink->TotalBytes() == total);

      const Model parts = Open(sink->paths().back());
      const auto join = Make(parts, temp / "back.gguf", 0, false);
      RequireOk(join->Begin(OutputsOf(parts)));
      Copy(parts, join.get());
      RequireOk(join->Seal());
      RequireOk(join->Commit());
      CHECK(ReadText(temp / "back.gguf") == original);
    }
  }
}

TEST_CASE("the first part has the metadata, every part says which one it is") {
  const TempFolder temp;
  WriteText(temp / "m.gguf", OddFile(64, true));
  const Model model = Open(temp / "m.gguf");
  const auto sink = Make(model, temp / "part", 300, true);
  RequireOk(sink->Begin(OutputsOf(model)));
  Copy(model, sink.get());
  RequireOk(sink->Seal());
  RequireOk(sink->Commit());
  for (size_t i = 0; i < sink->paths().size(); ++i) {
    const auto file = GgufFile::Open(sink->paths()[i]);
    REQUIRE_MESSAGE(file.ok(), file.error().ToString());
    CHECK(file->entries().size() == (i == 0 ? 5 : 0) + 3);
    CHECK(file->alignment() == (i == 0 ? 64 : 32));
    const GgufEntry* number = file->Find("split.no");
    REQUIRE(number != nullptr);
    CHECK(number->type == GgufType::kU16);
    CHECK(file->AsInteger(*number) == static_cast<int64_t>(i));
    const GgufEntry* count = file->Find("split.count");
    REQUIRE(count != nullptr);
    CHECK(count->type == GgufType::kU16);
    CHECK(file->AsInteger(*count) == static_cast<int64_t>(sink->paths().size()));
    const GgufEntry* tensors = file->Find("split.tensors.count");
    REQUIRE(tensors != nullptr);
    CHECK(tensors->type == GgufType::kI32);
    CHECK(file->AsInteger(*tensors) == 7);
  }
}

TEST_CASE("what is not complete never appears, and the first part comes last") {
  const TempFolder temp;
  WriteText(temp / "m.gguf", OddFile(32, false));
  const Model model = Open(temp / "m.gguf");
  {
    const auto sink = Make(model, temp / "part", 300, true);
    RequireOk(sink->Begin(OutputsOf(model)));
    EncodedTensor whole;
    RequireOk(model.source->ReadRows(0, 0, 1, &whole));
    WriteInTiles(sink.get(), 0, whole, 32);
    const Status status = sink->Seal();
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kVerifyFailed);
    CHECK(status.error().tensor == "vector");
  }
  CHECK(temp.Names() == std::vector<std::string>{"m.gguf"});

  const auto sink = Make(model, temp / "part", 300, true, true);
  RequireOk(sink->Begin(OutputsOf(model)));
  REQUIRE(sink->paths().size() > 2);
  Copy(model, sink.get());
  RequireOk(sink->Seal());
  std::filesystem::create_directories(sink->paths()[1] + "/in the way");
  CHECK_FALSE(sink->Commit().ok());
  CHECK_FALSE(PathExists(sink->paths()[0]));
  CHECK(PathExists(sink->paths()[2]));
}

TEST_CASE("outputs that exist, are inputs, or would be too many are refused") {
  const TempFolder temp;
  WriteText(temp / "m.gguf", OddFile(32, false));
  const Model model = Open(temp / "m.gguf");
  const auto code_of = [&](const Model& input, const std::string& path, bool split, bool force) {
    const Status status = Make(input, path, 300, split, force)->Begin(OutputsOf(input));
    REQUIRE_FALSE(status.ok());
    return status.error().code;
  };
  WriteText(temp / "there.gguf", "precious");
  CHECK(code_of(model, temp / "there.gguf", false, false) == ErrorCode::kOutputExists);
  CHECK(ReadText(temp / "there.gguf") == "precious");
  CHECK(code_of(model, temp / "m.gguf", false, true) == ErrorCode::kOutputIsInput);
  const auto sink = Make(model, temp / "part", 300, true);
  RequireOk(sink->Begin(OutputsOf(model)));
  Copy(model, sink.get());
  RequireOk(sink->Seal());
  RequireOk(sink->Commit());
  const Model parts = Open(sink->paths()[0]);
  CHECK(code_of(parts, temp / "part", true, true) == ErrorCode::kOutputIsInput);
  CHECK(code_of(parts, sink->paths()[1], false, true) == ErrorCode::kOutputIsInput);
  std::filesystem::remove(sink->paths()[0]);
  CHECK(code_of(model, temp / "part", true, false) == ErrorCode::kOutputExists);

  GgufBytes b;
  b.Start(5000, 0);
  for (uint64_t i = 0; i < 5000; ++i) b.Tensor(fmt::format("t{}", i), {8}, 0, i * 32);
  b.Align().Data(160000);
  WriteText(temp / "many.gguf", b.text);
  const Model many = Open(temp / "many.gguf");
  const Status status = Make(many, temp / "x", 1, true)->Begin(OutputsOf(many));
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kLimit);
}

}  // namespace
}  // namespace pennyweight
