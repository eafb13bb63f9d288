#include "calib/choose_candidate.h"

#include <cmath>

namespace pennyweight {

bool Beats(std::span<const double> challenger, std::span<const double> incumbent) {
  const auto n = static_cast<double>(challenger.size());
  double mean = 0;
  for (size_t i = 0; i < challenger.size(); ++i) mean += (challenger[i] - incumbent[i]) / n;
  if (challenger.size() < 2) return mean < 0;
  double variance = 0;  // of the mean
  for (size_t i = 0; i < challenger.size(); ++i) {
    const double off = challenger[i] - incumbent[i] - mean;
    variance += off * off / (n * (n - 1));
  }
  return mean < -kCandidateMargin * std::sqrt(variance);
}

double WindowError(const float* want, const float* got, int64_t tokens, int64_t width) {
  double sum = 0;
  for (int64_t t = 0; t < tokens; ++t, want += width, got += width) {
    double miss = 0, square = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double difference = static_cast<double>(want[c]) - got[c];
      miss += difference * difference;
      square += static_cast<double>(want[c]) * want[c];
    }
    if (square > 0) sum += miss / square;
  }
  return sum;
}

}  // namespace pennyweight
