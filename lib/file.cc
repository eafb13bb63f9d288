#include "lib/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "lib/checked.h"
#include "lib/file_windows.h"

namespace pennyweight {
namespace {

// The kernel transfers at most this much per call (it caps at 2^31 - 4096 itself).
constexpr uint64_t kTransferBytes = 1ull << 30;

std::string Reason(int error) { return std::generic_category().message(error); }

Error IoError(const std::string& what, int error, const std::string& path) {
  return Error(ErrorCode::kIo, fmt::format("cannot {}: {}", what, Reason(error))).InFile(path);
}

// A failed write, truncation or reservation: the disk or the quota may be full.
Error WriteError(const std::string& what, int error, const std::string& path) {
  if (error == ENOSPC || error == EDQUOT) {
    return Error(ErrorCode::kNoSpace, fmt::format("cannot {}: {}", what, Reason(error)))
        .Hint("free some space, or write to another disk with -o")
        .InFile(path);
  }
  return IoError(what, error, path);
}

// A call that failed because a folder on the way, or the file itself, is missing or unusable.
Error OpenError(const std::string& what, int error, const std::string& path) {
  if (error == ENOENT || error == ENOTDIR) {
    return Error(ErrorCode::kNotFound, "no such file or folder").InFile(path);
  }
  if (error == ENXIO) {
    return Error(ErrorCode::kNotRegularFile, "is not a regular file").InFile(path);
  }
  return IoError(what, error, path);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Status ReadAll(int fd, const std::string& path, uint64_t offset, void* to, uint64_t bytes) {
  auto* out = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = pread(fd, out, std::min(bytes, kTransferBytes), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      return IoError("read", errno, path).At(offset);
    }
    if (got == 0) {
      return Error(ErrorCode::kTruncated,
                   fmt::format("the file ends where {} more bytes are needed", bytes))
          .InFile(path)
          .At(offset);
    }
    out += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
  return OkStatus();
}

Status WriteAll(int fd, const std::string& path, uint64_t offset, const void* from,
                uint64_t bytes) {
  const auto* in = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t put = pwrite(fd, in, std::min(bytes, kTransferBytes), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      return WriteError("write", errno, path).At(offset);
    }
    in += put;
    offset += static_cast<uint64_t>(put);
    bytes -= static_cast<uint64_t>(put);
  }
  return OkStatus();
}

Status SyncFile(int fd, const std::string& path) {
  while (fsync(fd) != 0) {
    if (errno == EINTR) continue;
    return WriteError("sync", errno, path);
  }
  return OkStatus();
}

Status SyncDirectory(const std::string& dir) {
  const Descriptor fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return IoError("open the folder", errno, dir);
  while (fsync(fd.get()) != 0) {
    if (errno == EINTR) continue;
    // Some network file systems cannot sync a folder; there is nothing more to be done there.
    if (errno == EINVAL || errno == ENOTSUP || errno == EROFS) return OkStatus();
    return IoError("sync the folder", errno, dir);
  }
  return OkStatus();
}

std::string WithoutTrailingSlashes(const std::string& path) {
  size_t end = path.size();
  while (end > 1 && path[end - 1] == '/') --end;
  return path.substr(0, end);
}

// The folder that holds `path`; "." when it names none. Precondition: no trailing slash.
std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Whether anything stands under the name, a dangling link included.
bool NameIsTaken(const std::string& path, struct stat* found) {
  return lstat(path.c_str(), found) == 0;
}

Error OutputExists(const std::string& path) {
  return Error(ErrorCode::kOutputExists, "the output exists already")
      .Hint("give another name with -o, or add --force to replace it")
      .InFile(path);
}

// An output needs a name that can be renamed to: not "", "/", "." or "..".
Status CheckOutputName(const std::string& path) {
  const std::string name = BaseName(path);
  if (name.empty() || name == "." || name == ".." || path.find('\0') != std::string::npos) {
    return Error(ErrorCode::kUsage, "the output needs a name of its own")
        .Hint("-o FOLDER/NAME")
        .InFile(path);
  }
  return OkStatus();
}

// Calls make(candidate) with ".NAME.pennyweight-XXXXXX.partial" beside `path` until one is free.
// make returns 0, or an errno. Sets *temp_path on success.
template <class Make>
Status MakeTemporary(const std::string& path, const Make& make, std::string* temp_path) {
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  // A file name has at most 255 bytes; what surrounds the name here takes 28 of them.
  const std::string name = BaseName(path).substr(0, 200);
  std::random_device random;
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string suffix;
    for (int i = 0; i < 6; ++i) suffix += kLetters[random() % kLetters.size()];
    const std::string candidate =
        JoinPath(ParentOf(path), fmt::format(".{}.pennyweight-{}.partial", name, suffix));
    const int error = make(candidate);
    if (error == 0) {
      *temp_path = candidate;
      return OkStatus();
    }
    if (error == EEXIST) continue;
    if (error == ENOENT || error == ENOTDIR) {
      return Error(ErrorCode::kNotFound, "the folder of the output does not exist")
          .Hint(fmt::format("mkdir -p '{}'", ParentOf(path)))
          .InFile(path);
    }
    return WriteError("create a file beside the output", error, path);
  }
  return Error(ErrorCode::kIo, "found no free temporary name beside the output").InFile(path);
}

// Reserves the blocks of a new file, so that a full disk is met before the work and not after it.
Status Reserve(int fd, uint64_t size, const std::string& path) {
  if (size == 0) return OkStatus();
  struct statvfs disk {};
  struct stat file {};
  if (fstatvfs(fd, &disk) == 0 && fstat(fd, &file) == 0) {
    const auto available = CheckedMul(disk.f_bavail, disk.f_frsize);
    // A file that is gone on with has its room already.
    const uint64_t has = static_cast<uint64_t>(file.st_blocks) * 512;
    if (available && has < size && *available < size - has) {
      return Error(ErrorCode::kNoSpace,
                   fmt::format("needs {} bytes, but only {} are available", size, *available))
          .Hint("free some space, or write to another disk with -o")
          .InFile(path);
    }
  }
  int error = 0;
  do {
    error = fallocate(fd, 0, 0, static_cast<off_t>(size)) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error == 0) return OkStatus();
  if (error != EOPNOTSUPP && error != ENOSYS && error != EINVAL) {
    return WriteError(fmt::format("reserve {} bytes", size), error, path);
  }
  while (ftruncate(fd, static_cast<off_t>(size)) != 0) {
    if (errno == EINTR) continue;
    return WriteError(fmt::format("set the length to {} bytes", size), errno, path);
  }
  return OkStatus();
}

// renameat2 by its flag; errno, or 0. ENOSYS and EINVAL: the kernel or file system has no such
// flag.
int RenameWithFlag(const std::string& from, const std::string& to, unsigned flag) {
  return renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flag) == 0 ? 0 : errno;
}

bool FlagIsMissing(int error) { return error == ENOSYS || error == EINVAL || error == ENOTSUP; }

// Renames a file or folder to a name that must still be free.
Status RenameToFree(const std::string& from, const std::string& to, bool is_directory) {
  const int error = RenameWithFlag(from, to, RENAME_NOREPLACE);
  if (error == 0) return OkStatus();
  if (error == EEXIST || error == ENOTEMPTY) return OutputExists(to);
  if (!FlagIsMissing(error)) return IoError("rename into place", error, to);
  if (!is_directory) {
    // A hard link is as exclusive as the flag.
    if (link(from.c_str(), to.c_str()) == 0) {
      unlink(from.c_str());
      return OkStatus();
    }
    if (errno == EEXIST) return OutputExists(to);
  }
  struct stat found {};
  if (NameIsTaken(to, &found)) return OutputExists(to);
  if (rename(from.c_str(), to.c_str()) != 0) return IoError("rename into place", errno, to);
  return OkStatus();
}

Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);  // does not follow links
  if (error) return IoError("remove the replaced folder", error.value(), path);
  return OkStatus();
}

}  // namespace

Result<ReadFile> ReadFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return OpenError("open", errno, path);
  ReadFile file;
  file.fd_ = fd;
  file.path_ = path;
  struct stat found {};
  if (fstat(fd, &found) != 0) return IoError("stat", errno, path);
  if (!S_ISREG(found.st_mode)) {
    return Error(ErrorCode::kNotRegularFile,
                 S_ISDIR(found.st_mode) ? "is a folder, not a file" : "is not a regular file")
        .InFile(path);
  }
  file.size_ = static_cast<uint64_t>(found.st_size);
  if (FileWindows::Wanted(file.size_)) file.windows_ = std::make_unique<FileWindows>(file.size_);
  file.ahead_ = std::make_unique<ReadAhead>(file.size_);
  return file;
}

ReadFile::ReadFile(ReadFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(std::exchange(other.size_, 0)),
      windows_(std::move(other.windows_)),
      ahead_(std::move(other.ahead_)) {}

ReadFile& ReadFile::operator=(ReadFile&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    path_ = std::move(other.path_);
    fd_ = std::exchange(other.fd_, -1);
    size_ = std::exchange(other.size_, 0);
    windows_ = std::move(other.windows_);
    ahead_ = std::move(other.ahead_);
  }
  return *this;
}

ReadFile::~ReadFile() {
  if (fd_ >= 0) close(fd_);
}

Status ReadFile::ReadAt(uint64_t offset, void* to, uint64_t bytes) const {
  const auto end = CheckedAdd(offset, bytes);
  if (!end || *end > size_) {
    return Error(ErrorCode::kTruncated,
                 fmt::format("{} bytes are needed here, but the file ends at {}", bytes, size_))
        .InFile(path_)
        .At(offset);
  }
  ahead_->Add(offset, bytes, [&](uint64_t begin, uint64_t size) {
    posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(size), POSIX_FADV_WILLNEED);
  });
  PW_TRY(ReadAll(fd_, path_, offset, to, bytes));
  if (windows_ != nullptr) {
    windows_->Add(offset, bytes, [&](uint64_t begin, uint64_t size) {
      posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(size), POSIX_FADV_DONTNEED);
    });
  }
  return OkStatus();
}

Result<std::string> ReadWholeFile(const std::string& path, uint64_t max_bytes) {
  PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
  if (file.size() > max_bytes) {
    return Error(ErrorCode::kLimit,
                 fmt::format("has {} bytes; at most {} are accepted here", file.size(), max_bytes))
        .InFile(path);
  }
  std::string contents(file.size(), '\0');
  PW_TRY(file.ReadAt(0, contents.data(), contents.size()));
  return contents;
}

bool PathExists(const std::string& path) {
  struct stat found {};
  return stat(path.c_str(), &found) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat found {};
  return stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}

bool SameFile(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

void RemoveFile(const std::string& path) { unlink(path.c_str()); }

std::string BaseName(const std::string& path) {
  const std::string trimmed = WithoutTrailingSlashes(path);
  const size_t slash = trimmed.rfind('/');
  return slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
}

std::string JoinPath(const std::string& dir, const std::string& name) {
  if (dir.empty()) return name;
  return dir.back() == '/' ? dir + name : dir + "/" + name;
}

Result<std::vector<std::string>> ListDirectory(const std::string& dir) {
  DIR* handle = opendir(dir.c_str());
  if (handle == nullptr) return OpenError("list the folder", errno, dir);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(handle)) {
    struct stat found {};
    // Links count as what they point to: that is how model caches are laid out.
    if (fstatat(dirfd(handle), entry->d_name, &found, 0) == 0 && S_ISREG(found.st_mode)) {
      names.emplace_back(entry->d_name);
    }
    errno = 0;
  }
  const int error = errno;
  closedir(handle);
  if (error != 0) return IoError("list the folder", error, dir);
  std::sort(names.begin(), names.end());
  return names;
}

Status AtomicFile::CheckName(const std::string& path, bool force) {
  PW_TRY(CheckOutputName(path));
  struct stat found {};
  if (!NameIsTaken(path, &found)) return OkStatus();
  if (!force) return OutputExists(path);
  // --force replaces a file (or a link), never a folder or a device.
  if (!S_ISREG(found.st_mode) && !S_ISLNK(found.st_mode)) {
    return Error(ErrorCode::kNotRegularFile, "something that is not a file stands under this name")
        .Hint("give another name with -o")
        .InFile(path);
  }
  return OkStatus();
}

Result<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& path, uint64_t size,
                                                       bool force) {
  PW_TRY(CheckName(path, force));
  std::unique_ptr<AtomicFile> file(new AtomicFile());
  file->path_ = path;
  file->force_ = force;
  const auto create = [&](const std::string& candidate) {
    // Mode 0666 less the umask: the output is an ordinary file, not a private one.
    file->fd_ = open(candidate.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    return file->fd_ >= 0 ? 0 : errno;
  };
  PW_TRY(MakeTemporary(path, create, &file->temp_path_));
  PW_TRY(Reserve(file->fd_, size, path));
  return file;
}

Result<std::unique_ptr<AtomicFile>> AtomicFile::CreateAt(const std::string& path,
                                                         const std::string& temp_path,
                                                         uint64_t size, bool force, bool reopen) {
  PW_TRY(CheckName(path, force));
  std::unique_ptr<AtomicFile> file(new AtomicFile());
  file->path_ = path;
  file->force_ = force;
  if (!reopen) unlink(temp_path.c_str());
  const int exclusive = reopen ? 0 : O_EXCL;
  file->fd_ = open(temp_path.c_str(), O_RDWR | O_CREAT | exclusive | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (file->fd_ < 0) return WriteError("create a file beside the output", errno, path);
  file->temp_path_ = temp_path;
  if (size >= FileWindows::kWriteBehind) file->windows_ = std::make_unique<FileWindows>(size);
  file->drops_ = FileWindows::Wanted(size);
  PW_TRY(Reserve(file->fd_, size, path));
  return file;
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!committed_ && !keep_ && !temp_path_.empty()) unlink(temp_path_.c_str());
}

Status AtomicFile::WriteAt(uint64_t offset, const void* from, uint64_t bytes) {
  PW_TRY(WriteAll(fd_, path_, offset, from, bytes));
  if (windows_ != nullptr) {
    // Written now, beside the work, rather than at the end; dropped at Seal, or by the system.
    windows_->Add(offset, bytes, [&](uint64_t begin, uint64_t size) {
      sync_file_range(fd_, static_cast<off_t>(begin), static_cast<off_t>(size),
                      SYNC_FILE_RANGE_WRITE);
      if (!drops_ || begin < FileWindows::kBytes * 4) return;
      // What was begun some windows ago is on the disk by now, or is waited for: that bounds what
      // is dirty.
      const auto before = static_cast<off_t>(begin - FileWindows::kBytes * 4);
      const auto window = static_cast<off_t>(FileWindows::kBytes);
      sync_file_range(
          fd_, before, window,
          SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
      posix_fadvise(fd_, before, window, POSIX_FADV_DONTNEED);
    });
  }
  return OkStatus();
}

Status AtomicFile::ReadAt(uint64_t offset, void* to, uint64_t bytes) const {
  return ReadAll(fd_, path_, offset, to, bytes);
}

Status AtomicFile::Seal() {
  PW_TRY(SyncFile(fd_, path_));
  // What is clean now leaves the page cache, so that reading back reads the disk.
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  return OkStatus();
}

Status AtomicFile::Commit() {
  if (!force_) {
    PW_TRY(RenameToFree(temp_path_, path_, /*is_directory=*/false));
  } else if (rename(temp_path_.c_str(), path_.c_str()) != 0) {
    return IoError("rename into place", errno, path_);
  }
  committed_ = true;
  return SyncDirectory(ParentOf(path_));
}

Status AtomicDirectory::CheckName(const std::string& path, bool force) {
  PW_TRY(CheckOutputName(path));
  struct stat found {};
  if (!NameIsTaken(WithoutTrailingSlashes(path), &found)) return OkStatus();
  if (!force) return OutputExists(path);
  if (!S_ISDIR(found.st_mode) && !S_ISLNK(found.st_mode)) {
    return Error(ErrorCode::kOutputExists,
                 "the output is a folder, but a file stands under this name")
        .Hint("give another name with -o")
        .InFile(path);
  }
  return OkStatus();
}

Result<std::unique_ptr<AtomicDirectory>> AtomicDirectory::Create(const std::string& path,
                                                                 bool force) {
  PW_TRY(CheckName(path, force));
  std::unique_ptr<AtomicDirectory> directory(new AtomicDirectory());
  directory->path_ = WithoutTrailingSlashes(path);
  directory->force_ = force;
  const auto create = [](const std::string& candidate) {
    return mkdir(candidate.c_str(), 0777) == 0 ? 0 : errno;
  };
  PW_TRY(MakeTemporary(directory->path_, create, &directory->temp_path_));
  return directory;
}

Result<std::unique_ptr<AtomicDirectory>> AtomicDirectory::CreateAt(const std::string& path,
                                                                   const std::string& temp_path,
                                                                   bool force, bool reopen) {
  PW_TRY(CheckName(path, force));
  std::unique_ptr<AtomicDirectory> directory(new AtomicDirectory());
  directory->path_ = WithoutTrailingSlashes(path);
  directory->force_ = force;
  if (!reopen) PW_TRY(RemoveTree(temp_path));
  struct stat found {};
  const bool there = reopen && NameIsTaken(temp_path, &found) && S_ISDIR(found.st_mode);
  if (!there && mkdir(temp_path.c_str(), 0777) != 0) {
    return WriteError("create a folder beside the output", errno, path);
  }
  directory->temp_path_ = temp_path;
  return directory;
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_ || keep_ || temp_path_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(temp_path_, ignored);
}

Status AtomicDirectory::WriteFile(const std::string& name, const std::string& contents) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return Error(ErrorCode::kBadPath, "the name of a file in the output folder is not a plain name")
        .InFile(JoinPath(path_, name));
  }
  const std::string path = JoinPath(temp_path_, name);
  const Descriptor fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (fd.get() < 0) return WriteError("create", errno, JoinPath(path_, name));
  PW_TRY(WriteAll(fd.get(), JoinPath(path_, name), 0, contents.data(), contents.size()));
  return SyncFile(fd.get(), JoinPath(path_, name));
}

Status AtomicDirectory::Commit() {
  PW_TRY(SyncDirectory(temp_path_));
  struct stat found {};
  if (!force_ || !NameIsTaken(path_, &found)) {
    PW_TRY(RenameToFree(temp_path_, path_, /*is_directory=*/true));
    committed_ = true;
    return SyncDirectory(ParentOf(path_));
  }
  std::string old_path = temp_path_;
  int error = RenameWithFlag(temp_path_, path_, RENAME_EXCHANGE);
  if (FlagIsMissing(error)) {
    // Without an exchange there is a moment in which neither stands under the name.
    old_path = temp_path_ + ".old";
    error = rename(path_.c_str(), old_path.c_str()) == 0 ? 0 : errno;
    if (error == 0 && rename(temp_path_.c_str(), path_.c_str()) != 0) {
      error = errno;
      if (rename(old_path.c_str(), path_.c_str()) != 0) {
        return IoError(fmt::format("rename into place; the old folder is now {}", old_path), error,
                       path_);
      }
    }
  }
  if (error != 0) return IoError("swap the new folder with the old one", error, path_);
  committed_ = true;
  PW_TRY(SyncDirectory(ParentOf(path_)));
  return RemoveTree(old_path);
}

Result<std::unique_ptr<ScratchFile>> ScratchFile::Create(const std::string& dir) {
  std::unique_ptr<ScratchFile> file(new ScratchFile());
  file->fd_ = open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file->fd_ >= 0) return file;
  // Not every file system has unnamed files.
  std::string name = JoinPath(dir, ".pennyweight-XXXXXX.partial");
  file->fd_ = mkostemps(name.data(), sizeof(".partial") - 1, O_CLOEXEC);
  if (file->fd_ < 0) {
    return errno == ENOSPC || errno == EDQUOT ? WriteError("create a scratch file", errno, dir)
                                              : OpenError("create a scratch file", errno, dir);
  }
  unlink(name.c_str());
  return file;
}

ScratchFile::~ScratchFile() {
  if (fd_ >= 0) close(fd_);
}

Status ScratchFile::WriteAt(uint64_t offset, const void* from, uint64_t bytes) {
  return WriteAll(fd_, "scratch file", offset, from, bytes);
}

Status ScratchFile::ReadAt(uint64_t offset, void* to, uint64_t bytes) const {
  return ReadAll(fd_, "scratch file", offset, to, bytes);
}

}  // namespace pennyweight
