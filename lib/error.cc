#include "lib/error.h"

#include <fmt/format.h>

#include <string_view>

namespace pennyweight {

const char* ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage: return "usage";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kIo: return "io";
    case ErrorCode::kNotRegularFile: return "not_regular_file";
    case ErrorCode::kNoSpace: return "no_space";
    case ErrorCode::kMemory: return "memory";
    case ErrorCode::kInterrupted: return "interrupted";
    case ErrorCode::kOutputExists: return "output_exists";
    case ErrorCode::kOutputIsInput: return "output_is_input";
    case ErrorCode::kBusy: return "busy";
    case ErrorCode::kResumeMismatch: return "resume_mismatch";
    case ErrorCode::kVerifyFailed: return "verify_failed";
    case ErrorCode::kUnknownFormat: return "unknown_format";
    case ErrorCode::kLfsPointer: return "lfs_pointer";
    case ErrorCode::kTruncated: return "truncated";
    case ErrorCode::kHeaderTooLarge: return "header_too_large";
    case ErrorCode::kHeaderTooSmall: return "header_too_small";
    case ErrorCode::kInvalidHeader: return "invalid_header";
    case ErrorCode::kDuplicateKey: return "duplicate_key";
    case ErrorCode::kMetadataNotString: return "metadata_not_string";
    case ErrorCode::kUnknownDtype: return "unknown_dtype";
    case ErrorCode::kInvalidTensor: return "invalid_tensor";
    case ErrorCode::kInvalidOffset: return "invalid_offset";
    case ErrorCode::kIncompleteBuffer: return "incomplete_buffer";
    case ErrorCode::kMisaligned: return "misaligned";
    case ErrorCode::kOverflow: return "overflow";
    case ErrorCode::kLimit: return "limit";
    case ErrorCode::kInvalidName: return "invalid_name";
    case ErrorCode::kInvalidArchive: return "invalid_archive";
    case ErrorCode::kChecksum: return "checksum";
    case ErrorCode::kInvalidPickle: return "invalid_pickle";
    case ErrorCode::kMaliciousPickle: return "malicious_pickle";
    case ErrorCode::kShardMissing: return "shard_missing";
    case ErrorCode::kShardMismatch: return "shard_mismatch";
    case ErrorCode::kBadPath: return "bad_path";
    case ErrorCode::kConfigMissing: return "config_missing";
    case ErrorCode::kConfigInvalid: return "config_invalid";
    case ErrorCode::kTensorMissing: return "tensor_missing";
    case ErrorCode::kUnknownFamily: return "unknown_family";
    case ErrorCode::kTokenizer: return "tokenizer";
    case ErrorCode::kTextTooShort: return "text_too_short";
    case ErrorCode::kNonFinite: return "non_finite";
  }
  return "unknown";
}

namespace {

// Names and keys come from files: nothing of them may steer a terminal. Escapes the control
// characters of ASCII, and those of Unicode that some terminals obey (U+0080 to U+009F).
std::string WithoutControls(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool second = i > 0 && text[i - 1] == '\xc2' && byte >= 0x80 && byte < 0xa0;
    if (second) {
      out.pop_back();
      out += fmt::format("\\xc2\\x{:02x}", byte);
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

Error&& Error::Hint(std::string text) && {
  if (hint.empty()) hint = std::move(text);
  return std::move(*this);
}

Error&& Error::InFile(std::string path) && {
  if (file.empty()) file = std::move(path);
  return std::move(*this);
}

Error&& Error::InTensor(std::string name) && {
  if (tensor.empty()) tensor = std::move(name);
  return std::move(*this);
}

Error&& Error::At(uint64_t byte_offset) && {
  if (offset < 0) offset = static_cast<int64_t>(byte_offset);
  return std::move(*this);
}

std::string Error::ToString() const {
  std::string out;
  if (!file.empty()) out += file + ": ";
  if (!tensor.empty()) out += fmt::format("tensor \"{}\": ", tensor);
  out += message;
  if (offset >= 0) out += fmt::format(" (offset {})", offset);
  return WithoutControls(out);
}

}  // namespace pennyweight
