// NVFP4 as it is stored outside GGUF: the type has one name, but blocks of its own only there.
#pragma once

#include <cstdint>

#include "lib/encoding.h"

namespace pennyweight {

inline constexpr int64_t kNvfp4Group = 16;  // columns that share a scale

// E2M1 elements under E4M3 scales, which are divided by one number for the whole tensor.
inline Encoding Nvfp4Encoding() {
  return Encoding::Scaled({.element = DType::kF4,
                           .block_rows = 1,
                           .block_cols = kNvfp4Group,
                           .scale_dtype = DType::kF8E4M3,
                           .divided = true});
}

}  // namespace pennyweight
