// Narrowing casts of whole arrays, the same bits as F32ToF16 and F32ToBF16 (lib/dtype.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace pennyweight {

// from[count] and to[count * 2 bytes] need not be aligned.
void CastToF16(const float* from, void* to, size_t count);
void CastToBF16(const float* from, void* to, size_t count);

}  // namespace pennyweight
