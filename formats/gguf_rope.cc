#include "formats/gguf_rope.h"

#include <algorithm>
#include <cmath>

#include "formats/gguf_text.h"

namespace pennyweight {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;
constexpr double kTolerance = 1e-4;

// Tokens per turn of frequency `k`.
double WaveLength(double rope_theta, int64_t head_dim, int64_t k) {
  return kTwoPi *
         std::pow(rope_theta, 2.0 * static_cast<double>(k) / static_cast<double>(head_dim));
}

bool Follows(const RopeScaling& scaling, const std::vector<float>& factors, double rope_theta,
             int64_t head_dim) {
  const std::vector<float> made = Llama3RopeFactors(scaling, rope_theta, head_dim);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (std::abs(made[i] - factors[i]) > kTolerance * std::abs(made[i])) return false;
  }
  return true;
}

// Between the two plateaus 1/divisor = (1 - s)/factor + s with s = a/wavelength - b, where
// a = context/(high - low) and b = low/(high - low): two divisors there give both. Taking low = 1
// picks one of the equal descriptions.
std::optional<RopeScaling> SolveRamp(RopeScaling guess, const std::vector<float>& factors,
                                     double rope_theta, int64_t head_dim) {
  std::vector<std::pair<double, double>> ramp;  // 1/wavelength, s
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] <= 1.0f || factors[i] >= static_cast<float>(guess.factor)) continue;
    const double s = (1.0 / factors[i] - 1.0 / guess.factor) / (1.0 - 1.0 / guess.factor);
    ramp.emplace_back(1.0 / WaveLength(rope_theta, head_dim, static_cast<int64_t>(i)), s);
  }
  if (ramp.size() < 2) return std::nullopt;
  const double a =
      (ramp.front().second - ramp.back().second) / (ramp.front().first - ramp.back().first);
  const double b = a * ramp.front().first - ramp.front().second;
  if (!(a > 0) || !(b > 0) || !(a / b < 1e9)) return std::nullopt;
  guess.low_freq_factor = 1.0;
  guess.high_freq_factor = 1.0 + 1.0 / b;
  const double rounded = std::round(guess.high_freq_factor);
  if (std::abs(guess.high_freq_factor - rounded) < 1e-3) guess.high_freq_factor = rounded;
  guess.original_context_length = std::llround(a * (guess.high_freq_factor - 1.0));
  return guess;
}

}  // namespace

std::vector<float> Llama3RopeFactors(const RopeScaling& scaling, double rope_theta,
                                     int64_t head_dim) {
  const auto context = static_cast<double>(scaling.original_context_length);
  const double low = scaling.low_freq_factor;
  const double high = scaling.high_freq_factor;
  std::vector<float> out(static_cast<size_t>(head_dim / 2));
  for (size_t k = 0; k < out.size(); ++k) {
    const double length = WaveLength(rope_theta, head_dim, static_cast<int64_t>(k));
    double divisor = 1.0;
    if (length > context / low) {
      divisor = scaling.factor;
    } else if (length >= context / high) {
      const double smooth = (context / length - low) / (high - low);
      divisor = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
    }
    out[k] = static_cast<float>(divisor);
  }
  return out;
}

std::optional<RopeScaling> FitRopeFactors(const std::vector<float>& factors, double rope_theta,
                                          int64_t head_dim) {
  if (factors.size() != static_cast<size_t>(head_dim / 2) || factors.empty()) return std::nullopt;
  for (const float factor : factors) {
    if (!std::isfinite(factor) || factor < 1.0f) return std::nullopt;
  }
  RopeScaling scaling;
  const float largest = *std::max_element(factors.begin(), factors.end());
  if (largest == 1.0f) return scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = ShortestDouble(largest);
  if (Follows(scaling, factors, rope_theta, head_dim)) return scaling;
  const auto solved = SolveRamp(scaling, factors, rope_theta, head_dim);
  if (solved && Follows(*solved, factors, rope_theta, head_dim)) return solved;
  // Too few divisors between the plateaus (short heads): the usual contexts.
  for (int64_t context = 256; context <= (1 << 20); context *= 2) {
    scaling.original_context_length = context;
    if (Follows(scaling, factors, rope_theta, head_dim)) return scaling;
  }
  return std::nullopt;
}

}  // namespace pennyweight
