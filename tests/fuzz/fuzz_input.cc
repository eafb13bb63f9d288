#include "tests/fuzz/fuzz_input.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "lib/file.h"

namespace pennyweight::fuzz {
namespace {

constexpr size_t kTensorsRead = 32;
constexpr uint64_t kRowBytesRead = 1 << 20;  // wider rows are not read
constexpr int64_t kColsRead = 1 << 16;       // the same of weights in parts
constexpr int64_t kRowsRead = 4;

}  // namespace

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

InputFile::InputFile() : fd_(memfd_create("input", MFD_CLOEXEC)) {
  Require(fd_ >= 0, "there is a file in memory");
  path_ = "/proc/self/fd/" + std::to_string(fd_);
}

const std::string& InputFile::Write(const uint8_t* data, size_t size) {
  Require(ftruncate(fd_, 0) == 0, "the file can be emptied");
  for (size_t done = 0; done < size;) {
    const ssize_t put = pwrite(fd_, data + done, size - done, static_cast<off_t>(done));
    Require(put > 0, "the file can be written");
    done += static_cast<size_t>(put);
  }
  return path_;
}

InputFolder::InputFolder() {
  // In memory where there is such a place.
  const char* parent = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp";
  std::string pattern = std::string(parent) + "/pennyweight-fuzz-XXXXXX";
  Require(mkdtemp(pattern.data()) != nullptr, "a folder can be made");
  path_ = pattern;
}

InputFolder::~InputFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void InputFolder::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream(JoinPath(path_, name), std::ios::binary) << bytes;
}

void InputFolder::Link(const std::string& name, const std::string& target) const {
  std::filesystem::create_symlink(target, JoinPath(path_, name));
}

void ReadSome(const TensorSource& source) {
  std::map<std::string, uint64_t> sizes;
  for (const std::string& path : source.files()) {
    const auto file = ReadFile::Open(path);
    Require(file.ok(), "an opened file can be opened again");
    sizes[path] = file->size();
  }
  size_t read = 0;
  EncodedTensor rows;
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    const auto size = sizes.find(info.file);
    Require(size != sizes.end(), "a tensor's file is listed");
    Require(info.offset <= size->second, "a tensor begins inside of its file");
    Require(ElementCount(info.shape).has_value(), "a tensor's elements can be counted");
    Require(!info.name.empty(), "a tensor has a name");
    const auto row_bytes = info.encoding.RowBytes(info.cols());
    const bool in_parts = info.encoding.kind != Encoding::Kind::kPlain &&
                          info.encoding.kind != Encoding::Kind::kBlock;
    if (info.rows() == 0 || (!in_parts && !row_bytes)) continue;
    if (in_parts ? info.cols() > kColsRead : *row_bytes > kRowBytesRead) continue;
    if (++read > kTensorsRead) continue;
    const int64_t count = std::min(info.rows(), kRowsRead);
    for (const int64_t first : {int64_t{0}, info.rows() - count}) {
      if (!source.ReadRows(i, first, count, &rows).ok()) continue;
      Require(rows.rows == count && rows.cols == info.cols(), "the rows asked for came");
      if (in_parts) continue;
      Require(rows.data.size() == *row_bytes * static_cast<uint64_t>(count),
              "rows have their bytes");
    }
  }
}

}  // namespace pennyweight::fuzz
