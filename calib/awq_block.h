// One block of a decoder layer (norm to addition) in which some linears are rounded: how far its
// output moves. The block may be narrower than the model's: some heads, some channels of the
// feed-forward part, which make up a block of their own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "calib/awq_scales.h"
#include "calib/awq_search.h"
#include "calib/forward.h"
#include "lib/arch/fold_points.h"
#include "lib/context.h"
#include "lib/folded_source.h"
#include "lib/result.h"

namespace pennyweight {

// Windows of tokens and their hidden states in front of a block.
struct AwqStream {
  std::span<const int64_t> windows;
  int64_t tokens = 0;
  std::vector<float> hidden;
};

// What a linear reads, over the calibration tokens that reach it.
struct InputMoments {
  std::vector<double> mean, square;  // of |x| and of x^2
  int64_t rows = 0;
};
// By the linear's input; expert -1: of no expert.
using BlockInputs = std::map<std::pair<Slot, int64_t>, InputMoments>;

// Folds of a layer's tensors, in the whole model's rows and columns.
using WeightFolds = std::map<WeightKey, Fold>;

class AwqBlock {
 public:
  // The block [begin, end) of `point`, with a copy of its weights.
  static std::unique_ptr<AwqBlock> Whole(const AwqInput& input, const FoldPoint& point);
  // The same with at most about kSearchHeads channels of heads and kSearchChannels of the
  // feed-forward part (shared out among experts), in runs that groups of a quantized row fit in.
  static std::unique_ptr<AwqBlock> Narrow(const AwqInput& input, const FoldPoint& point);
  static constexpr int64_t kSearchHeads = 2048;
  static constexpr int64_t kSearchChannels = 1024;

  // Runs the original block on a stream and keeps its output for Error.
  void Watch(const Context& context, AwqStream* stream);
  // After Watch of a whole block: the moments of what its linears read.
  // Errors: kNonFinite, naming a linear that reads a NaN or an infinity.
  Result<BlockInputs> Inputs() const;

  // |Y - Y'|^2 / |Y|^2 over the watched stream, when tensors `rounded` are rounded with their
  // folds. Errors: those of AwqInput::round; kInterrupted.
  Result<double> Error(const Context& context, const BlockInputs& inputs, const WeightFolds& folds,
                       std::span<const WeightKey> rounded);

 private:
  AwqBlock(const AwqInput& input, const FoldPoint& point);
  void TakeAll();
  void Take(const WeightKey& key, const Step& step);
  // Indices of a slot's channels that are kept; nullptr: all.
  const std::vector<int64_t>* Kept(Slot slot) const;
  Fold Sliced(const Step& step, const Fold& fold) const;
  Result<Weight> Rounded(const Context& context, const BlockInputs& inputs, const WeightKey& key,
                         const Fold& fold) const;

  const AwqInput& in_;
  size_t begin_, end_;
  Slot output_slot_;
  ModelConfig config_;  // narrower, or the model's
  std::vector<int64_t> q_kept_, kv_kept_, channels_kept_;
  LayerWeights weights_;
  LayerRunner runner_;
  AwqStream* stream_ = nullptr;
  std::vector<float> output_;
};

}  // namespace pennyweight
