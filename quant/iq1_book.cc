#include "quant/iq1_book.h"

#include <cstddef>

#include "quant/iq_grids.h"

namespace pennyweight {
namespace {

// Four codes of two bits as a base-3 number, the lowest first.
int HalfOf(uint32_t codes) {
  return static_cast<int>((codes & 3) + 3 * (codes >> 2 & 3) + 9 * (codes >> 4 & 3) +
                          27 * (codes >> 6 & 3));
}

Iq1Book MakeBook() {
  Iq1Book book{};
  for (int half = 0; half < kTernaryHalves; ++half) {
    for (int j = 0; j < 4; ++j) {
      book.values[static_cast<size_t>(half)][static_cast<size_t>(j)] =
          static_cast<float>(TernaryDigit(half, j));
    }
  }
  uint16_t at = 0;
  for (int first = 0; first < kTernaryHalves; ++first) {
    book.start[static_cast<size_t>(first)] = at;
    for (uint16_t i = 0; i < 2048; ++i) {
      if (HalfOf(kIq1SGrid[i] & 0xFFu) != first) continue;
      book.second[at] = static_cast<uint8_t>(HalfOf(kIq1SGrid[i] >> 8u));
      book.column[at] = static_cast<uint16_t>(book.second[at] * kLanes);
      book.entry[at] = i;
      ++at;
    }
  }
  book.start[kTernaryHalves] = at;
  return book;
}

}  // namespace

const Iq1Book& GetIq1Book() {
  static const Iq1Book book = MakeBook();
  return book;
}

}  // namespace pennyweight
