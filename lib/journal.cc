#include "lib/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>

#include "lib/blob.h"
#include "lib/checked.h"
#include "lib/file.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kMagic = "PWJOURN1";
constexpr double kSyncSeconds = 10;
// Bytes that are read at a time when ranges are hashed again.
constexpr uint64_t kWindowBytes = 1u << 20;

enum Kind : uint8_t { kRecipe = 1, kFile = 2, kRange = 3, kUnit = 4 };

constexpr size_t kHeadBytes = 5;  // kind and length
constexpr size_t kHashBytes = 8;

void Put32(uint32_t value, std::string* to) {
  for (int shift = 0; shift < 32; shift += 8) *to += static_cast<char>(value >> shift & 0xff);
}

uint32_t Get32(std::string_view from) {
  uint32_t value = 0;
  for (size_t i = 4; i > 0; --i) value = value << 8 | static_cast<uint8_t>(from[i - 1]);
  return value;
}

// The low word is XXH3-64 in all but name: half of XXH3-128 serves as well against a torn record.
uint64_t RecordHash(std::string_view record) { return HashBytes(record.data(), record.size())[1]; }

std::string MakeRecord(uint8_t kind, std::string_view payload) {
  std::string record(1, static_cast<char>(kind));
  Put32(static_cast<uint32_t>(payload.size()), &record);
  record += payload;
  BlobWriter hash;
  hash.Unsigned(RecordHash(record));
  return record + hash.bytes();
}

// The next whole record of `rest`, which it is taken from; nullopt at the end or at a torn one.
struct Record {
  uint8_t kind;
  std::string_view payload;
};
std::optional<Record> NextRecord(std::string_view* rest) {
  if (rest->size() < kHeadBytes + kHashBytes) return std::nullopt;
  const uint64_t bytes = Get32(rest->substr(1));
  if (bytes > rest->size() - kHeadBytes - kHashBytes) return std::nullopt;
  const std::string_view record = rest->substr(0, kHeadBytes + bytes);
  BlobReader hash(rest->substr(record.size(), kHashBytes));
  if (hash.Unsigned() != RecordHash(record)) return std::nullopt;
  rest->remove_prefix(record.size() + kHashBytes);
  return Record{static_cast<uint8_t>(record[0]), record.substr(kHeadBytes)};
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

// A file is named by its path from the folder of the output, and does not leave it.
bool IsInside(std::string_view path) {
  if (path.empty() || path[0] == '/' || path.find('\0') != path.npos) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

// Lines that do not overlap, and end where a number can say.
bool IsRange(const WrittenRange& range) {
  if (range.lines == 1) return CheckedAdd(range.offset, range.bytes).has_value();
  if (range.lines == 0 || range.bytes == 0 || range.stride < range.bytes) return false;
  const auto before_last = CheckedMul(range.lines - 1, range.stride);
  const auto begin = before_last ? CheckedAdd(range.offset, *before_last) : std::nullopt;
  return begin && CheckedAdd(*begin, range.bytes);
}

// False when the bytes are not there, or others are. Precondition: IsRange.
bool IsOnDisk(const ReadFile& file, const WrittenRange& range, std::string* window) {
  if (range.end() > file.size()) return false;
  Hasher hasher;
  window->resize(kWindowBytes);
  for (uint64_t line = 0; line < range.lines; ++line) {
    const uint64_t begin = range.offset + line * range.stride;
    for (uint64_t done = 0; done < range.bytes;) {
      const uint64_t n = std::min<uint64_t>(kWindowBytes, range.bytes - done);
      if (!file.ReadAt(begin + done, window->data(), n).ok()) return false;
      hasher.Update(window->data(), n);
      done += n;
    }
  }
  return hasher.Digest() == range.hash;
}

// Which entries of the recipes differ, in words.
std::string Differences(const Json& then, const Json& now) {
  std::string text;
  const auto add = [&](const std::string& key, const std::string& old_value,
                       const std::string& new_value) {
    text += fmt::format("{}{}: it was {}, and is {} now", text.empty() ? "" : "; ", key, old_value,
                        new_value);
  };
  for (const auto& [key, value] : now.members()) {
    const Json* old_value = then.Find(key);
    const std::string before = old_value == nullptr ? "not given" : old_value->Dump();
    if (before != value.Dump()) add(key, before, value.Dump());
  }
  for (const auto& [key, value] : then.members()) {
    if (now.Find(key) == nullptr) add(key, value.Dump(), "not given");
  }
  return text;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Error SystemError(const char* what, int error, const std::string& path) {
  const bool full = error == ENOSPC || error == EDQUOT;
  Error result(full ? ErrorCode::kNoSpace : ErrorCode::kIo,
               fmt::format("cannot {}: {}", what, std::generic_category().message(error)));
  if (full) result.hint = "free some space, then resume with the same command and --resume";
  return std::move(result).InFile(path);
}

// One entry of a journal after its recipe. Errors: kBadPath; false: no such record.
Result<bool> AddEntry(const Record& record, JournalContents* contents) {
  JournalContents::Entry entry;
  const std::string_view payload = record.payload;
  if (record.kind == kFile) {
    if (!IsInside(payload)) {
      return Error(ErrorCode::kBadPath, "the journal names a file outside the output's folder");
    }
    contents->files.emplace_back(payload);
    return true;
  }
  if (payload.size() < 4) return false;
  BlobReader reader(payload.substr(4));
  if (record.kind == kRange) {
    entry.is_range = true;
    entry.file = Get32(payload);
    entry.range.offset = reader.Unsigned();
    entry.range.bytes = reader.Unsigned();
    entry.range.hash = {reader.Unsigned(), reader.Unsigned()};
    if (reader.ok() && !reader.done()) {
      entry.range.lines = reader.Unsigned();
      entry.range.stride = reader.Unsigned();
    }
    if (!reader.done() || entry.file >= contents->files.size()) return false;
    if (!IsRange(entry.range)) return false;
  } else if (record.kind == kUnit) {
    entry.unit = {Get32(payload), reader.Unsigned(), reader.Unsigned()};
    if (!reader.ok()) return false;
    entry.result = payload.substr(4 + 16);
  } else {
    return false;
  }
  contents->entries.push_back(std::move(entry));
  return true;
}

}  // namespace

std::string BesideOutput(const std::string& output, std::string_view what) {
  const std::string name = BaseName(output);
  const std::string folder = FolderOf(output.substr(0, output.find_last_not_of('/') + 1));
  // A file name has at most 255 bytes.
  return fmt::format("{}.{}.pennyweight.{}", folder, name.substr(0, 200), what);
}

Result<JournalContents> ParseJournal(std::string_view text) {
  const auto invalid = [] {
    return Error(ErrorCode::kInvalidHeader, "this is no journal of a run that was stopped")
        .Hint("leave out --resume to begin anew");
  };
  if (!text.starts_with(kMagic)) return invalid();
  std::string_view rest = text.substr(kMagic.size());
  const auto recipe = NextRecord(&rest);
  if (!recipe || recipe->kind != kRecipe) return invalid();
  JournalContents contents;
  PW_ASSIGN(contents.recipe, Json::Parse(recipe->payload));
  if (!contents.recipe.is_object()) return invalid();
  contents.end = text.size() - rest.size();
  while (const auto record = NextRecord(&rest)) {
    PW_ASSIGN(const bool known, AddEntry(*record, &contents));
    if (!known) break;
    contents.end = text.size() - rest.size();
    if (record->kind != kFile) contents.entries.back().end = contents.end;
  }
  return contents;
}

Result<std::unique_ptr<Journal>> Journal::Open(const std::string& output, const Json& recipe,
                                               Mode mode) {
  std::unique_ptr<Journal> journal(new Journal());
  journal->output_ = output;
  journal->path_ = BesideOutput(output, "journal");
  PW_TRY(journal->Lock());
  if (mode == Mode::kBegin) PW_TRY(journal->RefuseToLose());
  if (mode == Mode::kResume) {
    PW_ASSIGN(journal->resumed_, journal->Replay(recipe));
    if (journal->resumed_) return journal;
  }
  // What an earlier run left would be taken for this one's.
  PW_TRY(journal->Forget());
  PW_TRY(journal->Start(recipe));
  return journal;
}

Journal::~Journal() {
  if (fd_ >= 0) close(fd_);
}

Status Journal::Lock() {
  for (;;) {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) {
      const int error = errno;
      if (error != ENOENT && error != ENOTDIR) {
        return SystemError("create a journal beside the output", error, path_);
      }
      return Error(ErrorCode::kNotFound, "the folder of the output does not exist")
          .Hint(fmt::format("mkdir -p '{}'", FolderOf(output_)))
          .InFile(output_);
    }
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return Error(ErrorCode::kBusy, "another run is writing this output")
          .Hint("wait for it, or give another name with -o")
          .InFile(output_);
    }
    // The run that held the lock may have removed the file before it let go.
    struct stat held {};
    struct stat named {};
    if (fstat(fd_, &held) == 0 && stat(path_.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev) {
      return OkStatus();
    }
    close(fd_);
  }
}

Status Journal::RefuseToLose() {
  PW_ASSIGN(const std::string text, ReadWholeFile(path_, limits::kJournalBytes));
  const Result<JournalContents> parsed = ParseJournal(text);
  if (!parsed.ok()) return OkStatus();
  for (const JournalContents::Entry& entry : parsed->entries) {
    if (entry.is_range) continue;
    return Error(ErrorCode::kOutputExists, "a run that was stopped has left a part of this output")
        .Hint("add --resume to go on from there, or --force to begin anew")
        .InFile(output_);
  }
  return OkStatus();
}

Status Journal::Forget() {
  PW_ASSIGN(const std::string text, ReadWholeFile(path_, limits::kJournalBytes));
  const Result<JournalContents> parsed = ParseJournal(text);
  if (parsed.ok()) files_ = parsed->files;
  RemoveBeside(/*keep_journal=*/true);
  files_.clear();
  ranges_.clear();
  units_.clear();
  return OkStatus();
}

Status Journal::Start(const Json& recipe) {
  end_ = 0;
  if (ftruncate(fd_, 0) != 0) return SystemError("empty the journal", errno, path_);
  const std::string text = std::string(kMagic) + MakeRecord(kRecipe, recipe.Dump());
  if (pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return SystemError("write the journal", errno, path_);
  }
  end_ = text.size();
  synced_ = Now();
  return OkStatus();
}

Result<bool> Journal::Replay(const Json& recipe) {
  PW_ASSIGN(const std::string text, ReadWholeFile(path_, limits::kJournalBytes));
  if (text.empty()) return false;
  Result<JournalContents> parsed = ParseJournal(text);
  // Killed before the recipe was written.
  if (!parsed.ok() && parsed.error().code == ErrorCode::kInvalidHeader) return false;
  if (!parsed.ok()) return std::move(parsed).TakeError().InFile(path_);
  const std::string differences = Differences(parsed->recipe, recipe);
  if (!differences.empty()) {
    return Error(ErrorCode::kResumeMismatch, "the run that was stopped was another: " + differences)
        .Hint("give what was given then, or leave out --resume to begin anew")
        .InFile(path_);
  }
  files_ = parsed->files;
  end_ = parsed->end;
  std::vector<std::optional<ReadFile>> files;
  for (const std::string& name : files_) {
    Result<ReadFile> file = ReadFile::Open(FolderOf(output_) + name);
    files.push_back(file.ok() ? std::optional(std::move(file).value()) : std::nullopt);
  }
  std::string window;
  uint64_t end = 0;
  for (JournalContents::Entry& entry : parsed->entries) {
    if (entry.is_range) {
      const std::optional<ReadFile>& file = files[entry.file];
      if (!file || !IsOnDisk(*file, entry.range, &window)) {
        // The disk lost what was recorded from here on.
        if (end == 0) return false;
        PW_ASSIGN(const JournalContents kept, ParseJournal(std::string_view(text).substr(0, end)));
        files_ = kept.files;
        end_ = end;
        break;
      }
      ranges_[parsed->files[entry.file]].push_back(entry.range);
    } else {
      units_[entry.unit] = std::move(entry.result);
    }
    end = entry.end;
  }
  if (ftruncate(fd_, static_cast<off_t>(end_)) != 0) {
    return SystemError("cut the journal", errno, path_);
  }
  synced_ = Now();
  return true;
}

Status Journal::Append(uint8_t kind, std::string_view payload) {
  const std::string record = MakeRecord(kind, payload);
  for (size_t done = 0; done < record.size();) {
    const ssize_t put =
        pwrite(fd_, record.data() + done, record.size() - done, static_cast<off_t>(end_ + done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return SystemError("write the journal", put < 0 ? errno : ENOSPC, path_);
    done += static_cast<size_t>(put);
  }
  end_ += record.size();
  if (Now() - synced_ > kSyncSeconds) {
    if (fdatasync(fd_) != 0) return SystemError("sync the journal", errno, path_);
    synced_ = Now();
  }
  return OkStatus();
}

Result<uint32_t> Journal::AddFile(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::string name = path.substr(FolderOf(output_).size());
  for (size_t i = 0; i < files_.size(); ++i) {
    if (files_[i] == name) return static_cast<uint32_t>(i);
  }
  PW_TRY(Append(kFile, name));
  files_.push_back(name);
  return static_cast<uint32_t>(files_.size() - 1);
}

std::vector<WrittenRange> Journal::RangesOf(const std::string& path) const {
  const auto found = ranges_.find(path.substr(FolderOf(output_).size()));
  return found == ranges_.end() ? std::vector<WrittenRange>() : found->second;
}

Status Journal::RecordRange(uint32_t file, const WrittenRange& range) {
  std::string payload;
  Put32(file, &payload);
  BlobWriter blob;
  for (const uint64_t word : {range.offset, range.bytes, range.hash[0], range.hash[1]}) {
    blob.Unsigned(word);
  }
  if (range.lines > 1) {
    blob.Unsigned(range.lines);
    blob.Unsigned(range.stride);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  return Append(kRange, payload + blob.bytes());
}

Status Journal::RecordUnit(const JournalUnit& unit, std::string_view result) {
  std::string payload;
  Put32(unit.kind, &payload);
  BlobWriter blob;
  blob.Unsigned(unit.a);
  blob.Unsigned(unit.b);
  payload += blob.bytes();
  payload += result;
  const std::lock_guard<std::mutex> lock(mutex_);
  PW_TRY(Append(kUnit, payload));
  recorded_units_ = true;
  return OkStatus();
}

const std::string* Journal::FindUnit(const JournalUnit& unit) const {
  const auto found = units_.find(unit);
  return found == units_.end() ? nullptr : &found->second;
}

void Journal::RemoveBeside(bool keep_journal) const {
  const std::string folder = FolderOf(output_).empty() ? "." : FolderOf(output_);
  const std::string prefix = BaseName(BesideOutput(output_, ""));
  std::error_code error;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && !(keep_journal && name == BaseName(path_))) {
      found.push_back(entry.path());
    }
  }
  // Of an output of several files each has its temporary name beside its own.
  for (const std::string& name : files_) {
    if (name.ends_with(".pennyweight.partial")) RemoveFile(FolderOf(output_) + name);
  }
  for (const auto& path : found) std::filesystem::remove_all(path, error);
}

void Journal::Remove() { RemoveBeside(/*keep_journal=*/false); }

}  // namespace pennyweight
