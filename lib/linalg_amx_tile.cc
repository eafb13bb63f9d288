// AMX instructions for lib/linalg_amx-inl.h. Compiled with -mamx-tile -mamx-bf16 (CMakeLists.txt)
// and entered only where HaveAmx(): nothing here may be shared with the rest of the program, so
// there are no std templates and no inline functions of other headers.
#include "lib/linalg_amx.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)

#include <immintrin.h>

#include "lib/linalg_amx-inl.h"

namespace pennyweight::linalg {
namespace {

struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The intrinsics want literal tile numbers.
#define PENNYWEIGHT_FOR_TILE(index, operation) \
  if constexpr (index == 0) {                  \
    operation(0);                              \
  } else if constexpr (index == 1) {           \
    operation(1);                              \
  } else if constexpr (index == 2) {           \
    operation(2);                              \
  } else if constexpr (index == 3) {           \
    operation(3);                              \
  } else if constexpr (index == 4) {           \
    operation(4);                              \
  } else if constexpr (index == 5) {           \
    operation(5);                              \
  } else if constexpr (index == 6) {           \
    operation(6);                              \
  } else {                                     \
    operation(7);                              \
  }

class AmxTiles {
 public:
  AmxTiles() {
    TileConfiguration configuration;
    // g++ 12 declares only eight bytes of this and no memory at all for tile loads as read: what
    // was written before must be in memory.
    asm volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int kTile>
  void Zero() {
#define PENNYWEIGHT_ZERO(i) _tile_zero(i)
    PENNYWEIGHT_FOR_TILE(kTile, PENNYWEIGHT_ZERO)
#undef PENNYWEIGHT_ZERO
  }

  // The barriers keep plain stores (the edge buffer) on their side of the tile instructions.
  template <int kTile>
  void Load(const void* from, int64_t stride) {
    asm volatile("" : : : "memory");
#define PENNYWEIGHT_LOAD(i) _tile_loadd(i, from, static_cast<size_t>(stride))
    PENNYWEIGHT_FOR_TILE(kTile, PENNYWEIGHT_LOAD)
#undef PENNYWEIGHT_LOAD
  }

  template <int kTile>
  void Store(void* to, int64_t stride) {
#define PENNYWEIGHT_STORE(i) _tile_stored(i, to, static_cast<size_t>(stride))
    PENNYWEIGHT_FOR_TILE(kTile, PENNYWEIGHT_STORE)
#undef PENNYWEIGHT_STORE
    asm volatile("" : : : "memory");
  }

  template <int kC, int kA, int kB>
  void Dot() {
    static_assert(kC < 4 && kA == 4 + kC / 2 && kB == 6 + kC % 2);
    if constexpr (kC == 0) {
      _tile_dpbf16ps(0, 4, 6);
    } else if constexpr (kC == 1) {
      _tile_dpbf16ps(1, 4, 7);
    } else if constexpr (kC == 2) {
      _tile_dpbf16ps(2, 5, 6);
    } else {
      _tile_dpbf16ps(3, 5, 7);
    }
  }

  static void Prefetch(const void* address) { __builtin_prefetch(address); }
};

}  // namespace

void AmxTile(const TileArgs& args) { AmxProduct<AmxTiles>::Run(args); }

}  // namespace pennyweight::linalg

#endif
