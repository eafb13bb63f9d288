#include "lib/arch/fold_points.h"

#include <doctest/doctest.h>

#include <string>

namespace pennyweight {
namespace {

std::string Short(std::string_view pattern) {
  std::string text(pattern);
  if (text.ends_with(".weight")) text.resize(text.size() - 7);
  return text.substr(text.find_last_of('.') + 1);
}

// "input_layernorm>q_proj,k_proj,v_proj", in the order of the layer.
std::vector<std::string> Points(const std::string& family) {
  std::vector<std::string> out;
  for (const FoldPoint& point : FoldPointsOf(*FindFamily(family))) {
    std::string text = Short(point.producer) + (point.per_expert ? "*>" : ">");
    for (const std::string_view consumer : point.consumers) text += Short(consumer) + ",";
    out.push_back(text);
  }
  return out;
}

TEST_CASE("fold points of the families") {
  const std::vector<std::string> dense = {"input_layernorm>q_proj,k_proj,v_proj,", "v_proj>o_proj,",
                                          "post_attention_layernorm>gate_proj,up_proj,",
                                          "up_proj>down_proj,"};
  CHECK(Points("llama") == dense);
  CHECK(Points("mistral") == dense);
  CHECK(Points("qwen2") == dense);
  CHECK(Points("mixtral") ==
        std::vector<std::string>{"input_layernorm>q_proj,k_proj,v_proj,", "v_proj>o_proj,",
                                 "post_attention_layernorm>gate,w1,w3,", "w3*>w2,"});
}

TEST_CASE("a block reaches from its norm to the addition of its result") {
  for (const char* name : {"llama", "qwen2", "mixtral"}) {
    const Family& family = *FindFamily(name);
    for (const FoldPoint& point : FoldPointsOf(family)) {
      CHECK(family.layer[point.begin].kind == StepKind::kRmsNorm);
      CHECK(family.layer[point.end].kind == StepKind::kAdd);
    }
  }
}

TEST_CASE("steps that do not commute with scales take the point away") {
  const Family& llama = *FindFamily("llama");
  const auto kinds = [](const std::vector<Step>& steps) {
    Family family = *FindFamily("llama");
    family.layer = steps;
    std::string out;
    for (const FoldPoint& point : FoldPointsOf(family)) {
      out += "nvu"[static_cast<size_t>(point.kind)];
    }
    return out;
  };
  std::vector<Step> steps(llama.layer.begin(), llama.layer.end());
  CHECK(kinds(steps) == "nvnu");
  // Something beside linears reads the normed rows.
  std::vector<Step> reads = steps;
  reads.insert(reads.begin() + 1, {StepKind::kRope, Slot::kNormed, Slot::kNormed});
  CHECK(kinds(reads) == "vnu");
  // v is changed before it is attended to.
  std::vector<Step> changes = steps;
  changes.insert(changes.begin() + 4, {StepKind::kRope, Slot::kV, Slot::kV});
  CHECK(kinds(changes) == "nnu");
}

TEST_CASE("columns of o read the channels of v by groups of heads") {
  ModelConfig config;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 3;
  const int64_t want[] = {0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5};
  for (int64_t c = 0; c < 12; ++c) {
    CHECK(ProducerChannel(FoldPoint::Kind::kValue, config, c) == want[c]);
    CHECK(ProducerChannel(FoldPoint::Kind::kUp, config, c) == c);
  }
}

}  // namespace
}  // namespace pennyweight
