#include "quant/grid.h"

#include "quant/grid_types.h"

namespace pennyweight {

std::unique_ptr<BlockGrid> MakeGrid(const Encoding& encoding, int64_t cols) {
  if (cols <= 0) return nullptr;
  if (encoding.kind == Encoding::Kind::kInteger) {
    const IntegerSpec& spec = encoding.integer;
    if (spec.group_size < 0 || (spec.group_size > 0 && cols % spec.group_size != 0)) return nullptr;
    return MakeIntegerGrid(spec, cols);
  }
  if (encoding.kind != Encoding::Kind::kBlock) return nullptr;
  if (cols % TraitsOf(encoding.block).elements != 0) return nullptr;
  switch (encoding.block) {
    case BlockType::kQ4_0:
    case BlockType::kQ4_1:
    case BlockType::kQ5_0:
    case BlockType::kQ5_1:
    case BlockType::kQ8_0:
      return MakeLegacyGrid(encoding.block);
    case BlockType::kQ2_K:
    case BlockType::kQ4_K:
    case BlockType::kQ5_K:
      return MakeAffineKGrid(encoding.block);
    case BlockType::kQ3_K:
    case BlockType::kQ6_K:
      return MakeSymmetricKGrid(encoding.block);
    default:
      return nullptr;
  }
}

}  // namespace pennyweight
