// A whole model over windows of tokens, one decoder layer in memory at a time; and its logits, in
// tiles of the vocabulary. The partition into chunks, blocks and tiles is constant: results depend
// neither on memory nor on threads.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/forward.h"
#include "calib/hidden_store.h"
#include "calib/windows.h"
#include "lib/context.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

// A model that can be run; the parts belong to somebody else.
struct RunnableModel {
  const TensorSource* source = nullptr;
  const Family* family = nullptr;
  const ModelConfig* config = nullptr;
};

// Errors: kUnknownFamily (no configuration, or of no family that can be run; the hint lists them),
// the model's own config_error where it has one, kConfigInvalid, kTensorMissing (no head).
Result<RunnableModel> MakeRunnable(const Model& model);

// Consecutive whole windows that pass through a layer together.
struct WindowChunk {
  int64_t token = 0;  // the first
  int64_t tokens = 0;
  std::span<const int64_t> windows;  // their lengths, a part of what was cut
};
// Chunks of at most kChunkTokens, or of one longer window.
inline constexpr int64_t kChunkTokens = 2048;
std::vector<WindowChunk> CutChunks(std::span<const int64_t> lengths);

// Bytes that running a model takes beside the hidden states: an upper estimate.
uint64_t RunBytes(const RunnableModel& model, std::span<const int64_t> lengths);

// One row of the model's last, normed hidden states for every token whose next token is scored, in
// order: [scored tokens, hidden_size]. scratch_dir: where states go that do not fit
// context.memory_limit ("" is only for memory). `who` stands in front of the phase ("reference: ").
// Errors: kMemory, kInterrupted, kTokenizer (an id outside the embedding), those of LoadWeight.
Result<HiddenStore> RunModel(const Context& context, const RunnableModel& model,
                             const Windows& windows, const std::string& scratch_dir,
                             std::string_view who);

// Positions whose next token is scored, over all windows: index into Windows::ids.
std::vector<int64_t> ScoredPositions(const Windows& windows);

// Rows [row, row + count) of the matrix that makes logits: the head, or the embedding when tied.
Result<Weight> LoadHeadRows(const RunnableModel& model, int64_t row, int64_t count);

// logits[tokens, head.rows] = normed[tokens, hidden_size] times the head's rows.
void MultiplyHead(const Context& context, const Weight& head, const float* normed, int64_t tokens,
                  float* logits);

// The final norm, in place, on rows [tokens, hidden_size].
Status FinalNorm(const Context& context, const RunnableModel& model, int64_t tokens, float* hidden);

}  // namespace pennyweight
