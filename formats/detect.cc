#include "formats/detect.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "lib/file.h"

namespace pennyweight {
namespace {

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Why a file that is neither safetensors nor GGUF is refused.
Error Refusal(std::string_view head) {
  using std::literals::operator""sv;
  if (StartsWith(head, "version https://git-lfs")) {
    return Error(ErrorCode::kLfsPointer, "this is a git-lfs pointer, not the weights")
        .Hint("fetch the real file with `git lfs pull`");
  }
  const auto unknown = [](const char* what) { return Error(ErrorCode::kUnknownFormat, what); };
  if (StartsWith(head, "PK\3\4")) {
    return unknown("this is a zip archive (a PyTorch checkpoint?), which is not read here")
        .Hint("give the model as safetensors or GGUF");
  }
  if (StartsWith(head, "\x80\x02"sv) || StartsWith(head, "\x80\x04"sv)) {
    return unknown("this is a Python pickle, which is not read here")
        .Hint("give the model as safetensors or GGUF");
  }
  if (StartsWith(head, "7z\xBC\xAF\x27\x1C"sv) || StartsWith(head, "\x1f\x8b"sv) ||
      StartsWith(head, "\xFD" "7zXZ"sv) || StartsWith(head, "\x28\xB5\x2F\xFD"sv)) {
    return unknown("this is a compressed archive").Hint("unpack it first");
  }
  std::string lower(head);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (lower.find("<html") != std::string::npos || StartsWith(lower, "<!doctype")) {
    return unknown("this is an HTML page (a failed download?)").Hint("download the file again");
  }
  return unknown("neither safetensors nor GGUF");
}

}  // namespace

Result<FileFormat> DetectFormat(const std::string& path) {
  PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
  if (file.size() == 0) return Error(ErrorCode::kTruncated, "the file is empty").InFile(path);
  char head[256];
  const uint64_t n = std::min<uint64_t>(sizeof(head), file.size());
  PW_TRY(file.ReadAt(0, head, n));
  const std::string_view text(head, n);
  if (StartsWith(text, "GGUF")) return FileFormat::kGguf;
  // safetensors: u64 header length, then JSON; a length that lies is for the reader to report.
  if (n >= 9) {
    const std::string_view rest = text.substr(8);
    const size_t first = rest.find_first_not_of(" \t\r\n");
    if (first != std::string_view::npos && rest[first] == '{') return FileFormat::kSafetensors;
  }
  const bool named = path.size() > 12 && path.substr(path.size() - 12) == ".safetensors";
  Error refusal = Refusal(text);
  if (named && refusal.message == "neither safetensors nor GGUF") return FileFormat::kSafetensors;
  return std::move(refusal).InFile(path);
}

}  // namespace pennyweight
