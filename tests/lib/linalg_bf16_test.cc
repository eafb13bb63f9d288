// Precision::kBf16 on every path: rounded operands in fp32 kernels, AMX tiles in plain code, the
// AMX machine code itself (on this CPU, or with its instructions answered by tests/lib/amx_trap.h).
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "lib/aligned_buffer.h"
#include "lib/linalg.h"
#include "lib/linalg_amx.h"
#include "lib/linalg_kernels.h"
#include "lib/linalg_path.h"
#include "tests/lib/amx_trap.h"
#include "tests/lib/linalg_test_util.h"

namespace pennyweight {
namespace {

using namespace linalg_test;  // NOLINT(google-build-using-namespace)
using linalg::Bf16Path;

// Takes a path while it lives.
class OnPath {
 public:
  explicit OnPath(Bf16Path path) { linalg::SetBf16PathForTest(path); }
  ~OnPath() { linalg::SetBf16PathForTest(std::nullopt); }
  OnPath(const OnPath&) = delete;
  OnPath& operator=(const OnPath&) = delete;
};

// The paths that round, and the CPU's own where it has one.
std::vector<Bf16Path> RoundingPaths() {
  std::vector<Bf16Path> paths = {Bf16Path::kRounded, Bf16Path::kEmulated};
  if (linalg::HaveAmx()) paths.push_back(Bf16Path::kAmx);
  return paths;
}

void RoundToBf16(Matrix& matrix) {
  for (float& value : matrix.values) value = BF16ToF32(F32ToBF16(value));
}

void CheckGemm(int64_t m, int64_t n, int64_t k, int64_t pad, DType dtype, bool accumulate) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(DTypeName(dtype));
  CAPTURE(accumulate);
  Matrix a = Random(m, k, pad, kNan, 1);
  Matrix b = Random(n, k, pad, kNan, 2);
  const std::vector<uint8_t> stored = Store(dtype, b);
  const Matrix before = accumulate ? Random(m, n, pad, kGuard, 3) : Matrix(m, n, pad, kNan);
  Matrix c = before;
  GemmArgs args = Arguments(a, stored.data(), dtype, b.stride, c);
  args.accumulate = accumulate;
  args.precision = Precision::kBf16;
  Gemm(Threads(2), args);
  if (m > 8) {  // fewer rows are computed in fp32
    RoundToBf16(a);
    RoundToBf16(b);
  }
  CHECK(CountWrong(a, b, before, accumulate ? 1 : 0, 1, false, c) == 0);
}

TEST_CASE("linalg bf16: Gemm is the product of the rounded operands") {
  struct Shape {
    int64_t m, n, k, pad;
  };
  const Shape shapes[] = {{4, 40, 70, 1},   {9, 1, 1, 0},    {16, 16, 32, 0},  {17, 33, 31, 3},
                          {32, 32, 64, 0},  {33, 31, 65, 5}, {48, 15, 40, 0},  {64, 96, 97, 0},
                          {70, 100, 33, 2}, {31, 65, 34, 1}, {130, 63, 530, 0}};
  ForEachTarget([&] {
    for (const Bf16Path path : RoundingPaths()) {
      CAPTURE(static_cast<int>(path));
      const OnPath on(path);
      for (const Shape& shape : shapes) {
        for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
          for (const bool accumulate : {false, true}) {
            CheckGemm(shape.m, shape.n, shape.k, shape.pad, dtype, accumulate);
          }
        }
      }
    }
  });
  if (!linalg::HaveAmx()) MESSAGE("SKIPPED on AMX itself: this CPU has none");
}

TEST_CASE("linalg bf16: Gemm over several slabs and parts of the summed axis") {
  for (const Bf16Path path : RoundingPaths()) {
    CAPTURE(static_cast<int>(path));
    const OnPath on(path);
    CheckGemm(33, 40, 2500, 0, DType::kBF16, true);
    CheckGemm(2090, 35, 70, 1, DType::kF32, false);
    CheckGemm(20, 4200, 50, 0, DType::kF16, false);
  }
}

TEST_CASE("linalg bf16: SyrkUpper is that of the rounded activations") {
  ForEachTarget([&] {
    for (const Bf16Path path : RoundingPaths()) {
      CAPTURE(static_cast<int>(path));
      const OnPath on(path);
      for (const int64_t t : {1, 2, 31, 77}) {
        for (const int64_t k : {1, 15, 16, 33, 97, 290}) {
          CAPTURE(t);
          CAPTURE(k);
          const int64_t pad = k % 2 == 0 ? 0 : 3;
          Matrix x = Random(t, k, pad, kNan, 10);
          const Matrix before = Random(k, k, pad, kGuard, 11);
          Matrix h = before;
          SyrkUpper(Threads(2), t, k, x.data(), x.stride, h.data(), h.stride, Precision::kBf16);
          RoundToBf16(x);
          const Matrix columns = Transposed(x);
          CHECK(CountWrong(columns, columns, before, 1, 1, true, h) == 0);
        }
      }
    }
  });
}

// Both products of one pair of matrices.
std::vector<std::vector<float>> Products(const Context& context, const Matrix& a, const Matrix& b,
                                         Precision precision) {
  Matrix c(a.rows, b.rows, 0, 0);
  GemmArgs args = Arguments(a, b.data(), DType::kF32, b.stride, c);
  args.precision = precision;
  Gemm(context, args);
  Matrix h(a.cols, a.cols, 0, 0.5f);
  SyrkUpper(context, a.rows, a.cols, a.data(), a.stride, h.data(), h.stride, precision);
  return {c.values, h.values};
}

TEST_CASE("linalg bf16: only kBf16 rounds, and only on a path that does") {
  const Matrix a = Random(60, 130, 0, 0, 21), b = Random(90, 130, 0, 0, 22);
  std::vector<std::vector<float>> full;
  {
    const OnPath on(Bf16Path::kNone);
    full = Products(Threads(1), a, b, Precision::kFull);
    const auto permitted = Products(Threads(1), a, b, Precision::kBf16);
    for (size_t i = 0; i < full.size(); ++i) CHECK(SameBits(permitted[i], full[i]));
  }
  for (const Bf16Path path : RoundingPaths()) {
    CAPTURE(static_cast<int>(path));
    const OnPath on(path);
    const auto same = Products(Threads(1), a, b, Precision::kFull);
    const auto rounded = Products(Threads(1), a, b, Precision::kBf16);
    for (size_t i = 0; i < full.size(); ++i) {
      CHECK(SameBits(same[i], full[i]));
      CHECK_FALSE(SameBits(rounded[i], full[i]));
    }
    for (const int threads : {2, 5}) {
      const auto again = Products(Threads(threads), a, b, Precision::kBf16);
      for (size_t i = 0; i < full.size(); ++i) CHECK(SameBits(again[i], rounded[i]));
    }
  }
}

TEST_CASE("linalg bf16: rounding to nearest even; NaN and infinity stay") {
  // Ties, carries into the exponent, the largest finite values, subnormals, a NaN whose bits would
  // round to infinity.
  const std::vector<uint32_t> bits = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x3fffffff,
                                      0x7f7f7fff, 0x7f7f8000, 0xff7fffff, 0x7f800000, 0xff800000,
                                      0x7f800001, 0x7fffffff, 0xffc00000, 0x80000000, 0x3dcccccd};
  Matrix b(static_cast<int64_t>(bits.size()), 1, 0, 0);
  std::memcpy(b.data(), bits.data(), bits.size() * sizeof(float));
  const Matrix a(9, 1, 0, 1.0f);
  ForEachTarget([&] {
    for (const Bf16Path path : RoundingPaths()) {
      CAPTURE(static_cast<int>(path));
      const OnPath on(path);
      Matrix c(9, b.rows, 0, 0);
      GemmArgs args = Arguments(a, b.data(), DType::kF32, 1, c);
      args.precision = Precision::kBf16;
      Gemm(Threads(1), args);
      for (int64_t i = 0; i < 9; ++i) {
        for (int64_t j = 0; j < b.rows; ++j) {
          CAPTURE(bits[static_cast<size_t>(j)]);
          const float expected = BF16ToF32(F32ToBF16(b.At(j, 0)));
          CHECK((std::isnan(expected) ? std::isnan(c.At(i, j)) : c.At(i, j) == expected));
        }
      }
    }
  });
}

TEST_CASE("linalg bf16: a NaN reaches its own outputs only") {
  for (const Bf16Path path : RoundingPaths()) {
    CAPTURE(static_cast<int>(path));
    const OnPath on(path);
    Matrix a = Random(20, 50, 0, 0, 5), b = Random(40, 50, 0, 0, 6);
    a.At(2, 49) = kNan;
    b.At(17, 3) = std::numeric_limits<float>::infinity();
    Matrix c(20, 40, 0, 0);
    GemmArgs args = Arguments(a, b.data(), DType::kF32, 50, c);
    args.precision = Precision::kBf16;
    Gemm(Threads(1), args);
    for (int64_t i = 0; i < 20; ++i) {
      for (int64_t j = 0; j < 40; ++j) CHECK(std::isfinite(c.At(i, j)) == (i != 2 && j != 17));
    }
  }
}

// A tile of packed panels of random values, padded as the packing pads it.
struct PackedTile {
  PackedTile(int64_t rows, int64_t cols, int64_t depth)
      : source_a(Random(rows, depth, 0, 0, 31)),
        source_b(Random(cols, depth, 0, 0, 32)),
        c(Random(rows, cols, 3, kGuard, 33)),
        a(Bytes(rows, depth)),
        b(Bytes(cols, depth)) {
    linalg::PackArgs pack;
    pack.count = rows;
    pack.depth = depth;
    pack.from.data = source_a.data();
    pack.from.stride = depth;
    pack.to = a.data();
    linalg::GetKernels().pack_tiles_a(pack);
    pack.count = cols;
    pack.from.data = source_b.data();
    pack.to = b.data();
    linalg::GetKernels().pack_tiles_b(pack);
    args.a = a.data();
    args.b = b.data();
    args.rows = rows;
    args.cols = cols;
    args.depth = depth;
    args.c_stride = c.stride;
  }

  static size_t Bytes(int64_t width, int64_t depth) {
    return static_cast<size_t>((width + 31) / 32 * 32 * ((depth + 31) / 32 * 32) * 2);
  }

  // C after the kernel.
  std::vector<float> Run(void (*tile)(const linalg::TileArgs&), linalg::Update update,
                         int64_t diagonal) const {
    Matrix out = c;
    linalg::TileArgs call = args;
    call.c = out.data();
    call.update = update;
    call.diagonal = diagonal;
    tile(call);
    return out.values;
  }

  Matrix source_a, source_b, c;
  AlignedBuffer<char> a, b;
  linalg::TileArgs args;
};

TEST_CASE("linalg bf16: the AMX machine code does what the plain code does") {
  if (linalg::HaveAmx()) {
    // Sums may be rounded in another order than the manual says: see the tests above.
    MESSAGE("SKIPPED: the instructions are this CPU's own, nothing to trap");
    return;
  }
#if !defined(PENNYWEIGHT_AMX)
  MESSAGE("SKIPPED: compiled without AMX");
  return;
#endif
  if (!AmxTrap::Supported()) {
    MESSAGE("SKIPPED: no signals to trap here");
    return;
  }
  constexpr int64_t kNoDiagonal = INT64_MAX / 2;
  const std::array<std::array<int64_t, 4>, 6> shapes = {{{32, 32, 32, kNoDiagonal},
                                                         {64, 96, 70, kNoDiagonal},
                                                         {33, 65, 31, kNoDiagonal},
                                                         {40, 50, 1100, kNoDiagonal},
                                                         {64, 64, 64, 0},
                                                         {70, 70, 40, -7}}};
  for (const auto& [rows, cols, depth, diagonal] : shapes) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(depth);
    const PackedTile tile(rows, cols, depth);
    for (const linalg::Update update : {linalg::Update::kStore, linalg::Update::kAdd}) {
      const auto expected = tile.Run(&linalg::EmulatedAmxTile, update, diagonal);
      std::vector<float> got;
      long instructions = 0;
      {
        const AmxTrap trap;
        got = tile.Run(&linalg::AmxTile, update, diagonal);
        instructions = trap.instructions();
      }
      CHECK(instructions >= 18);
      CHECK(SameBits(got, expected));
      CHECK_FALSE(SameBits(got, tile.c.values));
    }
  }
}

TEST_CASE("linalg bf16: denormals count as zero in the emulation") {
  Matrix a(16, 2, 0, 1.0f), b(16, 2, 0, 0x1p-130f);  // subnormal in bf16 too
  b.At(3, 1) = 0x1p-126f;
  const OnPath on(Bf16Path::kEmulated);
  Matrix c(16, 16, 0, 0x1p-130f);
  GemmArgs args = Arguments(a, b.data(), DType::kF32, 2, c);
  args.accumulate = true;
  args.precision = Precision::kBf16;
  Gemm(Threads(1), args);
  CHECK(c.At(0, 0) == 0.0f);
  CHECK(c.At(5, 3) == 0x1p-126f);
}

TEST_CASE("linalg: a block of C computed for itself has the bytes that it has in a larger one") {
  const int64_t t = 470, k = 300;
  const Matrix x = Random(t, k, 0, 0, 41);
  std::vector<Bf16Path> paths = RoundingPaths();
  paths.push_back(Bf16Path::kNone);
  ForEachTarget([&] {
    for (const Bf16Path path : paths) {
      CAPTURE(static_cast<int>(path));
      const OnPath on(path);
      Matrix whole(k, k, 0, 0.25f), part(k, k, 0, 0.25f);
      SyrkUpper(Threads(2), t, k, x.data(), k, whole.data(), k, Precision::kBf16);
      const int64_t cut = 131, rest = k - cut;
      SyrkUpper(Threads(2), t, cut, x.data(), k, part.data(), k, Precision::kBf16);
      SyrkUpper(Threads(1), t, rest, x.data() + cut, k, part.data() + cut * k + cut, k,
                Precision::kBf16);
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = i; j < k; ++j) {
          if (i < cut && j >= cut) continue;
          CHECK(std::memcmp(&whole.values[static_cast<size_t>(i * k + j)],
                            &part.values[static_cast<size_t>(i * k + j)], 4) == 0);
        }
      }
    }
  });
}

TEST_CASE("linalg: names of paths") {
  for (const char* name : {"", "AVX2", "avx", "avx512", "amx ", "bf-16"}) {
    CAPTURE(name);
    const auto path = linalg::CheckPathName(name);
    REQUIRE_FALSE(path.ok());
    CHECK(path.error().code == ErrorCode::kUsage);
    CHECK(path.error().hint.find("avx2, avx3, amx or bf16") != std::string::npos);
  }
  const auto rounded = linalg::CheckPathName("bf16");
  REQUIRE(rounded.ok());
  CHECK(*rounded == Bf16Path::kRounded);
  const auto amx = linalg::CheckPathName("amx");
  CHECK(amx.ok() == linalg::HaveAmx());
  if (!amx.ok()) CHECK(amx.error().code == ErrorCode::kUnsupported);
  {
    const OnPath on(Bf16Path::kAmx);
    CHECK(std::string(ComputePath()) == "AMX");
  }
  std::string plain;
  {
    const OnPath on(Bf16Path::kNone);
    plain = ComputePath();
  }
  const OnPath on(Bf16Path::kRounded);
  CHECK(std::string(ComputePath()) == plain + "+bf16");
}

// tests/CMakeLists.txt runs this one with each value.
TEST_CASE("linalg: the environment chooses the path") {
  const char* value = std::getenv("PENNYWEIGHT_ISA");
  const std::string wanted = value == nullptr ? "" : value;
  const std::string path = ComputePath();
  CAPTURE(wanted);
  CAPTURE(path);
  if (wanted.empty()) {
    CHECK(SelectComputePath().ok());
    CHECK((path == "AMX") == linalg::HaveAmx());
    CHECK(path.find("bf16") == std::string::npos);
  } else if (!linalg::CheckPathName(value).ok()) {
    // The best of this CPU is taken, and whoever asks is told.
    const Status status = SelectComputePath();
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().message.find("PENNYWEIGHT_ISA=" + wanted) != std::string::npos);
  } else if (wanted == "bf16") {
    CHECK(SelectComputePath().ok());
    CHECK(path.ends_with("+bf16"));
  } else {
    CHECK(SelectComputePath().ok());
    CHECK(path == (wanted == "avx2" ? "AVX2" : wanted == "avx3" ? "AVX3" : "AMX"));
  }
}

}  // namespace
}  // namespace pennyweight
