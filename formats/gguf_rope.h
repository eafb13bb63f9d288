// rope_freqs.weight: GGUF keeps llama3's rope scaling as one divisor per frequency, config.json as
// four numbers. Source: Llama 3.1's reference code (apply_scaling), transformers'
// _compute_llama3_parameters, llama.cpp's convert_hf_to_gguf.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/model_config.h"

namespace pennyweight {

inline constexpr const char* kRopeFreqsName = "rope_freqs.weight";

// Divisors of the head_dim / 2 rotation frequencies under `scaling` (kLlama3).
std::vector<float> Llama3RopeFactors(const RopeScaling& scaling, double rope_theta,
                                     int64_t head_dim);

// The scaling whose divisors these are (to 1e-4, relative): kNone when all are 1, else kLlama3.
// low_freq_factor is 1 where that can describe them, as the formula only knows ratios.
// nullopt when they do not follow the formula.
std::optional<RopeScaling> FitRopeFactors(const std::vector<float>& factors, double rope_theta,
                                          int64_t head_dim);

}  // namespace pennyweight
