#include "calib/cost_probe.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <random>
#include <vector>

#include "calib/ops.h"
#include "lib/file.h"
#include "lib/linalg.h"
#include "quant/codec.h"
#include "quant/gptq_plan.h"
#include "quant/method.h"

namespace pennyweight {
namespace {

constexpr int64_t kCols = 1024;
constexpr int64_t kRows = 128;

// The median of several calls' seconds, without the first, which also pays for fresh pages. A slow
// one is not repeated.
double SecondsOf(const std::function<void()>& work) {
  constexpr double kLong = 0.3, kEnough = 0.25;
  constexpr size_t kLeast = 4, kMost = 30;
  std::vector<double> times;
  double all = 0;
  while (times.size() < kMost && (times.size() < kLeast || all < kEnough)) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    all += took.count();
    times.push_back(took.count());
    if (all > kLong) break;
  }
  if (times.size() > 1) times.erase(times.begin());
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return std::max(*middle, 1e-9);
}

std::vector<float> Noise(int64_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = normal(random);
  return values;
}

void ProbeProducts(const Context& context, const std::vector<float>& x, CostRates* rates) {
  constexpr double kOps = static_cast<double>(kCols) * kCols * kCols;
  std::vector<float> c(static_cast<size_t>(kCols * kCols));
  GemmArgs args;
  args.m = args.n = args.k = kCols;
  args.a = x.data();
  args.b = x.data();
  args.c = c.data();
  args.a_stride = args.b_stride = args.c_stride = kCols;
  rates->gemm = 2 * kOps / SecondsOf([&] { Gemm(context, args); });
  std::vector<float> h(c.size());
  rates->syrk = kOps / SecondsOf([&] {
                  std::fill(h.begin(), h.end(), 0.0f);
                  SyrkUpper(context, kCols, kCols, x.data(), kCols, h.data(), kCols);
                });
  for (int64_t i = 0; i < kCols; ++i) h[static_cast<size_t>(i * kCols + i)] += 0.1f;
  std::vector<float> factor;
  rates->factor = kOps / 3 / SecondsOf([&] {
                    factor = h;
                    FactorUpper(context, kCols, factor.data(), kCols);
                  });
  rates->solve = 2 * kOps / SecondsOf([&] {
                   c = x;
                   SolveUpper(context, kCols, kCols, factor.data(), c.data());
                 });
  std::vector<float> gain(static_cast<size_t>(kCols), 1.0f);
  rates->elements = kCols * kCols / SecondsOf([&] {
                      for (int64_t r = 0; r < kCols; ++r) {
                        RmsNormRow(x.data() + r * kCols, gain.data(), kCols, 1e-5, c.data());
                      }
                    });
  rates->elements *= context.threads;
}

// A weight costs a + b k: b for the products of its row with the factor, a for all else. Two widths
// tell them apart.
Status ProbeGptq(const Context& context, const Encoding& encoding, const std::vector<float>& w,
                 double gemm, Effort effort, CostRates::Type* type) {
  constexpr int64_t kWidths[] = {kCols / 2, 2 * kCols};
  constexpr int64_t kMany = kCols / 2;
  double each[2];  // seconds of a weight
  int sweeps = 0;
  for (const int i : {0, 1}) {
    const int64_t k = kWidths[i];
    const std::vector<float> importance(static_cast<size_t>(k), 1.0f);
    std::vector<float> r(static_cast<size_t>(k * k));
    for (int64_t row = 0; row < k; ++row) {
      std::copy_n(w.begin() + row % kCols, k - row, r.begin() + row * k + row);
      r[static_cast<size_t>(row * k + row)] = 1;
    }
    const HessianFactor hessian{{k, r.data()}, importance};
    PW_ASSIGN(auto plan, GptqPlan::Make(context, encoding, hessian, effort));
    if (i == 1) {
      const double made = SecondsOf([&] {
        auto again = GptqPlan::Make(context, encoding, hessian, effort);
        if (again.ok()) plan = std::move(*again);
      });
      type->gptq_plan = static_cast<double>(k * k) / made;
    }
    sweeps = plan->sweep_count();
    Status status = OkStatus();
    EncodedTensor out;
    const double seconds = SecondsOf([&] {
      Status now = QuantizeGptq(context, *plan, w.data(), kMany, &out);
      if (!now.ok()) status = std::move(now);
    });
    PW_TRY(std::move(status));
    each[i] = seconds / static_cast<double>(kMany * k);
  }
  // At least what the products cost at full speed: half a product, then one and one for each sweep.
  const double least = (2 + 2 * sweeps) / gemm;
  const double product =
      std::max(least, (each[1] - each[0]) / static_cast<double>(kWidths[1] - kWidths[0]));
  type->gptq_products = 1 / product;
  type->gptq = 1 / std::max(each[0] / 10, each[0] - product * static_cast<double>(kWidths[0]));
  return OkStatus();
}

Result<CostRates::Type> ProbeType(const Context& context, const Encoding& encoding,
                                  const std::vector<float>& w, Effort effort) {
  constexpr double kWeights = static_cast<double>(kRows * kCols);
  CostRates::Type type;
  EncodedTensor out;
  Status status = OkStatus();
  const auto keep = [&](Status now) {
    if (!now.ok()) status = std::move(now);
  };
  const std::vector<float> importance(static_cast<size_t>(kCols), 1.0f);
  type.minmax = kWeights / SecondsOf([&] {
                  keep(QuantizeRtn(context, encoding, w.data(), kRows, kCols, {},
                                   ScaleSearch::kMinMax, &out, effort));
                });
  type.rtn = kWeights / SecondsOf([&] {
               keep(QuantizeRtn(context, encoding, w.data(), kRows, kCols, importance,
                                ScaleSearch::kSearch, &out, effort));
             });
  std::vector<float> decoded(static_cast<size_t>(kRows * kCols));
  if (status.ok()) {
    type.decode = kWeights / SecondsOf([&] { DecodeRows(out, 0, kRows, decoded.data()); });
  }
  type.decode *= encoding.kind == Encoding::Kind::kPlain ? context.threads : 1;
  if (!status.ok()) return std::move(status).TakeError();
  return type;
}

}  // namespace

Result<CostRates> ProbeSpeed(const Context& context, std::span<const Encoding> encodings,
                             bool calibrated, bool gptq, Effort effort) {
  Context quiet = context;
  quiet.progress = nullptr;
  CostRates rates;
  const std::vector<float> x = Noise(kCols * kCols);
  if (calibrated) ProbeProducts(quiet, x, &rates);
  for (const Encoding& encoding : encodings) {
    CostRates::Type& type = rates.types[encoding.Name()];
    PW_ASSIGN(type, ProbeType(quiet, encoding, x, effort));
    if (gptq && calibrated && MakeGrid(encoding, kCols) != nullptr) {
      PW_TRY(ProbeGptq(quiet, encoding, x, rates.gemm, effort, &type));
    }
  }
  return rates;
}

void ProbeFiles(const std::string& input, const std::string& folder, uint64_t output_bytes,
                CostRates* rates) {
  constexpr uint64_t kMostRead = 64u << 20, kMostWritten = 32u << 20, kPiece = 1u << 20;
  std::vector<uint8_t> piece(kPiece);
  if (const auto file = ReadFile::Open(input); file.ok() && file->size() > 0) {
    const uint64_t bytes = std::min(file->size(), kMostRead);
    bool good = true;
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t at = 0; at < bytes; at += kPiece) {
      good = good && file->ReadAt(at, piece.data(), std::min(kPiece, bytes - at)).ok();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (good) rates->read = static_cast<double>(bytes) / std::max(took.count(), 1e-9);
  }
  const uint64_t bytes = std::clamp(output_bytes, kPiece, kMostWritten);
  const auto start = std::chrono::steady_clock::now();
  // Goes when this object does: it is never committed.
  const auto file = AtomicFile::Create(JoinPath(folder, ".pennyweight.probe"), bytes, true);
  bool good = file.ok();
  for (uint64_t at = 0; good && at < bytes; at += kPiece) {
    good = (*file)->WriteAt(at, piece.data(), std::min(kPiece, bytes - at)).ok();
  }
  good = good && (*file)->Seal().ok();
  for (uint64_t at = 0; good && at < bytes; at += kPiece) {
    good = (*file)->ReadAt(at, piece.data(), std::min(kPiece, bytes - at)).ok();
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (good) rates->write = static_cast<double>(bytes) / std::max(took.count(), 1e-9);
}

}  // namespace pennyweight
