// A weight file being written: under a temporary name, every write remembered by its hash, in a
// journal where there is one, and read back before it gets its name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lib/file.h"
#include "lib/journal.h"
#include "lib/result.h"
#include "lib/written_ranges.h"

namespace pennyweight {

class OutputFile {
 public:
  // `bytes`: of the whole file, reserved now. `journal` may be null, and outlives this; when it was
  // resumed, the file goes on from what is on the disk.
  // Errors: kOutputExists (unless force), kNoSpace, kIo.
  static Result<std::unique_ptr<OutputFile>> Create(const std::string& path, uint64_t bytes,
                                                    bool force, Journal* journal);

  // No file: what is written is passed over, and there is nothing to commit. For sizes.
  static std::unique_ptr<OutputFile> Measure(uint64_t bytes);

  // Thread-safe.
  Status Write(uint64_t offset, const void* from, uint64_t bytes);
  // Writes `lines` pieces of `bytes` bytes, `stride` bytes from one to the next; they lie behind
  // each other in `from`. Precondition: bytes <= stride. Thread-safe.
  Status WriteLines(uint64_t offset, uint64_t stride, uint64_t lines, const void* from,
                    uint64_t bytes);
  // As WrittenRanges::Covered.
  Status Covered(uint64_t begin, uint64_t end) const {
    return file_ == nullptr ? OkStatus() : written_.Covered(begin, end);
  }
  // Syncs, opens the file anew, and compares its size and every hash.
  // Errors: kVerifyFailed with the offset, kIo.
  Status Seal();
  // Renames into place. Only after a successful Seal.
  Status Commit();
  // The temporary file stays for a later run.
  void Keep() {
    if (file_ != nullptr) file_->Keep();
  }

  // Precondition: not Measure's.
  const std::string& temp_path() const { return file_->temp_path(); }
  uint64_t bytes() const { return bytes_; }

 private:
  OutputFile() = default;
  std::unique_ptr<AtomicFile> file_;
  uint64_t bytes_ = 0;
  Journal* journal_ = nullptr;
  uint32_t number_ = 0;  // in the journal
  WrittenRanges written_;
};

}  // namespace pennyweight
