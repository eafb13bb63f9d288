#include "calib/walk_tokens.h"

#include <algorithm>
#include <numeric>

namespace pennyweight {

WalkTokens::WalkTokens(const Windows& windows) {
  std::vector<int64_t> begins(windows.lengths.size());
  std::exclusive_scan(windows.lengths.begin(), windows.lengths.end(), begins.begin(), int64_t{0});
  std::vector<bool> heldout;
  for (const bool want : {false, true}) {
    for (size_t i = 0; i < windows.lengths.size(); ++i) {
      if (IsHeldOut(static_cast<int64_t>(i)) != want) continue;
      const auto begin = windows.ids.begin() + begins[i];
      ids_.insert(ids_.end(), begin, begin + windows.lengths[i]);
      lengths_.push_back(windows.lengths[i]);
      heldout.push_back(want);
      if (!want) calibration_tokens_ += windows.lengths[i];
    }
  }
  int64_t token = 0;
  for (size_t i = 0; i < lengths_.size();) {
    WalkChunk chunk;
    chunk.token = token;
    chunk.heldout = heldout[i];
    const size_t first = i;
    do {
      chunk.tokens += lengths_[i];
      ++i;
    } while (i < lengths_.size() && heldout[i] == chunk.heldout &&
             chunk.tokens + lengths_[i] <= kChunkTokens);
    chunk.windows = std::span(lengths_).subspan(first, i - first);
    token += chunk.tokens;
    chunks_.push_back(chunk);
  }
}

int64_t WalkTokens::longest_chunk() const {
  int64_t longest = 0;
  for (const WalkChunk& chunk : chunks_) longest = std::max(longest, chunk.tokens);
  return longest;
}

}  // namespace pennyweight
