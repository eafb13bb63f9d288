// Methods: how the code of each weight is chosen. Each works on some rows of one matrix in memory;
// rows are independent, so callers may split a matrix into any row blocks without changing a bit.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/factor_view.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "quant/grid.h"

namespace pennyweight {

// w[rows, cols] to the nearest codes under scales found by `search`; `importance` per column, or
// empty. Plain dtypes are cast. minmax is kMinMax without importance; rtn is kSearch.
// `tensor_scale` is what FindTensorScale (quant/encode_scaled.h) found for the tensor; without it
// the rows are all rows there are. Rows begin where AlignTileRows (calib/scaled_tensor.h) lets
// them. Errors: kNonFinite, naming row and column, when a weight is NaN or infinite.
Status QuantizeRtn(const Context& context, const Encoding& encoding, const float* w, int64_t rows,
                   int64_t cols, std::span<const float> importance, ScaleSearch search,
                   EncodedTensor* out, Effort effort = Effort::kNormal,
                   std::optional<float> tensor_scale = std::nullopt);

// The factor of a damped Hessian, shared by all linears that read the same input.
struct HessianFactor {
  FactorView r;                       // [k, k] upper triangular, H + damp = R R^T
  std::span<const float> importance;  // [k] diagonal of H before damping: E[x_k^2] up to a factor
};

// GPTQ in its one-factorisation form: codes one column after the other, each column's rounding
// error fed to the columns after it through R; scales of a block are fitted on the updated weights.
// Frantar et al. 2022 (arXiv 2210.17323); the equivalent form is QuIP's LDLQ (arXiv 2307.13304).
// Columns of large activations come first, as far as blocks allow (quant/gptq_order.h), and sweeps
// improve the codes and scales of each block with all others known (quant/gptq_sweep.h): more of
// them with more effort, none for kFast.
// Errors: as QuantizeRtn. Precondition: MakeGrid(encoding, cols) exists and factor.r.k() == cols.
// For many tiles of one matrix see quant/gptq_plan.h.
Status QuantizeGptq(const Context& context, const Encoding& encoding, const HessianFactor& factor,
                    const float* w, int64_t rows, int64_t cols, EncodedTensor* out,
                    Effort effort = Effort::kNormal);

}  // namespace pennyweight
