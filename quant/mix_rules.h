// The rules of llama.cpp's mixes as a table. Private to quant/mix_gguf.cc and its tests.
#pragma once

#include <cstdint>
#include <span>

#include "lib/encoding.h"
#include "quant/mix_gguf.h"

namespace pennyweight {

// A set of file types: bit n is number n of general.file_type.
using FileSet = uint64_t;
constexpr FileSet In(GgufFileType type) { return FileSet{1} << static_cast<uint32_t>(type); }
template <class... Types>
constexpr FileSet In(GgufFileType first, Types... rest) {
  return In(first) | In(rest...);
}

// Conditions of a rule; all bits set must hold. i counts tensors of the kind (in models with
// experts it is the layer), n is how many there are.
enum MixCondition : uint32_t {
  kAlways = 0,
  kGroups4 = 1u << 0,       // 4 or more query heads share a key and value head
  kExperts4 = 1u << 1,      // 4 or more experts
  kEightExperts = 1u << 2,  // 8, as Mixtral has
  kNotEight = 1u << 3,
  kImportance = 1u << 4,  // an importance matrix is there
  kNoImportance = 1u << 5,
  kFirstEighth = 1u << 6,     // i < n / 8
  kFirstSixteenth = 1u << 7,  // i < n / 16
  kMiddle = 1u << 8,          // n / 8 <= i < 7 n / 8
  kMore = 1u << 9,            // the first and last eighth, and every third between
  kFirst2 = 1u << 10,         // i < 2
  kFirst4 = 1u << 11,         // i < 4
  kFalcon = 1u << 12,
  kNotFalcon = 1u << 13,
  kRagged = 1u << 14,  // rows do not divide into blocks of the base type
};

struct MixRule {
  GgufPart part;  // kValue stands for all that IsValueLike
  FileSet files;
  uint32_t when;  // MixCondition bits
  BlockType type;
};

// First match wins; where none matches the tensor has the base type.
std::span<const MixRule> MixRules();

}  // namespace pennyweight
