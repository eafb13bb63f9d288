// The codebook of IQ1_S and IQ1_M arranged for searching: each entry of eight ternary values as two
// halves of four, which are numbered 0 to 80 (digit j of the base-3 number is value j plus one).
#pragma once

#include <array>
#include <cstdint>

#include "quant/lanes.h"

namespace pennyweight {

inline constexpr int kTernaryHalves = 81;

struct Iq1Book {
  // Second halves that go with first half i: second[start[i]] up to second[start[i + 1]].
  std::array<uint16_t, kTernaryHalves + 1> start;
  std::array<uint8_t, 2048> second;
  std::array<uint16_t, 2048> column;  // of `second` in a lane buffer: times kLanes
  std::array<uint16_t, 2048> entry;  // beside `second`: the index in kIq1SGrid
  // The values -1, 0, 1 of each half.
  std::array<std::array<float, 4>, kTernaryHalves> values;
};

// Built at the first call; thread-safe.
const Iq1Book& GetIq1Book();

// Value j (0..3) of a half: -1, 0 or 1.
inline int TernaryDigit(int half, int j) {
  constexpr int kPow3[4] = {1, 3, 9, 27};
  return half / kPow3[j] % 3 - 1;
}

}  // namespace pennyweight
