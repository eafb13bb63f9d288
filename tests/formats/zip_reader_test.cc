#include "formats/zip_reader.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/formats/zip_builder.h"

namespace pennyweight {
namespace {

using test::ScratchFolder;
using test::ZipBytes;
using test::ZipFile;
using test::ZipOptions;

Result<ZipArchive> OpenBytes(const ScratchFolder& folder, const std::string& bytes) {
  PW_ASSIGN(const ReadFile file, ReadFile::Open(folder.Write("x.zip", bytes)));
  return ZipArchive::Open(file);
}

std::string RandomBytes(size_t n) {
  static std::mt19937 random{std::random_device{}()};
  std::string bytes(n, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

TEST_CASE("entries are found where they are, with and without descriptor and padding") {
  const ScratchFolder folder;
  const std::string a = RandomBytes(100);
  const std::string b = RandomBytes(3 << 20);  // more than one window
  ZipFile plain{.name = "m/data/0", .data = b, .flags = 0, .align = false};
  ZipFile wide{.name = "m/data/1", .data = a, .wide_descriptor = true};
  ZipFile packed{.name = "m/code/x.py", .data = "??", .method = 8};
  ZipOptions narrow;
  narrow.zip64 = false;
  for (const ZipOptions& options : {ZipOptions(), narrow}) {
    const std::string bytes = ZipBytes(
        {{.name = "m/data.pkl", .data = a}, plain, wide, packed, {.name = "m/data/2", .data = ""}},
        options);
    const auto archive = OpenBytes(folder, bytes);
    REQUIRE_MESSAGE(archive.ok(), archive.error().ToString());
    REQUIRE(archive->entries().size() == 5);
    const auto file = ReadFile::Open(folder.Path("x.zip"));
    const ZipEntry* first = archive->Find("m/data.pkl");
    REQUIRE(first != nullptr);
    CHECK(first->offset % 64 == 0);
    CHECK(ReadZipEntry(*file, *first, 100).value() == a);
    CHECK(ReadZipEntry(*file, *first, 99).error().code == ErrorCode::kLimit);
    CHECK(ReadZipEntry(*file, *archive->Find("m/data/0"), 1 << 30).value() == b);
    CHECK(ReadZipEntry(*file, *archive->Find("m/data/1"), 1 << 30).value() == a);
    CHECK(ReadZipEntry(*file, *archive->Find("m/data/2"), 1 << 30).value().empty());
    for (const ZipEntry& entry : archive->entries()) {
      if (!entry.deflated) CHECK(CheckZipEntry(*file, entry).ok());
    }
    CHECK(CheckZipEntry(*file, *archive->Find("m/code/x.py")).error().code ==
          ErrorCode::kUnsupported);
    CHECK(archive->Find("data.pkl") == nullptr);
  }
}

TEST_CASE("a wrong checksum is met when the data are read") {
  const ScratchFolder folder;
  const std::string bytes =
      ZipBytes({{.name = "m/a", .data = "1234"}, {.name = "m/b", .data = "5678", .crc_change = 1}});
  const auto archive = OpenBytes(folder, bytes);
  REQUIRE(archive.ok());
  const auto file = ReadFile::Open(folder.Path("x.zip"));
  CHECK(CheckZipEntry(*file, archive->entries()[0]).ok());
  CHECK(CheckZipEntry(*file, archive->entries()[1]).error().code == ErrorCode::kChecksum);
  CHECK(ReadZipEntry(*file, archive->entries()[1], 9).error().code == ErrorCode::kChecksum);
}

TEST_CASE("archives that two readers could understand differently are refused") {
  struct Case {
    const char* id;
    std::string bytes;
    ErrorCode code;
  };
  const ZipFile good{.name = "m/data.pkl", .data = "12345"};
  const auto with = [&](const ZipFile& other) { return ZipBytes({good, other}); };
  const auto named = [&](const std::string& name) { return with({.name = name, .data = "x"}); };
  const auto options = [&](auto change) {
    ZipOptions o;
    change(o);
    return ZipBytes({good, {.name = "m/b", .data = "xyz"}}, o);
  };
  // Two entries of the directory that share one local header.
  std::string overlap = ZipBytes({good, {.name = "m/b", .data = "xyz"}});
  const size_t second = overlap.rfind("PK\1\2");
  overlap.replace(second + 42, 4, std::string(4, '\0'));
  // A second archive's end record inside the comment.
  const std::string inner = ZipBytes({{.name = "m/evil", .data = "x"}});
  const std::string zip64_bomb = std::string("\1\0\x10\0", 4) +
                                 test::LittleEndian(uint64_t{1} << 63) +
                                 test::LittleEndian(uint64_t{1} << 63);
  const std::vector<Case> cases = {
      {"Z1", with({.name = "m/b", .data = "x", .local_name = "m/c"}), ErrorCode::kInvalidArchive},
      {"Z2", with(good), ErrorCode::kDuplicateKey},
      {"Z3 case", named("m/DATA.pkl"), ErrorCode::kDuplicateKey},
      {"Z3 slashes", named("m//b"), ErrorCode::kInvalidName},
      {"Z3 dot", named("m/./b"), ErrorCode::kInvalidName},
      {"Z3 dots", named("m/../b"), ErrorCode::kInvalidName},
      {"Z23 absolute", named("/m/b"), ErrorCode::kInvalidName},
      {"Z23 drive", named("C:/b"), ErrorCode::kInvalidName},
      {"backslash", named("m\\b"), ErrorCode::kInvalidName},
      {"NUL", named(std::string("m/b\0c", 5)), ErrorCode::kInvalidName},
      {"Z4 0x20", with({.name = "m/b", .data = "x", .flags = 0x828}), ErrorCode::kInvalidArchive},
      {"Z4 0x40", with({.name = "m/b", .data = "x", .flags = 0x848}), ErrorCode::kInvalidArchive},
      {"flags differ", with({.name = "m/b", .data = "x", .local_flags = 0x800}),
       ErrorCode::kInvalidArchive},
      {"Z25", with({.name = "m/b", .data = "x", .flags = 0x809}), ErrorCode::kUnsupported},
      {"Z5 bzip2", with({.name = "m/b", .data = "x", .method = 12}), ErrorCode::kUnsupported},
      {"Z5 zstd", with({.name = "m/b", .data = "x", .method = 93}), ErrorCode::kUnsupported},
      {"Z7",
       with({.name = "m/b",
             .data = "x",
             .directory_size = 0xFFFFFFFF,
             .directory_extra = zip64_bomb}),
       ErrorCode::kInvalidArchive},
      {"Z8 absent", with({.name = "m/b", .data = "x", .directory_size = 0xFFFFFFFF}),
       ErrorCode::kInvalidArchive},
      {"Z8 cut",
       with({.name = "m/b",
             .data = "x",
             .directory_size = 0xFFFFFFFF,
             .directory_extra = zip64_bomb.substr(0, 12)}),
       ErrorCode::kInvalidArchive},
      {"size lies", with({.name = "m/b", .data = "x", .directory_size = 1000}),
       ErrorCode::kInvalidArchive},
      {"size lies by one", with({.name = "m/b", .data = "xy", .directory_size = 1}),
       ErrorCode::kInvalidArchive},
      {"Z9", options([&](ZipOptions& o) { o.comment = inner; }), ErrorCode::kInvalidArchive},
      {"Z10 comment", options([](ZipOptions& o) { o.comment = std::string(60000, 'c'); }),
       ErrorCode::kIncompleteBuffer},
      {"Z10 front", options([](ZipOptions& o) { o.front = std::string(1024, 'j'); }),
       ErrorCode::kInvalidArchive},
      {"before the first entry", ZipBytes({{.name = "m/a", .data = "x", .before = "junk"}}),
       ErrorCode::kIncompleteBuffer},
      {"between entries", with({.name = "m/b", .data = "x", .before = "junk"}),
       ErrorCode::kInvalidArchive},
      {"between entries without descriptor",
       ZipBytes({{.name = "m/a", .data = "x", .flags = 0},
                 {.name = "m/b", .data = "", .before = "junk"}}),
       ErrorCode::kIncompleteBuffer},
      {"behind the end", options([](ZipOptions& o) { o.tail = "x"; }),
       ErrorCode::kIncompleteBuffer},
      {"Z11", overlap, ErrorCode::kInvalidArchive},
      {"Z12 more", options([](ZipOptions& o) { o.extra_entries = 1; }), ErrorCode::kInvalidArchive},
      {"Z12 less", options([](ZipOptions& o) { o.extra_entries = -1; }),
       ErrorCode::kInvalidArchive},
      {"Z20", options([](ZipOptions& o) { o.extra_entries = 1 << 30; }), ErrorCode::kLimit},
      {"directory shifted", options([](ZipOptions& o) { o.directory_shift = 4; }),
       ErrorCode::kInvalidArchive},
      {"zip64 elsewhere", options([](ZipOptions& o) { o.zip64_offset_change = -1; }),
       ErrorCode::kInvalidArchive},
      {"zip64 far away", options([](ZipOptions& o) { o.zip64_offset_change = INT64_MAX; }),
       ErrorCode::kInvalidArchive},
      {"disks", options([](ZipOptions& o) { o.disk = 1; }), ErrorCode::kUnsupported},
      {"Z21", with({.name = "m/b", .data = "x", .flags = 0, .local_size = 5}),
       ErrorCode::kInvalidArchive},
      {"local size with descriptor", with({.name = "m/b", .data = "x", .local_size = 5}),
       ErrorCode::kInvalidArchive},
      {"Z22", with({.name = "m/b", .data = "x", .descriptor_change = 1}),
       ErrorCode::kInvalidArchive},
      {"not a zip", std::string(100, 'x'), ErrorCode::kTruncated},
      {"empty", "", ErrorCode::kTruncated},
  };
  const ScratchFolder folder;
  for (const Case& hostile : cases) {
    CAPTURE(hostile.id);
    const auto archive = OpenBytes(folder, hostile.bytes);
    REQUIRE_FALSE(archive.ok());
    CAPTURE(archive.error().ToString());
    CHECK(std::string(ErrorCodeName(archive.error().code)) == ErrorCodeName(hostile.code));
    CHECK(archive.error().file == folder.Path("x.zip"));
  }
}

TEST_CASE("every prefix and every flipped byte of an archive is survived") {
  const ScratchFolder folder;
  const std::string bytes = ZipBytes({{.name = "m/data.pkl", .data = "12345"},
                                      {.name = "m/b", .data = "xyz", .wide_descriptor = true},
                                      {.name = "m/c", .data = ""}});
  REQUIRE(OpenBytes(folder, bytes).ok());
  for (size_t n = 0; n < bytes.size(); ++n) {
    CAPTURE(n);
    CHECK_FALSE(OpenBytes(folder, bytes.substr(0, n)).ok());
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const char flip : {'\x01', '\x80', '\xFF'}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      const auto archive = OpenBytes(folder, changed);
      if (!archive.ok()) continue;
      // Accepted: still every entry lies inside of the file.
      for (const ZipEntry& entry : archive->entries()) {
        CHECK(entry.offset + entry.stored_bytes <= bytes.size());
      }
    }
  }
}

TEST_CASE("the archives that PyTorch wrote are read, with all their checksums") {
  const std::string shared = test::SharedFolder();
  if (shared.empty()) {
    MESSAGE("SKIPPED: ../shared is not there");
    return;
  }
  for (const char* name : {"zip_bf16.bin", "zip_all_dtypes.pt", "zip_training_ckpt.pt",
                           "torchscript.pt", "zip_proto5.bin"}) {
    CAPTURE(name);
    const auto file = ReadFile::Open(fmt::format("{}/pytorch/{}", shared, name));
    REQUIRE(file.ok());
    const auto archive = ZipArchive::Open(*file);
    REQUIRE_MESSAGE(archive.ok(), archive.error().ToString());
    CHECK(archive->entries().size() > 4);
    for (const ZipEntry& entry : archive->entries()) {
      if (!entry.deflated) CHECK(CheckZipEntry(*file, entry).ok());
    }
  }
}

}  // namespace
}  // namespace pennyweight
