#include "formats/zip_reader.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "lib/allowance.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

static_assert(std::endian::native == std::endian::little, "zip integers are read in place");

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kDescriptorSignature = 0x08074b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocatorSignature = 0x07064b50;
constexpr uint64_t kLocalBytes = 30;
constexpr uint64_t kDirectoryBytes = 46;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kLocatorBytes = 20;
constexpr uint16_t kFlagEncrypted = 0x0001;
constexpr uint16_t kFlagDescriptor = 0x0008;
constexpr uint16_t kFlagUtf8 = 0x0800;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint32_t kFull32 = 0xFFFFFFFF;  // "see the zip64 field"
constexpr uint16_t kFull16 = 0xFFFF;
constexpr uint64_t kWindow = 1 << 20;

template <class T>
T Load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

Error Invalid(std::string text, uint64_t offset) {
  return Error(ErrorCode::kInvalidArchive, std::move(text)).At(offset);
}

// Where the directory is, and how many entries it has.
struct Directory {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t entries = 0;
};

// No end record at the very end: says what is there instead.
Error NoEndRecord(const ReadFile& file) {
  std::string tail(std::min<uint64_t>(file.size(), kEndBytes + kFull16), '\0');
  const uint64_t begin = file.size() - tail.size();
  Status read = file.ReadAt(begin, tail.data(), tail.size());
  if (!read.ok()) return std::move(read).TakeError();
  const size_t found = tail.rfind(std::string_view("PK\5\6", 4));
  if (found != std::string::npos && tail.size() - found >= kEndBytes) {
    return Error(ErrorCode::kIncompleteBuffer,
                 "bytes follow the end record of the zip archive (a comment, or another file)")
        .Hint("save the checkpoint again with torch.save")
        .At(begin + found + kEndBytes);
  }
  return Error(ErrorCode::kTruncated, "the zip archive has no end record: the file is cut short")
      .Hint("download or copy the file again")
      .At(file.size());
}

// Replaces the fields that are too small by those of the zip64 end record, if there is one.
// `end` is the offset of the end record; returns where the directory must end.
Result<uint64_t> ApplyZip64(const ReadFile& file, uint64_t end, Directory* directory) {
  const bool full =
      directory->entries == kFull16 || directory->offset == kFull32 || directory->bytes == kFull32;
  char locator[kLocatorBytes] = {};
  if (end >= kLocatorBytes) PW_TRY(file.ReadAt(end - kLocatorBytes, locator, kLocatorBytes));
  if (Load<uint32_t>(locator) != kLocatorSignature) {
    if (full) return Invalid("the zip64 end record is missing", end);
    return end;
  }
  const uint64_t at = end - kLocatorBytes;
  if (Load<uint32_t>(locator + 4) != 0 || Load<uint32_t>(locator + 16) != 1) {
    return Error(ErrorCode::kUnsupported, "the zip archive is spread over several disks").At(at);
  }
  const uint64_t where = Load<uint64_t>(locator + 8);
  char record[kEnd64Bytes];
  if (at < kEnd64Bytes || where != at - kEnd64Bytes) {
    return Invalid("the zip64 end record is not where its locator says", at);
  }
  PW_TRY(file.ReadAt(where, record, kEnd64Bytes));
  if (Load<uint32_t>(record) != kEnd64Signature || Load<uint64_t>(record + 4) != kEnd64Bytes - 12) {
    return Invalid("the zip64 end record is malformed", where);
  }
  const Directory wide = {Load<uint64_t>(record + 48), Load<uint64_t>(record + 40),
                          Load<uint64_t>(record + 32)};
  if (Load<uint32_t>(record + 16) != 0 || Load<uint32_t>(record + 20) != 0 ||
      Load<uint64_t>(record + 24) != wide.entries) {
    return Error(ErrorCode::kUnsupported, "the zip archive is spread over several disks").At(where);
  }
  const auto agree = [](uint64_t narrow, uint64_t value, uint64_t limit) {
    return narrow == value || narrow == limit;
  };
  if (!agree(directory->entries, wide.entries, kFull16) ||
      !agree(directory->offset, wide.offset, kFull32) ||
      !agree(directory->bytes, wide.bytes, kFull32)) {
    return Invalid("the two end records of the zip archive contradict each other", where);
  }
  *directory = wide;
  return where;
}

Result<Directory> FindDirectory(const ReadFile& file) {
  char record[kEndBytes] = {};
  if (file.size() >= kEndBytes) {
    PW_TRY(file.ReadAt(file.size() - kEndBytes, record, kEndBytes));
  }
  if (Load<uint32_t>(record) != kEndSignature || Load<uint16_t>(record + 20) != 0) {
    return NoEndRecord(file);
  }
  const uint64_t end = file.size() - kEndBytes;
  Directory directory = {Load<uint32_t>(record + 16), Load<uint32_t>(record + 12),
                         Load<uint16_t>(record + 10)};
  if (Load<uint16_t>(record + 4) != 0 || Load<uint16_t>(record + 6) != 0 ||
      Load<uint16_t>(record + 8) != directory.entries) {
    return Error(ErrorCode::kUnsupported, "the zip archive is spread over several disks").At(end);
  }
  PW_ASSIGN(const uint64_t directory_end, ApplyZip64(file, end, &directory));
  const auto sum = CheckedAdd(directory.offset, directory.bytes);
  if (!sum || *sum != directory_end) {
    return Invalid("the zip directory does not end where the end records begin", end);
  }
  if (directory.bytes > limits::kZipDirectoryBytes || directory.entries > limits::kZipEntries) {
    return Error(ErrorCode::kLimit,
                 fmt::format("the zip directory has {} entries in {} bytes; at most {} in {} are "
                             "taken",
                             directory.entries, directory.bytes, limits::kZipEntries,
                             limits::kZipDirectoryBytes))
        .At(end);
  }
  if (directory.entries > directory.bytes / kDirectoryBytes) {
    return Invalid("the zip directory is too small for its number of entries", end);
  }
  return directory;
}

// Names that another reader could take for another path.
Status CheckName(std::string_view name, uint64_t offset) {
  const auto bad = [&](const char* why) -> Status {
    return Error(ErrorCode::kInvalidName,
                 fmt::format("the name of an entry of the zip archive {}", why))
        .At(offset);
  };
  if (name.empty() || name.size() > limits::kTensorNameBytes) return bad("is empty or too long");
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return bad("has a control character");
    if (c == '\\') return bad("has a backslash");
  }
  if (name.size() >= 2 && name[1] == ':') return bad("begins with a drive letter");
  // A folder's own entry ends in a slash; every other part is a plain name.
  std::string_view rest = name.back() == '/' ? name.substr(0, name.size() - 1) : name;
  while (true) {
    const size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return bad("is not a plain relative path");
    if (slash == std::string_view::npos) return OkStatus();
    rest.remove_prefix(slash + 1);
  }
}

// Replaces sizes and offset that are 0xFFFFFFFF by those of the zip64 field, which holds just
// these, in this order. nullptr: not wanted. False: the extra data is malformed or lacks them.
bool ReadZip64Extra(std::string_view extra, uint64_t* bytes, uint64_t* stored, uint64_t* offset) {
  std::optional<std::string_view> field;
  while (!extra.empty()) {
    if (extra.size() < 4) return false;
    const uint16_t id = Load<uint16_t>(extra.data());
    const uint16_t length = Load<uint16_t>(extra.data() + 2);
    if (length > extra.size() - 4) return false;
    if (id == kZip64Extra) {
      if (field) return false;
      field = extra.substr(4, length);
    }
    extra.remove_prefix(size_t{4} + length);
  }
  for (uint64_t* value : {bytes, stored, offset}) {
    if (value == nullptr || *value != kFull32) continue;
    if (!field || field->size() < 8) return false;
    *value = Load<uint64_t>(field->data());
    field->remove_prefix(8);
  }
  return true;
}

// The entry at `at` of the directory's bytes, which begin at `begin` of the file; moves `at` on.
Result<ZipEntry> ParseDirectoryEntry(std::string_view directory, uint64_t begin, uint64_t* at) {
  const uint64_t where = begin + *at;
  const std::string_view rest = directory.substr(*at);
  const char* p = rest.data();
  if (rest.size() < kDirectoryBytes || Load<uint32_t>(p) != kDirectorySignature) {
    return Invalid("the zip directory is malformed", where);
  }
  ZipEntry entry;
  entry.flags = Load<uint16_t>(p + 8);
  const uint16_t method = Load<uint16_t>(p + 10);
  entry.crc32 = Load<uint32_t>(p + 16);
  entry.stored_bytes = Load<uint32_t>(p + 20);
  entry.bytes = Load<uint32_t>(p + 24);
  const uint64_t name_bytes = Load<uint16_t>(p + 28);
  const uint64_t extra_bytes = Load<uint16_t>(p + 30);
  const uint64_t comment_bytes = Load<uint16_t>(p + 32);
  entry.header_offset = Load<uint32_t>(p + 42);
  const uint64_t total = kDirectoryBytes + name_bytes + extra_bytes + comment_bytes;
  if (total > rest.size()) return Invalid("the zip directory is malformed", where);
  entry.name = std::string(rest.substr(kDirectoryBytes, name_bytes));
  PW_TRY(CheckName(entry.name, where));
  if ((entry.flags & kFlagEncrypted) != 0) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("the entry \"{}\" of the zip archive is encrypted", entry.name))
        .At(where);
  }
  // PyTorch ignores the other flags, other readers do not: the two would see different files.
  if ((entry.flags & ~(kFlagDescriptor | kFlagUtf8)) != 0) {
    return Invalid(
        fmt::format("the entry \"{}\" has the unknown flags {:#06x}", entry.name, entry.flags),
        where);
  }
  if (method != 0 && method != 8) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("the entry \"{}\" is packed by method {}, which is not read here",
                             entry.name, method))
        .At(where);
  }
  entry.deflated = method == 8;
  if (Load<uint16_t>(p + 34) != 0) {
    return Error(ErrorCode::kUnsupported, "the zip archive is spread over several disks").At(where);
  }
  if (!ReadZip64Extra(rest.substr(kDirectoryBytes + name_bytes, extra_bytes), &entry.bytes,
                      &entry.stored_bytes, &entry.header_offset)) {
    return Invalid(fmt::format("the zip64 sizes of the entry \"{}\" are missing", entry.name),
                   where);
  }
  if (!entry.deflated && entry.bytes != entry.stored_bytes) {
    return Invalid(fmt::format("the entry \"{}\" is stored in {} bytes, but has {}", entry.name,
                               entry.stored_bytes, entry.bytes),
                   where);
  }
  if (entry.name.back() == '/' && entry.bytes != 0) {
    return Invalid(fmt::format("the folder \"{}\" has data", entry.name), where);
  }
  *at += total;
  return entry;
}

// Compares the local header with the directory and fills `offset`. The data must lie before `end`.
// Returns where the data end.
Result<uint64_t> CheckLocalHeader(const ReadFile& file, uint64_t end, ZipEntry* entry) {
  const uint64_t at = entry->header_offset;
  const auto differs = [&](const char* what) {
    return Invalid(fmt::format("the entry \"{}\" has another {} in its local header than in the "
                               "directory",
                               entry->name, what),
                   at);
  };
  const auto header_end = CheckedAdd(at, kLocalBytes);
  if (!header_end || *header_end > end) {
    return Invalid(fmt::format("the entry \"{}\" overlaps what follows", entry->name), at);
  }
  char header[kLocalBytes];
  PW_TRY(file.ReadAt(at, header, kLocalBytes));
  if (Load<uint32_t>(header) != kLocalSignature) {
    return Invalid(fmt::format("the entry \"{}\" has no local header", entry->name), at);
  }
  if (Load<uint16_t>(header + 6) != entry->flags) return differs("set of flags");
  if (Load<uint16_t>(header + 8) != (entry->deflated ? 8 : 0)) return differs("method");
  const uint64_t name_bytes = Load<uint16_t>(header + 26);
  const uint64_t extra_bytes = Load<uint16_t>(header + 28);
  if (name_bytes + extra_bytes > end - *header_end) {
    return Invalid(fmt::format("the entry \"{}\" overlaps what follows", entry->name), at);
  }
  std::string variable(name_bytes + extra_bytes, '\0');
  PW_TRY(file.ReadAt(*header_end, variable.data(), variable.size()));
  if (std::string_view(variable).substr(0, name_bytes) != entry->name) return differs("name");
  uint64_t stored = Load<uint32_t>(header + 18);
  uint64_t bytes = Load<uint32_t>(header + 22);
  if (!ReadZip64Extra(std::string_view(variable).substr(name_bytes), &bytes, &stored, nullptr)) {
    return Invalid(fmt::format("the local header of \"{}\" is malformed", entry->name), at);
  }
  // With a descriptor behind the data the header may leave its fields at zero.
  const bool later = (entry->flags & kFlagDescriptor) != 0;
  const auto agree = [&](uint64_t here, uint64_t there) {
    return here == there || (later && here == 0);
  };
  if (!agree(stored, entry->stored_bytes) || !agree(bytes, entry->bytes)) return differs("size");
  if (!agree(Load<uint32_t>(header + 14), entry->crc32)) return differs("checksum");
  entry->offset = *header_end + variable.size();
  if (entry->stored_bytes > end - entry->offset) {
    return Invalid(fmt::format("the entry \"{}\" overlaps what follows", entry->name), at);
  }
  return entry->offset + entry->stored_bytes;
}

// What lies between the data, which end at `data_end`, and `end` must be the descriptor alone: 16
// bytes, or 24 with sizes of 64 bits.
Status CheckDescriptor(const ReadFile& file, const ZipEntry& entry, uint64_t data_end,
                       uint64_t end) {
  const uint64_t gap = end - data_end;
  if ((entry.flags & kFlagDescriptor) == 0) {
    if (gap == 0) return OkStatus();
    return Error(ErrorCode::kIncompleteBuffer,
                 fmt::format("{} bytes behind the entry \"{}\" belong to nothing", gap, entry.name))
        .At(data_end);
  }
  char descriptor[24];
  if (gap != 16 && gap != 24) {
    return Invalid(
        fmt::format("the entry \"{}\" has no data descriptor right behind its data", entry.name),
        data_end);
  }
  PW_TRY(file.ReadAt(data_end, descriptor, gap));
  const bool wide = gap == 24;
  const uint64_t stored = wide ? Load<uint64_t>(descriptor + 8) : Load<uint32_t>(descriptor + 8);
  const uint64_t bytes = wide ? Load<uint64_t>(descriptor + 16) : Load<uint32_t>(descriptor + 12);
  if (Load<uint32_t>(descriptor) != kDescriptorSignature ||
      Load<uint32_t>(descriptor + 4) != entry.crc32 || stored != entry.stored_bytes ||
      bytes != entry.bytes) {
    return Invalid(
        fmt::format("the data descriptor of \"{}\" contradicts the directory", entry.name),
        data_end);
  }
  return OkStatus();
}

// The entries, in the order of the file, must fill [0, directory) without gap or overlap.
Status CheckLocalHeaders(const ReadFile& file, uint64_t directory, std::vector<ZipEntry>* entries) {
  std::vector<size_t> order(entries->size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return (*entries)[a].header_offset < (*entries)[b].header_offset;
  });
  const uint64_t first = order.empty() ? directory : (*entries)[order[0]].header_offset;
  if (first != 0) {
    return Error(ErrorCode::kIncompleteBuffer,
                 fmt::format("{} bytes before the first entry belong to nothing", first))
        .At(0);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    ZipEntry& entry = (*entries)[order[i]];
    const uint64_t end = i + 1 < order.size() ? (*entries)[order[i + 1]].header_offset : directory;
    if (end > directory) {
      return Invalid("an entry of the zip archive begins behind the directory", end);
    }
    PW_ASSIGN(const uint64_t data_end, CheckLocalHeader(file, end, &entry));
    PW_TRY(CheckDescriptor(file, entry, data_end, end));
  }
  return OkStatus();
}

Error Deflated(const ReadFile& file, const ZipEntry& entry) {
  return Error(ErrorCode::kUnsupported,
               fmt::format("the data of \"{}\" are compressed, which torch.save never does",
                           entry.name))
      .Hint("unpack the archive and zip it again without compression (zip -0)")
      .InFile(file.path())
      .At(entry.offset);
}

// All of a deflated entry.
Result<std::string> Inflate(const ReadFile& file, const ZipEntry& entry) {
  if (!Allowance(file.size()).Take(entry.bytes)) {
    return Allowance::Exceeded(fmt::format("the unpacked entry \"{}\"", entry.name))
        .InFile(file.path())
        .At(entry.offset);
  }
  std::string packed(entry.stored_bytes, '\0');
  PW_TRY(file.ReadAt(entry.offset, packed.data(), packed.size()));
  std::string bytes(entry.bytes, '\0');
  const std::unique_ptr<libdeflate_decompressor, decltype(&libdeflate_free_decompressor)> inflater(
      libdeflate_alloc_decompressor(), &libdeflate_free_decompressor);
  if (inflater == nullptr) return Error(ErrorCode::kMemory, "no memory for unpacking");
  size_t read = 0;
  size_t wrote = 0;
  const libdeflate_result result = libdeflate_deflate_decompress_ex(
      inflater.get(), packed.data(), packed.size(), bytes.data(), bytes.size(), &read, &wrote);
  if (result != LIBDEFLATE_SUCCESS || read != packed.size() || wrote != bytes.size()) {
    return Error(ErrorCode::kInvalidArchive,
                 fmt::format("the packed data of \"{}\" are malformed or not of the size that is "
                             "announced",
                             entry.name))
        .InFile(file.path())
        .At(entry.offset);
  }
  return bytes;
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// Less than, equal to or greater than 0, as for memcmp; the case of ASCII letters is ignored.
int CompareFolded(std::string_view a, std::string_view b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const int difference = static_cast<uint8_t>(Lower(a[i])) - static_cast<uint8_t>(Lower(b[i]));
    if (difference != 0) return difference;
  }
  return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
}

// Indices of the entries in the order of their names, no two of which may be equal, also not on a
// file system that ignores case.
Result<std::vector<uint32_t>> SortNames(const std::vector<ZipEntry>& entries) {
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return CompareFolded(entries[a].name, entries[b].name) < 0;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const ZipEntry& entry = entries[order[i]];
    if (CompareFolded(entries[order[i - 1]].name, entry.name) != 0) continue;
    return Error(ErrorCode::kDuplicateKey,
                 fmt::format("the zip archive has the entry \"{}\" twice", entry.name))
        .At(entry.header_offset);
  }
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].name < entries[b].name; });
  return order;
}

Error WrongChecksum(const ReadFile& file, const ZipEntry& entry, uint32_t crc) {
  return Error(ErrorCode::kChecksum,
               fmt::format("the data of \"{}\" have the checksum {:08x}, the archive says {:08x}",
                           entry.name, crc, entry.crc32))
      .Hint("download or copy the file again")
      .InFile(file.path())
      .At(entry.offset);
}

}  // namespace

Result<ZipArchive> ZipArchive::Open(const ReadFile& file) {
  const auto parse = [&]() -> Result<ZipArchive> {
    PW_ASSIGN(const Directory directory, FindDirectory(file));
    std::string bytes(directory.bytes, '\0');
    PW_TRY(file.ReadAt(directory.offset, bytes.data(), bytes.size()));
    ZipArchive archive;
    archive.entries_.reserve(directory.entries);
    uint64_t at = 0;
    while (archive.entries_.size() < directory.entries) {
      PW_ASSIGN(ZipEntry entry, ParseDirectoryEntry(bytes, directory.offset, &at));
      archive.entries_.push_back(std::move(entry));
    }
    PW_ASSIGN(archive.by_name_, SortNames(archive.entries_));
    if (at != bytes.size()) {
      return Invalid("the zip directory has more than its number of entries",
                     directory.offset + at);
    }
    PW_TRY(CheckLocalHeaders(file, directory.offset, &archive.entries_));
    return archive;
  };
  Result<ZipArchive> archive = parse();
  if (!archive.ok()) return std::move(archive).TakeError().InFile(file.path());
  return archive;
}

const ZipEntry* ZipArchive::Find(std::string_view name) const {
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [&](uint32_t i, std::string_view n) { return entries_[i].name < n; });
  return found == by_name_.end() || entries_[*found].name != name ? nullptr : &entries_[*found];
}

Status CheckZipEntry(const ReadFile& file, const ZipEntry& entry) {
  if (entry.deflated) return Deflated(file, entry);
  std::string window(std::min(kWindow, entry.bytes), '\0');
  uint32_t crc = 0;
  for (uint64_t at = 0; at < entry.bytes; at += window.size()) {
    const uint64_t n = std::min<uint64_t>(window.size(), entry.bytes - at);
    PW_TRY(file.ReadAt(entry.offset + at, window.data(), n));
    crc = libdeflate_crc32(crc, window.data(), n);
  }
  if (crc != entry.crc32) return WrongChecksum(file, entry, crc);
  return OkStatus();
}

Result<std::string> ReadZipEntry(const ReadFile& file, const ZipEntry& entry, uint64_t max_bytes) {
  if (entry.bytes > max_bytes) {
    return Error(ErrorCode::kLimit, fmt::format("\"{}\" has {} bytes; at most {} are taken",
                                                entry.name, entry.bytes, max_bytes))
        .InFile(file.path())
        .At(entry.offset);
  }
  std::string bytes;
  if (entry.deflated) {
    PW_ASSIGN(bytes, Inflate(file, entry));
  } else {
    bytes.resize(entry.bytes);
    PW_TRY(file.ReadAt(entry.offset, bytes.data(), bytes.size()));
  }
  const uint32_t crc = libdeflate_crc32(0, bytes.data(), bytes.size());
  if (crc != entry.crc32) return WrongChecksum(file, entry, crc);
  return bytes;
}

}  // namespace pennyweight
