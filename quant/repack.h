// Integers in groups as GGUF blocks of the same values: the codes move, nothing is rounded.
#pragma once

#include <optional>
#include <string>

#include "lib/encoding.h"
#include "lib/tensor.h"

namespace pennyweight {

// The block type that can hold integers of this encoding in rows of `cols`: q4_0 and q4_1 for up to
// 4 bits (q4_1 with zero points), q5_0 and q5_1 for 5, q8_0 for up to 8 without zero points. Blocks
// have 32 columns, so groups are a multiple of that. nullopt with the reason in `why_not`.
std::optional<BlockType> FindRepack(const Encoding& from, int64_t cols, std::string* why_not);

// Packs every row of `from` as `to` (= FindRepack). False when the result does not decode to the
// same numbers: a scale, or -zero * scale, is no fp16 number. `out` then holds nothing of use.
bool RepackRows(const EncodedTensor& from, BlockType to, EncodedTensor* out);

}  // namespace pennyweight
