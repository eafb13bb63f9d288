// Streams of b-bit values in little-endian 32-bit words, low bits first: value i is the bits
// [i b, i b + b). Values may cross words.
#pragma once

#include <cstdint>
#include <cstring>

namespace pennyweight {

inline uint32_t LoadWord(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// Calls put(i, value) for values [0, count) of a stream that begins `skip` values before; the
// words lie `stride` bytes apart.
template <class Put>
void UnpackStream(const uint8_t* words, int64_t stride, int bits, int64_t skip, int64_t count,
                  const Put& put) {
  const uint32_t mask = (1u << bits) - 1;
  int64_t bit = skip * bits;
  const uint8_t* at = words + bit / 32 * stride;
  int shift = static_cast<int>(bit % 32);
  uint64_t window = static_cast<uint64_t>(LoadWord(at)) >> shift;
  int left = 32 - shift;
  for (int64_t i = 0; i < count; ++i) {
    if (left < bits) {
      at += stride;
      window |= static_cast<uint64_t>(LoadWord(at)) << left;
      left += 32;
    }
    put(i, static_cast<uint32_t>(window) & mask);
    window >>= bits;
    left -= bits;
  }
}

// Writes values get(0) .. get(count - 1), each below 2^bits, from the beginning of a word on; what
// is left of the last word is zero. The words lie `stride` bytes apart.
template <class Get>
void PackStream(uint8_t* words, int64_t stride, int bits, int64_t count, const Get& get) {
  uint64_t window = 0;
  int used = 0;
  for (int64_t i = 0; i < count; ++i) {
    window |= static_cast<uint64_t>(get(i)) << used;
    used += bits;
    if (used < 32) continue;
    const auto word = static_cast<uint32_t>(window);
    std::memcpy(words, &word, sizeof(word));
    words += stride;
    window >>= 32;
    used -= 32;
  }
  if (used == 0) return;
  const auto word = static_cast<uint32_t>(window);
  std::memcpy(words, &word, sizeof(word));
}

}  // namespace pennyweight
