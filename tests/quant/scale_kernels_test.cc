#include "quant/scale_kernels.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "quant/scale_search.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

float SumChains(const float* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

// What the kernels promise, in plain code.
KernelSums ReferenceSums(const KernelBlock& b, float lo, float hi, float inverse, float offset,
                         float scale, float* error) {
  float q[8] = {}, qq[8] = {}, xq[8] = {}, e[8] = {};
  for (int64_t i = 0; i < b.n; ++i) {
    const float code = NearestInteger(std::clamp((b.x[i] - offset) * inverse, lo, hi));
    const float hq = b.h[i] * code;
    const float miss = b.x[i] - (scale * code + offset);
    q[i % 8] += hq;
    qq[i % 8] += hq * code;
    xq[i % 8] += b.hx[i] * code;
    e[i % 8] += b.h[i] * miss * miss;
  }
  *error = SumChains(e);
  return {SumChains(q), SumChains(qq), SumChains(xq)};
}

TEST_CASE("kernels give the same bits as plain code on every instruction set") {
  int64_t targets = hwy::SupportedTargets();
  int tried = 0;
  for (; targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().Update(targets & -targets);
    ++tried;
    for (const int64_t n : {8, 16, 32, 128, 176}) {
      const std::vector<float> w = RandomWeights(n, static_cast<uint32_t>(n), 1);
      std::vector<float> importance = RandomWeights(n, 5, 1);
      for (float& v : importance) v *= v;
      FitBlock block(n);
      block.Load(w, importance);
      for (const float inverse : {-9.7f, 0.3f, 5.1f, 63.0f}) {
        float error = 0;
        const KernelBlock k = block.kernel();
        const KernelSums want = ReferenceSums(k, -8, 7, inverse, -0.4f, 1 / inverse, &error);
        const KernelSums got = SumCodes(k, -8, 7, inverse, -0.4f);
        CHECK(got.q == want.q);
        CHECK(got.qq == want.qq);
        CHECK(got.xq == want.xq);
        CHECK(SumErrors(k, -8, 7, inverse, 1 / inverse, -0.4f) == error);
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  MESSAGE("instruction sets tried: ", tried);
  CHECK(tried > 0);
}

}  // namespace
}  // namespace pennyweight
