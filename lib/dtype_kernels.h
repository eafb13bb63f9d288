// Conversions between arrays of floats and of 16-bit floats, with the instructions of the machine;
// bit for bit what the single-value functions of lib/dtype.h give. Private to lib/dtype.cc.
#pragma once

#include <cstddef>

namespace pennyweight {

// `count` elements; the 16-bit side need not be aligned. Little-endian.
void WidenF16Array(const void* from, float* to, size_t count);
void WidenBF16Array(const void* from, float* to, size_t count);
void NarrowF16Array(const float* from, void* to, size_t count);
void NarrowBF16Array(const float* from, void* to, size_t count);

}  // namespace pennyweight
