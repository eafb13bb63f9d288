// Candidate scales of an AWQ mapping: which rules there are, and what a rule makes of what is known
// of the channels.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/dtype.h"

namespace pennyweight {

// What the rules see of each channel: its activations on calibration tokens, and the weights that
// read it.
struct ChannelStatistics {
  std::vector<double> mean;    // of |x|
  std::vector<double> square;  // of x^2
  std::vector<double> weight;  // mean of |w| over the largest |w| of its group
  std::vector<double> range;   // largest |w| of the column

  size_t channels() const { return mean.size(); }
};

// One rule; each has a strength a in (0, 1].
enum class AwqRule : uint8_t {
  kMean,   // mean^a: AWQ's own
  kRms,    // sqrt(square)^a: outliers count for more
  kDuo,    // mean^a / weight^(1 - a): AWQ with duo scaling
  kRange,  // sqrt(square)^a / range^(1 - a): SmoothQuant's, on second moments
};
inline constexpr AwqRule kAwqRules[] = {AwqRule::kMean, AwqRule::kRms, AwqRule::kDuo,
                                        AwqRule::kRange};
// "mean^0.45".
std::string AwqRuleName(AwqRule rule, double strength);

// How a scale may be rounded, and which channels are left alone.
struct ScaleLimits {
  // A norm that is divided: [channels] its gains, and the dtype that it is stored in. The scale
  // becomes gain / stored gain, so that the product stays exact; channels whose gain would not stay
  // an ordinary number are left alone. Empty: no norm.
  std::span<const float> gain;
  DType dtype = DType::kF32;
  // Powers of two only: what is divided is stored in 16 bits and must not be rounded.
  bool powers_of_two = false;
};

// The scale of each channel, near 1: normalised by sqrt(largest * smallest), rounded to powers of
// 2^(1/16), within 2^-6 to 2^6. Channels without activations, and those where the rule gives no
// positive number, have 1. Empty when all of them do.
std::vector<float> MakeScale(AwqRule rule, double strength, const ChannelStatistics& statistics,
                             const ScaleLimits& limits);

}  // namespace pennyweight
