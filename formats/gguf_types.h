// Numbers of the GGUF format: metadata value types and tensor types.
// Source: ggml's gguf.h and ggml.h, as of August 2026.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "lib/encoding.h"
#include "lib/result.h"

namespace pennyweight {

inline constexpr uint64_t kGgufDefaultAlignment = 32;  // bytes
inline constexpr size_t kGgufTensorNameBytes = 63;     // ggml keeps 64 with the closing NUL
inline constexpr int kGgufRank = 4;

// The type of a metadata value; the numbers stand in the file.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};
inline constexpr uint32_t kGgufTypeCount = 13;

// Bytes of one value; 0 for strings and arrays.
uint64_t GgufTypeBytes(GgufType type);
// "u32", "string", ...
std::string_view GgufTypeName(GgufType type);

// The encoding of a ggml tensor type. Errors: kUnknownDtype, which names the types that llama.cpp
// has removed and tells them from those that are newer than this program.
Result<Encoding> EncodingOfGgml(uint32_t id);
// nullopt for encodings that no GGUF file holds (integers in groups, fp8, 64-bit unsigned, ...).
std::optional<uint32_t> GgmlIdOf(const Encoding& encoding);
// True when llama.cpp keeps the encoding only in memory (q8_1, q8_k): never written to a file.
bool IsGgmlScratchType(const Encoding& encoding);

}  // namespace pennyweight
