// What names tell a mix: the part of the model, the layer, whether a tensor is quantized at all.
// Sources: llama.cpp, src/llama-quant.cpp (tensor_get_category, tensor_allows_quantization) and
// gguf-py's tensor map.
#include <algorithm>
#include <charconv>
#include <numeric>

#include "quant/mix_gguf.h"

namespace pennyweight {
namespace {

struct PartWord {
  std::string_view word;  // anywhere in the name
  GgufPart part;
};

// First hit wins: "ffn_down_exps.weight" is a down, "ffn_gate_up" a gate.
constexpr PartWord kPartWords[] = {
    {"attn_qkv.weight", GgufPart::kQkv}, {"attn_kv_b.weight", GgufPart::kKvB},
    {"attn_v.weight", GgufPart::kValue}, {"attn_k.weight", GgufPart::kKey},
    {"attn_q.weight", GgufPart::kQuery}, {"attn_output.weight", GgufPart::kAttnOutput},
    {"ffn_up", GgufPart::kUp},           {"ffn_gate", GgufPart::kGate},
    {"ffn_down", GgufPart::kDown},
};

// Parts of names that llama.cpp never quantizes, of the architectures it knows.
constexpr std::string_view kNeverQuantized[] = {
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
};

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

struct Word {
  std::string_view hf;    // one word of a name, between dots
  std::string_view gguf;  // without "blk.N." and ".weight"
};

// The matrices of a layer, as the models of the hub call them.
constexpr Word kWords[] = {
    {"q_proj", "attn_q"},
    {"k_proj", "attn_k"},
    {"v_proj", "attn_v"},
    {"o_proj", "attn_output"},
    {"wq", "attn_q"},
    {"wk", "attn_k"},
    {"wv", "attn_v"},
    {"wo", "attn_output"},
    {"qkv_proj", "attn_qkv"},
    {"query_key_value", "attn_qkv"},
    {"c_attn", "attn_qkv"},
    {"Wqkv", "attn_qkv"},
    {"W_pack", "attn_qkv"},
    {"q_a_proj", "attn_q_a"},
    {"q_b_proj", "attn_q_b"},
    {"kv_a_proj_with_mqa", "attn_kv_a_mqa"},
    {"kv_b_proj", "attn_kv_b"},
    {"gate_up_proj", "ffn_up"},
    {"gate_proj", "ffn_gate"},
    {"up_proj", "ffn_up"},
    {"down_proj", "ffn_down"},
    {"w1", "ffn_gate"},
    {"w2", "ffn_down"},
    {"w3", "ffn_up"},
    {"dense_h_to_4h", "ffn_up"},
    {"dense_4h_to_h", "ffn_down"},
    {"router", "ffn_gate_inp"},
    {"gate", "ffn_gate_inp"},
    {"shared_expert_gate", "ffn_gate_inp_shexp"},
};

std::vector<std::string_view> SplitAtDots(std::string_view name) {
  std::vector<std::string_view> words;
  while (true) {
    const size_t dot = name.find('.');
    words.push_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return words;
    name.remove_prefix(dot + 1);
  }
}

bool IsNumber(std::string_view word) {
  return !word.empty() && word.size() <= 9 &&
         std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

GgufPart PartOf(std::string_view gguf_name) {
  if (gguf_name == "output.weight") return GgufPart::kOutput;
  if (gguf_name == "token_embd.weight" || gguf_name == "per_layer_token_embd.weight") {
    return GgufPart::kEmbedding;
  }
  for (const PartWord& row : kPartWords) {
    if (Contains(gguf_name, row.word)) return row.part;
  }
  return GgufPart::kOther;
}

bool IsValueLike(GgufPart part) {
  return part == GgufPart::kValue || part == GgufPart::kQkv || part == GgufPart::kKvB;
}

int64_t LayerOf(std::string_view gguf_name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!gguf_name.starts_with(kPrefix)) return -1;
  gguf_name.remove_prefix(kPrefix.size());
  const std::string_view digits = gguf_name.substr(0, gguf_name.find('.'));
  if (!IsNumber(digits) || digits.size() == gguf_name.size()) return -1;
  int64_t layer = -1;
  std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  return layer;
}

std::string GuessGgufName(std::string_view name, Role role) {
  const std::string own(name);
  if (LayerOf(name) >= 0 || role == Role::kNorm || role == Role::kBias) return own;
  // Towers beside the language model have layers of their own numbering.
  for (const std::string_view tower : {"vision", "visual", "audio", "encoder"}) {
    if (Contains(name, tower)) return own;
  }
  if (role == Role::kEmbedding && !Contains(name, "per_layer")) return "token_embd.weight";
  if (role == Role::kHead) return "output.weight";
  const std::vector<std::string_view> words = SplitAtDots(name);
  size_t layer = 1;
  while (layer < words.size() &&
         !(IsNumber(words[layer]) && (words[layer - 1] == "layers" || words[layer - 1] == "h"))) {
    ++layer;
  }
  if (layer >= words.size()) return own;
  std::string_view part;
  std::string_view suffix;
  for (size_t i = layer + 1; i < words.size(); ++i) {
    if (words[i] == "experts") suffix = "_exps";
    if (words[i] == "shared_expert" || words[i] == "shared_experts") suffix = "_shexp";
    for (const Word& word : kWords) {
      if (words[i] == word.hf) part = word.gguf;
    }
    if (words[i] == "dense" && Contains(words[i - 1], "attention")) part = "attn_output";
  }
  if (part.empty()) return own;
  if (!part.starts_with("ffn_") || part.starts_with("ffn_gate_inp")) suffix = {};
  std::string out = "blk.";
  out.append(words[layer]).append(".").append(part).append(suffix).append(".weight");
  return out;
}

bool IsGgufQuantized(std::string_view gguf_name, const Shape& shape) {
  const auto first = std::find_if(shape.begin(), shape.end(), [](int64_t d) { return d != 1; });
  if (shape.end() - first < 2) return false;
  if (!gguf_name.ends_with("weight")) return false;
  if (gguf_name == "position_embd.weight" || gguf_name == "token_types.weight") return false;
  return std::none_of(std::begin(kNeverQuantized), std::end(kNeverQuantized),
                      [&](std::string_view part) { return Contains(gguf_name, part); });
}

std::vector<size_t> GgufOrder(std::span<const std::string> gguf_names,
                              std::span<const int64_t> layers) {
  std::vector<size_t> order(gguf_names.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (layers[a] != layers[b]) return layers[a] < layers[b];
    return gguf_names[a] < gguf_names[b];
  });
  return order;
}

}  // namespace pennyweight
