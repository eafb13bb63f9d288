#include "formats/safetensors_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "formats/readers.h"
#include "lib/dtype.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

using test::SafetensorsBytes;
using test::ScratchFolder;

// `"name":{...}` of a U8 tensor.
std::string U8(const std::string& name, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":{},"data_offsets":{}}})", name, shape, offsets);
}

// A header with one tensor, "a".
std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"a":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape,
                     offsets);
}

struct HostileCase {
  const char* id;
  std::string bytes;
  ErrorCode code;
};

std::vector<HostileCase> HeaderCases() {
  const std::string data8(8, '\x11');
  const std::string good = SafetensorsBytes("{" + U8("a", "[8]", "[0,8]") + "}", data8);
  const auto length = [&](uint64_t n) { return test::LittleEndian64(n) + good.substr(8); };
  return {
      {"G1 empty file", "", ErrorCode::kHeaderTooSmall},
      {"G1 7 bytes", std::string(7, '\0'), ErrorCode::kHeaderTooSmall},
      {"S1", length(UINT64_MAX), ErrorCode::kHeaderTooLarge},
      {"S2", length(100'000'001), ErrorCode::kHeaderTooLarge},
      {"S2 the limit itself is only too long for the file", length(100'000'000),
       ErrorCode::kTruncated},
      {"S3", length(good.size() - 7), ErrorCode::kTruncated},
      {"S4", SafetensorsBytes("\xFF"), ErrorCode::kInvalidHeader},
      {"S5", SafetensorsBytes("{"), ErrorCode::kInvalidHeader},
      {"no header at all", SafetensorsBytes(""), ErrorCode::kInvalidHeader},
      {"an array", SafetensorsBytes("[]"), ErrorCode::kInvalidHeader},
      {"a byte order mark", SafetensorsBytes("\xEF\xBB\xBF{}"), ErrorCode::kInvalidHeader},
      {"text behind the object", SafetensorsBytes("{}{}"), ErrorCode::kInvalidHeader},
      {"S28", SafetensorsBytes("{\"a\":" + std::string(100000, '[')), ErrorCode::kLimit},
      {"S31", SafetensorsBytes("{" + U8("\\ud800", "[0]", "[0,0]") + "}"),
       ErrorCode::kInvalidHeader},
      {"S29", SafetensorsBytes("{" + U8("a\\u0000b", "[0]", "[0,0]") + "}"),
       ErrorCode::kInvalidName},
      {"empty name", SafetensorsBytes("{" + U8("", "[0]", "[0,0]") + "}"), ErrorCode::kInvalidName},
      {"name of 1025 bytes",
       SafetensorsBytes("{" + U8(std::string(1025, 'n'), "[0]", "[0,0]") + "}"),
       ErrorCode::kInvalidName},
      {"S21", SafetensorsBytes("{\"__metadata__\":{},\"__metadata__\":{}}"),
       ErrorCode::kDuplicateKey},
      {"S22 number", SafetensorsBytes("{\"__metadata__\":{\"a\":1}}"),
       ErrorCode::kMetadataNotString},
      {"S22 object", SafetensorsBytes("{\"__metadata__\":{\"a\":{}}}"),
       ErrorCode::kMetadataNotString},
      {"S22 not a map", SafetensorsBytes("{\"__metadata__\":\"x\"}"),
       ErrorCode::kMetadataNotString},
      {"NUL in metadata", SafetensorsBytes("{\"__metadata__\":{\"a\":\"x\\u0000\"}}"),
       ErrorCode::kInvalidName},
  };
}

std::vector<HostileCase> TensorCases() {
  const std::string data8(8, '\x11');
  const auto tensors = [&](const std::string& members, size_t bytes) {
    return SafetensorsBytes("{" + members + "}", std::string(bytes, '\x11'));
  };
  const std::string same = U8("b", "[8]", "[0,8]");
  std::string rank_bomb = "[1";
  for (int i = 1; i < 100000; ++i) rank_bomb += ",1";
  return {
      {"S8", tensors(U8("a", "[8]", "[0,8]") + "," + same, 8), ErrorCode::kInvalidOffset},
      {"overlap by one", tensors(U8("a", "[5]", "[0,5]") + "," + U8("b", "[4]", "[4,8]"), 8),
       ErrorCode::kInvalidOffset},
      {"S10", tensors(U8("a", "[4]", "[0,4]") + "," + U8("b", "[4]", "[8,12]"), 12),
       ErrorCode::kInvalidOffset},
      {"S11", tensors(U8("a", "[4]", "[8,12]"), 12), ErrorCode::kInvalidOffset},
      {"S12", tensors(U8("a", "[4]", "[8,4]"), 8), ErrorCode::kInvalidOffset},
      {"S13", tensors(U8("a", "[8]", "[0,8]"), 8 + 34), ErrorCode::kIncompleteBuffer},
      {"S42", tensors(U8("a", "[8]", "[0,8]"), 8) + "PK\x05\x06", ErrorCode::kIncompleteBuffer},
      {"data without tensors", SafetensorsBytes("{}", "x"), ErrorCode::kIncompleteBuffer},
      {"S14", tensors(U8("a", "[8]", "[0,8]"), 6), ErrorCode::kTruncated},
      {"S15", SafetensorsBytes(Entry("I32", "[2,2]", "[0,4]"), "1234"), ErrorCode::kInvalidTensor},
      {"S16", SafetensorsBytes(Entry("F32", "[2,18446744073709551614]", "[0,8]"), data8),
       ErrorCode::kOverflow},
      {"S17", SafetensorsBytes(Entry("F32", "[2,9223372036854775807]", "[0,8]"), data8),
       ErrorCode::kOverflow},
      {"S17 bits only", SafetensorsBytes(Entry("F64", "[2305843009213693952]", "[0,8]"), data8),
       ErrorCode::kOverflow},
      {"S18", SafetensorsBytes(Entry("U8", "[4294967296,4294967296]", "[0,0]")),
       ErrorCode::kOverflow},
      {"no element, but a dimension that is no int64",
       SafetensorsBytes(Entry("U8", "[0,9223372036854775808]", "[0,0]")), ErrorCode::kOverflow},
      {"S19", tensors(U8("a", "[8]", "[0,8]") + "," + U8("a", "[8]", "[0,8]"), 8),
       ErrorCode::kDuplicateKey},
      {"S20", tensors(U8("a", "[8]", "[0,8]") + "," + U8("\\u0061", "[8]", "[0,8]"), 8),
       ErrorCode::kDuplicateKey},
      {"empty duplicate", tensors(U8("a", "[0]", "[0,0]") + "," + U8("a", "[0]", "[0,0]"), 0),
       ErrorCode::kDuplicateKey},
      {"duplicate key in an entry",
       SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],"
                        "\"data_offsets\":[0,0]}}"),
       ErrorCode::kDuplicateKey},
      {"S23", SafetensorsBytes(Entry("F17", "[4]", "[0,8]"), data8), ErrorCode::kUnknownDtype},
      {"dtype in lower case", SafetensorsBytes(Entry("f16", "[4]", "[0,8]"), data8),
       ErrorCode::kUnknownDtype},
      {"S24", SafetensorsBytes(Entry("F4", "[3,3]", "[0,4]"), "1234"), ErrorCode::kMisaligned},
      {"S24 six bits", SafetensorsBytes(Entry("F6_E2M3", "[3]", "[0,3]"), "123"),
       ErrorCode::kMisaligned},
      {"S25 -1", SafetensorsBytes(Entry("U8", "[-1]", "[0,1]"), "1"), ErrorCode::kInvalidHeader},
      {"S25 1.0", SafetensorsBytes(Entry("U8", "[1.0]", "[0,1]"), "1"), ErrorCode::kInvalidHeader},
      {"S25 1e2", SafetensorsBytes(Entry("U8", "[1e2]", "[0,1]"), "1"), ErrorCode::kInvalidHeader},
      {"S25 string", SafetensorsBytes(Entry("U8", "[\"2\"]", "[0,2]"), "12"),
       ErrorCode::kInvalidHeader},
      {"S25 2^64", SafetensorsBytes(Entry("U8", "[18446744073709551616]", "[0,2]"), "12"),
       ErrorCode::kInvalidHeader},
      {"shape no list", SafetensorsBytes(Entry("U8", "2", "[0,2]"), "12"),
       ErrorCode::kInvalidHeader},
      {"S26 one", SafetensorsBytes(Entry("U8", "[2]", "[0]"), "12"), ErrorCode::kInvalidHeader},
      {"S26 three", SafetensorsBytes(Entry("U8", "[2]", "[0,2,2]"), "12"),
       ErrorCode::kInvalidHeader},
      {"S27", SafetensorsBytes(Entry("U8", rank_bomb + "]", "[0,1]"), "1"), ErrorCode::kLimit},
      {"entry is no object", SafetensorsBytes("{\"a\":1}"), ErrorCode::kInvalidHeader},
      {"no dtype", SafetensorsBytes("{\"a\":{\"shape\":[0],\"data_offsets\":[0,0]}}"),
       ErrorCode::kInvalidHeader},
      {"no shape", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}"),
       ErrorCode::kInvalidHeader},
      {"no offsets", SafetensorsBytes("{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}"),
       ErrorCode::kInvalidHeader},
  };
}

void CheckHostile(const std::vector<HostileCase>& cases) {
  const ScratchFolder folder;
  for (const HostileCase& hostile : cases) {
    CAPTURE(hostile.id);
    const std::string path = folder.Write("x.safetensors", hostile.bytes);
    const auto source = SafetensorsSource::Open({path});
    REQUIRE_FALSE(source.ok());
    CHECK(std::string(ErrorCodeName(source.error().code)) == ErrorCodeName(hostile.code));
    CHECK(source.error().file == path);
    CHECK_FALSE(source.error().message.empty());
  }
}

TEST_CASE("hostile headers are refused with the code of the broken rule") {
  CheckHostile(HeaderCases());
}

TEST_CASE("hostile tensors are refused with the code of the broken rule") {
  CheckHostile(TensorCases());
}

TEST_CASE("errors of a tensor name it") {
  for (const HostileCase& hostile : TensorCases()) {
    const std::string id = hostile.id;
    // These are about the whole file, or found before there are tensors.
    if (hostile.code == ErrorCode::kDuplicateKey || hostile.code == ErrorCode::kIncompleteBuffer) {
      continue;
    }
    CAPTURE(id);
    const auto header =
        ParseSafetensorsHeader(std::string_view(hostile.bytes)
                                   .substr(8,
                                           [&] {
                                             uint64_t n = 0;
                                             std::memcpy(&n, hostile.bytes.data(), 8);
                                             return n;
                                           }()),
                               hostile.bytes.size());
    REQUIRE_FALSE(header.ok());
    const std::string& tensor = header.error().tensor;
    CHECK((tensor == "a" || tensor == "b"));
  }
}

struct GoodCase {
  const char* id;
  std::string bytes;
  size_t tensors;
};

TEST_CASE("unusual files that keep the rules open") {
  const std::string four = "\x01\x02\x03\x04";
  const std::vector<GoodCase> cases = {
      {"S6", SafetensorsBytes("  \t\r\n{" + U8("a", "[4]", "[0,4]") + "}", four), 1},
      {"S7", SafetensorsBytes("{" + U8("a", "[4]", "[0,4]") + "} \t  ", four), 1},
      {"S24", SafetensorsBytes(Entry("F4", "[3,2]", "[0,3]"), "123"), 1},
      {"S30", SafetensorsBytes("{" + U8("a\\n\\u001b[31m", "[4]", "[0,4]") + "}", four), 1},
      {"S32", SafetensorsBytes(Entry("F32", "[]", "[0,4]"), four), 1},
      {"S33", SafetensorsBytes(Entry("F32", "[2,0]", "[0,0]")), 1},
      {"S34", SafetensorsBytes("{}"), 0},
      {"S35",
       SafetensorsBytes("{" + U8("b", "[2]", "[2,4]") + "," + U8("a", "[2]", "[0,2]") + "}", four),
       2},
      {"empty tensors between others",
       SafetensorsBytes("{" + U8("z", "[0]", "[2,2]") + "," + U8("b", "[2]", "[2,4]") + "," +
                            U8("a", "[2]", "[0,2]") + "," + U8("c", "[0]", "[0,0]") + "}",
                        four),
       4},
      {"unknown keys in an entry",
       SafetensorsBytes("{\"a\":{\"note\":[1],\"dtype\":\"U8\",\"shape\":[4],"
                        "\"data_offsets\":[0,4]}}",
                        four),
       1},
      {"rank 16", SafetensorsBytes(Entry("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4]", "[0,4]"), four),
       1},
  };
  const ScratchFolder folder;
  for (const GoodCase& good : cases) {
    CAPTURE(good.id);
    const auto source = SafetensorsSource::Open({folder.Write("x.safetensors", good.bytes)});
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    CHECK((*source)->tensors().size() == good.tensors);
    uint64_t at = 0;
    for (const TensorInfo& info : (*source)->tensors()) {
      CHECK(info.offset >= at);
      at = info.offset + info.bytes;
    }
    if (good.tensors > 0) CHECK(at == good.bytes.size());
  }
}

TEST_CASE("every dtype of the format is listed and its rows are read as they are stored") {
  const std::vector<std::pair<const char*, int>> dtypes = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  std::mt19937 random(7);
  std::vector<test::FileTensor> tensors;
  for (const auto& [name, bits] : dtypes) {
    std::string bytes(static_cast<size_t>(5 * 8 * bits / 8), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    tensors.push_back({std::string("t.") + name, name, {5, 8}, bytes});
  }
  const ScratchFolder folder;
  const auto source =
      SafetensorsSource::Open({folder.Write("x.safetensors", test::SafetensorsFile(tensors))});
  REQUIRE(source.ok());
  REQUIRE((*source)->tensors().size() == tensors.size());
  CHECK((*source)->metadata().at("format") == "pt");
  for (size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(tensors[i].name);
    const TensorInfo& info = (*source)->tensors()[i];
    CHECK(info.name == tensors[i].name);
    CHECK(DTypeName(info.encoding.dtype) == tensors[i].dtype);
    CHECK(info.bytes == tensors[i].bytes.size());
    EncodedTensor rows;
    REQUIRE((*source)->ReadRows(i, 1, 3, &rows).ok());
    const size_t row_bytes = tensors[i].bytes.size() / 5;
    CHECK(rows.rows == 3);
    CHECK(rows.cols == 8);
    CHECK(std::string(rows.data.begin(), rows.data.end()) ==
          tensors[i].bytes.substr(row_bytes, 3 * row_bytes));
  }
}

TEST_CASE("rows that end inside a byte are refused, not read askew") {
  const ScratchFolder folder;
  const auto source = SafetensorsSource::Open(
      {folder.Write("x.safetensors", SafetensorsBytes(Entry("F4", "[2,3]", "[0,3]"), "123"))});
  REQUIRE(source.ok());
  EncodedTensor rows;
  const Status status = (*source)->ReadRows(0, 1, 1, &rows);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kUnsupported);
  CHECK(status.error().tensor == "a");
}

TEST_CASE("S43: misaligned data are bit-exact, read from several threads at once") {
  std::mt19937 random(11);
  std::vector<float> values(64 * 33);
  for (float& value : values) value = static_cast<float>(static_cast<int32_t>(random())) * 1e-6f;
  // Two header lengths that differ by one: at most one of them leaves the data aligned.
  for (const char* pad : {"", " "}) {
    const std::string header = Entry("F32", "[64,33]", "[0,8448]") + pad;
    const ScratchFolder folder;
    const auto source = SafetensorsSource::Open(
        {folder.Write("x.safetensors", SafetensorsBytes(header, test::BytesOf(values)))});
    REQUIRE(source.ok());
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        EncodedTensor rows;
        for (int64_t row = 0; row < 64; ++row) {
          const bool ok = (*source)->ReadRows(0, row, 1, &rows).ok();
          if (!ok || std::memcmp(rows.data.data(), values.data() + row * 33, 33 * 4) != 0) {
            ++wrong[t];
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(std::count(wrong.begin(), wrong.end(), 0) == 4);
  }
}

TEST_CASE("a cut file names the first tensor that is cut and its first missing byte") {
  const std::string whole = test::SafetensorsFile({{"first", "U8", {10}, std::string(10, 'a')},
                                                   {"second", "U8", {10}, std::string(10, 'b')},
                                                   {"third", "U8", {10}, std::string(10, 'c')}});
  const ScratchFolder folder;
  const std::string path = folder.Write("x.safetensors", whole.substr(0, whole.size() - 15));
  const auto source = SafetensorsSource::Open({path});
  REQUIRE_FALSE(source.ok());
  CHECK(source.error().code == ErrorCode::kTruncated);
  CHECK(source.error().file == path);
  CHECK(source.error().tensor == "second");
  CHECK(source.error().offset == static_cast<int64_t>(whole.size()) - 15);
}

TEST_CASE("G2: every prefix of a file is refused; G3: no flipped byte of a header does harm") {
  const std::string whole = test::SafetensorsFile(
      {{"a", "F32", {2, 2}, "0123456789abcdef"}, {"b", "BF16", {3}, "ghijkl"}});
  const ScratchFolder folder;
  for (size_t n = 0; n < whole.size(); ++n) {
    CHECK_FALSE(SafetensorsSource::Open({folder.Write("x.safetensors", whole.substr(0, n))}).ok());
  }
  const size_t header_end = whole.size() - 22;
  for (size_t i = 0; i < header_end; ++i) {
    for (const int bit : {0, 5, 7}) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      const auto source = SafetensorsSource::Open({folder.Write("x.safetensors", flipped)});
      if (!source.ok()) continue;
      for (size_t t = 0; t < (*source)->tensors().size(); ++t) {
        EncodedTensor rows;
        const Status read = (*source)->ReadRows(t, 0, (*source)->tensors()[t].rows(), &rows);
        CHECK((read.ok() || read.error().code == ErrorCode::kUnsupported));
      }
    }
  }
}

TEST_CASE("S9: many tensors on one range are refused in bounded time") {
  std::string header = "{";
  for (int i = 0; i < 100000; ++i) {
    if (i > 0) header += ',';
    header += U8(fmt::format("t{}", i), "[16]", "[0,16]");
  }
  const auto parsed = ParseSafetensorsHeader(header + "}", 8 + header.size() + 1 + 16);
  REQUIRE_FALSE(parsed.ok());
  CHECK(parsed.error().code == ErrorCode::kInvalidOffset);
}

TEST_CASE("G7: a file that shrinks while it is read is an error with file and tensor") {
  const ScratchFolder folder;
  const std::string path = folder.Write(
      "x.safetensors", test::SafetensorsFile({{"a", "U8", {4, 1024}, std::string(4096, 'x')}}));
  const auto source = SafetensorsSource::Open({path});
  REQUIRE(source.ok());
  std::filesystem::resize_file(path, 200);
  EncodedTensor rows;
  const Status status = (*source)->ReadRows(0, 3, 1, &rows);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kTruncated);
  CHECK(status.error().file == path);
  CHECK(status.error().tensor == "a");
}

TEST_CASE("other things in a .safetensors file are named for what they are") {
  const ScratchFolder folder;
  const auto code = [&](const std::string& bytes) {
    const auto model = OpenSafetensors(folder.Write("x.safetensors", bytes));
    REQUIRE_FALSE(model.ok());
    return model.error().code;
  };
  CHECK(code("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n") ==
        ErrorCode::kLfsPointer);
  CHECK(code("<html><body>404</body></html>") == ErrorCode::kUnknownFormat);
  CHECK(code("GGUF" + std::string(60, '\0')) == ErrorCode::kUnknownFormat);
  CHECK(OpenSafetensors(folder.path()).error().code == ErrorCode::kNotRegularFile);
  CHECK(OpenSafetensors(folder.Path("none.safetensors")).error().code == ErrorCode::kNotFound);
}

TEST_CASE("S39: a tensor in two files is refused; other values of metadata are kept apart") {
  const ScratchFolder folder;
  const std::string a =
      folder.Write("a.safetensors", test::SafetensorsFile({{"x", "U8", {1}, "1"}}));
  const std::string b =
      folder.Write("b.safetensors", test::SafetensorsFile({{"x", "U8", {1}, "2"}}));
  const auto twice = SafetensorsSource::Open({a, b});
  REQUIRE_FALSE(twice.ok());
  CHECK(twice.error().code == ErrorCode::kShardMismatch);
  CHECK(twice.error().tensor == "x");
  CHECK(twice.error().file == b);

  const std::string c =
      folder.Write("c.safetensors", SafetensorsBytes("{\"__metadata__\":{\"format\":\"mlx\"}}"));
  const auto both = SafetensorsSource::Open({a, c});
  REQUIRE(both.ok());
  CHECK((*both)->metadata().at("format") == "pt");
  CHECK((*both)->metadata().at("c.safetensors: format") == "mlx");
  CHECK((*both)->files() == std::vector<std::string>{a, c});
}

TEST_CASE("columns of rows, as its own reads and as those of any source") {
  std::mt19937 random(8);
  std::vector<uint16_t> values(9 * 700);
  for (uint16_t& value : values) value = static_cast<uint16_t>(random());
  const test::ScratchFolder folder;
  const auto source = SafetensorsSource::Open({folder.Write(
      "x.safetensors", test::SafetensorsFile({{"first", "U8", {3}, "abc"},
                                              {"w", "F16", {9, 700}, test::BytesOf(values)}}))});
  REQUIRE(source.ok());
  struct Part {
    int64_t row, count, col, cols;
  };
  for (const Part& part : {Part{0, 9, 0, 700}, Part{2, 5, 699, 1}, Part{8, 1, 3, 600}}) {
    EncodedTensor own, any;
    const TensorSource& base = **source;
    REQUIRE(base.ReadColumns(1, part.row, part.count, part.col, part.cols, &own).ok());
    REQUIRE((*source)
                ->TensorSource::ReadColumns(1, part.row, part.count, part.col, part.cols, &any)
                .ok());
    std::vector<uint16_t> want;
    for (int64_t r = part.row; r < part.row + part.count; ++r) {
      const auto begin = values.begin() + r * 700 + part.col;
      want.insert(want.end(), begin, begin + part.cols);
    }
    const std::string bytes = test::BytesOf(want);
    for (const EncodedTensor* got : {&own, &any}) {
      CHECK(std::string(got->data.begin(), got->data.end()) == bytes);
      CHECK(got->rows == part.count);
      CHECK(got->cols == part.cols);
    }
  }
}

}  // namespace
}  // namespace pennyweight
