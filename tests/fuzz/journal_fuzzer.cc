// The journal of a stopped run: as it is, and with the hashes of its records made right, so that
// what they say is reached.
#include <cstring>
#include <string>
#include <string_view>

#include "lib/blob.h"
#include "lib/hash.h"
#include "lib/journal.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

namespace pennyweight::fuzz {
namespace {

// Layout: lib/journal.h.
void FixHashes(std::string* text) {
  constexpr size_t kMagicBytes = 8, kHeadBytes = 5, kHashBytes = 8;
  for (size_t at = kMagicBytes; at + kHeadBytes + kHashBytes <= text->size();) {
    uint32_t bytes = 0;
    std::memcpy(&bytes, text->data() + at + 1, sizeof(bytes));
    if (bytes > text->size() - at - kHeadBytes - kHashBytes) return;
    const uint64_t hash = HashBytes(text->data() + at, kHeadBytes + bytes)[1];
    at += kHeadBytes + bytes;
    std::memcpy(text->data() + at, &hash, sizeof(hash));
    at += kHashBytes;
  }
}

void Read(std::string_view text) {
  const AllocationCap cap(text.size());
  const auto contents = ParseJournal(text);
  if (!contents.ok()) return;
  Require(contents->end <= text.size(), "records are inside of the journal");
  uint64_t before = 0;
  for (const auto& entry : contents->entries) {
    Require(entry.end > before && entry.end <= contents->end, "records stand in their order");
    before = entry.end;
    if (entry.is_range) Require(entry.file < contents->files.size(), "a range has its file");
    BlobReader result(entry.result);
    while (result.ok() && !result.done()) (void)result.Text();
  }
  const auto again = ParseJournal(text.substr(0, contents->end));
  Require(again.ok() && again->entries.size() == contents->entries.size() &&
              again->end == contents->end,
          "what was whole is read again as it was");
}

}  // namespace
}  // namespace pennyweight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  pennyweight::fuzz::Read(text);
  pennyweight::fuzz::FixHashes(&text);
  pennyweight::fuzz::Read(text);
  return 0;
}
