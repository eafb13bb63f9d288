// What this process has used of the machine's memory, and what is left.
#pragma once

#include <cstdint>

namespace pennyweight {

// The most bytes of this process that were ever resident at once (VmHWM of /proc/self/status,
// else getrusage); 0 where neither is known. Thread-safe.
uint64_t PeakRssBytes();

// Bytes that new allocations may take without swapping: MemAvailable of /proc/meminfo, or what a
// control group (v2 or v1) of this process leaves, where that is less. UINT64_MAX if unknown.
// Thread-safe.
uint64_t AvailableMemoryBytes();

}  // namespace pennyweight
