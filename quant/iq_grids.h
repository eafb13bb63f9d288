// Codebooks of IQ2, IQ3 and IQ1: every entry is a small vector of values that are coded together.
// An entry is a little-endian word of small codes, value 0 in the lowest bits:
//   IQ2: 8 codes of 2 bits; value = 8, 25, 43.
//   IQ1: 8 codes of 2 bits; value = -1, 0, 1.
//   IQ3: 4 codes of 4 bits; value = kIq3XxsValues[code] or 2 code + 1.
#pragma once

#include <cstdint>

namespace pennyweight {

extern const uint16_t kIq2XxsGrid[256];
extern const uint16_t kIq2XsGrid[512];
extern const uint16_t kIq2SGrid[1024];
extern const uint16_t kIq1SGrid[2048];  // of IQ1_S and IQ1_M
extern const uint16_t kIq3XxsGrid[256];
extern const uint16_t kIq3SGrid[512];

inline constexpr uint8_t kIq2Values[4] = {8, 25, 43, 0};  // no entry has code 3
inline constexpr uint8_t kIq3XxsValues[8] = {4, 12, 20, 28, 36, 44, 52, 62};

}  // namespace pennyweight
