// The calibrated walk: one decoder layer at a time, each stage of linears quantized under the
// activations that the already quantized part of the model produces.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calib/forward.h"
#include "calib/hidden_store.h"
#include "calib/matrix_job.h"
#include "calib/stream_tensors.h"
#include "calib/windows.h"
#include "lib/context.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// What a walk works on; everything outlives it.
struct WalkInput {
  const Model* model = nullptr;  // with family and config
  const Windows* windows = nullptr;
  std::span<const Choice> choices;  // per tensor of the source
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  TensorSink* sink = nullptr;
  std::vector<TensorReport>* reports = nullptr;  // per tensor; error fields are filled
  std::vector<char>* done = nullptr;             // per tensor; set when it was written
  ErrorSums* sums = nullptr;
};

class LayerWalk {
 public:
  // Tokens that go through a layer together: whole windows up to this many. A constant of the
  // algorithm: sums over tokens are made in this partition.
  static constexpr int64_t kChunkTokens = 1024;

  // scratch_dir: where hidden states go when they do not fit context.memory_limit.
  // Errors: kMemory when even then one layer does not fit, naming what is needed.
  static Result<std::unique_ptr<LayerWalk>> Create(const Context& context, const WalkInput& input,
                                                   const std::string& scratch_dir);

  // Bytes that a walk needs beside the hidden states (an upper estimate), and for them.
  static uint64_t WorkingBytes(const WalkInput& input);
  static uint64_t HiddenBytes(const WalkInput& input);

  // Writes the embedding and fills the streams with it. First.
  Status Embed(const Context& context);
  // Quantizes decoder layer `layer`; in order, each once.
  Result<LayerReport> Layer(const Context& context, int64_t layer);
  // Quantizes the head under its own input, where the model has one and it is to be quantized.
  Status Head(const Context& context);

  // Keeps the streams behind `layer` in a file, as SaveHidden.
  Status SaveStreams(const std::string& path, int64_t layer) const;
  // Fills them from there: the next layer is then layer + 1. False as LoadHidden.
  Result<bool> LoadStreams(const std::string& path, int64_t layer);

 private:
  // Consecutive windows that are run together.
  struct Chunk {
    int64_t token = 0;  // first, in the order of the streams
    int64_t tokens = 0;
    std::span<const int64_t> windows;
    bool heldout = false;
  };
  // Linears that read the same input, and where in the family's steps they stand.
  struct Stage {
    size_t first_step = 0;
    std::vector<const Step*> linears;
  };
  // Hidden states through the model; `offset` is the token its first row stands for.
  struct Stream {
    HiddenStore hidden;
    int64_t offset;
  };

  LayerWalk(const WalkInput& input, HiddenStore quantized, HiddenStore original, HiddenStore rtn);
  void OrderWindows();
  std::vector<Stage> Stages() const;
  int64_t IndexOf(std::string_view pattern, int64_t layer) const;

  // True when the stream holds the chunk's tokens.
  static bool Holds(const Stream& stream, const Chunk& chunk) {
    return chunk.token >= stream.offset;
  }
  // Runs a chunk's hidden states, which lie at `checkpoint`, on to the stage's input; keeps those
  // at `advance`, where it is further.
  Status RunToStage(const Context& context, const LayerWeights& weights, const Chunk& chunk,
                    size_t checkpoint, size_t advance, const Stage& stage, Stream* stream);
  Status Accumulate(const Context& context, const LayerWeights& weights,
                    const LayerWeights& original, size_t checkpoint, size_t advance,
                    const Stage& stage, InputStatistics* statistics);
  Result<bool> Factor(const Context& context, const std::function<Status(InputStatistics*)>& add,
                      InputStatistics* statistics);
  Status QuantizeStage(const Context& context, int64_t layer, const Stage& stage,
                       const InputStatistics& statistics, bool factored, LayerWeights* weights,
                       std::map<std::string_view, EncodedMatrix>* rtn);
  // Writes a tensor that needs no calibration.
  Status StreamOne(const Context& context, size_t index, const RowsCallback& on_rows);
  Status QuantizeLinear(const Context& context, size_t index, const InputStatistics& statistics,
                        bool factored, std::vector<float>* decoded, EncodedMatrix* rtn);
  // Runs all that a stream holds from `checkpoint` to the layer's end.
  Status Finish(const Context& context, const LayerWeights& weights, size_t checkpoint,
                Stream* stream);
  // The rows of the head's input.
  Status HeadInput(const Chunk& chunk, const std::vector<float>& gain, const Stream& stream,
                   std::vector<float>* normed);
  Status MeasureLayer(LayerReport* report);

  WalkInput in_;
  const Family& family_;
  const ModelConfig& config_;
  LayerRunner runner_;
  std::vector<int32_t> ids_;  // calibration windows first, then the held-out ones
  std::vector<int64_t> lengths_;
  int64_t calibration_tokens_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<float> hidden_;          // of one chunk
  std::vector<float> original_input_;  // of one chunk: a stage's input in the original model
  Stream quantized_;                   // all tokens
  Stream original_;                    // all tokens where gptq corrects, else the held-out ones
  Stream rtn_;                         // held-out tokens
};

}  // namespace pennyweight
