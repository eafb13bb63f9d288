// The manifest of a model: a fingerprint of each file and each tensor, to be compared later.
// Keys of the JSON form ("pennyweight.manifest/1") are API.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/finding.h"
#include "lib/hash.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

struct Manifest {
  struct File {
    std::string name;  // without folder
    uint64_t bytes = 0;
    std::string sha256;  // 64 lower-case hexadecimal digits
  };
  struct Tensor {
    std::string name;
    std::string dtype;  // Encoding::Name
    Shape shape;
    std::string file;  // without folder
    uint64_t offset = 0;
    uint64_t bytes = 0;
    std::string xxh3_128;  // 32 lower-case hexadecimal digits, of TensorScan::hash
  };
  std::vector<File> files;
  std::vector<Tensor> tensors;
};

// 32 lower-case hexadecimal digits, as `xxhsum -H2` prints.
std::string HexOf(const Hash128& hash);

std::string ManifestToJson(const Manifest& manifest);
// Errors: those of Json::Parse; kInvalidHeader for another schema or a row that lacks a key.
Result<Manifest> ParseManifest(std::string_view text);

// Findings of MAN- rules. `folder`: put before the names of files, with a slash, when not empty.
std::vector<Finding> CompareManifests(const Manifest& expected, const Manifest& found,
                                      const std::string& folder);

}  // namespace pennyweight
