#include "formats/pickle_audit.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "formats/pickle.h"
#include "formats/pickle_audit_names.h"
#include "formats/pytorch_reader.h"
#include "formats/zip_reader.h"
#include "lib/limits.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr int kDepth = 4;                      // pickles inside of each other
constexpr int kPickles = 64;                   // that follow each other in one place
constexpr int kNested = 64;                    // inside of all pickles of a file
constexpr int kLooseHeaders = 16;              // local headers of a malformed archive
constexpr size_t kFindings = 1000;             // of one file, without those of names
constexpr uint64_t kSweepBytes = 16 << 20;     // behind a refused opcode
constexpr uint64_t kInflatedBytes = 64 << 20;  // of a compressed pickle
constexpr uint64_t kWindow = 1 << 20;
constexpr uint64_t kLocalHeaderBytes = 30;

// Opcodes that the machine refuses although they are well-formed.
bool IsRefusedOpcode(unsigned char op) {
  constexpr std::string_view kOps = "iPo\x82\x83\x84\x97\x98";
  return kOps.find(static_cast<char>(op)) != std::string_view::npos;
}

bool EndsInPkl(std::string_view name) {
  return name.ends_with(".pkl") || name.ends_with(".PKL") || name.ends_with(".pickle");
}

// Text that Python 2 wrote bytes as: each character is a byte. nullopt: it is not.
std::optional<std::string> Latin1(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const size_t n = Utf8Length(text, i);
    const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
    if (n == 1) {
      bytes += text[i];
    } else if (n == 2 && byte(0) <= 0xC3) {
      bytes += static_cast<char>((byte(0) & 3) << 6 | (byte(1) & 0x3F));
    } else {
      return std::nullopt;
    }
    i += n;
  }
  return bytes;
}

// The stream that `packed` begins with; nullopt when it is none, or unpacks to too much.
std::optional<std::string> Inflate(std::string_view packed, uint64_t bytes) {
  std::string out(bytes, '\0');
  libdeflate_decompressor* inflater = libdeflate_alloc_decompressor();
  if (inflater == nullptr) return std::nullopt;
  size_t used = 0, made = 0;
  const libdeflate_result result = libdeflate_deflate_decompress_ex(
      inflater, packed.data(), packed.size(), out.data(), out.size(), &used, &made);
  libdeflate_free_decompressor(inflater);
  if (result != LIBDEFLATE_SUCCESS) return std::nullopt;
  out.resize(made);
  return out;
}

class TorchAuditor {
 public:
  TorchAuditor(const ReadFile& file, bool weights) : file_(file), weights_(weights) {}

  std::vector<Finding> Run() {
    char head[4] = {};
    const uint64_t n = std::min<uint64_t>(sizeof(head), file_.size());
    if (n < 2 || !file_.ReadAt(0, head, n).ok()) return {};
    if (std::string_view(head, 4) == "PK\3\4") {
      AuditArchive();
    } else {
      AuditStream();
    }
    names_.Report(file_.path(), &findings_);
    return std::move(findings_);
  }

 private:
  void Add(std::string_view rule, std::string message, uint64_t at) {
    const bool there = std::any_of(findings_.begin(), findings_.end(), [&](const Finding& f) {
      return f.rule == rule && f.offset == static_cast<int64_t>(at);
    });
    const bool left_out = !weights_ && rule.starts_with("ZIP-");
    if (there || left_out || findings_.size() >= kFindings) return;
    findings_.push_back({.rule = rule,
                         .message = std::move(message),
                         .file = file_.path(),
                         .offset = static_cast<int64_t>(at)});
  }

  void AuditArchive();
  void AuditEntry(const ZipEntry& entry);
  void AuditLooseHeaders();
  // The entry of a local header that no directory vouches for.
  void AuditLooseEntry(uint64_t at);
  void AuditStream();

  // Pickles that follow each other from the start of `bytes`, which stand at `at` of the file.
  // `alone`: there should be just one, so that whatever follows it is hidden.
  void AuditBytes(std::string_view bytes, uint64_t at, int depth, bool alone);
  void AuditNested(const Pickle& pickle, uint64_t begin, int depth);
  void AuditNestedBytes(std::string_view bytes, uint64_t at, int depth);
  void AuditNames(const Pickle& pickle, uint64_t begin);
  // A pickle that was refused at `error.offset` of the file; `rest` is what follows from there.
  void Refuse(const Error& error, std::string_view rest);
  std::string FileRest(uint64_t at) const;

  const ReadFile& file_;
  const bool weights_;
  PickleNames names_;
  std::vector<Finding> findings_;
  int nested_ = 0;
};

void TorchAuditor::AuditNames(const Pickle& pickle, uint64_t begin) {
  for (size_t i = 0; i < pickle.globals(); ++i) {
    const Pickle::Global global = pickle.global(i);
    names_.Add(global.module, global.name, begin + global.at);
  }
}

std::string TorchAuditor::FileRest(uint64_t at) const {
  if (at >= file_.size()) return "";
  std::string rest(std::min(kSweepBytes, file_.size() - at), '\0');
  if (!file_.ReadAt(at, rest.data(), rest.size()).ok()) return "";
  return rest;
}

void TorchAuditor::Refuse(const Error& error, std::string_view rest) {
  const uint64_t at = static_cast<uint64_t>(std::max<int64_t>(error.offset, 0));
  const bool opcode = error.code == ErrorCode::kInvalidPickle && !rest.empty() &&
                      IsRefusedOpcode(static_cast<unsigned char>(rest[0]));
  Add(opcode ? "PKL-OPCODE" : "PKL-BROKEN", error.message, at);
  names_.Sweep(rest, at);
}

void TorchAuditor::AuditBytes(std::string_view bytes, uint64_t at, int depth, bool alone) {
  uint64_t done = 0;
  for (int i = 0; i < kPickles && done < bytes.size(); ++i) {
    if (alone && i == 1) {
      Add("PKL-HIDDEN", fmt::format("{} bytes follow the end of the pickle", bytes.size() - done),
          at + done);
    }
    std::optional<Pickle> partial;
    Result<Pickle> pickle = Pickle::Parse(std::string(bytes.substr(done)), 0, &partial);
    const uint64_t begin = at + done;
    const Pickle& seen = pickle.ok() ? *pickle : *partial;
    AuditNames(seen, begin);
    AuditNested(seen, begin, depth);
    if (!pickle.ok()) {
      Error error = std::move(pickle).TakeError();
      const uint64_t inside = static_cast<uint64_t>(std::max<int64_t>(error.offset, 0));
      error.offset = static_cast<int64_t>(begin + inside);
      const std::string_view rest = bytes.substr(std::min(done + inside, bytes.size()));
      // What follows the first one may be anything: storages, or what is reported as hidden.
      if (i == 0) {
        Refuse(error, rest.substr(0, kSweepBytes));
      } else if (alone) {
        names_.Sweep(rest.substr(0, kSweepBytes), begin + inside);
      }
      return;
    }
    done += seen.bytes();
  }
}

// What torch.storage._load_from_bytes was to load.
void TorchAuditor::AuditNested(const Pickle& pickle, uint64_t begin, int depth) {
  if (depth >= kDepth) return;
  for (PickleId id = 0; id < pickle.size() && nested_ < kNested; ++id) {
    if (pickle.kind(id) != PickleKind::kObject) continue;
    const PickleId callable = pickle.callable(id);
    if (pickle.kind(callable) != PickleKind::kGlobal) continue;
    if (pickle.GlobalName(callable) != "torch.storage._load_from_bytes") continue;
    const auto arguments = pickle.items(pickle.arguments(id));
    if (arguments.empty()) continue;
    PickleId text = arguments[0];
    bool encoded = false;
    if (pickle.kind(text) == PickleKind::kObject) {  // _codecs.encode(text, "latin1")
      const auto inner = pickle.items(pickle.arguments(text));
      if (inner.empty()) continue;
      text = inner[0];
      encoded = true;
    }
    const PickleKind kind = pickle.kind(text);
    if (kind != PickleKind::kString && kind != PickleKind::kBytes) continue;
    ++nested_;
    const uint64_t at = begin + pickle.TextOffset(text);
    const std::optional<std::string> decoded =
        encoded ? Latin1(pickle.text(text)) : std::string(pickle.text(text));
    if (decoded) AuditNestedBytes(*decoded, at, depth + 1);
  }
}

void TorchAuditor::AuditNestedBytes(std::string_view bytes, uint64_t at, int depth) {
  if (!bytes.starts_with("PK\3\4")) {
    AuditBytes(bytes, at, depth, /*alone=*/false);
    return;
  }
  int headers = 0;
  for (size_t i = 0; i != std::string_view::npos && headers < kLooseHeaders;
       i = bytes.find("PK\3\4", i + 1), ++headers) {
    const std::string_view header = bytes.substr(i);
    if (header.size() < kLocalHeaderBytes) return;
    uint16_t name_bytes = 0, extra_bytes = 0;
    std::memcpy(&name_bytes, header.data() + 26, 2);
    std::memcpy(&extra_bytes, header.data() + 28, 2);
    const size_t data = kLocalHeaderBytes + name_bytes + extra_bytes;
    if (data >= header.size() || !EndsInPkl(header.substr(kLocalHeaderBytes, name_bytes))) continue;
    AuditBytes(header.substr(data), at + i + data, depth, /*alone=*/false);
  }
}

void TorchAuditor::AuditEntry(const ZipEntry& entry) {
  const size_t slash = entry.name.find('/');
  const std::string_view inner =
      std::string_view(entry.name).substr(slash == std::string::npos ? 0 : slash + 1);
  const bool storage = inner.starts_with("data/");
  if (!EndsInPkl(entry.name)) {
    // Not named so, but loaders go by content too.
    char head[2] = {};
    if (storage || entry.deflated || entry.bytes < 2 || !file_.ReadAt(entry.offset, head, 2).ok() ||
        head[0] != '\x80' || head[1] < 2 || head[1] > 5) {
      return;
    }
  }
  if (entry.bytes > limits::kPickleBytes || entry.stored_bytes > limits::kPickleBytes) {
    Add("PKL-BROKEN",
        fmt::format("the pickle \"{}\" is too large to be judged", SafeText(entry.name)),
        entry.offset);
    return;
  }
  std::string bytes(entry.stored_bytes, '\0');
  if (!file_.ReadAt(entry.offset, bytes.data(), bytes.size()).ok()) return;
  if (entry.deflated) {
    std::optional<std::string> unpacked =
        entry.bytes <= kInflatedBytes ? Inflate(bytes, entry.bytes) : std::nullopt;
    Add("ZIP-UNSUPPORTED",
        fmt::format("the pickle \"{}\" is compressed, which torch.save never does",
                    SafeText(entry.name)),
        entry.offset);
    if (!unpacked) return;
    bytes = *std::move(unpacked);
  }
  const uint32_t crc = libdeflate_crc32(0, bytes.data(), bytes.size());
  if (crc != entry.crc32) {
    Add("ZIP-CRC",
        fmt::format("the data of \"{}\" have the checksum {:08x}, the archive says {:08x}",
                    SafeText(entry.name), crc, entry.crc32),
        entry.offset);
  }
  AuditBytes(bytes, entry.offset, 0, /*alone=*/true);
}

void TorchAuditor::AuditArchive() {
  const Result<ZipArchive> archive = ZipArchive::Open(file_);
  if (!archive.ok()) {
    const Error& error = archive.error();
    std::string_view rule = "ZIP-STRUCTURE";
    if (error.code == ErrorCode::kDuplicateKey) rule = "ZIP-DUPLICATE";
    if (error.code == ErrorCode::kInvalidName) rule = "ZIP-NAME";
    if (error.code == ErrorCode::kUnsupported) rule = "ZIP-UNSUPPORTED";
    Add(rule, error.message, static_cast<uint64_t>(std::max<int64_t>(error.offset, 0)));
    AuditLooseHeaders();
    return;
  }
  bool code = false;
  for (const ZipEntry& entry : archive->entries()) {
    AuditEntry(entry);
    const size_t slash = entry.name.find('/');
    if (code || slash == std::string::npos || entry.name.compare(slash, 6, "/code/") != 0) continue;
    code = true;
    Add("ZIP-CODE", fmt::format("the archive has code: \"{}\"", SafeText(entry.name)),
        entry.offset);
  }
}

void TorchAuditor::AuditLooseEntry(uint64_t at) {
  char header[kLocalHeaderBytes];
  if (file_.size() - at < kLocalHeaderBytes || !file_.ReadAt(at, header, kLocalHeaderBytes).ok()) {
    return;
  }
  uint16_t method = 0, name_bytes = 0, extra_bytes = 0;
  std::memcpy(&method, header + 8, 2);
  std::memcpy(&name_bytes, header + 26, 2);
  std::memcpy(&extra_bytes, header + 28, 2);
  const uint64_t data = at + kLocalHeaderBytes + name_bytes + extra_bytes;
  if (data >= file_.size()) return;
  std::string name(name_bytes, '\0');
  if (!file_.ReadAt(at + kLocalHeaderBytes, name.data(), name.size()).ok()) return;
  char first = 0;
  if (!file_.ReadAt(data, &first, 1).ok()) return;
  // By content too: the name may be the lie.
  if (!EndsInPkl(name) && first != '\x80') return;
  if (method == 8) {
    const std::optional<std::string> unpacked = Inflate(FileRest(data), kSweepBytes);
    if (unpacked) AuditBytes(*unpacked, data, 0, /*alone=*/true);
    return;
  }
  std::optional<Pickle> partial;
  Result<Pickle> pickle = Pickle::Parse(file_, data, limits::kPickleBytes, &partial);
  const Pickle& seen = pickle.ok() ? *pickle : *partial;
  AuditNames(seen, data);
  AuditNested(seen, data, 0);
  if (!pickle.ok() && EndsInPkl(name)) {
    const uint64_t where = static_cast<uint64_t>(std::max<int64_t>(pickle.error().offset, 0));
    Refuse(pickle.error(), FileRest(where));
  }
}

void TorchAuditor::AuditLooseHeaders() {
  std::string window;
  int headers = 0;
  for (uint64_t at = 0; at < file_.size(); at += kWindow) {
    // Signatures across the border of two windows are found by the first.
    window.resize(std::min(kWindow + 3, file_.size() - at));
    if (!file_.ReadAt(at, window.data(), window.size()).ok()) return;
    for (size_t i = window.find("PK\3\4"); i != std::string::npos && i < kWindow;
         i = window.find("PK\3\4", i + 1)) {
      if (++headers > kLooseHeaders) return;
      AuditLooseEntry(at + i);
    }
  }
}

void TorchAuditor::AuditStream() {
  uint64_t at = 0;
  bool legacy = false;
  for (int i = 0; i < (legacy ? kLegacyPickles : kPickles) && at < file_.size(); ++i) {
    std::optional<Pickle> partial;
    Result<Pickle> pickle = Pickle::Parse(file_, at, limits::kPickleBytes, &partial);
    const Pickle& seen = pickle.ok() ? *pickle : *partial;
    if (i == 0) {
      legacy = pickle.ok() && IsTorchMagic(*pickle);
      char first = 0;
      if (!file_.ReadAt(0, &first, 1).ok()) return;
      // Old protocols look like text, and text may look like them.
      if (first != '\x80' && seen.globals() == 0) return;
      if (!legacy) {
        Add("PKL-BARE", "this is a Python pickle, but none that torch.save wrote", 0);
      }
    }
    AuditNames(seen, at);
    AuditNested(seen, at, 0);
    if (!pickle.ok()) {
      const uint64_t where = static_cast<uint64_t>(std::max<int64_t>(pickle.error().offset, 0));
      // What follows a bare pickle may be anything.
      if (legacy || i == 0) {
        Refuse(pickle.error(), FileRest(where));
      } else {
        names_.Sweep(FileRest(where), where);
      }
      return;
    }
    if (!legacy && i == 1) Add("PKL-HIDDEN", "another pickle follows the first", at);
    at += seen.bytes();
  }
}

}  // namespace

std::vector<Finding> AuditTorchFile(const ReadFile& file, bool weights) {
  return TorchAuditor(file, weights).Run();
}

}  // namespace pennyweight
