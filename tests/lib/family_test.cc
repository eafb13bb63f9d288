#include "lib/arch/family.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace pennyweight {
namespace {

const Family& Llama() {
  const Family* family = FindFamily("llama");
  REQUIRE(family != nullptr);
  return *family;
}

TEST_CASE("families are found by each of their names") {
  const Family* llama = &Llama();
  CHECK(FindFamilyByHf("LlamaForCausalLM", "llama") == llama);
  CHECK(FindFamilyByHf("LlamaForCausalLM", "") == llama);
  CHECK(FindFamilyByHf("", "llama") == llama);
  CHECK(FindFamilyByGguf("llama") == llama);
  for (const char* name : {"llama", "mistral", "mixtral", "qwen2"}) {
    CAPTURE(name);
    const Family* family = FindFamily(name);
    REQUIRE(family != nullptr);
    CHECK(FindFamilyByHf(family->hf_architecture, "") == family);
    CHECK(FindFamilyByHf("", name) == family);
  }
  CHECK(FindFamilyByHf("MistralForCausalLM", "mistral") == FindFamily("mistral"));
  // Three families share one GGUF architecture: experts tell, and a mistral is a llama there.
  CHECK(FindFamilyByGguf("llama", true) == FindFamily("mixtral"));
  CHECK(FindFamilyByGguf("qwen2") == FindFamily("qwen2"));
  CHECK(FindFamilyByGguf("qwen2", true) == nullptr);
  CHECK(SameComputation(*llama, *FindFamily("mistral")));
  CHECK_FALSE(SameComputation(*llama, *FindFamily("qwen2")));
  CHECK_FALSE(SameComputation(*llama, *FindFamily("mixtral")));
  CHECK(HasExperts(*FindFamily("mixtral")));
  CHECK_FALSE(HasExperts(*FindFamily("qwen2")));
  // Same model type, other computation or other tensors.
  CHECK(FindFamilyByHf("LlamaForSequenceClassification", "llama") == nullptr);
  CHECK(FindFamilyByHf("Qwen2MoeForCausalLM", "qwen2_moe") == nullptr);
  CHECK(FindFamilyByHf("", "") == nullptr);
  CHECK(FindFamilyByGguf("llama4") == nullptr);
  CHECK(FindFamilyByGguf("") == nullptr);
  CHECK(FindFamily("Llama") == nullptr);
}

TEST_CASE("names of llama in both dialects") {
  struct Pair {
    const char* hf;
    const char* gguf;
    Role role;
    RowMap map;
    int64_t layer;
    bool required;
  };
  const Pair pairs[] = {
      {"model.embed_tokens.weight", "token_embd.weight", Role::kEmbedding, RowMap::kNone, -1, true},
      {"model.norm.weight", "output_norm.weight", Role::kNorm, RowMap::kNone, -1, true},
      {"lm_head.weight", "output.weight", Role::kHead, RowMap::kNone, -1, true},
      {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", Role::kNorm,
       RowMap::kNone, 0, true},
      {"model.layers.79.self_attn.q_proj.weight", "blk.79.attn_q.weight", Role::kAttnQ,
       RowMap::kRopeQ, 79, true},
      {"model.layers.10.self_attn.k_proj.weight", "blk.10.attn_k.weight", Role::kAttnK,
       RowMap::kRopeK, 10, true},
      {"model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight", Role::kAttnV, RowMap::kNone,
       3, true},
      {"model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight", Role::kAttnOutput,
       RowMap::kNone, 3, true},
      {"model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight", Role::kNorm,
       RowMap::kNone, 3, true},
      {"model.layers.3.mlp.gate_proj.weight", "blk.3.ffn_gate.weight", Role::kFfnGate,
       RowMap::kNone, 3, true},
      {"model.layers.3.mlp.up_proj.weight", "blk.3.ffn_up.weight", Role::kFfnUp, RowMap::kNone, 3,
       true},
      {"model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight", Role::kFfnDown,
       RowMap::kNone, 3, true},
      {"model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias", Role::kBias, RowMap::kRopeQ, 3,
       false},
      {"model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias", Role::kBias, RowMap::kRopeK, 3,
       false},
      {"model.layers.3.self_attn.o_proj.bias", "blk.3.attn_output.bias", Role::kBias, RowMap::kNone,
       3, false},
      {"model.layers.3.mlp.down_proj.bias", "blk.3.ffn_down.bias", Role::kBias, RowMap::kNone, 3,
       false},
  };
  for (const Pair& pair : pairs) {
    CAPTURE(pair.hf);
    const TensorPlace from_hf = PlaceOfHf(Llama(), pair.hf);
    const TensorPlace from_gguf = PlaceOfGguf(Llama(), pair.gguf);
    REQUIRE(from_hf.rule != nullptr);
    CHECK(from_hf.rule == from_gguf.rule);
    CHECK(from_hf.layer == pair.layer);
    CHECK(from_gguf.layer == pair.layer);
    CHECK(from_hf.rule->role == pair.role);
    CHECK(from_hf.rule->row_map == pair.map);
    CHECK(from_hf.rule->required == pair.required);
    CHECK(NameFor(from_hf.rule->hf, pair.layer) == pair.hf);
    CHECK(NameFor(from_hf.rule->gguf, pair.layer) == pair.gguf);
  }
}

TEST_CASE("a name has one spelling") {
  for (const char* bad :
       {"", "model.layers..self_attn.q_proj.weight", "model.layers.00.self_attn.q_proj.weight",
        "model.layers.01.self_attn.q_proj.weight", "model.layers.+1.self_attn.q_proj.weight",
        "model.layers.-1.self_attn.q_proj.weight", "model.layers. 1.self_attn.q_proj.weight",
        "model.layers.1e1.self_attn.q_proj.weight", "model.layers.{}.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight ", "model.layers.1.2.self_attn.q_proj.weight",
        "model.layers.4096.self_attn.q_proj.weight",
        "model.layers.18446744073709551617.self_attn.q_proj.weight",
        "model.layers.1.self_attn.rotary_emb.inv_freq", "layers.1.self_attn.q_proj.weight",
        "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj"}) {
    CAPTURE(bad);
    CHECK(PlaceOfHf(Llama(), bad).rule == nullptr);
    CHECK(PlaceOfHf(Llama(), bad).layer == -1);
  }
  CHECK(PlaceOfHf(Llama(), "model.layers.4095.self_attn.q_proj.weight").layer == 4095);
  CHECK(PlaceOfGguf(Llama(), "rope_freqs.weight").rule == nullptr);
  CHECK(PlaceOfGguf(Llama(), "model.norm.weight").rule == nullptr);
}

TEST_CASE("names of experts: one matrix each in one dialect, one tensor of all in the other") {
  const Family& mixtral = *FindFamily("mixtral");
  const std::string w2 = "model.layers.3.block_sparse_moe.experts.17.w2.weight";
  const TensorPlace place = PlaceOfHf(mixtral, w2);
  REQUIRE(place.rule != nullptr);
  CHECK(place.layer == 3);
  CHECK(place.expert == 17);
  CHECK(place.rule->role == Role::kFfnDown);
  CHECK(IsExpertRule(*place.rule));
  CHECK(NameFor(place.rule->hf, 3, 17) == w2);
  CHECK(NameFor(place.rule->gguf, 3, 17) == "blk.3.ffn_down_exps.weight");
  const TensorPlace stack = PlaceOfGguf(mixtral, "blk.3.ffn_down_exps.weight");
  CHECK(stack.rule == place.rule);
  CHECK(stack.layer == 3);
  CHECK(stack.expert == -1);
  const std::string experts = "model.layers.0.block_sparse_moe.experts.";
  CHECK(PlaceOfHf(mixtral, experts + "0.w1.weight").rule->role == Role::kFfnGate);
  CHECK(PlaceOfHf(mixtral, experts + "0.w3.weight").rule->role == Role::kFfnUp);
  const TensorPlace router = PlaceOfHf(mixtral, "model.layers.2.block_sparse_moe.gate.weight");
  REQUIRE(router.rule != nullptr);
  CHECK(router.rule->role == Role::kRouter);
  CHECK(router.expert == -1);
  CHECK_FALSE(IsExpertRule(*router.rule));
  for (const char* bad : {".w1.weight", "00.w1.weight", "01.w1.weight", "4096.w1.weight",
                          "-1.w1.weight", "1.w4.weight", "1.w1", "1.1.w1.weight", "{}.w1.weight"}) {
    CAPTURE(bad);
    CHECK(PlaceOfHf(mixtral, experts + bad).rule == nullptr);
  }
  CHECK(PlaceOfHf(mixtral, experts + "4095.w1.weight").expert == 4095);
}

TEST_CASE("qwen2: biases that the model needs, rows that stay where they are") {
  const Family& qwen2 = *FindFamily("qwen2");
  for (const char* part : {"q", "k", "v"}) {
    const std::string name = "model.layers.5.self_attn." + std::string(part) + "_proj.bias";
    const TensorPlace place = PlaceOfHf(qwen2, name);
    REQUIRE(place.rule != nullptr);
    CHECK(place.rule->required);
    CHECK(place.rule->role == Role::kBias);
    CHECK(NameFor(place.rule->gguf, 5) == "blk.5.attn_" + std::string(part) + ".bias");
  }
  for (const TensorRule& rule : qwen2.tensors) CHECK(rule.row_map == RowMap::kNone);
}

TEST_CASE("every family's table is consistent") {
  for (const Family& family : Families()) {
    CAPTURE(family.name);
    std::set<std::string_view> hf;
    std::set<std::string_view> gguf;
    for (const TensorRule& rule : family.tensors) {
      CHECK(hf.insert(rule.hf).second);
      CHECK(gguf.insert(rule.gguf).second);
      CHECK((rule.hf.find("{}") == std::string_view::npos) ==
            (rule.gguf.find("{}") == std::string_view::npos));
      const TensorPlace found = PlaceOfHf(family, NameFor(rule.hf, 17, 3));
      CHECK(found.rule == &rule);
      CHECK(found.expert == (IsExpertRule(rule) ? 3 : -1));
      CHECK(PlaceOfGguf(family, NameFor(rule.gguf, 17)).rule == &rule);
    }
    CHECK(hf.count(family.embedding) == 1);
    CHECK(hf.count(family.final_norm) == 1);
    CHECK(hf.count(family.head) == 1);

    // Steps read what an earlier one wrote, and every weight of a layer is used exactly once.
    std::set<Slot> written = {Slot::kHidden};
    std::multiset<std::string_view> used;
    for (const Step& step : family.layer) {
      CHECK(written.count(step.in) == 1);
      if (step.in2 != Slot::kNone) CHECK(written.count(step.in2) == 1);
      const bool has_weight = step.kind == StepKind::kRmsNorm || step.kind == StepKind::kLinear ||
                              step.kind == StepKind::kExpertLinear;
      CHECK(has_weight == !step.weight.empty());
      if (has_weight) {
        CHECK(hf.count(step.weight) == 1);
        CHECK(IsExpertRule(*PlaceOfHf(family, NameFor(step.weight, 0, 0)).rule) ==
              (step.kind == StepKind::kExpertLinear));
        used.insert(step.weight);
      }
      if (step.kind == StepKind::kRope) CHECK(step.in == step.out);
      if (step.kind == StepKind::kAdd) CHECK(written.count(step.out) == 1);
      written.insert(step.out);
    }
    CHECK(family.layer.back().out == Slot::kHidden);
    for (const TensorRule& rule : family.tensors) {
      const bool in_layer = rule.hf.find("{}") != std::string_view::npos;
      // Biases come with their matrix.
      const bool counts = in_layer && rule.required && rule.role != Role::kBias;
      if (counts) CHECK(used.count(rule.hf) == 1);
    }
  }
}

TEST_CASE("a layer is two residual branches") {
  const auto letters = [](const Family& family) {
    std::string out;
    // norm, linear, rope, attention, silu gate, add; route, experts' linear, experts' sum
    for (const Step& step : family.layer) out += "nlrasdREX"[static_cast<int>(step.kind)];
    return out;
  };
  CHECK(letters(Llama()) == "nlllrraldnllsld");
  CHECK(letters(*FindFamily("mixtral")) == "nlllrraldnlREEsEXd");
}

TEST_CASE("stored rows of GGUF are those of Hugging Face's, permuted inside each head") {
  ModelConfig config;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 8;
  // llama.cpp's converter: weights.reshape(heads, 2, head_dim / 2, cols).swapaxes(1, 2).
  std::vector<int64_t> expected;
  for (int64_t head = 0; head < config.heads; ++head) {
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t part = 0; part < 2; ++part) expected.push_back(head * 8 + part * 4 + i);
    }
  }
  std::set<int64_t> seen;
  for (int64_t row = 0; row < 48; ++row) {
    CHECK(CanonicalRow(RowMap::kRopeQ, config, row) == expected[static_cast<size_t>(row)]);
    CHECK(CanonicalRow(RowMap::kNone, config, row) == row);
    seen.insert(CanonicalRow(RowMap::kRopeQ, config, row));
  }
  CHECK(seen.size() == 48);  // a permutation
  for (int64_t row = 0; row < 16; ++row) {
    CHECK(CanonicalRow(RowMap::kRopeK, config, row) == expected[static_cast<size_t>(row)]);
  }
  config.head_dim = 0;  // an untrusted configuration must not divide by zero
  CHECK(CanonicalRow(RowMap::kRopeQ, config, 5) == 5);
  config.head_dim = 7;
  CHECK(CanonicalRow(RowMap::kRopeQ, config, 5) == 5);
}

TEST_CASE("roles") {
  CHECK(RoleName(Role::kEmbedding) == "embedding");
  CHECK(RoleName(Role::kAttnQkv) == "attn_qkv");
  CHECK(RoleName(Role::kAttnOutput) == "attn_output");
  CHECK(RoleName(Role::kFfnGateUp) == "ffn_gate_up");
  CHECK(RoleName(Role::kRouter) == "router");
  CHECK(RoleName(Role::kOther) == "other");
  int linears = 0;
  for (int i = 0; i <= static_cast<int>(Role::kOther); ++i) {
    const auto role = static_cast<Role>(i);
    const bool named = RoleName(role).starts_with("attn_") || RoleName(role).starts_with("ffn_");
    CHECK(IsLayerLinear(role) == named);
    linears += IsLayerLinear(role);
  }
  CHECK(linears == 9);
}

TEST_CASE("roles guessed from names alone") {
  CHECK(GuessRole("transformer.wte.weight", 2) == Role::kEmbedding);
  CHECK(GuessRole("model.embed_tokens.weight", 2) == Role::kEmbedding);
  CHECK(GuessRole("token_embd.weight", 2) == Role::kEmbedding);
  CHECK(GuessRole("lm_head.weight", 2) == Role::kHead);
  CHECK(GuessRole("output.weight", 2) == Role::kHead);
  CHECK(GuessRole("blk.0.attn_output.weight", 2) == Role::kOther);
  CHECK(GuessRole("transformer.h.0.ln_1.weight", 1) == Role::kNorm);
  CHECK(GuessRole("transformer.h.0.ln_1.bias", 1) == Role::kBias);
  CHECK(GuessRole("blk.0.attn_norm.weight", 1) == Role::kNorm);
  CHECK(GuessRole("model.layers.0.mlp.fc1.bias", 1) == Role::kBias);
  CHECK(GuessRole("model.layers.0.mlp.fc1.weight", 2) == Role::kOther);
  CHECK(GuessRole("model.norm_mixer.weight", 2) == Role::kOther);  // a matrix is no norm
  CHECK(GuessRole("scale", 0) == Role::kOther);
}

}  // namespace
}  // namespace pennyweight
