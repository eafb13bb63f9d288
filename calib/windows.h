// Token windows: how a text becomes contexts for calibration and evaluation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/tokenizer.h"
#include "lib/model_config.h"
#include "lib/result.h"

namespace pennyweight {

// Contexts of at most `context` ids each, back to back.
struct Windows {
  std::vector<int32_t> ids;
  std::vector<int64_t> lengths;       // of each window
  std::vector<int64_t> first_scored;  // predictions of ids at >= this position are counted
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

struct WindowOptions {
  int64_t context = 512;                 // ids of a window
  std::optional<int64_t> max_tokens;     // whole windows up to this many ids
  std::optional<std::string> separator;  // documents: each alone, in runs of context - 1 behind BOS
};

// Without a separator: one stream, cut into full windows, the rest dropped, the first id of each
// replaced by BOS where the model has one; the second half of each window is counted (as llama.cpp
// does). With one: every prediction is counted, short last runs too, blank documents are dropped.
// Errors: kTextTooShort (fewer than two windows without a separator, none with one).
Result<Windows> MakeWindows(const Tokenizer& tokenizer, const Vocabulary& vocabulary,
                            std::string_view text, const WindowOptions& options);

// True for the windows that calibration fits nothing to: every eighth.
inline bool IsHeldOut(int64_t window) { return window % 8 == 7; }

}  // namespace pennyweight
