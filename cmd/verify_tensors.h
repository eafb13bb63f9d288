// The pass of `verify` over every byte of every tensor.
#pragma once

#include <vector>

#include "lib/context.h"
#include "lib/finding.h"
#include "lib/manifest.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

struct TensorCheck {
  std::vector<Finding> findings;  // VAL-, QNT-, DUP-, ZIP-CRC, in the order of the tensors
  std::vector<Manifest::Tensor> tensors;
};

// Reads, fingerprints and scans all tensors, in tiles of about a megabyte for each thread. A
// checksum that does not fit is a finding. Errors: those of TensorSource::ReadRows, kMemory (a row
// that is too long), kInterrupted.
Result<TensorCheck> CheckTensors(const Context& context, const Model& model);

}  // namespace pennyweight
