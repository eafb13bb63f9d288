#include "lib/dtype.h"

#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "lib/dtype_kernels.h"

namespace pennyweight {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensor bytes are little-endian and are used in place");

struct DTypeRow {
  std::string_view name;
  int bits;
};

// In the order of the enum.
constexpr std::array<DTypeRow, 22> kRows = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};
static_assert(kRows.size() == static_cast<size_t>(DType::kU64) + 1);

// The conversions compute every case and select by mask, as the vectors of lib/dtype_kernels.cc do.
inline uint32_t Select(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

inline uint32_t WidenF16(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  // 0.5 + m * 2^-24 is exact, so the difference is the subnormal m * 2^-24 (or +0).
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(0x3f000000u | magnitude) - 0.5f);
  // The exponent bias goes from 15 to 127; Inf and NaN need the same step once more.
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) + (224u << 23);
  const uint32_t quiet = Select(magnitude > 0x7c00u, 0x00400000u, 0u);
  const uint32_t finite = Select(magnitude < 0x0400u, subnormal, normal);
  return Select(magnitude >= 0x7c00u, special, finite) | quiet | sign;
}

inline uint32_t NarrowF16(uint32_t bits) {
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14: the sum with 0.5 has an ulp of 2^-24, so the addition itself rounds to nearest
  // even at the place of the last subnormal bit.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  // Normal: rebias, add just under half of the dropped 13 bits plus the lowest kept bit. From
  // 65520 on this carries into the exponent of infinity.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  const uint32_t small = Select(magnitude < 0x38800000u, subnormal, normal);
  const uint32_t number = Select(magnitude >= 0x47800000u, 0x7c00u, small);
  return Select(magnitude > 0x7f800000u, nan, number) | sign;
}

inline uint32_t NarrowBF16(uint32_t bits) {
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return Select((bits & 0x7fffffffu) > 0x7f800000u, nan, rounded);
}

}  // namespace

std::string_view DTypeName(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

int DTypeBits(DType dtype) { return kRows[static_cast<size_t>(dtype)].bits; }

bool IsFloatDType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

float F16ToF32(uint16_t bits) { return std::bit_cast<float>(WidenF16(bits)); }

uint16_t F32ToF16(float value) {
  return static_cast<uint16_t>(NarrowF16(std::bit_cast<uint32_t>(value)));
}

float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t F32ToBF16(float value) {
  return static_cast<uint16_t>(NarrowBF16(std::bit_cast<uint32_t>(value)));
}

void DecodeToFloat(DType dtype, const void* from, float* to, size_t count) {
  assert(IsFloatDType(dtype));
  if (count == 0) return;
  switch (dtype) {
    case DType::kF16:
      WidenF16Array(from, to, count);
      return;
    case DType::kBF16:
      WidenBF16Array(from, to, count);
      return;
    default:
      std::memcpy(to, from, count * sizeof(float));
  }
}

void EncodeFromFloat(DType dtype, const float* from, void* to, size_t count) {
  assert(IsFloatDType(dtype));
  if (count == 0) return;
  switch (dtype) {
    case DType::kF16:
      NarrowF16Array(from, to, count);
      return;
    case DType::kBF16:
      NarrowBF16Array(from, to, count);
      return;
    default:
      std::memcpy(to, from, count * sizeof(float));
  }
}

float RoundThrough(DType dtype, float value) {
  assert(IsFloatDType(dtype));
  if (dtype == DType::kF16) return F16ToF32(F32ToF16(value));
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(value));
  return value;
}

}  // namespace pennyweight
