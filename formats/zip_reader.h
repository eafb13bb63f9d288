// Reads the zip archives that PyTorch writes, and refuses every archive that two readers could
// understand differently.
//
// Layout (PKWARE APPNOTE 6.3.10): per entry a local header, its data, and a data descriptor where
// flag bit 3 is set; then the central directory, the zip64 end record with its locator (PyTorch
// always writes both), the end record. All integers are little-endian.
//
// Stricter than the format, because scanners of PyTorch files were led astray by each of these: the
// entries follow each other without a gap from byte 0 to the directory, the end record is the end
// of the file (no comment), local header and directory tell the same story, and no two names are
// equal, also not when case is ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/file.h"
#include "lib/result.h"

namespace pennyweight {

struct ZipEntry {
  std::string name;
  uint64_t header_offset = 0;  // of the local header, bytes from the start of the file
  uint64_t offset = 0;         // of the data
  uint64_t stored_bytes = 0;   // in the file
  uint64_t bytes = 0;          // unpacked; equal to stored_bytes unless deflated
  uint32_t crc32 = 0;          // of the unpacked data
  uint16_t flags = 0;
  bool deflated = false;  // read as a whole only
};

class ZipArchive {
 public:
  // Reads and checks the directory and every local header; no data. Errors: kTruncated (no end
  // record), kIncompleteBuffer (bytes that belong to no entry), kInvalidArchive, kUnsupported
  // (encrypted, several disks, packed by another method than deflate), kDuplicateKey, kInvalidName,
  // kLimit, kIo.
  static Result<ZipArchive> Open(const ReadFile& file);

  // In the order of the directory.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  // nullptr when there is none of this name.
  const ZipEntry* Find(std::string_view name) const;

 private:
  std::vector<ZipEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices, sorted
};

// Compares the data of a stored entry with its checksum, a window at a time. Thread-safe.
// Errors: kChecksum, kUnsupported (deflated), kIo, kTruncated.
Status CheckZipEntry(const ReadFile& file, const ZipEntry& entry);

// All of an entry, unpacked, its checksum compared. Errors: kChecksum, kIo, kTruncated,
// kInvalidArchive (deflated data that are malformed or of another size than announced), kLimit
// (above `max_bytes`, or a bomb: see lib/allowance.h).
Result<std::string> ReadZipEntry(const ReadFile& file, const ZipEntry& entry, uint64_t max_bytes);

}  // namespace pennyweight
