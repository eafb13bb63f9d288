#include "lib/linalg_path.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "hwy/targets.h"
#include "lib/linalg_amx.h"

namespace pennyweight {
namespace linalg {
namespace {

constexpr const char* kVariable = "PENNYWEIGHT_ISA";

#if HWY_ARCH_X86
constexpr int64_t kAvx2 = HWY_AVX2, kAvx3 = HWY_AVX3;
#else
constexpr int64_t kAvx2 = 0, kAvx3 = 0;
#endif

Error Missing(std::string_view name, std::string_view what) {
  Error error(ErrorCode::kUnsupported, fmt::format("{}={}: {}", kVariable, name, what));
  error.hint = fmt::format("unset {} to take the best of this CPU", kVariable);
  return error;
}

Bf16Path BestPath() { return HaveAmx() ? Bf16Path::kAmx : Bf16Path::kNone; }

struct Choice {
  Bf16Path path = Bf16Path::kNone;
  std::optional<Error> error;
};

Choice Choose() {
  const char* name = std::getenv(kVariable);
  if (name == nullptr || *name == '\0') return {BestPath(), std::nullopt};
  Result<Bf16Path> path = CheckPathName(name);
  if (!path.ok()) return {BestPath(), std::move(path).TakeError()};
  if (std::string_view(name) == "avx2") {
    // Better targets have lower bits. Of the whole process, whose other kernels give the same
    // results with any instruction set.
    hwy::DisableTargets(kAvx2 - 1);
    hwy::GetChosenTarget().DeInit();
  }
  return {*path, std::nullopt};
}

const Choice& Chosen() {
  static const Choice kChoice = Choose();
  return kChoice;
}

constexpr int kNoTest = -1;
std::atomic<int> g_test_path{kNoTest};

}  // namespace

Result<Bf16Path> CheckPathName(const char* name) {
  const std::string_view wanted(name);
  const int64_t targets = hwy::SupportedTargets();
  if (wanted == "avx2") {
    if ((targets & kAvx2) == 0) return Missing(wanted, "this CPU has no AVX2");
    return Bf16Path::kNone;
  }
  if (wanted == "avx3") {
    if ((targets & kAvx3) == 0) return Missing(wanted, "this CPU has no AVX-512");
    return Bf16Path::kNone;
  }
  if (wanted == "amx") {
    if (!HaveAmx()) return Missing(wanted, "no AMX bf16 here, or the kernel does not permit it");
    return Bf16Path::kAmx;
  }
  if (wanted == "bf16") return Bf16Path::kRounded;
  Error error(ErrorCode::kUsage, fmt::format("{}={}: no such path", kVariable, wanted));
  error.hint = "it takes avx2, avx3, amx or bf16";
  return error;
}

Bf16Path ActiveBf16Path() {
  const int test = g_test_path.load(std::memory_order_relaxed);
  return test == kNoTest ? Chosen().path : static_cast<Bf16Path>(test);
}

void SetBf16PathForTest(std::optional<Bf16Path> path) {
  g_test_path.store(path ? static_cast<int>(*path) : kNoTest, std::memory_order_relaxed);
}

ProductKernels GetProductKernels(Precision precision) {
  const Bf16Path path = ActiveBf16Path();
  const Kernels& kernels = GetKernels();
  if (precision == Precision::kFull || path == Bf16Path::kNone) return kernels.full;
  if (path == Bf16Path::kRounded) return kernels.rounded;
  ProductKernels amx;
  amx.mr = amx.nr = amx.chunk = kTileSide;
  // A deep slab reads and writes C seldom. Its B of a task is 1 MB, its A half of that.
  amx.depth = 2048;
  amx.element_bytes = 2;
  amx.tile_rows = 128;
  amx.tile_columns = 256;
  amx.pack_a = kernels.pack_tiles_a;
  amx.pack_b = kernels.pack_tiles_b;
  amx.tile = path == Bf16Path::kAmx ? &AmxTile : &EmulatedAmxTile;
  return amx;
}

}  // namespace linalg

Status SelectComputePath() {
  const std::optional<Error>& error = linalg::Chosen().error;
  return error ? Status(*error) : OkStatus();
}

const char* ComputePath() {
  using linalg::Bf16Path;
  const Bf16Path path = linalg::ActiveBf16Path();
  if (path == Bf16Path::kAmx || path == Bf16Path::kEmulated) return "AMX";
  const bool rounded = path == Bf16Path::kRounded;
  const std::string_view target = linalg::GetKernels().target;
  // The sums of AVX3_DL are those of AVX3.
  if (target.starts_with("AVX3")) return rounded ? "AVX3+bf16" : "AVX3";
  if (target == "AVX2") return rounded ? "AVX2+bf16" : "AVX2";
  if (target == "SSE4") return rounded ? "SSE4+bf16" : "SSE4";
  return rounded ? "other+bf16" : linalg::GetKernels().target;
}

}  // namespace pennyweight
