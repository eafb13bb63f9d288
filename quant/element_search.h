// The scale of one block of small floats or of a codebook: candidates around that of the largest
// magnitude, then a least-squares refit, judged by the error of the scale as it will be stored.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "lib/dtype.h"
#include "quant/element_kernels.h"
#include "quant/fit_block.h"

namespace pennyweight {

// What the largest magnitude's scale is multiplied by, itself (1) first. Floats of 8 bits repeat
// themselves from octave to octave, so that larger scales are tried; 4 bits gain by clipping.
std::span<const float> ScaleFactors(ElementSet set);

// Of a normalised block (scales are normalised too). `start` is as stored and not 0.
// Returns the scale as stored in `dtype`.
float SearchElementScale(ElementSet set, const FitBlock& block, DType dtype, float start);

}  // namespace pennyweight
