// The inner loop of `verify`: what is odd among plain values, at the speed of memory. Compiled for
// each instruction set and chosen at run time; results are the same on all of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/dtype.h"

namespace pennyweight {

// How NaN and Inf are spelled in a dtype: with m = (bits ^ flip) & mask, a value is no number when
// m >= least, and Inf when m == infinity (0: the dtype has none). `bytes` is that of one number: a
// C64 counts as two.
struct SpecialValues {
  size_t bytes;
  uint64_t flip, mask, least, infinity;
};
// least is 0 for dtypes that are all numbers (integers) and for sub-byte ones, which count as
// bytes.
SpecialValues SpecialValuesOf(DType dtype);

// Facts of a run of values of 1, 2, 4 or 8 bytes.
struct ValueFacts {
  uint64_t any = 0;      // bits that are set in some value
  uint64_t differ = 0;   // bits in which some value differs from `first`
  uint64_t largest = 0;  // of (bits ^ flip) & mask
};
// `data` needs no alignment. Precondition: special.bytes is 1, 2, 4 or 8.
ValueFacts ScanValues(const void* data, size_t count, const SpecialValues& special, uint64_t first);

// True when every one of `count` F32 values can be stored as F16 and comes back the same.
// Infinities can, NaN counts as not.
bool AllFitF16(const void* data, size_t count);

}  // namespace pennyweight
