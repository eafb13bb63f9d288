// Reading untrusted files, and writing files that appear only when complete.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/result.h"

namespace pennyweight {

class FileWindows;
class ReadAhead;

// A regular file opened for reading with pread; never mapped. Movable; thread-safe once open.
class ReadFile {
 public:
  // Errors: kNotFound, kNotRegularFile, kIo. Refuses devices, pipes and folders.
  static Result<ReadFile> Open(const std::string& path);
  ReadFile(ReadFile&& other) noexcept;
  ReadFile& operator=(ReadFile&& other) noexcept;
  ~ReadFile();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  // Reads exactly [offset, offset + bytes). Errors: kTruncated (names the offset), kIo.
  Status ReadAt(uint64_t offset, void* to, uint64_t bytes) const;

 private:
  ReadFile() = default;
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  std::unique_ptr<FileWindows> windows_;  // of files too large to stay in the page cache
  std::unique_ptr<ReadAhead> ahead_;
};

// The whole of a file of at most `max_bytes`. Errors: as Open, kLimit.
Result<std::string> ReadWholeFile(const std::string& path, uint64_t max_bytes);

bool PathExists(const std::string& path);
bool IsDirectory(const std::string& path);
// Same device and inode, following links; false when either is missing.
bool SameFile(const std::string& a, const std::string& b);
// Removes a file if it is there.
void RemoveFile(const std::string& path);
// Last component; "x" of "/a/x" and "/a/x/".
std::string BaseName(const std::string& path);
// `dir` + "/" + `name`.
std::string JoinPath(const std::string& dir, const std::string& name);
// Regular files directly inside a folder, sorted by name.
Result<std::vector<std::string>> ListDirectory(const std::string& dir);

// A file that is written under a temporary name beside its final one.
// Life: Create, WriteAt in any order and from any thread, Seal (fsync), Commit (rename, fsync of
// the folder). Destroyed before Commit, it removes the temporary file.
class AtomicFile {
 public:
  // Reserves `size` bytes. Errors: kOutputExists (unless force), kNoSpace, kIo.
  static Result<std::unique_ptr<AtomicFile>> Create(const std::string& path, uint64_t size,
                                                    bool force);
  // The same under a temporary name that a later run finds again (lib/journal.h). What stands under
  // it is gone on with when `reopen`, else replaced.
  static Result<std::unique_ptr<AtomicFile>> CreateAt(const std::string& path,
                                                      const std::string& temp_path, uint64_t size,
                                                      bool force, bool reopen);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& temp_path() const { return temp_path_; }
  Status WriteAt(uint64_t offset, const void* from, uint64_t bytes);
  Status ReadAt(uint64_t offset, void* to, uint64_t bytes) const;
  Status Seal();
  Status Commit();
  // The temporary file stays when this object goes without Commit.
  void Keep() { keep_ = true; }

 private:
  AtomicFile() = default;
  // Errors when the name cannot be, or is taken.
  static Status CheckName(const std::string& path, bool force);
  std::string path_;
  std::string temp_path_;
  int fd_ = -1;
  bool force_ = false;
  bool keep_ = false;
  bool committed_ = false;
  bool drops_ = false;  // what is on the disk from the page cache, while writing goes on
  std::unique_ptr<FileWindows> windows_;  // of files that go to the disk while they are made
};

// A folder built as a sibling and renamed whole.
class AtomicDirectory {
 public:
  // Errors: kOutputExists (unless force), kIo.
  static Result<std::unique_ptr<AtomicDirectory>> Create(const std::string& path, bool force);
  // As AtomicFile::CreateAt.
  static Result<std::unique_ptr<AtomicDirectory>> CreateAt(const std::string& path,
                                                           const std::string& temp_path, bool force,
                                                           bool reopen);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& temp_path() const { return temp_path_; }
  // A small file inside, written and synced at once.
  Status WriteFile(const std::string& name, const std::string& contents);
  // With force an existing folder of that name is swapped out, then removed.
  Status Commit();
  // The temporary folder stays when this object goes without Commit.
  void Keep() { keep_ = true; }

 private:
  AtomicDirectory() = default;
  static Status CheckName(const std::string& path, bool force);
  std::string path_;
  std::string temp_path_;
  bool force_ = false;
  bool keep_ = false;
  bool committed_ = false;
};

// An unnamed scratch file in `dir`; gone when closed. Thread-safe for disjoint ranges.
class ScratchFile {
 public:
  static Result<std::unique_ptr<ScratchFile>> Create(const std::string& dir);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  Status WriteAt(uint64_t offset, const void* from, uint64_t bytes);
  Status ReadAt(uint64_t offset, void* to, uint64_t bytes) const;

 private:
  ScratchFile() = default;
  int fd_ = -1;
};

}  // namespace pennyweight
