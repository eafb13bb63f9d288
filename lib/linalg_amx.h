// Products of bf16 by the AMX units of x86 (Intel Architecture Instruction Set Extensions,
// "Advanced Matrix Extensions"). Private to lib/linalg_*.cc and their tests.
#pragma once

#include "lib/linalg_tile.h"

namespace pennyweight::linalg {

// True when this program was compiled with AMX, the CPU has its bf16 products, and the kernel
// gives the process the tile registers. Asks once; the answer holds for all threads.
bool HaveAmx();

// A tile of packed bf16 panels. Only where HaveAmx(). update is kStore or kAdd.
void AmxTile(const TileArgs& args);

// The same in plain code that follows the documented semantics of the instructions. Slow.
void EmulatedAmxTile(const TileArgs& args);

}  // namespace pennyweight::linalg
