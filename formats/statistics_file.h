// Activation statistics as a file of our own, and the one door to files of every kind.
//
// Layout (little-endian): "PWSTATS\0", u32 version 1, u32 0, u64 offset and u64 bytes of the
// directory, XXH3-128 of the directory; then data; the directory, JSON, ends the file:
//   {"model", "window", "windows", "texts": [{"name", "hash", "tokens"}], "inputs": [
//     {"weights": [names], "width", "tokens", "moments": bool, "sums": {"offset", "hash"},
//      "hessian": null or {"offset", "hash", "blocks": [bytes of each]}}]}
// Sums are f64 sum of x^2 [width] and, with moments, f64 sum of x [width], f64 sum of |x| [width],
// f32 max |x| [width]. A Hessian is sum over tokens of x x^T: its upper triangle in f32, row by
// row, cut into blocks of whole rows of at most kHessianBlockFloats (or one row), each with the
// first bytes of all its numbers in front of all second ones, and so on, as one zstd frame. Hashes
// are XXH3-128 (hexadecimal) of sums as they stand there, of Hessians before they were parted and
// compressed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/statistics_names.h"
#include "lib/context.h"
#include "lib/file.h"
#include "lib/result.h"
#include "lib/statistics.h"
#include "lib/written_ranges.h"

namespace pennyweight {

inline constexpr int64_t kHessianBlockFloats = 1 << 20;

// Rows [row, row + rows) of a Hessian's triangle.
struct HessianBlock {
  int64_t row = 0;
  int64_t rows = 0;
  int64_t floats = 0;
};
std::vector<HessianBlock> CutHessian(int64_t width);

// An opened file of any kind. Immutable and thread-safe.
class StatisticsFile {
 public:
  enum class Kind : uint8_t { kStatistics, kImatrix, kImatrixLegacy };

  // By content. `window`: for ReadImatrixLegacy. Sums are read and checked here, Hessians by
  // AddHessian. Errors: kInvalidHeader, kTruncated, kChecksum, kInvalidOffset, kInvalidTensor,
  // kInvalidName, kNonFinite, kLimit, kDuplicateKey, kUnsupported (a newer version); those of
  // ReadImatrixGguf, ReadImatrixLegacy and ReadFile::Open.
  static Result<StatisticsFile> Open(const std::string& path, const StatisticsNames& names,
                                     int64_t window);

  Kind kind() const { return kind_; }
  const std::string& path() const { return path_; }
  const Statistics& statistics() const { return statistics_; }
  // Of input `input` of the statistics.
  bool HasHessian(size_t input) const { return !hessians_.empty() && hessians_[input].present; }
  // True when every input has one.
  bool HasHessians() const;
  // Adds it to the upper triangle of h[width, width]. Errors: kChecksum, kNonFinite, kTruncated.
  // Precondition: HasHessian(input).
  Status AddHessian(size_t input, float* h) const;

 private:
  friend class StatisticsDirectory;
  struct Hessian {
    bool present = false;
    uint64_t offset = 0;
    std::string hash;
    std::vector<uint64_t> blocks;  // bytes of each
  };

  std::string path_;
  Kind kind_ = Kind::kStatistics;
  Statistics statistics_;
  std::vector<Hessian> hessians_;  // parallel to the inputs; empty for other kinds
  std::unique_ptr<ReadFile> file_;
};

// Writes such a file input by input; nothing of an input is kept but its place.
class StatisticsWriter {
 public:
  // `about`: model, window, windows and texts; its inputs are not looked at.
  // Errors: those of AtomicFile::Create.
  static Result<std::unique_ptr<StatisticsWriter>> Create(const std::string& path, bool force,
                                                          const Statistics& about);
  ~StatisticsWriter();

  // `hessian`: the upper triangle of [width, width], or nullptr. The bytes do not depend on
  // context.threads. Errors: kIo, kNoSpace.
  Status Add(const Context& context, const InputSums& sums, const float* hessian);

  // Writes the directory, syncs, reads everything back, opens the file as any reader would, and
  // renames it into place. Errors: kVerifyFailed, kIo, those of StatisticsFile::Open.
  Status Finish();

 private:
  StatisticsWriter() = default;
  Status Append(const void* from, uint64_t bytes);
  Status AppendHessian(const Context& context, int64_t width, const float* hessian);

  std::unique_ptr<AtomicFile> file_;
  uint64_t end_ = 0;
  WrittenRanges written_;
  struct Directory;
  std::unique_ptr<Directory> directory_;
};

}  // namespace pennyweight
