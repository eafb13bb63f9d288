// Encodings: Intel SDM volume 2, "Intel AMX Instruction Reference". All are VEX.128 in map 0F38;
// the mandatory prefix, the opcode and the addressing mode tell them apart.
#include "tests/lib/amx_trap.h"

#if defined(__linux__) && defined(__x86_64__)

#include <ucontext.h>

#include <csignal>
#include <cstdint>
#include <cstring>

namespace pennyweight {
namespace {

struct State {
  uint8_t tiles[8][16][64];
  uint8_t configuration[64];
  bool configured;
  long instructions;
};
State g_state;
struct sigaction g_before;

int64_t Register(const ucontext_t& context, int number) {
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kOrder[number]];
}

int64_t ReadDisplacement(const uint8_t* at, int bytes) {
  if (bytes == 1) return static_cast<int8_t>(*at);
  int32_t value = 0;
  if (bytes == 4) memcpy(&value, at, sizeof(value));
  return value;
}

// One decoded instruction. address: without the index, which is the stride between lines.
struct Instruction {
  int prefix = 0, opcode = 0;  // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg = 0, rm = 0, vvvv = 0;
  bool memory = false;
  char* address = nullptr;
  int64_t stride = 0;
  int length = 0;
};

bool Decode(const ucontext_t& context, Instruction& out) {
  const auto* code = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) return false;  // three-byte VEX, map 0F38
  if ((code[2] & 0x84) != 0) return false;                     // W0, 128 bits
  const int extend_reg = (code[1] & 0x80) == 0 ? 8 : 0;
  const int extend_index = (code[1] & 0x40) == 0 ? 8 : 0;
  const int extend_base = (code[1] & 0x20) == 0 ? 8 : 0;
  out.prefix = code[2] & 3;
  out.vvvv = (~code[2] >> 3) & 15;
  out.opcode = code[3];
  const int mod = code[4] >> 6;
  out.reg = ((code[4] >> 3) & 7) | extend_reg;
  out.rm = (code[4] & 7) | (mod == 3 ? extend_base : 0);
  out.memory = mod != 3;
  const uint8_t* next = code + 5;
  if (out.memory) {
    int64_t address = 0;
    int displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (out.rm == 4) {
      const uint8_t sib = *next++;
      const int index = ((sib >> 3) & 7) | extend_index, base = sib & 7;
      if (index != 4) out.stride = Register(context, index) << (sib >> 6);
      if (base == 5 && mod == 0) {
        displacement = 4;
      } else {
        address = Register(context, base | extend_base);
      }
    } else if (out.rm == 5 && mod == 0) {
      displacement = 4;
      address = reinterpret_cast<int64_t>(next + 4);  // relative to the next instruction
    } else {
      address = Register(context, out.rm | extend_base);
    }
    out.address = reinterpret_cast<char*>(address + ReadDisplacement(next, displacement));
    next += displacement;
  }
  out.length = static_cast<int>(next - code);
  return true;
}

float Widen(const uint8_t* bf16) {
  uint32_t bits = 0;
  memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, bf16, 2);
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// Sums as the manual has them; tests feed no sums that are denormal.
void DotProducts(int c, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float even = 0, odd = 0, sum;
      for (int k = 0; k < 16; ++k) {
        even += Widen(&g_state.tiles[a][m][4 * k]) * Widen(&g_state.tiles[b][k][4 * n]);
        odd += Widen(&g_state.tiles[a][m][4 * k + 2]) * Widen(&g_state.tiles[b][k][4 * n + 2]);
      }
      memcpy(&sum, &g_state.tiles[c][m][4 * n], sizeof(sum));
      sum += even + odd;
      memcpy(&g_state.tiles[c][m][4 * n], &sum, sizeof(sum));
    }
  }
}

// Palette 1, and all of the eight tiles at their full size: the only configuration in use.
bool Configure(const void* from) {
  memcpy(g_state.configuration, from, sizeof(g_state.configuration));
  g_state.configured = g_state.configuration[0] == 1;
  for (int i = 0; i < 8; ++i) {
    g_state.configured &= g_state.configuration[16 + 2 * i] == 64 &&
                          g_state.configuration[17 + 2 * i] == 0 &&
                          g_state.configuration[48 + i] == 16;
  }
  memset(g_state.tiles, 0, sizeof(g_state.tiles));
  return g_state.configured;
}

bool Execute(const Instruction& it) {
  constexpr int kNone = 0, kF3 = 2, kF2 = 3;
  if (it.opcode == 0x49 && it.prefix == kNone && it.memory) return Configure(it.address);
  if (it.opcode == 0x49 && it.prefix == kNone) {
    g_state.configured = false;
    return true;
  }
  if (!g_state.configured || it.reg > 7) return false;
  if (it.opcode == 0x49 && it.prefix == kF2 && !it.memory) {
    memset(g_state.tiles[it.reg], 0, sizeof(g_state.tiles[0]));
    return true;
  }
  if (it.opcode == 0x4b && it.memory && (it.prefix == kF2 || it.prefix == kF3)) {
    for (int line = 0; line < 16; ++line) {
      char* memory = it.address + line * it.stride;
      if (it.prefix == kF2) {
        memcpy(g_state.tiles[it.reg][line], memory, 64);
      } else {
        memcpy(memory, g_state.tiles[it.reg][line], 64);
      }
    }
    return true;
  }
  if (it.opcode == 0x5c && it.prefix == kF3 && !it.memory) {
    const bool distinct = it.reg != it.rm && it.reg != it.vvvv && it.rm != it.vvvv;
    if (!distinct || it.rm > 7 || it.vvvv > 7) return false;  // the CPU refuses these too
    DotProducts(it.reg, it.rm, it.vvvv);
    return true;
  }
  return false;
}

void OnIllegalInstruction(int signal, siginfo_t*, void* raw) {
  auto& context = *static_cast<ucontext_t*>(raw);
  Instruction instruction;
  if (!Decode(context, instruction) || !Execute(instruction)) {
    sigaction(signal, &g_before, nullptr);  // it comes again, and ends the test
    return;
  }
  ++g_state.instructions;
  context.uc_mcontext.gregs[REG_RIP] += instruction.length;
}

}  // namespace

AmxTrap::AmxTrap() {
  g_state = State();
  struct sigaction action = {};
  action.sa_sigaction = &OnIllegalInstruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &g_before);
}

AmxTrap::~AmxTrap() { sigaction(SIGILL, &g_before, nullptr); }

bool AmxTrap::Supported() { return true; }

long AmxTrap::instructions() const { return g_state.instructions; }

}  // namespace pennyweight

#else

namespace pennyweight {
AmxTrap::AmxTrap() = default;
AmxTrap::~AmxTrap() = default;
bool AmxTrap::Supported() { return false; }
long AmxTrap::instructions() const { return 0; }
}  // namespace pennyweight

#endif
