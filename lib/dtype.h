// Element types of plain (not block-quantized) tensors, and their conversion to and from float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pennyweight {

// The names are safetensors'. Sub-byte types are packed; see DTypeBits.
enum class DType : uint8_t {
  kBool, kF4, kF6E2M3, kF6E3M2, kU8, kI8, kF8E5M2, kF8E4M3, kF8E8M0, kF8E4M3Fnuz, kF8E5M2Fnuz,
  kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kC64, kF64, kI64, kU64,
};

// "F32", "BF16", ... as safetensors spells them.
std::string_view DTypeName(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);
// Bits of one element: 4, 6, 8, 16, 32 or 64.
int DTypeBits(DType dtype);
// True for the dtypes that DecodeToFloat takes: F32, F16, BF16.
bool IsFloatDType(DType dtype);

// Single values. To 16 bits: round to nearest even, overflow to infinity, NaN stays NaN.
float F16ToF32(uint16_t bits);
uint16_t F32ToF16(float value);
float BF16ToF32(uint16_t bits);
uint16_t F32ToBF16(float value);

// Arrays of `count` elements; `dtype` is F32, F16 or BF16 (little-endian, no alignment needed).
void DecodeToFloat(DType dtype, const void* from, float* to, size_t count);
void EncodeFromFloat(DType dtype, const float* from, void* to, size_t count);

// The value after one trip through `dtype`: how a scale looks once stored.
float RoundThrough(DType dtype, float value);

}  // namespace pennyweight
