// Which of the compiled ways of multiplying this process takes. Private to lib/linalg_*.cc and
// their tests.
#pragma once

#include <cstdint>
#include <optional>

#include "lib/linalg.h"
#include "lib/linalg_kernels.h"
#include "lib/result.h"

namespace pennyweight::linalg {

// What Precision::kBf16 means here.
enum class Bf16Path : uint8_t {
  kNone,      // the same as kFull
  kRounded,   // operands rounded to bf16, multiplied by the fp32 kernel
  kAmx,       // AMX tiles
  kEmulated,  // AMX tiles in plain code; for tests
};

// The environment's choice (PENNYWEIGHT_ISA), else the best of this CPU. Made once, by the first
// call; an unknown or impossible choice counts as none.
Bf16Path ActiveBf16Path();
// Instead of that choice, until std::nullopt. Not while a product is computed.
void SetBf16PathForTest(std::optional<Bf16Path> path);

// What a value of PENNYWEIGHT_ISA asks for, and whether this CPU has it.
// Errors: kUsage, kUnsupported.
Result<Bf16Path> CheckPathName(const char* name);

// The kernels of a product in this precision.
ProductKernels GetProductKernels(Precision precision);

}  // namespace pennyweight::linalg
