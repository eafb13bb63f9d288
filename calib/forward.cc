#include "calib/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "calib/ops.h"
#include "lib/checked.h"
#include "lib/limits.h"
#include "lib/linalg.h"
#include "lib/parallel.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

constexpr size_t Index(Slot slot) { return static_cast<size_t>(slot); }

// The frequency of each pair of a head, radians per position: theta^(-2i / head_dim), scaled.
// Llama 3: transformers, modeling_rope_utils.py, _compute_llama3_parameters.
std::vector<double> RopeFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(config.rope_theta,
                        -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (scaling.kind == RopeScaling::Kind::kLinear) {
      f /= scaling.factor;
    } else if (scaling.kind == RopeScaling::Kind::kLlama3) {
      const auto original = static_cast<double>(scaling.original_context_length);
      const double wavelength = 2 * std::numbers::pi / f;
      if (wavelength > original / scaling.low_freq_factor) {
        f /= scaling.factor;
      } else if (wavelength >= original / scaling.high_freq_factor) {
        const double s = (original / wavelength - scaling.low_freq_factor) /
                         (scaling.high_freq_factor - scaling.low_freq_factor);
        f *= (1 - s) / scaling.factor + s;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

}  // namespace

Status CheckRunnable(const ModelConfig& config) {
  const auto sizes = {config.hidden_size, config.intermediate_size, config.layers,    config.heads,
                      config.kv_heads,    config.head_dim,          config.vocab_size};
  if (std::ranges::min(sizes) <= 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("the model cannot be run: a size is not positive (hidden {}, ffn {}, "
                             "layers {}, heads {}, kv heads {}, head {}, vocabulary {})",
                             config.hidden_size, config.intermediate_size, config.layers,
                             config.heads, config.kv_heads, config.head_dim, config.vocab_size));
  }
  if (config.heads % config.kv_heads != 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("{} attention heads cannot share {} key and value heads evenly",
                             config.heads, config.kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("heads of {} dimensions cannot be rotated in pairs", config.head_dim));
  }
  const bool experts = config.experts != 0;
  if (config.experts < 0 || config.experts > limits::kExperts ||
      (experts && (config.experts_per_token < 1 || config.experts_per_token > config.experts))) {
    return Error(ErrorCode::kConfigInvalid, fmt::format("{} of {} experts cannot be chosen",
                                                        config.experts_per_token, config.experts));
  }
  return OkStatus();
}

LayerRunner::LayerRunner(const Family& family, const ModelConfig& config)
    : family_(family), config_(config), buffers_(Index(Slot::kNone) + 1) {}

int64_t LayerRunner::width(Slot slot) const {
  switch (slot) {
    case Slot::kHidden:
    case Slot::kNormed:
    case Slot::kDelta:
    case Slot::kExpertIn:
    case Slot::kExpertDelta:
      return config_.hidden_size;
    case Slot::kQ:
    case Slot::kAttn:
      return config_.heads * config_.head_dim;
    case Slot::kK:
    case Slot::kV:
      return config_.kv_heads * config_.head_dim;
    case Slot::kGate:
    case Slot::kUp:
    case Slot::kGated:
    case Slot::kExpertGate:
    case Slot::kExpertUp:
    case Slot::kExpertGated:
      return config_.intermediate_size;
    case Slot::kRouterLogits:
      return config_.experts;
    case Slot::kNone:
      break;
  }
  return 0;
}

const float* LayerRunner::slot(Slot slot) const { return buffers_[Index(slot)].data(); }

int64_t LayerRunner::rows(Slot slot) const {
  switch (slot) {
    case Slot::kExpertIn:
    case Slot::kExpertGate:
    case Slot::kExpertUp:
    case Slot::kExpertGated:
    case Slot::kExpertDelta:
      return routing_.begin.empty() ? 0 : routing_.begin.back();
    default:
      return tokens_;
  }
}

float* LayerRunner::Buffer(Slot slot) {
  std::vector<float>& buffer = buffers_[Index(slot)];
  const auto size = static_cast<size_t>(rows(slot) * width(slot));
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

void LayerRunner::PreparePositions(int64_t positions) {
  const int64_t half = config_.head_dim / 2;
  const int64_t known = half == 0 ? positions : static_cast<int64_t>(rope_cos_.size()) / half;
  if (positions <= known) return;
  const std::vector<double> frequencies = RopeFrequencies(config_);
  rope_cos_.resize(static_cast<size_t>(positions * half));
  rope_sin_.resize(static_cast<size_t>(positions * half));
  for (int64_t p = known; p < positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
      rope_cos_[static_cast<size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
      rope_sin_[static_cast<size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
    }
  }
}

void LayerRunner::Run(const Context& context, const LayerWeights& weights,
                      std::span<const int64_t> windows, size_t begin, size_t end, float* hidden) {
  tokens_ = 0;
  int64_t longest = 0;
  for (const int64_t length : windows) {
    tokens_ += length;
    longest = std::max(longest, length);
  }
  PreparePositions(longest);
  for (size_t i = begin; i < end; ++i) {
    Step1(context, weights, windows, family_.layer[i], hidden);
  }
}

void LayerRunner::Step1(const Context& context, const LayerWeights& weights,
                        std::span<const int64_t> windows, const Step& step, float* hidden) {
  const auto values = [&](Slot slot) { return slot == Slot::kHidden ? hidden : Buffer(slot); };
  const float* in = values(step.in);
  // Before its output has a place: the rows of the experts follow from it.
  if (step.kind == StepKind::kRoute) Route(in);
  float* out = values(step.out);
  const int64_t n = width(step.out);
  switch (step.kind) {
    case StepKind::kRmsNorm:
      RmsNorm(context, weights.at({step.weight}), in, tokens_, out);
      break;
    case StepKind::kLinear:
      Linear(context, weights.at({step.weight}), in, width(step.in), tokens_, out);
      break;
    case StepKind::kRope:
      Rotate(context, windows, n / config_.head_dim, out);
      break;
    case StepKind::kAttention:
      Attend(context, windows, out);
      break;
    case StepKind::kSiluGate: {
      const float* up = values(step.in2);
      ForRowBlocks(context, rows(step.out), [&](int64_t first, int64_t last) {
        SiluGateRow(in + first * n, up + first * n, (last - first) * n, out + first * n);
      });
      break;
    }
    case StepKind::kAdd:
      ForRowBlocks(context, tokens_, [&](int64_t first, int64_t last) {
        AddRow(in + first * n, (last - first) * n, out + first * n);
      });
      break;
    case StepKind::kRoute:
      GatherRows(context, values(step.in2), out);
      break;
    case StepKind::kExpertLinear:
      ExpertLinear(context, weights, step, in, out);
      break;
    case StepKind::kExpertSum:
      SumExperts(context, in, out);
      break;
  }
}

void LayerRunner::RmsNorm(const Context& context, const Weight& weight, const float* in,
                          int64_t tokens, float* out) const {
  const int64_t n = config_.hidden_size;
  std::vector<float> gain(static_cast<size_t>(n));
  DecodeToFloat(weight.dtype, weight.data.data(), gain.data(), gain.size());
  ForRowBlocks(context, tokens, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      RmsNormRow(in + t * n, gain.data(), n, config_.rms_norm_eps, out + t * n);
    }
  });
}

void LayerRunner::Linear(const Context& context, const Weight& weight, const float* in,
                         int64_t in_width, int64_t tokens, float* out) const {
  GemmArgs args;
  args.m = tokens;
  args.n = weight.rows;
  args.k = weight.cols;
  args.a = in;
  args.a_stride = in_width;
  args.b = weight.data.data();
  args.b_dtype = weight.dtype;
  args.b_stride = weight.cols;
  args.c = out;
  args.c_stride = weight.rows;
  args.precision = precision_;
  if (weight.tiles.empty()) Gemm(context, args);
  std::vector<float> decoded;
  for (const EncodedTensor& tile : weight.tiles) {
    decoded.resize(static_cast<size_t>(tile.rows * tile.cols));
    ForRowBlocks(context, tile.rows, [&](int64_t first, int64_t last) {
      DecodeRows(tile, first, last - first, decoded.data() + first * tile.cols);
    });
    args.n = tile.rows;
    args.b = decoded.data();
    args.b_dtype = DType::kF32;
    Gemm(context, args);
    args.c += tile.rows;
  }
  if (weight.bias.empty()) return;
  ForRowBlocks(context, tokens, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      AddRow(weight.bias.data(), weight.rows, out + t * weight.rows);
    }
  });
}

void LayerRunner::Rotate(const Context& context, std::span<const int64_t> windows, int64_t heads,
                         float* rows) const {
  std::vector<int64_t> positions;
  for (const int64_t length : windows) {
    for (int64_t p = 0; p < length; ++p) positions.push_back(p);
  }
  const int64_t half = config_.head_dim / 2;
  ForRowBlocks(context, static_cast<int64_t>(positions.size()), [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t at = positions[static_cast<size_t>(t)] * half;
      RotateHeads(rows + t * heads * config_.head_dim, heads, config_.head_dim,
                  rope_cos_.data() + at, rope_sin_.data() + at);
    }
  });
}

// The scores of one head for kQueryBlock queries are held at a time: [queries, keys so far] = Q
// K^T, their softmax, times V. Such a block is a task: one long window keeps every thread busy.
void LayerRunner::Attend(const Context& context, std::span<const int64_t> windows,
                         float* out) const {
  struct Block {
    int64_t start;  // token at which the window begins
    int64_t first;  // query, in the window
    int64_t queries;
  };
  std::vector<Block> blocks;
  int64_t start = 0;
  for (const int64_t length : windows) {
    for (int64_t first = 0; first < length; first += kQueryBlock) {
      blocks.push_back({start, first, std::min(kQueryBlock, length - first)});
    }
    start += length;
  }
  const auto tasks = static_cast<int64_t>(blocks.size()) * config_.heads;
  ParallelFor(context, tasks, [&](int64_t task) {
    const Block& block = blocks[static_cast<size_t>(task / config_.heads)];
    AttendBlock(context, task % config_.heads, block.start, block.first, block.queries, out);
  });
}

void LayerRunner::AttendBlock(const Context& context, int64_t head, int64_t start, int64_t first,
                              int64_t queries, float* out) const {
  const int64_t q_width = width(Slot::kQ);
  const int64_t kv_width = width(Slot::kK);
  const int64_t dim = config_.head_dim;
  const int64_t kv_head = head / (config_.heads / config_.kv_heads);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  Context serial = context;  // a task's own products are too small to be divided again
  serial.threads = 1;
  const int64_t keys = first + queries;
  std::vector<float> scores(static_cast<size_t>(queries * keys));
  Gemm(serial, {.m = queries,
                .n = keys,
                .k = dim,
                .a = slot(Slot::kQ) + (start + first) * q_width + head * dim,
                .a_stride = q_width,
                .b = slot(Slot::kK) + start * kv_width + kv_head * dim,
                .b_dtype = DType::kF32,
                .b_stride = kv_width,
                .c = scores.data(),
                .c_stride = keys,
                .accumulate = false});
  for (int64_t i = 0; i < queries; ++i) {
    float* row = scores.data() + i * keys;
    SoftmaxRow(row, first + i + 1, scale);
    std::fill(row + first + i + 1, row + keys, 0.0f);
  }
  GemmNn(serial, {.m = queries,
                  .n = dim,
                  .k = keys,
                  .a = scores.data(),
                  .a_stride = keys,
                  .b = slot(Slot::kV) + start * kv_width + kv_head * dim,
                  .b_stride = kv_width,
                  .c = out + (start + first) * q_width + head * dim,
                  .c_stride = q_width,
                  .accumulate = false,
                  .subtract = false});
}

}  // namespace pennyweight
