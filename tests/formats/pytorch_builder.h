// PyTorch checkpoints of both containers around any pickle.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/formats/pickle_builder.h"

namespace pennyweight::test {

// Key and bytes of each storage.
using Storages = std::vector<std::pair<std::string, std::string>>;

inline std::vector<ZipFile> TorchEntries(const std::string& value, const Storages& storages) {
  std::vector<ZipFile> files = {{.name = "archive/data.pkl", .data = Pkl(value)}};
  for (const auto& [key, bytes] : storages) {
    files.push_back({.name = "archive/data/" + key, .data = bytes});
  }
  files.push_back({.name = "archive/version", .data = "3\n"});
  return files;
}

inline std::string TorchZip(const std::string& value, const Storages& storages) {
  return ZipBytes(TorchEntries(value, storages));
}

inline const std::string kTorchMagic =
    std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);

// Key, number of elements, bytes of each storage.
struct LegacyStorage {
  std::string key;
  int64_t elements;
  std::string bytes;
};

inline std::string TorchLegacy(const std::string& value, const std::vector<LegacyStorage>& storages,
                               bool little_endian = true, const std::string& magic = kTorchMagic) {
  std::string keys = "](";
  std::string data;
  for (const LegacyStorage& storage : storages) {
    keys += PklString(storage.key);
    std::string count = LittleEndian(storage.elements);
    if (!little_endian) count = std::string(count.rbegin(), count.rend());
    data += count + storage.bytes;
  }
  return magic + Pkl(PklInteger(1001)) +
         Pkl(PklDict({PklString("little_endian"), little_endian ? "\x88" : "\x89"})) + Pkl(value) +
         Pkl(keys + "e") + data;
}

}  // namespace pennyweight::test
