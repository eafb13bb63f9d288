// ReadTorchFile of formats/pytorch_reader.h: the two containers of PyTorch checkpoints.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "formats/pickle.h"
#include "formats/pickle_grade.h"
#include "formats/pytorch_reader.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

using std::literals::operator""sv;

// 0x1950a86a20f9469cfc6c as a pickle stores it.
constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv;
constexpr int64_t kLegacyProtocol = 1001;
constexpr uint64_t kSmallRecord = 1024;
constexpr uint64_t kSmallPickle = 64 << 10;
constexpr size_t kMaliciousNames = 8;  // that an error names

Error NotACheckpoint(std::string text) {
  return Error(ErrorCode::kUnknownFormat, std::move(text))
      .Hint("give a file that torch.save wrote, or the model as safetensors or GGUF");
}

// The one name before the first slash of every entry.
Result<std::string> PrefixOf(const ZipArchive& archive) {
  std::string prefix;
  for (const ZipEntry& entry : archive.entries()) {
    const size_t slash = entry.name.find('/');
    if (slash == std::string::npos) {
      return NotACheckpoint(
          "the zip archive is not a PyTorch checkpoint: an entry is in no folder");
    }
    const std::string_view own = std::string_view(entry.name).substr(0, slash + 1);
    if (prefix.empty()) prefix = own;
    if (own != prefix) {
      return NotACheckpoint(
                 "the zip archive is not a PyTorch checkpoint: it has more than one folder")
          .At(entry.header_offset);
    }
  }
  return prefix;
}

Result<bool> ReadByteOrder(const ReadFile& file, const ZipArchive& archive,
                           const std::string& prefix) {
  const ZipEntry* entry = archive.Find(prefix + "byteorder");
  if (entry == nullptr) return false;  // before PyTorch 2.1: that of the machine, all little
  PW_ASSIGN(const std::string order, ReadZipEntry(file, *entry, kSmallRecord));
  if (order != "little" && order != "big") {
    return Error(ErrorCode::kInvalidHeader,
                 fmt::format("the byte order is \"{:.20}\", not little or big", order))
        .At(entry->offset);
  }
  return order == "big";
}

// New files say at which multiple their records begin. Nothing depends on it here.
Status CheckAlignmentNote(const ReadFile& file, const ZipArchive& archive,
                          const std::string& prefix, TorchCheckpoint* checkpoint) {
  const ZipEntry* entry = archive.Find(prefix + ".storage_alignment");
  if (entry == nullptr) return OkStatus();
  PW_ASSIGN(const std::string text, ReadZipEntry(file, *entry, kSmallRecord));
  const bool number = !text.empty() && text.size() < 20 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  if (!number) checkpoint->notes["storage_alignment"] = "is not a number";
  return OkStatus();
}

Result<TorchFile> ReadZipFile(const ReadFile& file, std::string_view key) {
  PW_ASSIGN(const ZipArchive archive, ZipArchive::Open(file));
  PW_ASSIGN(const std::string prefix, PrefixOf(archive));
  const ZipEntry* entry = archive.Find(prefix + "data.pkl");
  if (entry == nullptr) {
    return NotACheckpoint(
        archive.Find(prefix + "model.json") != nullptr
            ? "this is a TorchScript archive of PyTorch 1.0 or 1.1, which is not read here"
            : "the zip archive is not a PyTorch checkpoint: it has no data.pkl");
  }
  PW_ASSIGN(std::string bytes, ReadZipEntry(file, *entry, limits::kPickleBytes));
  Result<Pickle> pickle = Pickle::Parse(std::move(bytes), file.size());
  if (!pickle.ok()) {
    Error error = std::move(pickle).TakeError();
    if (error.offset >= 0) error.offset += static_cast<int64_t>(entry->offset);
    return error;
  }
  if (pickle->bytes() != entry->bytes) {
    return Error(ErrorCode::kInvalidPickle, "bytes follow the end of the pickle in data.pkl")
        .At(entry->offset + pickle->bytes());
  }
  TorchFile out;
  out.malicious = MaliciousNames(*pickle, entry->offset, kMaliciousNames);
  PW_ASSIGN(out.big_endian, ReadByteOrder(file, archive, prefix));
  PW_ASSIGN(out.checkpoint, ReadTorchPickle(*pickle, /*legacy=*/false, key));
  for (TorchStorage& storage : out.checkpoint.storages) {
    const ZipEntry* record = archive.Find(prefix + "data/" + storage.key);
    if (record == nullptr) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("the storage data/{:.100} is not in the archive", storage.key));
    }
    // Readers that trusted the pickle here read past the record (CVE-2026-24747).
    if (record->bytes != storage.bytes) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("the storage data/{:.100} has {} bytes; the pickle says {}",
                               storage.key, record->bytes, storage.bytes))
          .At(record->offset);
    }
    storage.offset = record->offset;
    out.records.push_back(*record);
  }
  const auto records =
      std::count_if(archive.entries().begin(), archive.entries().end(), [&](const ZipEntry& e) {
        return e.name.compare(0, prefix.size() + 5, prefix + "data/") == 0;
      });
  const auto unused = records - static_cast<std::ptrdiff_t>(out.records.size());
  if (unused > 0) out.checkpoint.notes["unused_records"] = std::to_string(unused);
  PW_TRY(CheckAlignmentNote(file, archive, prefix, &out.checkpoint));
  if (archive.Find(prefix + "constants.pkl") != nullptr) {
    out.checkpoint.notes["torchscript"] = "the code of the archive was not read";
  }
  return out;
}

// {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {...}}: whether it is big-endian.
Result<bool> ReadSystemInfo(const Pickle& info, uint64_t at) {
  if (info.kind(info.root()) == PickleKind::kDict) {
    const auto items = info.items(info.root());
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (info.kind(items[i]) == PickleKind::kString && info.text(items[i]) == "little_endian" &&
          info.kind(items[i + 1]) == PickleKind::kBool) {
        return info.integer(items[i + 1]) == 0;
      }
    }
  }
  return Error(ErrorCode::kInvalidHeader, "the checkpoint does not say its byte order").At(at);
}

// The storages, in the order of the list of keys, up to the end of the file.
Status PlaceStorages(const ReadFile& file, const Pickle& keys, uint64_t at, bool big_endian,
                     TorchCheckpoint* checkpoint) {
  std::unordered_map<std::string_view, TorchStorage*> open;
  for (TorchStorage& storage : checkpoint->storages) open[storage.key] = &storage;
  if (keys.kind(keys.root()) != PickleKind::kList) {
    return Error(ErrorCode::kInvalidHeader, "the list of storages is not a list").At(at);
  }
  for (const PickleId key : keys.items(keys.root())) {
    const auto found =
        keys.kind(key) == PickleKind::kString ? open.find(keys.text(key)) : open.end();
    if (found == open.end()) {
      return Error(ErrorCode::kInvalidTensor,
                   "the list of storages has one that no tensor uses, or one twice")
          .At(at);
    }
    TorchStorage& storage = *found->second;
    open.erase(found);
    uint64_t elements = 0;
    PW_TRY(file.ReadAt(at, &elements, sizeof(elements)));
    if (big_endian) elements = __builtin_bswap64(elements);
    if (elements != storage.elements) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("the storage \"{:.100}\" has {} elements; the pickle says {}",
                               storage.key, elements, storage.elements))
          .At(at);
    }
    storage.offset = at + sizeof(elements);
    if (storage.bytes > file.size() - storage.offset) {
      return Error(ErrorCode::kTruncated,
                   fmt::format("the storage \"{:.100}\" needs {} bytes, {} are left", storage.key,
                               storage.bytes, file.size() - storage.offset))
          .Hint("download or copy the file again")
          .At(storage.offset);
    }
    at = storage.offset + storage.bytes;
  }
  if (!open.empty()) {
    return Error(ErrorCode::kInvalidTensor, "a storage that a tensor uses is not in the file")
        .At(at);
  }
  if (at != file.size()) {
    return Error(ErrorCode::kIncompleteBuffer,
                 fmt::format("{} bytes follow the last storage", file.size() - at))
        .At(at);
  }
  return OkStatus();
}

// The pickle begins at `begin` of the file. A name may also stand in front of the value, or behind
// it, and be thrown away.
void AddMalicious(const Pickle& pickle, uint64_t begin, TorchFile* out) {
  const size_t room = kMaliciousNames - out->malicious.size();
  for (std::string& name : MaliciousNames(pickle, begin, room)) {
    out->malicious.push_back(std::move(name));
  }
}

// The pickles in front of the value: each is small, and is gone before the next is read. Returns
// where the value begins.
Result<uint64_t> ReadLegacyStart(const ReadFile& file, TorchFile* out) {
  uint64_t at = 0;
  {
    PW_ASSIGN(const Pickle magic, Pickle::Parse(file, at, kSmallPickle));
    if (!IsTorchMagic(magic)) {
      return NotACheckpoint("this is a Python pickle, but none that torch.save wrote").At(0);
    }
    AddMalicious(magic, at, out);
    at += magic.bytes();
  }
  {
    PW_ASSIGN(const Pickle protocol, Pickle::Parse(file, at, kSmallPickle));
    if (protocol.kind(protocol.root()) != PickleKind::kInteger ||
        protocol.integer(protocol.root()) != kLegacyProtocol) {
      return Error(ErrorCode::kInvalidHeader, "the checkpoint is of an unknown version").At(at);
    }
    AddMalicious(protocol, at, out);
    at += protocol.bytes();
  }
  PW_ASSIGN(const Pickle info, Pickle::Parse(file, at, kSmallPickle));
  AddMalicious(info, at, out);
  PW_ASSIGN(out->big_endian, ReadSystemInfo(info, at));
  return at + info.bytes();
}

Result<TorchFile> ReadLegacyFile(const ReadFile& file, std::string_view key) {
  TorchFile out;
  PW_ASSIGN(uint64_t at, ReadLegacyStart(file, &out));
  {
    PW_ASSIGN(const Pickle pickle, Pickle::Parse(file, at));
    AddMalicious(pickle, at, &out);
    PW_ASSIGN(out.checkpoint, ReadTorchPickle(pickle, /*legacy=*/true, key));
    at += pickle.bytes();
  }
  // Keys are written one by one: 1 KiB for each is more than any writer needs.
  const uint64_t key_bytes = kSmallPickle + out.checkpoint.storages.size() * kSmallRecord;
  PW_ASSIGN(const Pickle keys, Pickle::Parse(file, at, key_bytes));
  AddMalicious(keys, at, &out);
  PW_TRY(PlaceStorages(file, keys, at + keys.bytes(), out.big_endian, &out.checkpoint));
  return out;
}

}  // namespace

// The number itself, not a call that would give it: a scanner was fooled that way.
bool IsTorchMagic(const Pickle& pickle) {
  return pickle.kind(pickle.root()) == PickleKind::kBigInteger &&
         pickle.text(pickle.root()) == kMagic;
}

Result<TorchFile> ReadTorchFile(const ReadFile& file, std::string_view key) {
  char head[4] = {};
  PW_TRY(file.ReadAt(0, head, std::min<uint64_t>(sizeof(head), file.size())));
  if (std::string_view(head, 4) == "PK\3\4") return ReadZipFile(file, key);
  return ReadLegacyFile(file, key);
}

}  // namespace pennyweight
