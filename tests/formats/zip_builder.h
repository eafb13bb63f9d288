// Zip archives as PyTorch writes them, with any field of any record to be put wrong.
#pragma once

#include <libdeflate.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/formats/model_files.h"

namespace pennyweight::test {

template <class T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// One entry; the defaults are what torch.save does.
struct ZipFile {
  std::string name;
  std::string data;
  std::string local_name = {};    // empty: as in the directory
  uint16_t flags = 0x0808;        // descriptor and UTF-8
  uint16_t local_flags = 0xFFFF;  // 0xFFFF: as in the directory
  uint16_t method = 0;
  int crc_change = 0;                    // added to the true checksum
  int descriptor_change = 0;             // added to the checksum of the descriptor only
  std::string before = {};               // bytes in front of the local header
  uint32_t local_size = 0;               // in the local header
  uint32_t directory_size = 0xFFFFFFFE;  // 0xFFFFFFFE: the true one
  std::string directory_extra = {};
  bool wide_descriptor = false;
  bool align = true;        // FB padding to 64 bytes
  std::string packed = {};  // what is stored instead of the data, for method 8
};

// As an entry of method 8 stores it.
inline std::string Deflate(const std::string& data) {
  libdeflate_compressor* compressor = libdeflate_alloc_compressor(9);
  std::string out(libdeflate_deflate_compress_bound(compressor, data.size()), '\0');
  out.resize(
      libdeflate_deflate_compress(compressor, data.data(), data.size(), out.data(), out.size()));
  libdeflate_free_compressor(compressor);
  return out;
}

// A deflated entry as other writers of zip archives make it.
inline ZipFile Deflated(const std::string& name, const std::string& data) {
  return {.name = name, .data = data, .flags = 0, .method = 8, .packed = Deflate(data)};
}

struct ZipOptions {
  std::string front;  // before the first entry; offsets do not know of it
  std::string comment;
  std::string tail;         // behind everything
  int extra_entries = 0;    // added to the number of entries
  int directory_shift = 0;  // added to the directory's offset
  bool zip64 = true;
  int64_t zip64_offset_change = 0;
  uint16_t disk = 0;
};

inline std::string ZipBytes(const std::vector<ZipFile>& files, const ZipOptions& options = {}) {
  std::string out = options.front;
  std::string directory;
  for (const ZipFile& file : files) {
    out += file.before;
    const uint32_t offset = static_cast<uint32_t>(out.size() - options.front.size());
    const bool described = (file.flags & 8) != 0 && !file.data.empty();
    const uint16_t flags = file.data.empty() ? uint16_t(file.flags & ~8) : file.flags;
    const uint32_t crc = libdeflate_crc32(0, file.data.data(), file.data.size()) +
                         static_cast<uint32_t>(file.crc_change);
    const uint32_t size =
        file.directory_size == 0xFFFFFFFE ? uint32_t(file.data.size()) : file.directory_size;
    const std::string& stored = file.packed.empty() ? file.data : file.packed;
    const uint32_t stored_size = file.packed.empty() ? size : uint32_t(stored.size());
    const std::string& local = file.local_name.empty() ? file.name : file.local_name;
    std::string extra;
    if (file.align) {
      const size_t at = out.size() + 30 + local.size() + 4;
      extra = "FB";
      const uint16_t pad = static_cast<uint16_t>((64 - at % 64) % 64);
      extra += LittleEndian(pad) + std::string(pad, 'Z');
    }
    const uint16_t local_flags = file.local_flags == 0xFFFF ? flags : file.local_flags;
    out +=
        "PK\3\4" + LittleEndian(uint16_t{0}) + LittleEndian(local_flags) +
        LittleEndian(file.method) + std::string(4, '\0') + LittleEndian(described ? 0u : crc) +
        LittleEndian(described ? file.local_size : uint32_t(stored.size()) + file.local_size) +
        LittleEndian(described ? file.local_size : uint32_t(file.data.size()) + file.local_size) +
        LittleEndian(uint16_t(local.size())) + LittleEndian(uint16_t(extra.size())) + local +
        extra + stored;
    if (described) {
      out += "PK\7\10" + LittleEndian(crc + static_cast<uint32_t>(file.descriptor_change));
      for (const size_t bytes : {stored.size(), file.data.size()}) {
        out += file.wide_descriptor ? LittleEndian(uint64_t{bytes}) : LittleEndian(uint32_t(bytes));
      }
    }
    directory += "PK\1\2" + std::string(4, '\0') + LittleEndian(flags) + LittleEndian(file.method) +
                 std::string(4, '\0') + LittleEndian(crc) + LittleEndian(stored_size) +
                 LittleEndian(size) + LittleEndian(uint16_t(file.name.size())) +
                 LittleEndian(uint16_t(file.directory_extra.size())) + std::string(10, '\0') +
                 LittleEndian(offset) + file.name + file.directory_extra;
  }
  const uint64_t entries = files.size() + static_cast<uint64_t>(options.extra_entries);
  const uint64_t begin =
      out.size() - options.front.size() + static_cast<uint64_t>(options.directory_shift);
  out += directory;
  if (options.zip64) {
    const uint64_t at = out.size() - options.front.size();
    out += "PK\6\6" + LittleEndian(uint64_t{44}) + LittleEndian(uint16_t{0x031e}) +
           LittleEndian(uint16_t{45}) + std::string(8, '\0') + LittleEndian(entries) +
           LittleEndian(entries) + LittleEndian(uint64_t{directory.size()}) + LittleEndian(begin);
    out += "PK\6\7" + LittleEndian(0u) +
           LittleEndian(at + static_cast<uint64_t>(options.zip64_offset_change)) + LittleEndian(1u);
  }
  const uint16_t few = static_cast<uint16_t>(std::min<uint64_t>(entries, 0xFFFF));
  out += "PK\5\6" + LittleEndian(options.disk) + LittleEndian(options.disk) + LittleEndian(few) +
         LittleEndian(few) + LittleEndian(uint32_t(directory.size())) +
         LittleEndian(uint32_t(begin)) + LittleEndian(uint16_t(options.comment.size())) +
         options.comment;
  return out + options.tail;
}

}  // namespace pennyweight::test
