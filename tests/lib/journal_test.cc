#include "lib/journal.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "lib/blob.h"
#include "lib/file.h"
#include "lib/output_file.h"

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder()
      : path_(fs::temp_directory_path() /
              ("pw_journal_" + std::to_string(std::random_device{}()))) {
    fs::create_directory(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  size_t Count() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
};

Json Recipe(const std::string& type) {
  Json recipe = Json::Object();
  recipe.Set("command", Json::String("convert"));
  recipe.Set("--type", Json::String(type));
  return recipe;
}

std::string Noise(size_t bytes, uint32_t seed) {
  std::mt19937 rng(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(rng());
  return text;
}

std::string TextOf(const std::string& path) { return ReadWholeFile(path, 1u << 30).value(); }

void Overwrite(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// An output of three parts of 1000 bytes, each a unit, of which `parts` are written; killed then.
void WriteSome(const std::string& output, const std::string& data, size_t parts) {
  auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kReplace);
  REQUIRE(journal.ok());
  auto file = OutputFile::Create(output, 3000, false, journal->get());
  REQUIRE(file.ok());
  (*file)->Keep();
  for (size_t i = 0; i < parts; ++i) {
    REQUIRE((*file)->Write(i * 1000, data.data() + i * 1000, 1000).ok());
    REQUIRE((*journal)->RecordUnit({7, i, 0}, "result " + std::to_string(i)).ok());
  }
}

TEST_CASE("strips of columns are found again, and lost when a bit of them is") {
  const std::string data = Noise(3000, 4);
  // Columns [0, 40) and [40, 100) of 30 lines.
  const auto write = [&](OutputFile* file, size_t at, size_t bytes) {
    std::string strip;
    for (size_t line = 0; line < 30; ++line) strip += data.substr(line * 100 + at, bytes);
    return file->WriteLines(at, 100, 30, strip.data(), bytes).ok();
  };
  for (const bool damaged : {false, true}) {
    const Folder dir;
    const std::string output = dir / "out.bin";
    {
      auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kReplace);
      REQUIRE(journal.ok());
      auto file = OutputFile::Create(output, 3000, false, journal->get());
      REQUIRE(file.ok());
      (*file)->Keep();
      for (const uint64_t part : {0, 1}) {
        REQUIRE(write(file->get(), part == 0 ? 0 : 40, part == 0 ? 40 : 60));
        REQUIRE((*journal)->RecordUnit({7, part, 0}, "done").ok());
      }
    }
    const std::string partial = BesideOutput(output, "partial");
    if (damaged) {
      std::string text = TextOf(partial);
      text[2950] = static_cast<char>(text[2950] ^ 1);  // of the second strip
      Overwrite(partial, text);
    }
    auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
    REQUIRE(journal.ok());
    CHECK((*journal)->FindUnit({7, 0, 0}) != nullptr);
    CHECK(((*journal)->FindUnit({7, 1, 0}) == nullptr) == damaged);
    const auto ranges = (*journal)->RangesOf(partial);
    REQUIRE(ranges.size() == (damaged ? 1 : 2));
    CHECK(ranges[0].lines == 30);
    CHECK(ranges[0].stride == 100);
    auto file = OutputFile::Create(output, 3000, false, journal->get());
    REQUIRE(file.ok());
    CHECK((*file)->Covered(0, 3000).ok() != damaged);
    if (damaged) REQUIRE(write(file->get(), 40, 60));
    const Status sealed = (*file)->Seal();
    REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
    REQUIRE((*file)->Commit().ok());
    CHECK(TextOf(output) == data);
  }
}

TEST_CASE("lines that overlap or run beyond any file end the journal") {
  const Folder dir;
  const std::string output = dir / "out.bin";
  {
    auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kReplace);
    REQUIRE(journal.ok());
    REQUIRE((*journal)->AddFile(BesideOutput(output, "partial")).ok());
  }
  const std::string path = BesideOutput(output, "journal");
  const std::string head = TextOf(path);
  const auto entries = [&](const WrittenRange& range) {
    Overwrite(path, head);
    auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
    REQUIRE(journal.ok());
    auto file = (*journal)->AddFile(BesideOutput(output, "partial"));
    REQUIRE(file.ok());
    REQUIRE((*journal)->RecordRange(*file, range).ok());
    const auto contents = ParseJournal(TextOf(path));
    REQUIRE(contents.ok());
    return contents->entries.size();
  };
  constexpr uint64_t kMost = ~uint64_t{0};
  CHECK(entries({0, 8, {}, 4, 8}) == 1);
  CHECK(entries({0, 8, {}, 4, 7}) == 0);
  CHECK(entries({0, 0, {}, 4, 8}) == 0);
  CHECK(entries({0, 8, {}, kMost, 8}) == 0);
  CHECK(entries({8, 8, {}, 2, kMost - 8}) == 0);
  CHECK(entries({kMost, 8, {}, 1, 0}) == 0);
}

TEST_CASE("a stopped run is gone on with: units, results and bytes are those that were written") {
  const Folder dir;
  const std::string output = dir / "out.bin";
  const std::string data = Noise(3000, 1);
  WriteSome(output, data, 2);
  {
    auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
    REQUIRE(journal.ok());
    CHECK((*journal)->resumed());
    REQUIRE((*journal)->FindUnit({7, 1, 0}) != nullptr);
    CHECK(*(*journal)->FindUnit({7, 1, 0}) == "result 1");
    CHECK((*journal)->FindUnit({7, 2, 0}) == nullptr);
    CHECK((*journal)->FindUnit({8, 1, 0}) == nullptr);
    auto file = OutputFile::Create(output, 3000, false, journal->get());
    REQUIRE(file.ok());
    CHECK((*file)->Covered(0, 2000).ok());
    CHECK_FALSE((*file)->Covered(0, 3000).ok());
    // A range that is written again counts once.
    REQUIRE((*file)->Write(1000, data.data() + 1000, 1000).ok());
    REQUIRE((*file)->Write(2000, data.data() + 2000, 1000).ok());
    CHECK((*file)->Covered(0, 3000).ok());
    REQUIRE((*file)->Seal().ok());
    REQUIRE((*file)->Commit().ok());
    (*journal)->Remove();
  }
  CHECK(TextOf(output) == data);
  CHECK(dir.Count() == 1);
}

TEST_CASE("what the disk lost is forgotten, and all that was recorded after it") {
  const Folder dir;
  const std::string output = dir / "out.bin";
  WriteSome(output, Noise(3000, 2), 3);
  std::string partial = TextOf(BesideOutput(output, "partial"));
  partial[1500] = static_cast<char>(partial[1500] ^ 1);
  Overwrite(BesideOutput(output, "partial"), partial);
  {
    auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
    REQUIRE(journal.ok());
    CHECK((*journal)->resumed());
    CHECK((*journal)->FindUnit({7, 0, 0}) != nullptr);
    CHECK((*journal)->FindUnit({7, 1, 0}) == nullptr);
    CHECK((*journal)->FindUnit({7, 2, 0}) == nullptr);
    CHECK((*journal)->RangesOf(BesideOutput(output, "partial")).size() == 1);
  }
  fs::remove(BesideOutput(output, "partial"));
  auto journal = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
  REQUIRE(journal.ok());
  CHECK_FALSE((*journal)->resumed());
}

TEST_CASE("a journal cut anywhere gives its whole records, and never more") {
  const Folder dir;
  const std::string output = dir / "out.bin";
  WriteSome(output, Noise(3000, 3), 3);
  const std::string text = TextOf(BesideOutput(output, "journal"));
  const auto whole = ParseJournal(text);
  REQUIRE(whole.ok());
  CHECK(whole->files == std::vector<std::string>{".out.bin.pennyweight.partial"});
  REQUIRE(whole->entries.size() == 6);
  CHECK(whole->end == text.size());
  for (size_t bytes = 0; bytes < text.size(); ++bytes) {
    const auto cut = ParseJournal(std::string_view(text).substr(0, bytes));
    if (!cut.ok()) {
      CHECK(cut.error().code == ErrorCode::kInvalidHeader);
      CHECK(bytes < whole->entries[0].end);
      continue;
    }
    size_t want = 0;
    while (want < 6 && whole->entries[want].end <= bytes) ++want;
    CHECK(cut->entries.size() == want);
    CHECK(cut->end <= bytes);
  }
  // Any changed byte ends the journal before it.
  for (size_t at = 0; at < text.size(); ++at) {
    std::string changed = text;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    const auto parsed = ParseJournal(changed);
    if (parsed.ok()) CHECK(parsed->end <= at);
  }
}

TEST_CASE("a journal is refused when it is another run's, in use, or names files elsewhere") {
  const Folder dir;
  const std::string output = dir / "out.bin";
  WriteSome(output, Noise(3000, 4), 1);
  const auto other = Journal::Open(output, Recipe("bf16"), Journal::Mode::kResume);
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().code == ErrorCode::kResumeMismatch);
  CHECK(other.error().message.find("--type: it was \"f16\", and is \"bf16\" now") !=
        std::string::npos);
  const auto anew = Journal::Open(output, Recipe("f16"), Journal::Mode::kBegin);
  REQUIRE_FALSE(anew.ok());
  CHECK(anew.error().code == ErrorCode::kOutputExists);
  {
    const auto first = Journal::Open(output, Recipe("f16"), Journal::Mode::kReplace);
    REQUIRE(first.ok());
    CHECK_FALSE((*first)->resumed());
    CHECK_FALSE(PathExists(BesideOutput(output, "partial")));
    const auto second = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
    REQUIRE_FALSE(second.ok());
    CHECK(second.error().code == ErrorCode::kBusy);
    CHECK((*first)->AddFile(dir / "inside").ok());
    CHECK((*first)->AddFile(dir / "../outside").ok());
  }
  const auto outside = Journal::Open(output, Recipe("f16"), Journal::Mode::kResume);
  REQUIRE_FALSE(outside.ok());
  CHECK(outside.error().code == ErrorCode::kBadPath);
  const auto nowhere = Journal::Open(dir / "no/such/out", Recipe("f16"), Journal::Mode::kBegin);
  REQUIRE_FALSE(nowhere.ok());
  CHECK(nowhere.error().code == ErrorCode::kNotFound);
}

TEST_CASE("blobs give back what was put in, and nothing beyond their end") {
  BlobWriter to;
  to.Unsigned(UINT64_MAX - 1);
  to.Double(-0.1);
  to.Optional(std::nullopt);
  to.Optional(1e300);
  to.Text(std::string("a\0b", 3));
  BlobReader from(to.bytes());
  CHECK(from.Unsigned() == UINT64_MAX - 1);
  CHECK(from.Double() == -0.1);
  CHECK_FALSE(from.Optional().has_value());
  CHECK(from.Optional() == 1e300);
  CHECK(from.Text() == std::string("a\0b", 3));
  CHECK(from.done());
  CHECK(from.Unsigned() == 0);
  CHECK_FALSE(from.ok());
  // A length that lies.
  BlobWriter lie;
  lie.Unsigned(1ull << 60);
  BlobReader short_one(lie.bytes());
  CHECK(short_one.Text().empty());
  CHECK_FALSE(short_one.ok());
}

}  // namespace
}  // namespace pennyweight
