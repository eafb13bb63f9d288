#include "lib/arch/fold_points.h"

#include <algorithm>

namespace pennyweight {
namespace {

constexpr std::string_view kMark = "{}";

bool IsLinear(const Step& step) {
  return step.kind == StepKind::kLinear || step.kind == StepKind::kExpertLinear;
}

// A block of a layer: from a norm to the step that adds its result.
struct Block {
  size_t begin = 0;
  size_t end = 0;
};

std::vector<Block> BlocksOf(const Family& family) {
  std::vector<Block> blocks;
  for (size_t i = 0; i < family.layer.size(); ++i) {
    if (family.layer[i].kind != StepKind::kRmsNorm) continue;
    size_t end = i + 1;
    while (end < family.layer.size() && family.layer[end].kind != StepKind::kAdd) ++end;
    if (end < family.layer.size()) blocks.push_back({i, end});
  }
  return blocks;
}

// The only step of a block that writes `slot`, when it is a linear; nullptr otherwise. A step that
// changes the slot in place (rope, a norm of heads) would not commute with scales.
const Step* OnlyLinearInto(const Family& family, const Block& block, Slot slot) {
  const Step* found = nullptr;
  for (size_t i = block.begin; i < block.end; ++i) {
    const Step& step = family.layer[i];
    if (step.out != slot) continue;
    if (found != nullptr || !IsLinear(step)) return nullptr;
    found = &step;
  }
  return found;
}

// The linears that read `slot`, or the rows that a router gathers of it; empty when anything else
// reads it.
std::vector<std::string_view> LinearsFrom(const Family& family, const Block& block, Slot slot) {
  std::vector<std::string_view> consumers;
  for (size_t i = block.begin; i < block.end; ++i) {
    const Step& step = family.layer[i];
    if (step.in != slot && step.in2 != slot) continue;
    if (step.kind == StepKind::kRoute && step.in2 == slot) {
      const std::vector<std::string_view> experts = LinearsFrom(family, block, step.out);
      if (experts.empty()) return {};
      consumers.insert(consumers.end(), experts.begin(), experts.end());
      continue;
    }
    if (!IsLinear(step)) return {};
    consumers.push_back(step.weight);
  }
  return consumers;
}

void AddPoint(const Block& block, FoldPoint::Kind kind, std::string_view producer,
              std::vector<std::string_view> consumers, std::vector<FoldPoint>* points) {
  if (consumers.empty()) return;
  FoldPoint point;
  point.kind = kind;
  point.producer = producer;
  point.consumers = std::move(consumers);
  point.per_expert = IsExpertPattern(producer);
  point.begin = block.begin;
  point.end = block.end;
  points->push_back(std::move(point));
}

}  // namespace

bool IsExpertPattern(std::string_view pattern) {
  const size_t first = pattern.find(kMark);
  return first != std::string_view::npos &&
         pattern.find(kMark, first + kMark.size()) != std::string_view::npos;
}

std::vector<FoldPoint> FoldPointsOf(const Family& family) {
  std::vector<FoldPoint> points;
  for (const Block& block : BlocksOf(family)) {
    const Step& norm = family.layer[block.begin];
    AddPoint(block, FoldPoint::Kind::kNorm, norm.weight, LinearsFrom(family, block, norm.out),
             &points);
    for (size_t i = block.begin; i < block.end; ++i) {
      const Step& step = family.layer[i];
      const bool attention = step.kind == StepKind::kAttention;
      if (!attention && step.kind != StepKind::kSiluGate) continue;
      const Step* producer = OnlyLinearInto(family, block, attention ? Slot::kV : step.in2);
      if (producer == nullptr) continue;
      AddPoint(block, attention ? FoldPoint::Kind::kValue : FoldPoint::Kind::kUp, producer->weight,
               LinearsFrom(family, block, step.out), &points);
    }
  }
  return points;
}

int64_t ProducerChannel(FoldPoint::Kind kind, const ModelConfig& config, int64_t col) {
  if (kind != FoldPoint::Kind::kValue) return col;
  const int64_t repeat = config.heads / config.kv_heads;
  return col / config.head_dim / repeat * config.head_dim + col % config.head_dim;
}

}  // namespace pennyweight
