// What a file is, by its first bytes.
#pragma once

#include <string>

#include "lib/result.h"

namespace pennyweight {

enum class FileFormat : uint8_t { kSafetensors, kGguf };

// Errors: kUnknownFormat naming what it looks like (PyTorch zip or pickle, 7z, HTML, text) and what
// to do; kLfsPointer; kTruncated for an empty file; those of ReadFile::Open.
Result<FileFormat> DetectFormat(const std::string& path);

}  // namespace pennyweight
