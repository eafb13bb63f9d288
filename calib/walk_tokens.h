// The windows of a calibration in the order of the walk, cut into chunks that pass through a layer
// together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calib/windows.h"

namespace pennyweight {

// Consecutive windows that are run together.
struct WalkChunk {
  int64_t token = 0;  // first, in the order of WalkTokens
  int64_t tokens = 0;
  std::span<const int64_t> windows;  // their lengths
  bool heldout = false;
};

// The windows of calibration first, then the held-out ones.
class WalkTokens {
 public:
  // Tokens of a chunk: whole windows up to this many. A constant of the algorithm: sums over tokens
  // are made in this partition. A longer window is a chunk of its own.
  static constexpr int64_t kChunkTokens = 2048;

  explicit WalkTokens(const Windows& windows);
  WalkTokens(const WalkTokens&) = delete;
  WalkTokens& operator=(const WalkTokens&) = delete;

  const std::vector<int32_t>& ids() const { return ids_; }
  const std::vector<WalkChunk>& chunks() const { return chunks_; }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }
  int64_t calibration_tokens() const { return calibration_tokens_; }
  int64_t heldout_tokens() const { return tokens() - calibration_tokens_; }
  int64_t longest_chunk() const;

 private:
  std::vector<int32_t> ids_;
  std::vector<int64_t> lengths_;
  int64_t calibration_tokens_ = 0;
  std::vector<WalkChunk> chunks_;  // refer to lengths_
};

}  // namespace pennyweight
