// Runs of GGUF blocks to floats with the instructions of the machine: bit for bit what the plain
// decoders of quant/codec_blocks.h give for each block.
#pragma once

#include <cstdint>

#include "lib/encoding.h"

namespace pennyweight {

// Decodes `count` blocks that follow each other (TraitsOf(type).bytes each) to out[count *
// TraitsOf(type).elements]. Neither side need be aligned.
using RunDecoder = void (*)(const uint8_t* blocks, int64_t count, float* out);

// nullptr for types that have only a plain decoder. Thread-safe.
RunDecoder FindRunDecoder(BlockType type);

}  // namespace pennyweight
