#include "lib/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

// A folder of its own for each test, removed at the end.
class TempDir {
 public:
  TempDir() {
    std::string name = (fs::temp_directory_path() / "pennyweight-test-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // Everything inside, links and hidden files too.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

using Names = std::vector<std::string>;

void Put(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

std::string Get(const std::string& path) {
  Result<std::string> contents = ReadWholeFile(path, 1u << 30);
  REQUIRE(contents.ok());
  return std::move(contents).value();
}

std::string RandomBytes(size_t count) {
  std::mt19937 random(4711);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::string CodeOf(const Error& error) { return ErrorCodeName(error.code); }

TEST_CASE("reading ranges of a file, to its end and not beyond") {
  const TempDir dir;
  const std::string bytes = RandomBytes((5 << 20) + 123);  // above the size that is advised
  Put(dir / "x", bytes);
  Result<ReadFile> file = ReadFile::Open(dir / "x");
  REQUIRE(file.ok());
  CHECK(file->size() == bytes.size());
  CHECK(file->path() == dir / "x");
  std::string got(bytes.size(), '\0');
  REQUIRE(file->ReadAt(0, got.data(), got.size()).ok());
  CHECK(got == bytes);
  REQUIRE(file->ReadAt(777, got.data(), 1000).ok());
  CHECK(got.substr(0, 1000) == bytes.substr(777, 1000));
  CHECK(file->ReadAt(bytes.size(), got.data(), 0).ok());

  const uint64_t max = ~uint64_t{0};
  for (const auto& [offset, count] : std::vector<std::pair<uint64_t, uint64_t>>{
           {bytes.size() - 1, 2}, {bytes.size() + 1, 0}, {max, 1}, {max - 1, 16}, {8, max - 3}}) {
    const Status status = file->ReadAt(offset, got.data(), count);
    REQUIRE_FALSE(status.ok());
    CHECK(CodeOf(status.error()) == "truncated");
    CHECK(status.error().file == dir / "x");
    CHECK(status.error().offset == static_cast<int64_t>(offset));
  }

  // Another program cuts the file while it is open: an error, not a fault.
  fs::resize_file(dir / "x", 100);
  const Status status = file->ReadAt(90, got.data(), 20);
  REQUIRE_FALSE(status.ok());
  CHECK(CodeOf(status.error()) == "truncated");
  CHECK(status.error().offset == 100);

  ReadFile moved = std::move(file).value();
  ReadFile target = std::move(moved);
  CHECK(target.ReadAt(0, got.data(), 100).ok());
  CHECK(got.substr(0, 100) == bytes.substr(0, 100));
  Put(dir / "y", "other");
  Result<ReadFile> other = ReadFile::Open(dir / "y");
  REQUIRE(other.ok());
  target = std::move(other).value();
  CHECK(target.size() == 5);
}

TEST_CASE("only regular files are opened") {
  const TempDir dir;
  REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
  fs::create_symlink("nowhere", dir / "dangling");
  Put(dir / "file", "x");
  CHECK(CodeOf(ReadFile::Open(dir / "missing").error()) == "not_found");
  CHECK(CodeOf(ReadFile::Open(dir / "dangling").error()) == "not_found");
  CHECK(CodeOf(ReadFile::Open(dir / "file/x").error()) == "not_found");
  CHECK(CodeOf(ReadFile::Open(dir.path()).error()) == "not_regular_file");
  CHECK(CodeOf(ReadFile::Open(dir / "pipe").error()) == "not_regular_file");  // and does not wait
  CHECK(CodeOf(ReadFile::Open("/dev/zero").error()) == "not_regular_file");
  CHECK(ReadFile::Open(dir / "missing").error().file == dir / "missing");
  fs::create_symlink("file", dir / "link");
  CHECK(ReadFile::Open(dir / "link").ok());
}

TEST_CASE("whole files up to a limit") {
  const TempDir dir;
  Put(dir / "x", "0123456789");
  CHECK(Get(dir / "x") == "0123456789");
  CHECK(ReadWholeFile(dir / "x", 10).ok());
  const Result<std::string> refused = ReadWholeFile(dir / "x", 9);
  REQUIRE_FALSE(refused.ok());
  CHECK(CodeOf(refused.error()) == "limit");
  CHECK(CodeOf(ReadWholeFile(dir / "y", 9).error()) == "not_found");
  Put(dir / "empty", "");
  CHECK(Get(dir / "empty").empty());
}

TEST_CASE("paths") {
  CHECK(BaseName("/a/x") == "x");
  CHECK(BaseName("/a/x/") == "x");
  CHECK(BaseName("/a/x//") == "x");
  CHECK(BaseName("x") == "x");
  CHECK(BaseName("/") == "");
  CHECK(BaseName("") == "");
  CHECK(JoinPath("a", "b") == "a/b");
  CHECK(JoinPath("a/", "b") == "a/b");
  CHECK(JoinPath("/", "b") == "/b");
  CHECK(JoinPath("", "b") == "b");

  const TempDir dir;
  Put(dir / "b", "1");
  Put(dir / "a", "2");
  fs::create_directory(dir / "sub");
  fs::create_symlink("b", dir / "c");
  fs::create_hard_link(dir / "b", dir / "hard");
  fs::create_symlink("nowhere", dir / "dangling");
  CHECK(ListDirectory(dir.path()).value() == Names{"a", "b", "c", "hard"});
  CHECK(CodeOf(ListDirectory(dir / "nothing").error()) == "not_found");
  CHECK(CodeOf(ListDirectory(dir / "a").error()) == "not_found");
  CHECK(SameFile(dir / "b", dir / "c"));
  CHECK(SameFile(dir / "b", dir / "hard"));
  CHECK(SameFile(dir / "b", dir / "sub/../b"));
  CHECK_FALSE(SameFile(dir / "a", dir / "b"));
  CHECK_FALSE(SameFile(dir / "x", dir / "x"));  // missing
  CHECK(PathExists(dir / "sub"));
  CHECK_FALSE(PathExists(dir / "dangling"));
  CHECK(IsDirectory(dir / "sub"));
  CHECK_FALSE(IsDirectory(dir / "a"));
}

TEST_CASE("a file appears under its name only when committed") {
  const TempDir dir;
  const std::string bytes = RandomBytes(300001);
  auto created = AtomicFile::Create(dir / "out.bin", bytes.size(), false);
  REQUIRE(created.ok());
  std::unique_ptr<AtomicFile> file = std::move(created).value();
  const std::string temp = BaseName(file->temp_path());
  CHECK(temp.starts_with(".out.bin.pennyweight-"));
  CHECK(temp.ends_with(".partial"));
  CHECK(dir.Names() == Names{temp});
  CHECK(fs::file_size(file->temp_path()) == bytes.size());  // reserved

  // Any order, from several threads.
  std::vector<std::thread> writers;
  std::vector<Status> results(4);
  for (size_t w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (size_t at = w * 1000; at < bytes.size(); at += 4000) {
        const size_t count = std::min<size_t>(1000, bytes.size() - at);
        Status status = file->WriteAt(at, bytes.data() + at, count);
        if (!status.ok()) results[w] = std::move(status);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (const Status& status : results) CHECK(status.ok());

  REQUIRE(file->Seal().ok());
  std::string back(bytes.size(), '\0');
  REQUIRE(file->ReadAt(0, back.data(), back.size()).ok());
  CHECK(back == bytes);
  const Status beyond = file->ReadAt(bytes.size() - 3, back.data(), 4);
  REQUIRE_FALSE(beyond.ok());
  CHECK(CodeOf(beyond.error()) == "truncated");
  CHECK_FALSE(PathExists(dir / "out.bin"));
  REQUIRE(file->Commit().ok());
  file.reset();
  CHECK(dir.Names() == Names{"out.bin"});
  CHECK(Get(dir / "out.bin") == bytes);
  // An ordinary file: the umask decides who may read it.
  struct stat found {};
  REQUIRE(stat((dir / "out.bin").c_str(), &found) == 0);
  Put(dir / "ordinary", "");
  struct stat ordinary {};
  REQUIRE(stat((dir / "ordinary").c_str(), &ordinary) == 0);
  CHECK(found.st_mode == ordinary.st_mode);
}

TEST_CASE("a file that is not committed leaves nothing") {
  const TempDir dir;
  Put(dir / "out", "old");
  {
    auto file = AtomicFile::Create(dir / "out", 10, true);
    REQUIRE(file.ok());
    REQUIRE((*file)->WriteAt(0, "new", 3).ok());
    REQUIRE((*file)->Seal().ok());
  }
  CHECK(dir.Names() == Names{"out"});
  CHECK(Get(dir / "out") == "old");
}

TEST_CASE("existing outputs are refused or, with force, replaced") {
  const TempDir dir;
  Put(dir / "out", "old");
  const auto refused = AtomicFile::Create(dir / "out", 3, false);
  REQUIRE_FALSE(refused.ok());
  CHECK(CodeOf(refused.error()) == "output_exists");
  CHECK(refused.error().hint.find("--force") != std::string::npos);
  fs::create_symlink("nowhere", dir / "dangling");
  CHECK(CodeOf(AtomicFile::Create(dir / "dangling", 3, false).error()) == "output_exists");
  fs::create_directory(dir / "folder");
  CHECK(CodeOf(AtomicFile::Create(dir / "folder", 3, false).error()) == "output_exists");
  CHECK(CodeOf(AtomicFile::Create(dir / "folder", 3, true).error()) == "not_regular_file");
  CHECK(CodeOf(AtomicFile::Create("/dev/null", 3, true).error()) == "not_regular_file");

  auto file = AtomicFile::Create(dir / "out", 3, true);
  REQUIRE(file.ok());
  REQUIRE((*file)->WriteAt(0, "new", 3).ok());
  REQUIRE((*file)->Seal().ok());
  CHECK(Get(dir / "out") == "old");
  REQUIRE((*file)->Commit().ok());
  CHECK(Get(dir / "out") == "new");

  // Someone else takes the name during the run: their file stays.
  auto late = AtomicFile::Create(dir / "late", 3, false);
  REQUIRE(late.ok());
  REQUIRE((*late)->WriteAt(0, "new", 3).ok());
  Put(dir / "late", "theirs");
  const Status status = (*late)->Commit();
  REQUIRE_FALSE(status.ok());
  CHECK(CodeOf(status.error()) == "output_exists");
  late = Error(ErrorCode::kIo, "done");  // destroys the file
  CHECK(Get(dir / "late") == "theirs");
  CHECK(dir.Names() == Names{"dangling", "folder", "late", "out"});
}

TEST_CASE("outputs that cannot be") {
  const TempDir dir;
  const auto missing = AtomicFile::Create(dir / "no/such/out", 3, false);
  REQUIRE_FALSE(missing.ok());
  CHECK(CodeOf(missing.error()) == "not_found");
  CHECK(missing.error().hint.starts_with("mkdir -p "));
  for (const std::string& bad :
       {std::string(), std::string("/"), std::string("."), dir / "..", std::string("a\0b", 3)}) {
    CHECK(CodeOf(AtomicFile::Create(bad, 3, true).error()) == "usage");
    CHECK(CodeOf(AtomicDirectory::Create(bad, true).error()) == "usage");
  }
  // More than any disk holds: refused before the work, naming both numbers.
  const uint64_t huge = uint64_t{1} << 60;
  const auto full = AtomicFile::Create(dir / "out", huge, false);
  REQUIRE_FALSE(full.ok());
  CHECK(CodeOf(full.error()) == "no_space");
  CHECK(full.error().message.find(std::to_string(huge)) != std::string::npos);
  CHECK(full.error().message.find("available") != std::string::npos);
  CHECK(dir.Names().empty());
  // The longest name there is: the temporary one must fit too.
  const std::string longest(255, 'n');
  auto file = AtomicFile::Create(dir / longest, 0, false);
  REQUIRE(file.ok());
  REQUIRE((*file)->Commit().ok());
  CHECK(dir.Names() == Names{longest});
}

TEST_CASE("a folder appears whole") {
  const TempDir dir;
  auto created = AtomicDirectory::Create(dir / "model/", false);
  REQUIRE(created.ok());
  std::unique_ptr<AtomicDirectory> folder = std::move(created).value();
  CHECK(BaseName(folder->temp_path()).starts_with(".model.pennyweight-"));
  REQUIRE(folder->WriteFile("config.json", "{}").ok());
  for (const std::string& bad :
       {std::string(), std::string("."), std::string(".."), std::string("../x"), std::string("a/b"),
        std::string("/etc/x"), std::string("a\0", 2)}) {
    const Status status = folder->WriteFile(bad, "x");
    REQUIRE_FALSE(status.ok());
    CHECK(CodeOf(status.error()) == "bad_path");
  }
  auto weights = AtomicFile::Create(JoinPath(folder->temp_path(), "w.bin"), 4, false);
  REQUIRE(weights.ok());
  REQUIRE((*weights)->WriteAt(0, "data", 4).ok());
  REQUIRE((*weights)->Commit().ok());
  CHECK_FALSE(PathExists(dir / "model"));
  REQUIRE(folder->Commit().ok());
  folder.reset();
  CHECK(dir.Names() == Names{"model"});
  CHECK(ListDirectory(dir / "model").value() == Names{"config.json", "w.bin"});
  CHECK(Get(dir / "model/config.json") == "{}");
}

TEST_CASE("a folder that is not committed leaves nothing, not even what it swapped") {
  const TempDir dir;
  fs::create_directories(dir / "model/deep/deeper");
  Put(dir / "model/deep/deeper/old", "old");
  Put(dir / "outside", "keep");
  fs::create_symlink("../outside", dir / "model/link");
  CHECK(CodeOf(AtomicDirectory::Create(dir / "model", false).error()) == "output_exists");
  CHECK(CodeOf(AtomicDirectory::Create(dir / "outside", true).error()) == "output_exists");
  {
    auto folder = AtomicDirectory::Create(dir / "model", true);
    REQUIRE(folder.ok());
    REQUIRE((*folder)->WriteFile("new", "new").ok());
  }
  CHECK(dir.Names() == Names{"model", "outside"});
  CHECK(Get(dir / "model/deep/deeper/old") == "old");

  auto folder = AtomicDirectory::Create(dir / "model", true);
  REQUIRE(folder.ok());
  REQUIRE((*folder)->WriteFile("new", "new").ok());
  REQUIRE((*folder)->Commit().ok());
  CHECK(dir.Names() == Names{"model", "outside"});
  CHECK(ListDirectory(dir / "model").value() == Names{"new"});
  CHECK_FALSE(PathExists(dir / "model/deep"));
  CHECK(Get(dir / "outside") == "keep");  // links inside the old folder are not followed

  // Force without anything to replace, and a name taken during the run.
  auto fresh = AtomicDirectory::Create(dir / "fresh", true);
  REQUIRE(fresh.ok());
  REQUIRE((*fresh)->Commit().ok());
  auto late = AtomicDirectory::Create(dir / "late", false);
  REQUIRE(late.ok());
  fs::create_directory(dir / "late");  // even an empty one is someone's
  const Status status = (*late)->Commit();
  REQUIRE_FALSE(status.ok());
  CHECK(CodeOf(status.error()) == "output_exists");
  late = Error(ErrorCode::kIo, "done");
  CHECK(dir.Names() == Names{"fresh", "late", "model", "outside"});
}

TEST_CASE("a folder replaces a link with force, not what the link points to") {
  const TempDir dir;
  fs::create_directory(dir / "real");
  Put(dir / "real/x", "keep");
  fs::create_symlink("real", dir / "link");
  auto folder = AtomicDirectory::Create(dir / "link", true);
  REQUIRE(folder.ok());
  REQUIRE((*folder)->WriteFile("new", "new").ok());
  REQUIRE((*folder)->Commit().ok());
  CHECK(Get(dir / "real/x") == "keep");
  CHECK(Get(dir / "link/new") == "new");
  CHECK(dir.Names() == Names{"link", "real"});
}

TEST_CASE("scratch files have no name and hold what is written") {
  const TempDir dir;
  auto created = ScratchFile::Create(dir.path());
  REQUIRE(created.ok());
  CHECK(dir.Names().empty());
  const std::string bytes = RandomBytes(100000);
  ScratchFile& file = **created;
  REQUIRE(file.WriteAt(50000, bytes.data(), bytes.size()).ok());
  REQUIRE(file.WriteAt(0, bytes.data(), 10).ok());
  std::string back(bytes.size(), '\0');
  REQUIRE(file.ReadAt(50000, back.data(), back.size()).ok());
  CHECK(back == bytes);
  const Status status = file.ReadAt(149999, back.data(), 2);
  REQUIRE_FALSE(status.ok());
  CHECK(CodeOf(status.error()) == "truncated");
  CHECK(CodeOf(ScratchFile::Create(dir / "missing").error()) == "not_found");
}

}  // namespace
}  // namespace pennyweight
