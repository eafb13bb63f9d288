// Fixed parts of a statistics file, for its reader and its writer. See formats/statistics_file.h.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "lib/hash.h"

namespace pennyweight {

inline constexpr char kStatisticsMagic[8] = {'P', 'W', 'S', 'T', 'A', 'T', 'S', '\0'};
inline constexpr uint32_t kStatisticsVersion = 1;

struct StatisticsHeader {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t directory_offset;
  uint64_t directory_bytes;
  Hash128 directory_hash;
};
static_assert(sizeof(StatisticsHeader) == 48);

inline std::string HashText(const Hash128& hash) {
  return fmt::format("{:016x}{:016x}", hash[0], hash[1]);
}

}  // namespace pennyweight
