// The least error that a type allows on given weights, to judge encoders by: found without regard
// to time, in double precision, by code that shares nothing with the encoders.
//
// One level of scales (q4_0 q4_1 q5_0 q5_1 q8_0 q1_0 q2_0 iq4_nl tq1_0 tq2_0 mxfp4 nvfp4, integer
// groups): the best scales as stored. Two levels (q2_k to q6_k, iq4_xs): each sub-block has the
// best real scale (and offset), as if they were stored for nothing, so no encoder reaches it. With
// one scale the minimum is exact: as the scale grows, codes change at known places, and between two
// of them the best scale is the least-squares one. So it is with an offset for q2_k (all ways to
// part the sorted weights). For q4_1 q5_1 q4_k q5_k it is the best of a fine grid of scales, with
// all offsets for each.
#pragma once

#include <cstdint>
#include <optional>

#include "lib/encoding.h"

namespace pennyweight {

// Least sum of importance * (x - x')^2 over w[rows, cols]; `importance` [cols], or nullptr for
// ones. nullopt where no bound is known (the codebooks of whole vectors).
std::optional<double> LeastError(const Encoding& encoding, const float* w, int64_t rows,
                                 int64_t cols, const float* importance);

}  // namespace pennyweight
