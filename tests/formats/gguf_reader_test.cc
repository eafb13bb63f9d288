#include "formats/gguf_reader.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <functional>

#include "lib/limits.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

Result<GgufFile> OpenBytes(const TempFolder& temp, const std::string& bytes) {
  WriteText(temp / "x.gguf", bytes);
  return GgufFile::Open(temp / "x.gguf");
}

// A plain file: two keys, a 4 x 8 f32 tensor, then a 2 x 32 q8_0 one.
GgufBytes Good() {
  GgufBytes b;
  b.Start(2, 2).Text("general.architecture", "none").U32("n", 7);
  b.Tensor("a", {8, 4}, 0, 0).Tensor("b", {32, 2}, 8, 128).Align().Data(128 + 68);
  return b;
}

// One key, written by the caller.
GgufBytes WithKey(const std::function<void(GgufBytes&)>& write) {
  GgufBytes b;
  b.Start(0, 1);
  write(b);
  b.Data(64);
  return b;
}

// One tensor with 4096 bytes of data behind the header.
GgufBytes WithTensor(const std::vector<int64_t>& dims, uint32_t type, uint64_t offset = 0,
                     std::string_view name = "t") {
  GgufBytes b;
  b.Start(1, 0).Tensor(name, dims, type, offset).Align().Data(4096);
  return b;
}

struct Hostile {
  const char* what;
  GgufBytes bytes;
  ErrorCode code;
};

GgufBytes Header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  GgufBytes b;
  b.Start(tensors, keys, version).Data(4096);
  return b;
}

GgufBytes Alignment(uint32_t value) {
  return WithKey([&](GgufBytes& b) { b.U32("general.alignment", value); });
}

std::vector<Hostile> HeaderCases() {
  const uint64_t huge = ~uint64_t{0};
  return {
      {"U1 bad magic", GgufBytes().Raw("GGUX").Data(64), ErrorCode::kInvalidHeader},
      {"U2 version 0", Header(0, 0, 0), ErrorCode::kInvalidHeader},
      {"U2 version 1", Header(0, 0, 1), ErrorCode::kUnsupported},
      {"U2 version 4", Header(0, 0, 4), ErrorCode::kUnsupported},
      {"U3 big-endian", Header(0, 0, 0x03000000), ErrorCode::kUnsupported},
      {"U4 2^63 keys", Header(0, 1ull << 63), ErrorCode::kTruncated},
      {"U5 2^60 tensors", Header(1ull << 60, 0), ErrorCode::kTruncated},
      {"more keys than bytes", Header(0, 1000), ErrorCode::kTruncated},
      {"U6 key of 2^64-1 bytes", WithKey([&](GgufBytes& b) { b.Put(huge); }),
       ErrorCode::kTruncated},
      {"U7 string one byte beyond the end",
       WithKey([](GgufBytes& b) { b.Str("k").Put<uint32_t>(8).Put<uint64_t>(65); }),
       ErrorCode::kTruncated},
      {"U8 2^61 u64 values", WithKey([](GgufBytes& b) { b.ArrayStart("k", 10, 1ull << 61); }),
       ErrorCode::kTruncated},
      {"U9 2^60 strings", WithKey([](GgufBytes& b) { b.ArrayStart("k", 8, 1ull << 60); }),
       ErrorCode::kTruncated},
      {"U10 element type 13", WithKey([](GgufBytes& b) { b.ArrayStart("k", 13, 1); }),
       ErrorCode::kInvalidHeader},
      {"U11 array of arrays", WithKey([](GgufBytes& b) {
         b.ArrayStart("k", 9, 1);
         for (int i = 0; i < 100000; ++i) b.Put<uint32_t>(9).Put<uint64_t>(1);
       }),
       ErrorCode::kUnsupported},
      {"U12 value type 99", WithKey([](GgufBytes& b) { b.Str("k").Put<uint32_t>(99); }),
       ErrorCode::kInvalidHeader},
      {"U13 duplicate key", GgufBytes().Start(0, 2).U32("k", 1).U32("k", 1),
       ErrorCode::kDuplicateKey},
      {"U14 duplicate tensor",
       GgufBytes().Start(2, 0).Tensor("t", {8}, 0, 0).Tensor("t", {8}, 0, 32).Align().Data(64),
       ErrorCode::kDuplicateKey},
      {"U15 empty key", WithKey([](GgufBytes& b) { b.U32("", 1); }), ErrorCode::kInvalidName},
      {"key with a NUL", WithKey([](GgufBytes& b) { b.U32(std::string_view("a\0b", 3), 1); }),
       ErrorCode::kInvalidName},
      {"key that is no UTF-8", WithKey([](GgufBytes& b) { b.U32("a\xFF", 1); }),
       ErrorCode::kInvalidName},
      {"key beyond the cap",
       WithKey([](GgufBytes& b) { b.U32(std::string(limits::kGgufKeyBytes + 1, 'k'), 1); }),
       ErrorCode::kLimit},
      {"U16 alignment 0", Alignment(0), ErrorCode::kInvalidHeader},
      {"U16 alignment 3", Alignment(3), ErrorCode::kInvalidHeader},
      {"U16 alignment 4", Alignment(4), ErrorCode::kInvalidHeader},
      {"U16 alignment 24", Alignment(24), ErrorCode::kInvalidHeader},
      {"U16 alignment 2^31", Alignment(1u << 31), ErrorCode::kLimit},
      {"U16 alignment as a string",
       WithKey([](GgufBytes& b) { b.Text("general.alignment", "32"); }), ErrorCode::kInvalidHeader},
      {"U16 alignment as f32", WithKey([](GgufBytes& b) { b.F32("general.alignment", 32); }),
       ErrorCode::kInvalidHeader},
  };
}

std::vector<Hostile> TensorCases() {
  const int64_t two32 = int64_t{1} << 32;
  GgufBytes five_dims = WithTensor({1, 1, 1, 1, 1}, 0);
  GgufBytes many_dims;
  many_dims.Start(1, 0).Str("t").Put<uint32_t>(~0u).Data(4096);
  GgufBytes short_data;
  short_data.Start(1, 0).Tensor("t", {8, 4}, 0, 0).Align().Data(127);
  GgufBytes overlap;
  overlap.Start(2, 0).Tensor("a", {8, 4}, 0, 0).Tensor("b", {8}, 0, 96).Align().Data(128);
  GgufBytes same_place;
  same_place.Start(2, 0).Tensor("a", {8}, 0, 0).Tensor("b", {8}, 0, 0).Align().Data(128);
  return {
      {"U17 five dimensions", five_dims, ErrorCode::kInvalidTensor},
      {"U17 2^32-1 dimensions", many_dims, ErrorCode::kInvalidTensor},
      {"U18 a dimension of 0", WithTensor({8, 0}, 0), ErrorCode::kInvalidTensor},
      {"a negative dimension", WithTensor({8, -1}, 0), ErrorCode::kInvalidTensor},
      {"U19 2^32 x 2^32", WithTensor({two32, two32}, 0), ErrorCode::kOverflow},
      {"U19 2^32 x 2^32 of q8_0", WithTensor({two32, two32}, 8), ErrorCode::kOverflow},
      {"U20 wraps to a small product", WithTensor({(int64_t{1} << 42) + 32, int64_t{1} << 22}, 8),
       ErrorCode::kOverflow},
      {"U21 bytes wrap", WithTensor({int64_t{1} << 62}, 0), ErrorCode::kOverflow},
      {"bytes beyond 63 bits", WithTensor({int64_t{1} << 61}, 0), ErrorCode::kOverflow},
      {"U22 offset 2^64-32", WithTensor({8}, 0, ~uint64_t{31}), ErrorCode::kOverflow},
      {"U23 misaligned", WithTensor({8}, 0, 8), ErrorCode::kMisaligned},
      {"U24 one row beyond the end", WithTensor({8}, 0, 4096), ErrorCode::kTruncated},
      {"CVE-2026-7482 larger than the file", WithTensor({1 << 20}, 0), ErrorCode::kTruncated},
      {"U25 overlap", overlap, ErrorCode::kInvalidOffset},
      {"U25 the same range twice", same_place, ErrorCode::kInvalidOffset},
      {"U28 type 9999", WithTensor({8}, 9999), ErrorCode::kUnknownDtype},
      {"type 43", WithTensor({8}, 43), ErrorCode::kUnknownDtype},
      {"type 2^32-1", WithTensor({8}, ~0u), ErrorCode::kUnknownDtype},
      {"U29 rows of 33 in q8_0", WithTensor({33, 2}, 8), ErrorCode::kInvalidTensor},
      {"rows of 128 in q4_k", WithTensor({128, 2}, 12), ErrorCode::kInvalidTensor},
      {"U30 one byte short", short_data, ErrorCode::kTruncated},
      {"U34 name with an escape", WithTensor({8}, 0, 0, "a\x1b[31m"), ErrorCode::kInvalidName},
      {"empty name", WithTensor({8}, 0, 0, ""), ErrorCode::kInvalidName},
      {"name beyond the cap", WithTensor({8}, 0, 0, std::string(1025, 'n')), ErrorCode::kLimit},
  };
}

TEST_CASE("a good file is listed with absolute offsets and canonical shapes") {
  const TempFolder temp;
  const auto file = OpenBytes(temp, Good().text);
  REQUIRE_MESSAGE(file.ok(), file.error().ToString());
  REQUIRE(file->tensors().size() == 2);
  const GgufTensor* b = file->FindTensor("b");
  REQUIRE(b != nullptr);
  CHECK(b->shape == Shape{2, 32});
  CHECK(b->encoding == Encoding::Block(BlockType::kQ8_0));
  CHECK(b->bytes == 68);
  CHECK(b->offset == Good().text.size() - 68);
  CHECK(file->FindTensor("c") == nullptr);
  CHECK(file->AsInteger(*file->Find("n")) == 7);
  CHECK(file->AsString(*file->Find("general.architecture")) == "none");
  CHECK_FALSE(file->AsString(*file->Find("n")));
  CHECK(file->Find("m") == nullptr);
  CHECK(file->notes().empty());  // U31: the padding behind the last tensor may be missing
}

TEST_CASE("hostile headers are refused with their code") {
  const TempFolder temp;
  for (const Hostile& c : HeaderCases()) {
    CAPTURE(c.what);
    const auto file = OpenBytes(temp, c.bytes.text);
    REQUIRE_FALSE(file.ok());
    CHECK_MESSAGE(file.error().code == c.code, file.error().ToString());
    CHECK(file.error().file == temp / "x.gguf");
    CHECK(file.error().offset >= 0);
  }
}

TEST_CASE("hostile tensor lists are refused with their code and name") {
  const TempFolder temp;
  for (const Hostile& c : TensorCases()) {
    CAPTURE(c.what);
    const auto file = OpenBytes(temp, c.bytes.text);
    REQUIRE_FALSE(file.ok());
    CHECK_MESSAGE(file.error().code == c.code, file.error().ToString());
    const bool unnamed = c.code == ErrorCode::kInvalidName || c.code == ErrorCode::kLimit;
    CHECK(file.error().tensor.empty() == unnamed);
  }
}

TEST_CASE("U27: removed types are named") {
  const TempFolder temp;
  const std::pair<uint32_t, const char*> removed[] = {
      {4, "q4_2"},      {5, "q4_3"},        {31, "q4_0_4_4"},   {32, "q4_0_4_8"},
      {33, "q4_0_8_8"}, {36, "iq4_nl_4_4"}, {37, "iq4_nl_4_8"}, {38, "iq4_nl_8_8"}};
  for (const auto& [id, name] : removed) {
    const auto file = OpenBytes(temp, WithTensor({256}, id).text);
    REQUIRE_FALSE(file.ok());
    CHECK(file.error().code == ErrorCode::kUnknownDtype);
    CHECK(file.error().message.find(name) != std::string::npos);
  }
}

TEST_CASE("odd but harmless files are read, with a note") {
  const TempFolder temp;
  GgufBytes hole;
  hole.Start(2, 0).Tensor("a", {8}, 0, 0).Tensor("b", {8}, 0, 128).Align().Data(160);
  GgufBytes order;
  order.Start(2, 0).Tensor("a", {8}, 0, 32).Tensor("b", {8}, 0, 0).Align().Data(64);
  GgufBytes bool2;
  bool2.Start(0, 1).Bool("b", 2);
  const std::pair<const char*, std::string> cases[] = {
      {"U26 unused bytes", hole.text},
      {"order of their list", order.text},
      {"U32 follow the last tensor", Good().Data(1 << 20).text},
      {"U34 names of up to 63", WithTensor({1024}, 0, 0, std::string(64, 'n')).text},
      {"U36 boolean", bool2.text},
  };
  for (const auto& [what, bytes] : cases) {
    CAPTURE(what);
    const auto file = OpenBytes(temp, bytes);
    REQUIRE_MESSAGE(file.ok(), file.error().ToString());
    REQUIRE(file->notes().size() == 1);
    const std::string needle = what[0] == 'U' ? std::string(what).substr(4) : what;
    CHECK(file->notes()[0].find(needle) != std::string::npos);
  }
  const auto sorted = OpenBytes(temp, order.text);
  CHECK(sorted->tensors()[0].name == "b");
  CHECK(sorted->FindTensor("a")->offset == sorted->FindTensor("b")->offset + 32);
}

TEST_CASE("version 2, other alignments and a rank of 0 are read") {
  const TempFolder temp;
  GgufBytes b;
  b.Start(2, 1, 2).U32("general.alignment", 128).Tensor("s", {}, 0, 0).Tensor("t", {8}, 0, 128);
  b.Align(128).Data(128 + 32);
  const auto file = OpenBytes(temp, b.text);
  REQUIRE_MESSAGE(file.ok(), file.error().ToString());
  CHECK(file->alignment() == 128);
  CHECK(file->FindTensor("s")->shape.empty());
  CHECK(file->FindTensor("s")->bytes == 4);
  CHECK(file->FindTensor("t")->offset % 128 == 0);
}

TEST_CASE("G2: every shorter prefix of a file is refused") {
  const TempFolder temp;
  const std::string whole = Good().text;
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto file = OpenBytes(temp, whole.substr(0, length));
    CAPTURE(length);
    REQUIRE_FALSE(file.ok());
    CHECK(file.error().code == ErrorCode::kTruncated);
  }
}

TEST_CASE("G3: any flipped byte is accepted or refused, never more") {
  const TempFolder temp;
  const std::string whole = Good().text;
  int refused = 0;
  for (size_t at = 0; at < whole.size() - 196; ++at) {
    for (const int mask : {0x01, 0x80, 0xFF}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      const auto file = OpenBytes(temp, damaged);
      if (!file.ok()) {
        ++refused;
        continue;
      }
      for (const GgufTensor& tensor : file->tensors()) {
        CHECK(tensor.offset + tensor.bytes <= whole.size());
      }
      for (const GgufEntry& entry : file->entries()) CHECK(file->Printable(entry).size() < 200);
    }
  }
  CHECK(refused > 100);
}

TEST_CASE("U33: a hundred thousand tensors are read in well under a second") {
  const TempFolder temp;
  GgufBytes b;
  b.Start(100000, 0);
  for (uint64_t i = 0; i < 100000; ++i) b.Tensor(fmt::format("t{}", i), {8}, 0, i * 32);
  b.Align().Data(3200000);
  WriteText(temp / "x.gguf", b.text);
  const auto start = std::chrono::steady_clock::now();
  const auto file = GgufFile::Open(temp / "x.gguf");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  REQUIRE(file.ok());
  CHECK(file->tensors().size() == 100000);
  CHECK(seconds.count() < 10);  // quadratic look-ups would take minutes
}

TEST_CASE("values print for people and decode by kind") {
  const TempFolder temp;
  GgufBytes b;
  b.Start(0, 5).F32("eps", 1e-5f).Text("bytes", "a\xFF\x01z\n");
  b.ArrayStart("few", 5, 3).Put<int32_t>(-1).Put<int32_t>(2).Put<int32_t>(3);
  b.ArrayStart("many", 8, 40);
  for (int i = 0; i < 40; ++i) b.Str(fmt::format("t{}", i));
  b.Str("big").Put<uint32_t>(10).Put<uint64_t>(~uint64_t{0});
  const auto file = OpenBytes(temp, b.text);
  REQUIRE_MESSAGE(file.ok(), file.error().ToString());
  CHECK(file->AsDouble(*file->Find("eps")) == 1e-5);  // as it was typed, not as a float
  CHECK(file->Printable(*file->Find("bytes")) == "a\\xFF\\x01z\n");
  CHECK(file->Printable(*file->Find("few")) == "[-1, 2, 3]");
  CHECK(file->Printable(*file->Find("many")) == "[40 strings]");
  CHECK(file->AsStrings(*file->Find("many"))->at(39) == "t39");
  CHECK(file->AsIntegers(*file->Find("few")) == std::vector<int64_t>{-1, 2, 3});
  CHECK_FALSE(file->AsIntegers(*file->Find("many")));
  CHECK_FALSE(file->AsInteger(*file->Find("big")));
  CHECK(file->Printable(*file->Find("big")) == "18446744073709551615");
}

std::string SplitPart(int number, int count, int announced, const char* tensor) {
  GgufBytes b;
  b.Start(1, 3).Str("split.no").Put<uint32_t>(2).Put<uint16_t>(static_cast<uint16_t>(number));
  b.Str("split.count").Put<uint32_t>(2).Put<uint16_t>(static_cast<uint16_t>(count));
  b.Str("split.tensors.count").Put<uint32_t>(5).Put<int32_t>(announced);
  b.Tensor(tensor, {8}, 0, 0).Align().Data(32);
  return b.text;
}

TEST_CASE("U40: split models need all their parts") {
  const TempFolder temp;
  WriteText(temp / "m-00001-of-00003.gguf", SplitPart(0, 3, 3, "a"));
  WriteText(temp / "m-00003-of-00003.gguf", SplitPart(2, 3, 3, "c"));
  auto files = OpenGgufFiles(temp / "m-00001-of-00003.gguf");
  REQUIRE_FALSE(files.ok());
  CHECK(files.error().code == ErrorCode::kShardMissing);
  CHECK(files.error().file == temp / "m-00002-of-00003.gguf");

  WriteText(temp / "m-00002-of-00003.gguf", SplitPart(1, 3, 3, "b"));
  files = OpenGgufFiles(temp / "m-00002-of-00003.gguf");
  REQUIRE_MESSAGE(files.ok(), files.error().ToString());
  CHECK(files->size() == 3);
  CHECK((*files)[0].FindTensor("a") != nullptr);

  WriteText(temp / "m-00002-of-00003.gguf", SplitPart(1, 3, 3, "a"));
  CHECK(OpenGgufFiles(temp / "m-00001-of-00003.gguf").error().code == ErrorCode::kDuplicateKey);
  WriteText(temp / "m-00002-of-00003.gguf", SplitPart(0, 3, 3, "b"));
  CHECK(OpenGgufFiles(temp / "m-00001-of-00003.gguf").error().code == ErrorCode::kShardMismatch);
  WriteText(temp / "m-00002-of-00003.gguf", SplitPart(1, 3, 4, "b"));
  WriteText(temp / "m-00001-of-00003.gguf", SplitPart(0, 3, 4, "a"));
  CHECK(OpenGgufFiles(temp / "m-00001-of-00003.gguf").error().code == ErrorCode::kShardMismatch);
  WriteText(temp / "renamed.gguf", SplitPart(0, 3, 3, "a"));
  CHECK(OpenGgufFiles(temp / "renamed.gguf").error().code == ErrorCode::kShardMissing);
}

}  // namespace
}  // namespace pennyweight
