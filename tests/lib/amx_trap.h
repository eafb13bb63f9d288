// Runs AMX machine code on a CPU that has none: the signal that each of its instructions raises is
// answered by doing what the instruction would have done.
#pragma once

namespace pennyweight {

// While it lives, the tile instructions that lib/linalg_amx_tile.cc is compiled to work on the
// thread that made it. One at a time.
class AmxTrap {
 public:
  AmxTrap();
  ~AmxTrap();
  AmxTrap(const AmxTrap&) = delete;
  AmxTrap& operator=(const AmxTrap&) = delete;
  // False on other architectures and systems.
  static bool Supported();
  // Instructions answered since it was made.
  long instructions() const;
};

}  // namespace pennyweight
