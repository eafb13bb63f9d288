// What a walk takes (declared in calib/layer_walk.h).
#include <algorithm>
#include <map>

#include "calib/layer_walk.h"
#include "lib/checked.h"
#include "quant/gptq_plan.h"

namespace pennyweight {
namespace {

// The program, its packing buffers, and what the system adds to them.
constexpr uint64_t kOverheadBytes = 48ull << 20;

uint64_t EncodedBytes(const Encoding& encoding, int64_t rows, int64_t cols) {
  // Of some rows: types whose scales span rows have no size of one.
  const int64_t sample = std::min<int64_t>(rows, TensorSink::kTileRows);
  if (sample == 0) return 0;
  const EncodedTensor tile = EncodedTensor::Allocate(encoding, sample, cols);
  const size_t bytes = tile.data.size() + tile.codes.size() + tile.scales.size() +
                       tile.zeros.size() + tile.group_of_column.size() * sizeof(int32_t);
  return static_cast<uint64_t>(CeilDiv(rows, sample)) * bytes;
}

// Sizes of the largest decoder layer.
struct LayerBytes {
  uint64_t original = 0;  // weights as they are run
  uint64_t encoded = 0;   // weights as they will be written
  uint64_t tile = 0;      // a tile of the largest matrix, as floats
};

LayerBytes LayerBytesOf(const WalkInput& input) {
  std::map<int64_t, LayerBytes> layers;
  uint64_t tile = 0;
  const std::vector<TensorInfo>& tensors = input.model->source->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i];
    tile = std::max(
        tile, static_cast<uint64_t>(std::min(info.rows(), JobRows(info.cols())) * info.cols()));
    const int64_t layer = PlaceOfHf(*input.model->family, info.name).layer;
    if (layer < 0) continue;
    const bool half = info.encoding == Encoding::Plain(DType::kF16) ||
                      info.encoding == Encoding::Plain(DType::kBF16);
    layers[layer].original += static_cast<uint64_t>(info.elements()) * (half ? 2 : sizeof(float));
    layers[layer].encoded += EncodedBytes(input.choices[i].encoding, info.rows(), info.cols());
  }
  LayerBytes largest;
  for (const auto& [layer, bytes] : layers) {
    largest.original = std::max(largest.original, bytes.original);
    largest.encoded = std::max(largest.encoded, bytes.encoded);
  }
  largest.tile = tile * sizeof(float);
  return largest;
}

int64_t HeldOutTokens(const Windows& windows) {
  int64_t n = 0;
  for (size_t i = 0; i < windows.lengths.size(); ++i) {
    if (IsHeldOut(static_cast<int64_t>(i))) n += windows.lengths[i];
  }
  return n;
}

// The inputs of a layer's matrices.
struct InputWidth {
  int64_t k;
  bool in_panels;
};
std::vector<InputWidth> InputWidths(const ModelConfig& c) {
  const int64_t q = c.heads * c.head_dim;
  return {{c.hidden_size, CandidateMaker::InPanels(c.hidden_size, c.experts > 0)},
          {q, CandidateMaker::InPanels(q, false)},
          {c.intermediate_size, CandidateMaker::InPanels(c.intermediate_size, c.experts > 0)}};
}

}  // namespace

int64_t LayerWalk::PanelWidth(const WalkInput& input) {
  int64_t widest = 0;
  for (const auto& [k, in_panels] : InputWidths(*input.model->config)) {
    if (in_panels) widest = std::max(widest, k);
  }
  return widest;
}

uint64_t LayerWalk::HiddenBytes(const WalkInput& input) {
  const int64_t all = input.windows->tokens(), heldout = HeldOutTokens(*input.windows);
  const int64_t copies = Plans(input, heldout).size() > 1 ? 2 : 1;
  const int64_t rows = copies * (all + (Corrects(input.method) ? all : heldout)) + heldout;
  return static_cast<uint64_t>(rows * input.model->config->hidden_size) * sizeof(float);
}

uint64_t LayerWalk::WorkingBytes(const WalkInput& input) {
  const ModelConfig& c = *input.model->config;
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, q});
  const int64_t heldout = HeldOutTokens(*input.windows);
  int64_t chunk = WalkTokens::kChunkTokens;
  for (const int64_t n : input.windows->lengths) chunk = std::max(chunk, n);
  chunk = std::min(chunk, input.windows->tokens());
  // Rows of the experts' part of a chunk, and all else that is alive between two steps. Twice the
  // widest: the copy of a stage's input, and the differences that its correction is made from.
  const int64_t per_token = c.experts == 0      ? 1
                            : input.all_experts ? c.experts
                                                : std::max<int64_t>(1, c.experts_per_token);
  const int64_t activations =
      chunk * (4 * c.hidden_size + 2 * q + 2 * kv + c.experts) +
      chunk * per_token *
          (3 * c.intermediate_size + 2 * widest + (c.experts > 0 ? 2 * c.hidden_size : 0));
  const LayerBytes layer = LayerBytesOf(input);
  const bool several = Plans(input, heldout).size() > 1;
  uint64_t bytes = kOverheadBytes + layer.original + static_cast<uint64_t>(activations) * 4;
  bytes += 2 * layer.encoded;  // two candidates; or one, and what rtn gave
  // One input's statistics at a time, that of the widest; the first stage's stay while there are
  // other candidates.
  const bool drift = Corrects(input.method);
  uint64_t statistics = 0;
  for (const auto& [k, in_panels] : InputWidths(c)) {
    uint64_t each = InputStatistics::Bytes(k, c.experts > 0 ? 0 : heldout, drift, in_panels);
    // And the strips that are read of them.
    if (in_panels) each += PanelMatrix::LeastBytes(k) + static_cast<uint64_t>(8 * kGptqPanel * k);
    statistics = std::max(statistics, each);
  }
  bytes += statistics;
  // gptq's factor in the order of coding.
  int64_t reordered = 0;
  for (const auto& [k, in_panels] : InputWidths(c)) {
    if (k <= GptqPlan::kMostReordered) reordered = std::max(reordered, k);
  }
  if (drift) bytes += static_cast<uint64_t>(reordered * reordered) * sizeof(float);
  // What experts have in common.
  if (c.experts > 0) bytes += static_cast<uint64_t>(widest * widest) * sizeof(float);
  if (several) bytes += InputStatistics::Bytes(c.hidden_size, heldout, drift);
  // The tiles of a matrix with what gptq keeps of its rows, and what they make of the held-out
  // rows.
  const int64_t rows = std::min(heldout, 2 * InputStatistics::kHeldOutRows);
  bytes += 7 * layer.tile + static_cast<uint64_t>(3 * rows * std::min(widest, JobRows(widest))) * 4;
  if (several) bytes += 2 * static_cast<uint64_t>(c.hidden_size * chunk) * 4;
  return bytes;
}

}  // namespace pennyweight
