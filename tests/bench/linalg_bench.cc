// Speed of lib/linalg.h in GF/s, beside OpenBLAS where that is installed.
//   bench_linalg [seconds per measurement, default 1 [only names with this in them]]
// Ours and the baseline take turns within one run, and the best of each counts: on a shared
// machine only their ratio means something. Processor time is the steadier of the two there, at
// one thread (OpenBLAS's idle threads spin).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "lib/linalg.h"

#if defined(PENNYWEIGHT_OPENBLAS)
#include <cblas.h>
extern "C" void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
#endif

namespace pennyweight {
namespace {

std::vector<float> Random(size_t count) {
  std::mt19937 engine(7);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(engine);
  return values;
}

// Wall-clock and processor seconds of one run, or the best of several.
struct Time {
  double wall = 1e30, cpu = 1e30;
  void KeepBest(const Time& other) {
    wall = std::min(wall, other.wall);
    cpu = std::min(cpu, other.cpu);
  }
};

Time Measure(const std::function<void()>& run) {
  const std::clock_t cpu = std::clock();
  const auto wall = std::chrono::steady_clock::now();
  run();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count(),
          static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

struct Case {
  std::string name;
  double flops;
  std::function<void()> prepare;  // before each run, not timed; may be empty
  std::function<void()> ours;
  std::function<void()> baseline;  // empty where there is none
};

class Bench {
 public:
  Bench(int threads, double seconds, std::string only)
      : threads_(threads), seconds_(seconds), only_(std::move(only)) {}

  void Run(const Case& item) {
    if (item.name.find(only_) == std::string::npos) return;
    Time ours, baseline;
    double spent = 0;
    for (int turn = 0; turn < 3 || spent < seconds_; ++turn) {
      if (item.prepare) item.prepare();
      const Time own = Measure(item.ours);
      ours.KeepBest(own);
      spent += own.wall;
      if (!item.baseline) continue;
      if (item.prepare) item.prepare();
      const Time other = Measure(item.baseline);
      baseline.KeepBest(other);
      spent += other.wall;
    }
    std::string line = fmt::format(
        "    {{\"name\": \"{}\", \"threads\": {}, \"gflops\": {:.1f}, \"gflops_per_cpu_second\": "
        "{:.1f}",
        item.name, threads_, item.flops / ours.wall * 1e-9, item.flops / ours.cpu * 1e-9);
    line += item.baseline
                ? fmt::format(
                      ", \"openblas_gflops\": {:.1f}, \"ratio\": {:.3f}, "
                      "\"cpu_ratio\": {:.3f}}}",
                      item.flops / baseline.wall * 1e-9, baseline.wall / ours.wall,
                      baseline.cpu / ours.cpu)
                : std::string(", \"openblas_gflops\": null, \"ratio\": null, \"cpu_ratio\": null}");
    std::printf("%s%s", first ? "" : ",\n", line.c_str());
    std::fflush(stdout);
    first = false;
  }

  static inline bool first = true;

 private:
  int threads_;
  double seconds_;
  std::string only_;
};

void BenchGemm(Bench& bench, const Context& context, int m, int n, int k, DType dtype) {
  const std::vector<float> a = Random(size_t(m) * size_t(k));
  const std::vector<float> b = Random(size_t(n) * size_t(k));
  std::vector<uint16_t> stored(dtype == DType::kF32 ? 0 : b.size());
  if (!stored.empty()) EncodeFromFloat(dtype, b.data(), stored.data(), b.size());
  std::vector<float> c(size_t(m) * size_t(n));
  GemmArgs args;
  args.m = m;
  args.n = n;
  args.k = args.a_stride = args.b_stride = k;
  args.a = a.data();
  args.b = stored.empty() ? static_cast<const void*>(b.data()) : stored.data();
  args.b_dtype = dtype;
  args.c = c.data();
  args.c_stride = n;
  Case item;
  item.name = fmt::format("gemm {}x{}x{} {}", m, n, k, DTypeName(dtype));
  item.flops = 2.0 * m * n * k;
  item.ours = [&] { Gemm(context, args); };
#if defined(PENNYWEIGHT_OPENBLAS)
  item.baseline = [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, a.data(), k, b.data(), k,
                0.0f, c.data(), n);
  };
#endif
  bench.Run(item);
}

void BenchGemmNn(Bench& bench, const Context& context, int m, int n, int k) {
  const std::vector<float> a = Random(size_t(m) * size_t(k));
  const std::vector<float> b = Random(size_t(n) * size_t(k));
  std::vector<float> c(size_t(m) * size_t(n));
  GemmNnArgs args;
  args.m = m;
  args.n = args.b_stride = args.c_stride = n;
  args.k = args.a_stride = k;
  args.a = a.data();
  args.b = b.data();
  args.c = c.data();
  Case item;
  item.name = fmt::format("gemm_nn {}x{}x{}", m, n, k);
  item.flops = 2.0 * m * n * k;
  item.ours = [&] { GemmNn(context, args); };
#if defined(PENNYWEIGHT_OPENBLAS)
  item.baseline = [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, a.data(), k, b.data(), n,
                0.0f, c.data(), n);
  };
#endif
  bench.Run(item);
}

void BenchSyrk(Bench& bench, const Context& context, int t, int k) {
  const std::vector<float> x = Random(size_t(t) * size_t(k));
  std::vector<float> h(size_t(k) * size_t(k));
  Case item;
  item.name = fmt::format("syrk t={} k={}", t, k);
  item.flops = 1.0 * t * k * (k + 1.0);
  item.ours = [&] { SyrkUpper(context, t, k, x.data(), k, h.data(), k); };
#if defined(PENNYWEIGHT_OPENBLAS)
  item.baseline = [&] {
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, k, t, 1.0f, x.data(), k, 1.0f, h.data(), k);
  };
#endif
  bench.Run(item);
}

void BenchFactor(Bench& bench, const Context& context, int k) {
  std::vector<float> h(size_t(k) * size_t(k));
  {
    const std::vector<float> x = Random(h.size());
    SyrkUpper(context, k, k, x.data(), k, h.data(), k);
    for (size_t i = 0; i < size_t(k); ++i) {
      h[i * size_t(k) + i] += 0.01f * float(k);
      for (size_t j = 0; j < i; ++j) h[i * size_t(k) + j] = h[j * size_t(k) + i];
    }
  }
  std::vector<float> work;
  bool positive = true;
  Case item;
  item.name = fmt::format("factor k={}", k);
  item.flops = 1.0 * k * k * k / 3;
  item.prepare = [&] { work = h; };
  item.ours = [&] { positive = FactorUpper(context, k, work.data(), k) && positive; };
#if defined(PENNYWEIGHT_OPENBLAS)
  item.baseline = [&] {
    int info = 0;
    spotrf_("L", &k, work.data(), &k, &info);
    positive = info == 0 && positive;
  };
#endif
  bench.Run(item);
  if (!positive) std::fprintf(stderr, "factor k=%d: not positive definite\n", k);
}

void RunAll(int threads, double seconds, const std::string& only) {
  Context context;
  context.threads = threads;
#if defined(PENNYWEIGHT_OPENBLAS)
  openblas_set_num_threads(threads);
#endif
  Bench bench(threads, seconds, only);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    BenchGemm(bench, context, 2048, 4096, 4096, dtype);
  }
  BenchGemm(bench, context, 512, 2048, 512, DType::kF32);
  for (const int m : {1, 4, 8, 16, 64}) BenchGemm(bench, context, m, 4096, 4096, DType::kF32);
  for (const int m : {1, 16}) BenchGemm(bench, context, m, 4096, 4096, DType::kBF16);
  BenchGemm(bench, context, 2048, 8, 4096, DType::kF32);
  BenchGemm(bench, context, 512, 512, 64, DType::kF32);
  BenchGemmNn(bench, context, 2048, 4096, 4096);
  BenchGemmNn(bench, context, 512, 64, 512);
  BenchSyrk(bench, context, 2048, 4096);
  BenchSyrk(bench, context, 2048, 1024);
  BenchFactor(bench, context, 1024);
  BenchFactor(bench, context, 4096);
}

}  // namespace
}  // namespace pennyweight

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  std::printf("{\"schema\": \"pennyweight.bench.linalg/1\",\n");
#if defined(PENNYWEIGHT_OPENBLAS)
  std::printf("  \"baseline\": \"%s\",\n", openblas_get_config());
#else
  std::printf("  \"baseline\": null,\n");
#endif
  std::printf("  \"results\": [\n");
  for (const int threads : {1, 2}) pennyweight::RunAll(threads, seconds, argc > 2 ? argv[2] : "");
  std::printf("\n  ]\n}\n");
}
