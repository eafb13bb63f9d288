// What a file is, by its first bytes.
#pragma once

#include <string>
#include <string_view>

#include "lib/result.h"

namespace pennyweight {

enum class FileFormat : uint8_t { kSafetensors, kGguf, kPytorch };

// "safetensors", "GGUF", "PyTorch": for people.
const char* FormatName(FileFormat format);

// By the first bytes: 7z, gzip, xz, zstd and the like.
bool IsCompressedArchive(std::string_view head);

// Zip archives and pickles count as PyTorch's; its reader tells whether they are. Errors:
// kUnknownFormat naming what it looks like (tar, 7z, HTML, text) and what to do; kLfsPointer;
// kTruncated for an empty file; those of ReadFile::Open.
Result<FileFormat> DetectFormat(const std::string& path);

}  // namespace pennyweight
