#include "lib/manifest.h"

#include <doctest/doctest.h>

#include <string>

#include "lib/sha256.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

Manifest Some() {
  Manifest manifest;
  manifest.files = {{"a.safetensors", 100, std::string(64, 'a')}, {"config.json", 7, "bb"}};
  manifest.tensors = {{"w", "bf16", {3, 4}, "a.safetensors", 40, 24, "11"},
                      {"v", "q4_k", {256}, "a.safetensors", 64, 144, "22"}};
  return manifest;
}

std::vector<std::string> RulesOf(const Manifest& found) {
  std::vector<std::string> rules;
  for (const Finding& finding : CompareManifests(Some(), found, "dir")) {
    rules.emplace_back(finding.rule);
  }
  return rules;
}

TEST_CASE("a manifest is read as it was written") {
  const std::string text = ManifestToJson(Some());
  CHECK(text.find("\"schema\": \"pennyweight.manifest/1\"") != std::string::npos);
  const Result<Manifest> read = ParseManifest(text);
  REQUIRE(read.ok());
  CHECK(ManifestToJson(*read) == text);
  CHECK(CompareManifests(*read, Some(), "").empty());
}

TEST_CASE("each difference has its rule and names what changed") {
  using Names = std::vector<std::string>;
  Manifest now = Some();
  now.tensors[1].xxh3_128 = "23";
  CHECK(RulesOf(now) == Names{"MAN-TENSOR-CHANGED"});
  CHECK(CompareManifests(Some(), now, "dir")[0].tensor == "v");
  CHECK(CompareManifests(Some(), now, "dir")[0].file == "dir/a.safetensors");
  now = Some();
  now.tensors[0].shape = {4, 3};
  CHECK(RulesOf(now) == Names{"MAN-TENSOR-CHANGED"});
  now = Some();
  now.tensors[0].name = "x";
  CHECK(RulesOf(now) == Names{"MAN-TENSOR-MISSING", "MAN-TENSOR-ADDED"});
  now = Some();
  now.files[1].sha256 = "bc";
  CHECK(RulesOf(now) == Names{"MAN-FILE-CHANGED"});
  now = Some();
  now.files[1].bytes = 8;
  CHECK(RulesOf(now) == Names{"MAN-FILE-CHANGED"});
  now = Some();
  now.files[1].name = "evil.py";
  CHECK(RulesOf(now) == Names{"MAN-FILE-MISSING", "MAN-FILE-ADDED"});
  now = Some();
  now.tensors[0].offset = 48;  // moved, as a new header moves them: no change of a tensor
  CHECK(RulesOf(now).empty());
}

TEST_CASE("what is no manifest is refused") {
  for (
      const char* text :
      {"", "[]", "{}", R"({"schema":"pennyweight.manifest/2","files":[],"tensors":[]})",
       R"({"schema":"pennyweight.manifest/1","files":{},"tensors":[]})",
       R"({"schema":"pennyweight.manifest/1","files":[{"name":"a","bytes":-1,"sha256":""}],"tensors":[]})",
       R"({"schema":"pennyweight.manifest/1","files":[7],"tensors":[]})",
       R"({"schema":"pennyweight.manifest/1","files":[],"tensors":[{"name":"w"}]})"}) {
    CAPTURE(text);
    const Result<Manifest> read = ParseManifest(text);
    REQUIRE_FALSE(read.ok());
    CHECK(read.error().code == ErrorCode::kInvalidHeader);
  }
}

TEST_CASE("hashes are printed as other programs print them") {
  // "abc" and the million a's of FIPS 180-4; xxhsum -H2 of "abc".
  Sha256 abc;
  abc.Update("a", 1);
  abc.Update("bc", 2);
  CHECK(abc.HexDigest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const test::ScratchFolder folder;
  const std::string path = folder.Write("a", std::string(1'000'000, 'a'));
  const Result<ReadFile> file = ReadFile::Open(path);
  REQUIRE(file.ok());
  const Result<std::string> digest = Sha256OfFile(*file);
  REQUIRE(digest.ok());
  CHECK(*digest == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  const std::string large = folder.Write("b", std::string((3 << 20) + 17, 'x'));
  const Result<ReadFile> two = ReadFile::Open(large);
  REQUIRE(two.ok());
  Sha256 whole;
  const std::string text((3 << 20) + 17, 'x');
  whole.Update(text.data(), text.size());
  CHECK(*Sha256OfFile(*two) == whole.HexDigest());
  CHECK(HexOf({0x1, 0xabc}) == "00000000000000010000000000000abc");
}

}  // namespace
}  // namespace pennyweight
