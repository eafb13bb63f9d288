#include "quant/element_search.h"

#include <array>

namespace pennyweight {
namespace {

constexpr std::array<float, 8> kOctave = {1.0f, 1.09f, 1.19f, 1.3f, 1.41f, 1.54f, 1.68f, 1.83f};
constexpr std::array<float, 10> kClipping = {1.0f,  0.98f, 0.96f, 0.93f, 0.9f,
                                             0.87f, 0.84f, 0.8f,  1.04f, 1.09f};
constexpr int kRefits = 2;

}  // namespace

std::span<const float> ScaleFactors(ElementSet set) {
  if (set == ElementSet::kE4M3 || set == ElementSet::kE5M2) return kOctave;
  return kClipping;
}

float SearchElementScale(ElementSet set, const FitBlock& block, DType dtype, float start) {
  const KernelBlock kernel = block.kernel();
  float best = start;
  float least = SumElementErrors(set, kernel, start);
  const auto consider = [&](float scale) {
    const float stored = RoundStored(dtype, block.unit(), scale);
    if (!(stored > 0) || stored == best) return false;
    const float error = SumElementErrors(set, kernel, stored);
    if (!(error < least)) return false;
    least = error;
    best = stored;
    return true;
  };
  for (const float factor : ScaleFactors(set).subspan(1)) consider(start * factor);
  for (int i = 0; i < kRefits; ++i) {
    const ElementSums sums = SumElements(set, kernel, best);
    if (!(sums.b > 0) || !consider(sums.a / sums.b)) break;
  }
  return best;
}

}  // namespace pennyweight
