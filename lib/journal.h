// The journal of an output that is being written: what is on the disk already, so that a killed run
// can go on to the same bytes. It lies beside the output, is locked while a run writes it, and goes
// when the output is complete.
//
// Beside OUTPUT, while it is made:
//   .OUTPUT.pennyweight.partial   the file, or the folder, under its temporary name
//   .OUTPUT.pennyweight.journal   this
//   .OUTPUT.pennyweight.NAME      what a command keeps beside it (Sidecar)
//
// Layout: "PWJOURN1", then records { u8 kind, u32 bytes, payload, u64 XXH3-64 of all that }, little
// endian: the recipe first (JSON), then in the order of the work
//   file   a temporary file, by its path from the folder of the output; numbered from 0
//   range  u32 file, u64 offset, u64 bytes, XXH3-128 of what was written there; then, when it has
//          several lines (lib/written_ranges.h), u64 lines, u64 stride
//   unit   u32 kind, u64 a, u64 b, result: a piece of work whose ranges all stand before it
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/json.h"
#include "lib/result.h"
#include "lib/written_ranges.h"

namespace pennyweight {

// Names a piece of work; what the numbers mean is the command's business.
struct JournalUnit {
  uint32_t kind = 0;
  uint64_t a = 0;
  uint64_t b = 0;
  auto operator<=>(const JournalUnit&) const = default;
};

// The temporary name beside an output: ".NAME.pennyweight.WHAT" in its folder.
std::string BesideOutput(const std::string& output, std::string_view what);

// What a journal's text holds. Hashes of ranges are not compared with files here.
struct JournalContents {
  Json recipe;
  std::vector<std::string> files;
  struct Entry {
    uint64_t end = 0;  // of its record, bytes from the start of the journal
    bool is_range = false;
    uint32_t file = 0;
    WrittenRange range;
    JournalUnit unit;
    std::string result;
  };
  std::vector<Entry> entries;
  uint64_t end = 0;  // of the last whole record
};

// Reads records until the text ends or one is not whole: a torn tail is what a kill leaves.
// Errors: kInvalidHeader when even the recipe is not there; kBadPath for a file outside the folder.
Result<JournalContents> ParseJournal(std::string_view text);

class Journal {
 public:
  // Locks the journal of `output`. kBegin: whatever an earlier run left is removed, but not when a
  // unit of it is done, for which it takes kReplace. kResume: the recipes are compared, every
  // recorded range is hashed again in its file, and what was recorded from the first difference on
  // is forgotten; where there is nothing to go on from it begins anew.
  // `recipe` is an object of texts: all that the bytes of the output depend on.
  // Errors: kBusy (another run holds it), kOutputExists (kBegin), kResumeMismatch naming the
  // entries that differ, kNotFound (the folder), kIo, kNoSpace.
  enum class Mode : uint8_t { kBegin, kReplace, kResume };
  static Result<std::unique_ptr<Journal>> Open(const std::string& output, const Json& recipe,
                                               Mode mode);
  // Unlocks; the journal stays where it is unless Remove was called.
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  const std::string& output() const { return output_; }
  // True when there was a journal, and it fits.
  bool resumed() const { return resumed_; }
  // Whether any unit is done, in the stopped run or in this one: there is something to lose.
  bool has_units() const { return !units_.empty() || recorded_units_; }

  // Names a temporary file before its first range. Thread-safe, as the others.
  Result<uint32_t> AddFile(const std::string& path);
  // Ranges of this file that are on the disk, checked; in the order of writing.
  std::vector<WrittenRange> RangesOf(const std::string& path) const;
  Status RecordRange(uint32_t file, const WrittenRange& range);
  // After all ranges of the unit.
  Status RecordUnit(const JournalUnit& unit, std::string_view result);
  // The result of a unit that the stopped run had done, or nullptr.
  const std::string* FindUnit(const JournalUnit& unit) const;

  // Path of something of the command's own that goes with the journal.
  std::string Sidecar(std::string_view name) const { return BesideOutput(output_, name); }
  // Removes all that lies beside the output: it is complete, or nothing is worth keeping.
  void Remove();

 private:
  Journal() = default;
  Status Lock();
  // Errors: kOutputExists when a run that was stopped had finished units.
  Status RefuseToLose();
  // Removes what an earlier run left.
  Status Forget();
  Status Start(const Json& recipe);
  // False when there is nothing to go on from.
  Result<bool> Replay(const Json& recipe);
  // Precondition: mutex_ is held.
  Status Append(uint8_t kind, std::string_view payload);
  void RemoveBeside(bool keep_journal) const;

  std::string output_;
  std::string path_;
  int fd_ = -1;
  bool resumed_ = false;
  std::atomic<bool> recorded_units_{false};
  std::mutex mutex_;
  uint64_t end_ = 0;   // of the file
  double synced_ = 0;  // when it was last synced
  std::vector<std::string> files_;
  std::map<std::string, std::vector<WrittenRange>> ranges_;  // found, by file
  std::map<JournalUnit, std::string> units_;
};

}  // namespace pennyweight
