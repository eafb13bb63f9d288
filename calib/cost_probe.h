// How fast this machine does what a quantization consists of: each kind of work once or twice on a
// small random matrix, with the functions that the run itself calls.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/result.h"
#include "quant/effort.h"

namespace pennyweight {

// Work per second with the threads of the context; 0: not measured.
struct CostRates {
  struct Type {
    double rtn = 0;            // weights, under importance
    double minmax = 0;         // weights
    double gptq = 0;           // weights, beside products
    double gptq_products = 0;  // weights * k: what products with the factor cost
    double gptq_plan = 0;      // k^2 of a factor
    double decode = 0;         // weights
  };
  double gemm = 0;                    // floating-point operations of a product
  double syrk = 0;                    // of a symmetric one: tokens * k^2
  double factor = 0;                  // of a factorisation: k^3 / 3
  double solve = 0;                   // of a solution: 2 rows k^2
  double elements = 0;                // of a norm
  double read = 0;                    // bytes of a file, as the run reads them
  double write = 0;                   // bytes written to the disk, synced and read back
  std::map<std::string, Type> types;  // by Encoding::Name
};

// Measures products (only when `calibrated`) and the encodings. A few seconds. Errors: none that
// random numbers could cause; kMemory is not checked, some 60 MB are used.
Result<CostRates> ProbeSpeed(const Context& context, std::span<const Encoding> encodings,
                             bool calibrated, bool gptq, Effort effort);

// Reads at most 64 MiB of a file, and writes, syncs and reads back at most 32 MiB under a hidden
// name in `folder`, which is removed; sets read and write. What cannot be done is left unmeasured:
// the run itself will say why.
void ProbeFiles(const std::string& input, const std::string& folder, uint64_t output_bytes,
                CostRates* rates);

}  // namespace pennyweight
