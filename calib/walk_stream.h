// Hidden states of one model on their way through a decoder layer: the layer's input, and how far
// the states have been run on from there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "calib/hidden_store.h"
#include "calib/walk_tokens.h"
#include "lib/result.h"

namespace pennyweight {

class WalkStream {
 public:
  // Of the walk's tokens [first_token, first_token + tokens). keeps_input: the layer's input stays
  // when states are run on, so that the layer can be run several times; that takes a second store.
  // scratch_dir: as HiddenStore.
  static Result<WalkStream> Create(int64_t first_token, int64_t tokens, int64_t width,
                                   bool keeps_input, const std::string& scratch_dir);

  // True when the stream holds the chunk's tokens.
  bool Holds(const WalkChunk& chunk) const { return chunk.token >= first_token_; }
  int64_t first_token() const { return first_token_; }

  // The furthest step, at or before `step`, whose input is there for the chunk's kind of tokens.
  size_t From(const WalkChunk& chunk, size_t step) const;
  // States at step From(...).
  Status Read(const WalkChunk& chunk, size_t from, std::vector<float>* hidden) const;
  // States that were run on; once all chunks of a kind are written, Reached tells how far.
  Status Write(const WalkChunk& chunk, const float* hidden);
  void Reached(bool heldout, size_t step) { reached_[heldout ? 1 : 0] = step; }
  // Back to the layer's input. Precondition: keeps_input, or nothing was written.
  void Rewind() { reached_[0] = reached_[1] = 0; }
  // All states have reached the layer's end: the next layer's input.
  void EndLayer();

  // Layer inputs of tokens [token, token + count), and that store itself.
  Status WriteInput(int64_t token, int64_t count, const float* values) {
    return input_.Write(token - first_token_, count, values);
  }
  Status ReadInput(int64_t token, int64_t count, float* values) const {
    return input_.Read(token - first_token_, count, values);
  }
  HiddenStore& input() { return input_; }
  const HiddenStore& input() const { return input_; }

 private:
  WalkStream(int64_t first_token, HiddenStore input, std::optional<HiddenStore> ahead)
      : first_token_(first_token), input_(std::move(input)), ahead_(std::move(ahead)) {}

  int64_t first_token_;
  HiddenStore input_;
  std::optional<HiddenStore> ahead_;  // without it states are run on in place
  size_t reached_[2] = {0, 0};        // by calibration and held-out tokens
};

}  // namespace pennyweight
