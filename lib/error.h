// Errors of everything below cmd/: a closed list of codes, where it happened, and what to do.
#pragma once

#include <cstdint>
#include <string>

namespace pennyweight {

// The reason of a failure. Names (ErrorCodeName) are API: they are `error.code` of --json.
enum class ErrorCode : uint8_t {
  // The caller's words.
  kUsage,            // a flag, value, type or pattern is wrong
  kUnsupported,      // understood, but this program does not do it
  // Files and the machine.
  kNotFound,         // a file or folder is missing
  kIo,               // the operating system refused a read, write, sync or rename
  kNotRegularFile,   // a device, pipe or folder where a file was needed
  kNoSpace,          // not enough room on the disk
  kMemory,           // does not fit the memory limit
  kInterrupted,      // the user stopped it
  kOutputExists,     // refused without --force
  kOutputIsInput,    // the output is an input, or a link to one
  kBusy,             // another run is writing this output
  kResumeMismatch,   // what is to be resumed was begun with other inputs or settings
  kVerifyFailed,     // what was read back differs from what was written
  // Any container.
  kUnknownFormat,    // no container this program knows
  kLfsPointer,       // a git-lfs pointer, not the weights
  kTruncated,        // ends before what it announces
  kHeaderTooLarge,
  kHeaderTooSmall,
  kInvalidHeader,    // malformed JSON, magic, version, field
  kDuplicateKey,
  kMetadataNotString,
  kUnknownDtype,
  kInvalidTensor,    // a tensor's shape, type and byte range contradict each other
  kInvalidOffset,    // hole, overlap, reversed or out of the file
  kIncompleteBuffer, // bytes before, between or after the tensors
  kMisaligned,
  kOverflow,         // a product or sum of sizes does not fit
  kLimit,            // beyond a cap of lib/limits.h
  kInvalidName,      // empty, too long, NUL or control characters
  kInvalidArchive,   // a zip archive whose parts contradict each other
  kChecksum,         // the bytes are not those that their checksum was made of
  kInvalidPickle,    // a malformed pickle, or one that does what no checkpoint needs
  kMaliciousPickle,  // a pickle that would run commands or code; nothing is written from it
  // A model made of files.
  kShardMissing,
  kShardMismatch,    // index and shard tell different stories
  kBadPath,          // a file name in an index leaves the folder
  kConfigMissing,    // a needed key or file of the model's configuration
  kConfigInvalid,
  kTensorMissing,    // the family needs it, the files do not have it
  kUnknownFamily,
  kTokenizer,        // no vocabulary, or one that this program cannot read
  kTextTooShort,     // not enough tokens for what was asked
  kNonFinite,        // NaN or Inf where numbers are needed
};

// "truncated", "output_exists", ...; stable.
const char* ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code;
  std::string message;  // what rule was broken, without file and tensor
  std::string hint;     // a remedy that can be typed, or empty
  std::string file;     // path, or empty
  std::string tensor;   // name, or empty
  int64_t offset = -1;  // bytes from the start of `file`, or -1

  Error(ErrorCode error_code, std::string text) : code(error_code), message(std::move(text)) {}
  Error&& Hint(std::string text) &&;
  // Context added on the way up; what is already known wins.
  Error&& InFile(std::string path) &&;
  Error&& InTensor(std::string name) &&;
  Error&& At(uint64_t byte_offset) &&;

  // One line: `file: tensor "x": message (offset 123)`.
  std::string ToString() const;
};

}  // namespace pennyweight
