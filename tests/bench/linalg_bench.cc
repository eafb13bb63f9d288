// Speed of lib/linalg.h in GF/s, beside OpenBLAS where that is installed.
//   bench_linalg [seconds per measurement, default 2 [only names with this in them [threads]]]
// Ours and the baseline take turns within one run, each first in every other turn; the ratio is the
// median of the turns' ratios of processor time. On a shared machine only ratios mean something.
// OpenBLAS is told which kernels to take (the same instruction set as ours): of a CPU whose model
// it does not know it takes those for SSE2.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "lib/linalg.h"

namespace pennyweight {
namespace {

// OpenBLAS, found when this runs. CBLAS's constants are those of its reference interface.
struct OpenBlas {
  using Gemm = void(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                    const float* a, int lda, const float* b, int ldb, float beta, float* c,
                    int ldc);
  using Syrk = void(int order, int uplo, int trans, int n, int k, float alpha, const float* a,
                    int lda, float beta, float* c, int ldc);
  using Potrf = void(const char* uplo, const int* n, float* a, const int* lda, int* info);
  Gemm* gemm = nullptr;
  Syrk* syrk = nullptr;
  Potrf* potrf = nullptr;
  void (*set_threads)(int) = nullptr;
  std::string name;

  static constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112, kUpper = 121;

  static std::optional<OpenBlas> Load() {
    const bool avx3 = std::string(ComputePath()).find("AVX2") == std::string::npos;
    setenv("OPENBLAS_CORETYPE", avx3 ? "SkylakeX" : "Haswell", 0);
    void* library = dlopen("libopenblas.so.0", RTLD_NOW);
    if (library == nullptr) return std::nullopt;
    OpenBlas blas;
    blas.gemm = reinterpret_cast<Gemm*>(dlsym(library, "cblas_sgemm"));
    blas.syrk = reinterpret_cast<Syrk*>(dlsym(library, "cblas_ssyrk"));
    blas.potrf = reinterpret_cast<Potrf*>(dlsym(library, "spotrf_"));
    blas.set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
    const auto config = reinterpret_cast<const char* (*)()>(dlsym(library, "openblas_get_config"));
    if (!blas.gemm || !blas.syrk || !blas.potrf || !blas.set_threads || !config) {
      return std::nullopt;
    }
    blas.name = config();
    return blas;
  }
};

std::vector<float> Random(size_t count) {
  std::mt19937 engine(7);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(engine);
  return values;
}

// Wall-clock and processor seconds of one run.
struct Time {
  double wall = 1e30, cpu = 1e30;
};

Time Measure(const std::function<void()>& run) {
  const std::clock_t cpu = std::clock();
  const auto wall = std::chrono::steady_clock::now();
  run();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count(),
          static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

struct Case {
  std::string name;
  double flops;
  std::function<void()> prepare;  // before each run, not timed; may be empty
  std::function<void()> ours;
  std::function<void()> baseline;  // empty where there is none
  double ratio_floor = 0;          // of processor time, against the baseline; 0: none
  double gflops_floor = 0;         // per second of one processor; 0: none
};

class Bench {
 public:
  Bench(const OpenBlas* blas, int threads, double seconds, std::string only)
      : blas_(blas), threads_(threads), seconds_(seconds), only_(std::move(only)) {}

  const OpenBlas* blas() const { return blas_; }

  // Whether to measure this; asked before its matrices are made.
  bool Wants(const std::string& name) const { return name.find(only_) != std::string::npos; }

  void Run(const Case& item) {
    std::vector<double> wall_ratios, cpu_ratios;
    Time ours, baseline;
    double spent = 0;
    for (int turn = 0; turn < 4 || spent < seconds_; ++turn) {
      Time own, other;
      for (const bool is_ours : {turn % 2 == 0, turn % 2 != 0}) {
        if (!is_ours && !item.baseline) continue;
        if (item.prepare) item.prepare();
        (is_ours ? own : other) = Measure(is_ours ? item.ours : item.baseline);
        // OpenBLAS's threads spin for a while, which would count as our time.
        if (!is_ours && threads_ > 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
      }
      ours = {std::min(ours.wall, own.wall), std::min(ours.cpu, own.cpu)};
      spent += own.wall;
      if (!item.baseline) continue;
      baseline = {std::min(baseline.wall, other.wall), std::min(baseline.cpu, other.cpu)};
      spent += other.wall;
      wall_ratios.push_back(other.wall / own.wall);
      cpu_ratios.push_back(other.cpu / own.cpu);
    }
    const auto number = [](double value) {
      return value == 0 ? std::string("null") : fmt::format("{:.3f}", value);
    };
    const bool compared = !cpu_ratios.empty();
    std::printf(
        "%s    {\"name\": \"%s\", \"threads\": %d, \"gflops\": %.1f, "
        "\"gflops_per_cpu_second\": %.1f, \"openblas_gflops_per_cpu_second\": %s, "
        "\"ratio\": %s, \"cpu_ratio\": %s, \"cpu_ratio_floor\": %s, "
        "\"gflops_per_cpu_second_floor\": %s}",
        first ? "" : ",\n", item.name.c_str(), threads_, item.flops / ours.wall * 1e-9,
        item.flops / ours.cpu * 1e-9,
        number(compared ? item.flops / baseline.cpu * 1e-9 : 0).c_str(),
        number(compared ? Median(wall_ratios) : 0).c_str(),
        number(compared ? Median(cpu_ratios) : 0).c_str(),
        number(compared ? item.ratio_floor : 0).c_str(), number(item.gflops_floor).c_str());
    std::fflush(stdout);
    first = false;
  }

  static inline bool first = true;

 private:
  const OpenBlas* blas_;
  int threads_;
  double seconds_;
  std::string only_;
};

// What must hold of large products.
constexpr double kRatioFloor = 0.85;
constexpr double kAmxGemmFloor = 900, kAmxSyrkFloor = 850;

bool OnAmx() { return std::string(ComputePath()) == "AMX"; }

void BenchGemm(Bench& bench, const Context& context, int m, int n, int k, DType dtype,
               Precision precision = Precision::kFull) {
  const bool full = precision == Precision::kFull;
  Case item;
  item.name = fmt::format("gemm {}x{}x{} {}{}", m, n, k, DTypeName(dtype), full ? "" : " kBf16");
  if (!bench.Wants(item.name)) return;
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
  args.precision = precision;
  item.flops = 2.0 * m * n * k;
  item.ours = [&] { Gemm(context, args); };
  if (m >= 2048 && n >= 4096) (full ? item.ratio_floor : item.gflops_floor) = kRatioFloor;
  if (item.gflops_floor > 0) item.gflops_floor = OnAmx() ? kAmxGemmFloor : 0;
  if (const OpenBlas* blas = bench.blas()) {
    item.baseline = [&, blas] {
      blas->gemm(blas->kRowMajor, blas->kNoTrans, blas->kTrans, m, n, k, 1.0f, a.data(), k,
                 b.data(), k, 0.0f, c.data(), n);
    };
  }
  bench.Run(item);
}

void BenchGemmNn(Bench& bench, const Context& context, int m, int n, int k) {
  Case item;
  item.name = fmt::format("gemm_nn {}x{}x{}", m, n, k);
  if (!bench.Wants(item.name)) return;
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
  item.flops = 2.0 * m * n * k;
  item.ours = [&] { GemmNn(context, args); };
  if (const OpenBlas* blas = bench.blas()) {
    item.baseline = [&, blas] {
      blas->gemm(blas->kRowMajor, blas->kNoTrans, blas->kNoTrans, m, n, k, 1.0f, a.data(), k,
                 b.data(), n, 0.0f, c.data(), n);
    };
  }
  bench.Run(item);
}

void BenchSyrk(Bench& bench, const Context& context, int t, int k,
               Precision precision = Precision::kFull) {
  const bool full = precision == Precision::kFull;
  Case item;
  item.name = fmt::format("syrk t={} k={}{}", t, k, full ? "" : " kBf16");
  if (!bench.Wants(item.name)) return;
  const std::vector<float> x = Random(size_t(t) * size_t(k));
  std::vector<float> h(size_t(k) * size_t(k));
  item.flops = 1.0 * t * k * (k + 1.0);
  item.ours = [&] { SyrkUpper(context, t, k, x.data(), k, h.data(), k, precision); };
  if (k >= 4096 && full) item.ratio_floor = kRatioFloor;
  if (k >= 4096 && !full && OnAmx()) item.gflops_floor = kAmxSyrkFloor;
  if (const OpenBlas* blas = bench.blas()) {
    item.baseline = [&, blas] {
      blas->syrk(blas->kRowMajor, blas->kUpper, blas->kTrans, k, t, 1.0f, x.data(), k, 1.0f,
                 h.data(), k);
    };
  }
  bench.Run(item);
}

// X^T X + 0.01 k, both triangles.
std::vector<float> Hessian(const Context& context, int k) {
  std::vector<float> h(size_t(k) * size_t(k));
  const std::vector<float> x = Random(h.size());
  SyrkUpper(context, k, k, x.data(), k, h.data(), k);
  for (size_t i = 0; i < size_t(k); ++i) {
    h[i * size_t(k) + i] += 0.01f * float(k);
    for (size_t j = 0; j < i; ++j) h[i * size_t(k) + j] = h[j * size_t(k) + i];
  }
  return h;
}

void BenchFactor(Bench& bench, const Context& context, int k) {
  Case item;
  item.name = fmt::format("factor k={}", k);
  if (!bench.Wants(item.name)) return;
  const std::vector<float> h = Hessian(context, k);
  std::vector<float> work;
  bool positive = true;
  item.flops = 1.0 * k * k * k / 3;
  item.prepare = [&] { work = h; };
  item.ours = [&] { positive = FactorUpper(context, k, work.data(), k) && positive; };
  if (const OpenBlas* blas = bench.blas()) {
    item.baseline = [&, blas] {
      int info = 0;
      blas->potrf("L", &k, work.data(), &k, &info);
      positive = info == 0 && positive;
    };
  }
  bench.Run(item);
  if (!positive) std::fprintf(stderr, "factor k=%d: not positive definite\n", k);
}

void BenchSolve(Bench& bench, const Context& context, int rows, int k) {
  Case item;
  item.name = fmt::format("solve rows={} k={}", rows, k);
  if (!bench.Wants(item.name)) return;
  std::vector<float> r = Hessian(context, k);
  if (!FactorUpper(context, k, r.data(), k)) return;
  const std::vector<float> b = Random(size_t(rows) * size_t(k));
  std::vector<float> work;
  item.flops = 2.0 * rows * k * k;
  item.prepare = [&] { work = b; };
  item.ours = [&] { SolveUpper(context, rows, k, r.data(), work.data()); };
  bench.Run(item);
}

void RunAll(const OpenBlas* blas, int threads, double seconds, const std::string& only) {
  Context context;
  context.threads = threads;
  if (blas != nullptr) blas->set_threads(threads);
  Bench bench(blas, threads, seconds, only);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    BenchGemm(bench, context, 2048, 4096, 4096, dtype);
  }
  BenchGemm(bench, context, 2048, 4096, 14336, DType::kF32);
  BenchGemm(bench, context, 2048, 4096, 14336, DType::kBF16);
  BenchGemm(bench, context, 2048, 14336, 4096, DType::kBF16);
  for (const int k : {4096, 14336}) {
    BenchGemm(bench, context, 2048, 4096, k, DType::kBF16, Precision::kBf16);
    BenchSyrk(bench, context, 2048, k);
    BenchSyrk(bench, context, 2048, k, Precision::kBf16);
  }
  BenchSyrk(bench, context, 4096, 4096, Precision::kBf16);
  BenchFactor(bench, context, 1024);
  BenchFactor(bench, context, 4096);
  BenchFactor(bench, context, 8192);
  BenchSolve(bench, context, 1024, 4096);
  BenchGemmNn(bench, context, 2048, 4096, 4096);
  BenchGemm(bench, context, 512, 2048, 512, DType::kF32);
  for (const int m : {1, 4, 8, 16, 64}) BenchGemm(bench, context, m, 4096, 4096, DType::kF32);
  for (const int m : {1, 16}) BenchGemm(bench, context, m, 4096, 4096, DType::kBF16);
  BenchGemm(bench, context, 2048, 8, 4096, DType::kF32);
  BenchGemm(bench, context, 512, 512, 64, DType::kF32);
  BenchGemmNn(bench, context, 512, 64, 512);
  BenchSyrk(bench, context, 2048, 1024);
}

}  // namespace
}  // namespace pennyweight

int main(int argc, char** argv) {
  using pennyweight::OpenBlas;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 2.0;
  const std::string only = argc > 2 ? argv[2] : "";
  const pennyweight::Status path = pennyweight::SelectComputePath();
  if (!path.ok()) {
    std::fprintf(stderr, "%s\n", path.error().ToString().c_str());
    return 2;
  }
  const std::optional<OpenBlas> blas = OpenBlas::Load();
  std::printf("{\"schema\": \"pennyweight.bench.linalg/2\",\n  \"path\": \"%s\",\n",
              pennyweight::ComputePath());
  std::printf("  \"baseline\": %s,\n", blas ? ("\"" + blas->name + "\"").c_str() : "null");
  std::printf("  \"results\": [\n");
  for (const int threads : {1, 2}) {
    if (argc > 3 && std::atoi(argv[3]) != threads) continue;
    pennyweight::RunAll(blas ? &*blas : nullptr, threads, seconds, only);
  }
  std::printf("\n  ]\n}\n");
}
