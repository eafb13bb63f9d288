#include "calib/awq_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lib/fold_record.h"

namespace pennyweight {
namespace {

constexpr int kMostSixteenths = 6 * 16;  // 2^6
constexpr double kTiny = 1e-4;           // AWQ's, beside a mean of weights between 0 and 1

// The rule's own number for a channel; not finite or not positive where it has none.
double RawScale(AwqRule rule, double a, const ChannelStatistics& s, size_t i) {
  switch (rule) {
    case AwqRule::kMean:
      return std::pow(s.mean[i], a);
    case AwqRule::kRms:
      return std::pow(s.square[i], a / 2);
    case AwqRule::kDuo:
      return std::pow(s.mean[i], a) / (std::pow(s.weight[i], 1 - a) + kTiny);
    case AwqRule::kRange:
      return s.range[i] > 0 ? std::pow(s.square[i], a / 2) / std::pow(s.range[i], 1 - a) : 0;
  }
  return 0;
}

// gain / (gain / scale as stored); 1 when a side of it is no ordinary number.
float StoredRatio(float gain, float scale, DType dtype) {
  const float stored = RoundThrough(dtype, gain / scale);
  const float least = dtype == DType::kF16 ? 0x1p-14f : 0x1p-126f;
  if (!(std::abs(stored) >= least) || !std::isfinite(stored) || !std::isnormal(gain)) return 1;
  if (dtype == DType::kF32) return scale;  // a rounding of f32 is no loss that counts
  return static_cast<float>(static_cast<double>(gain) / static_cast<double>(stored));
}

}  // namespace

std::string AwqRuleName(AwqRule rule, double strength) {
  constexpr std::string_view kNames[] = {"mean", "rms", "duo", "range"};
  return fmt::format("{}^{:.2f}", kNames[static_cast<size_t>(rule)], strength);
}

std::vector<float> MakeScale(AwqRule rule, double strength, const ChannelStatistics& statistics,
                             const ScaleLimits& limits) {
  const size_t n = statistics.channels();
  std::vector<double> raw(n);
  double least = INFINITY, most = 0;
  for (size_t i = 0; i < n; ++i) {
    const double s = RawScale(rule, strength, statistics, i);
    const bool alive = statistics.mean[i] > 0 && std::isfinite(s) && s > 0;
    raw[i] = alive ? s : 0;
    if (!alive) continue;
    least = std::min(least, s);
    most = std::max(most, s);
  }
  if (!(most > 0)) return {};
  const double middle = std::sqrt(least) * std::sqrt(most);
  std::vector<float> scale(n, 1.0f);
  bool any = false;
  for (size_t i = 0; i < n; ++i) {
    if (raw[i] == 0) continue;
    int k = std::clamp(NearestOctave(raw[i] / middle), -kMostSixteenths, kMostSixteenths);
    if (limits.powers_of_two) k = static_cast<int>(std::lround(k / 16.0)) * 16;
    scale[i] = OctaveScale(k);
    if (!limits.gain.empty()) scale[i] = StoredRatio(limits.gain[i], scale[i], limits.dtype);
    any |= scale[i] != 1.0f;
  }
  if (!any) scale.clear();
  return scale;
}

}  // namespace pennyweight
