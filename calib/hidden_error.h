// Difference of two streams of hidden states, summed in double precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace pennyweight {

class HiddenError {
 public:
  void Add(std::span<const float> want, std::span<const float> got) {
    for (size_t i = 0; i < want.size(); ++i) {
      const double a = want[i], b = got[i];
      want_sq_ += a * a;
      got_sq_ += b * b;
      dot_ += a * b;
      error_sq_ += (a - b) * (a - b);
    }
    count_ += static_cast<int64_t>(want.size());
  }

  int64_t count() const { return count_; }
  // |got - want|^2 / |want|^2
  double RelError() const { return want_sq_ > 0 ? error_sq_ / want_sq_ : 0; }
  double Cosine() const {
    const double norms = std::sqrt(want_sq_ * got_sq_);
    return norms > 0 ? dot_ / norms : 1;
  }

 private:
  double want_sq_ = 0, got_sq_ = 0, dot_ = 0, error_sq_ = 0;
  int64_t count_ = 0;
};

}  // namespace pennyweight
