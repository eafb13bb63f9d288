// The checksum of zip archives.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pennyweight {

// CRC-32 as zip and PNG have it (ISO 3309). `crc` is 0 at the start, or the result so far.
uint32_t Crc32(uint32_t crc, const void* data, size_t bytes);

}  // namespace pennyweight
