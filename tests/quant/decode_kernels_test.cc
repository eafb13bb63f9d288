#include "quant/decode_kernels.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "hwy/highway.h"
#include "quant/codec_blocks.h"

namespace pennyweight {
namespace {

TEST_CASE("runs of random blocks decode to the bits of the plain decoders on every target") {
  std::random_device device;
  const uint32_t seed = device();
  CAPTURE(seed);
  int types = 0;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    CAPTURE(hwy::TargetName(target));
    types = 0;
    std::mt19937 rng(seed);
    for (int type = 0; type <= static_cast<int>(BlockType::kQ2_0); ++type) {
      const BlockTraits& traits = TraitsOf(static_cast<BlockType>(type));
      const RunDecoder run = FindRunDecoder(traits.type);
      if (run == nullptr) continue;
      ++types;
      CAPTURE(traits.name);
      // Any bytes are blocks: scales among them are denormal, infinite and NaN too.
      constexpr int64_t kBlocks = 700;
      std::vector<uint8_t> bytes(static_cast<size_t>(kBlocks * traits.bytes) + 1);
      for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
      const uint8_t* blocks = bytes.data() + 1;  // not aligned
      const auto count = static_cast<size_t>(kBlocks * traits.elements);
      std::vector<float> got(count + 1, 42.0f), want(count);
      run(blocks, kBlocks, got.data());
      const BlockDecoder plain = FindBlockDecoder(traits.type);
      for (int64_t b = 0; b < kBlocks; ++b) {
        plain(blocks + b * traits.bytes, want.data() + b * traits.elements);
      }
      size_t wrong = 0;
      for (size_t i = 0; i < count; ++i) {
        const bool same = std::isnan(want[i])
                              ? std::isnan(got[i])
                              : std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(want[i]);
        wrong += !same;
      }
      CHECK(wrong == 0);
      CHECK(got[count] == 42.0f);
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  CHECK(types == 13);
  CHECK(!FindRunDecoder(BlockType::kIQ1_S));
}

}  // namespace
}  // namespace pennyweight
