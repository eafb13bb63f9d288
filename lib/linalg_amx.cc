#include "lib/linalg_amx.h"

#include <cmath>

#include "lib/dtype.h"
#include "lib/linalg_amx-inl.h"

#if defined(PENNYWEIGHT_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pennyweight::linalg {
namespace {

// Denormals count as zero and become zero, as in the instruction.
float Flush(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value; }

// TDPBF16PS of the Intel SDM: even and odd products are summed apart in fp32, from zero, then
// together, then with C. A product of two bf16 is exact in fp32, so multiplying and adding in two
// steps is the fused operation of the manual.
class EmulatedTiles {
 public:
  template <int kTile>
  void Zero() {
    memset(lines_[kTile], 0, kTileBytes);
  }

  template <int kTile>
  void Load(const void* from, int64_t stride) {
    for (int64_t line = 0; line < 16; ++line) {
      memcpy(lines_[kTile][line], static_cast<const char*>(from) + line * stride, 64);
    }
  }

  template <int kTile>
  void Store(void* to, int64_t stride) {
    for (int64_t line = 0; line < 16; ++line) {
      memcpy(static_cast<char*>(to) + line * stride, lines_[kTile][line], 64);
    }
  }

  template <int kC, int kA, int kB>
  void Dot() {
    float a[16][32], b[16][32], c[16][16];
    Widen(lines_[kA], a);
    Widen(lines_[kB], b);
    memcpy(c, lines_[kC], sizeof(c));
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        float even = 0, odd = 0;
        for (int k = 0; k < 16; ++k) {
          even = Flush(even + a[m][2 * k] * b[k][2 * n]);
          odd = Flush(odd + a[m][2 * k + 1] * b[k][2 * n + 1]);
        }
        c[m][n] = Flush(Flush(c[m][n]) + Flush(even + odd));
      }
    }
    memcpy(lines_[kC], c, sizeof(c));
  }

  static void Prefetch(const void*) {}

 private:
  static void Widen(const uint8_t (&lines)[16][64], float (&to)[16][32]) {
    uint16_t bits[16][32];
    memcpy(bits, lines, sizeof(bits));
    for (int line = 0; line < 16; ++line) {
      for (int i = 0; i < 32; ++i) to[line][i] = Flush(BF16ToF32(bits[line][i]));
    }
  }

  uint8_t lines_[8][16][64] = {};
};

#if defined(PENNYWEIGHT_AMX)
bool AskForAmx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  // The kernel keeps tile registers for those who ask (Documentation/arch/x86/xstate.rst).
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

void EmulatedAmxTile(const TileArgs& args) { AmxProduct<EmulatedTiles>::Run(args); }

#if defined(PENNYWEIGHT_AMX)
bool HaveAmx() {
  static const bool kHave = AskForAmx();
  return kHave;
}
#else
bool HaveAmx() { return false; }
void AmxTile(const TileArgs& args) { EmulatedAmxTile(args); }
#endif

}  // namespace pennyweight::linalg
