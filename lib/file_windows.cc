#include "lib/file_windows.h"

#include <unistd.h>

namespace pennyweight {

FileWindows::FileWindows(uint64_t file_bytes)
    : file_bytes_(file_bytes),
      counts_(std::make_unique<std::atomic<uint32_t>[]>(file_bytes / kBytes + 1)) {}

bool FileWindows::Wanted(uint64_t file_bytes) {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page <= 0) return false;
  // What is small beside the memory is likely to be read again soon, by the next command.
  return file_bytes > static_cast<uint64_t>(pages) * static_cast<uint64_t>(page) / 8;
}

}  // namespace pennyweight
