#include "formats/detect.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "lib/file.h"

namespace pennyweight {
namespace {

constexpr const char* kNothingKnown = "neither safetensors nor GGUF nor a PyTorch checkpoint";

// Pickles of the protocols 2 to 5 begin so. Older ones look like text, and PyTorch wrote none.
bool IsPickle(std::string_view head) {
  return head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5;
}

// Why a file of no known container is refused.
Error Refusal(std::string_view head) {
  using std::literals::operator""sv;
  if (head.starts_with("version https://git-lfs")) {
    return Error(ErrorCode::kLfsPointer, "this is a git-lfs pointer, not the weights")
        .Hint("fetch the real file with `git lfs pull`");
  }
  const auto unknown = [](const char* what) { return Error(ErrorCode::kUnknownFormat, what); };
  if (head.size() >= 262 && head.substr(257, 5) == "ustar") {
    return unknown("this is a tar archive (a checkpoint of PyTorch 0.1?), which is not read here")
        .Hint("load it in PyTorch 0.2 to 1.x and save it again, or give the model as safetensors");
  }
  if (head.starts_with("PYTORCH1")) {
    return unknown("this is a checkpoint of a preview of PyTorch 1.0, which is not read here")
        .Hint("give the model as safetensors or GGUF");
  }
  if (IsCompressedArchive(head)) {
    return unknown("this is a compressed archive").Hint("unpack it first");
  }
  std::string lower(head);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (lower.find("<html") != std::string::npos || lower.starts_with("<!doctype")) {
    return unknown("this is an HTML page (a failed download?)").Hint("download the file again");
  }
  return unknown(kNothingKnown);
}

}  // namespace

bool IsCompressedArchive(std::string_view head) {
  using std::literals::operator""sv;
  constexpr std::string_view kMarks[] = {
      "7z\xBC\xAF\x27\x1C"sv,
      "\x1f\x8b"sv,
      "\xFD"
      "7zXZ"sv,
      "\x28\xB5\x2F\xFD"sv,
      "BZh"sv,
      "Rar!\x1A\x07"sv,
  };
  return std::any_of(std::begin(kMarks), std::end(kMarks),
                     [&](std::string_view mark) { return head.starts_with(mark); });
}

const char* FormatName(FileFormat format) {
  switch (format) {
    case FileFormat::kSafetensors:
      return "safetensors";
    case FileFormat::kGguf:
      return "GGUF";
    case FileFormat::kPytorch:
      return "PyTorch";
  }
  return "?";
}

Result<FileFormat> DetectFormat(const std::string& path) {
  PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
  if (file.size() == 0) return Error(ErrorCode::kTruncated, "the file is empty").InFile(path);
  char head[512];
  const uint64_t n = std::min<uint64_t>(sizeof(head), file.size());
  PW_TRY(file.ReadAt(0, head, n));
  const std::string_view text(head, n);
  if (text.starts_with("GGUF")) return FileFormat::kGguf;
  if (text.starts_with("PK\3\4") || IsPickle(text)) return FileFormat::kPytorch;
  // safetensors: u64 header length, then JSON; a length that lies is for the reader to report.
  if (n >= 9) {
    const std::string_view rest = text.substr(8);
    const size_t first = rest.find_first_not_of(" \t\r\n");
    if (first != std::string_view::npos && rest[first] == '{') return FileFormat::kSafetensors;
  }
  const bool named = path.size() > 12 && path.substr(path.size() - 12) == ".safetensors";
  Error refusal = Refusal(text);
  if (named && refusal.message == kNothingKnown) return FileFormat::kSafetensors;
  return std::move(refusal).InFile(path);
}

}  // namespace pennyweight
