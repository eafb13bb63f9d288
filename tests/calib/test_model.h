// Models, texts and vocabularies for the tests of calib, which may not include formats: a small
// reader of trusted safetensors files, config.json and sentencepiece models.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "calib/run_model.h"
#include "lib/arch/family.h"
#include "lib/file.h"
#include "lib/json.h"
#include "lib/model_config.h"
#include "lib/tensor_source.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// "" when the data beside the checkout is absent; says so.
inline std::string SharedPath(const std::string& name) {
  const std::string path = std::string(PENNYWEIGHT_SOURCE_DIR) + "/../shared/" + name;
  if (PathExists(path)) return path;
  MESSAGE("SKIPPED: ../shared/" << name << " is not there");
  return "";
}

inline std::string ReadAll(const std::string& path) {
  auto text = ReadWholeFile(path, 1u << 30);
  REQUIRE_MESSAGE(text.ok(), path);
  return std::move(text).value();
}

inline Json ReadJson(const std::string& path) {
  auto json = Json::ParseFile(path);
  REQUIRE_MESSAGE(json.ok(), path);
  return std::move(json).value();
}

// Plain tensors held in memory.
class MemorySource : public TensorSource {
 public:
  void Add(const std::string& name, DType dtype, Shape shape, std::vector<uint8_t> data) {
    TensorInfo info;
    info.name = info.stored_name = name;
    info.encoding = Encoding::Plain(dtype);
    info.shape = std::move(shape);
    info.bytes = data.size();
    tensors_.push_back(std::move(info));
    data_.push_back(std::move(data));
  }
  void AddFloats(const std::string& name, Shape shape, const std::vector<float>& values) {
    std::vector<uint8_t> data(values.size() * sizeof(float));
    std::memcpy(data.data(), values.data(), data.size());
    Add(name, DType::kF32, std::move(shape), std::move(data));
  }
  void Remove(const std::string& name) {
    const auto i = Find(name);
    tensors_.erase(tensors_.begin() + i);
    data_.erase(data_.begin() + i);
  }
  std::vector<uint8_t>& data(const std::string& name) {
    return data_[static_cast<size_t>(Find(name))];
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    const TensorInfo& info = tensors_[index];
    *out = EncodedTensor::Allocate(info.encoding, count, info.cols());
    const size_t row_bytes = *info.encoding.RowBytes(info.cols());
    std::memcpy(out->data.data(), data_[index].data() + static_cast<size_t>(row) * row_bytes,
                static_cast<size_t>(count) * row_bytes);
    return OkStatus();
  }
  std::string_view format() const override { return "memory"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<std::vector<uint8_t>> data_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

inline std::unique_ptr<MemorySource> ReadSafetensors(const std::string& path) {
  const std::string file = ReadAll(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const auto header = Json::Parse(std::string_view(file).substr(8, header_bytes));
  REQUIRE(header.ok());
  auto source = std::make_unique<MemorySource>();
  for (const auto& [name, entry] : header->members()) {
    if (name == "__metadata__") continue;
    Shape shape;
    for (const Json& n : entry.Find("shape")->items()) shape.push_back(*n.AsInteger());
    const auto& offsets = entry.Find("data_offsets")->items();
    const auto* base = reinterpret_cast<const uint8_t*>(file.data()) + 8 + header_bytes;
    source->Add(name, *DTypeFromName(entry.Find("dtype")->str()), std::move(shape),
                {base + *offsets[0].AsUnsigned(), base + *offsets[1].AsUnsigned()});
  }
  return source;
}

inline ModelConfig ReadConfig(const std::string& path) {
  const Json json = ReadJson(path);
  ModelConfig config;
  config.family = json.Find("model_type")->str();
  if (const Json* experts = json.Find("num_local_experts")) {
    config.experts = *experts->AsInteger();
    config.experts_per_token = *json.Find("num_experts_per_tok")->AsInteger();
  }
  config.hidden_size = *json.Find("hidden_size")->AsInteger();
  config.intermediate_size = *json.Find("intermediate_size")->AsInteger();
  config.layers = *json.Find("num_hidden_layers")->AsInteger();
  config.heads = *json.Find("num_attention_heads")->AsInteger();
  config.kv_heads = *json.Find("num_key_value_heads")->AsInteger();
  config.head_dim = *json.Find("head_dim")->AsInteger();
  config.vocab_size = *json.Find("vocab_size")->AsInteger();
  config.context_length = *json.Find("max_position_embeddings")->AsInteger();
  config.rms_norm_eps = *json.Find("rms_norm_eps")->AsDouble();
  config.rope_theta = *json.Find("rope_theta")->AsDouble();
  config.tie_embeddings = *json.Find("tie_word_embeddings")->AsBool();
  return config;
}

// The documents that a reference.json's `eval` is about: its first `docs` parts that are not blank.
inline std::string FirstDocuments(const std::string& text, const Json& eval) {
  const std::string separator = eval.Find("separator")->str();
  size_t at = 0;
  for (int64_t found = 0; at < text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    if (text.substr(at, end - at).find_first_not_of(" \t\n\r\f\v") != std::string::npos) ++found;
    if (found == *eval.Find("docs")->AsInteger()) return text.substr(0, end);
    at = end + separator.size();
  }
  return text;
}

// Fields of one protobuf message: (number, bytes of a length-delimited or fixed field, varint).
struct ProtoField {
  uint64_t number = 0;
  std::string_view bytes;
  uint64_t value = 0;
};
inline std::vector<ProtoField> ProtoFields(std::string_view message) {
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(message[at++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  std::vector<ProtoField> fields;
  while (at < message.size()) {
    const uint64_t tag = varint();
    ProtoField field{tag >> 3, {}, 0};
    if ((tag & 7) == 0) {
      field.value = varint();
    } else {
      const size_t size = (tag & 7) == 2 ? varint() : (tag & 7) == 5 ? 4 : 8;
      field.bytes = message.substr(at, size);
      at += size;
    }
    fields.push_back(field);
  }
  return fields;
}

// A tokenizer.model (sentencepiece_model.proto).
inline Vocabulary ReadVocabulary(const std::string& path) {
  const std::string file = ReadAll(path);
  Vocabulary vocabulary;
  vocabulary.kind = Vocabulary::Kind::kSentencePieceBpe;
  vocabulary.remove_extra_whitespaces = true;  // the proto's default
  for (const ProtoField& field : ProtoFields(file)) {
    if (field.number == 1) {
      Token token;
      for (const ProtoField& part : ProtoFields(field.bytes)) {
        if (part.number == 1) token.text = part.bytes;
        if (part.number == 2) std::memcpy(&token.score, part.bytes.data(), sizeof(float));
        if (part.number == 3) token.type = static_cast<TokenType>(part.value);
      }
      const auto id = static_cast<int64_t>(vocabulary.tokens.size());
      if (token.type == TokenType::kByte) vocabulary.byte_fallback = true;
      if (token.type == TokenType::kUnknown) vocabulary.unk_id = id;
      if (token.text == "<s>") vocabulary.bos_id = id;
      if (token.text == "</s>") vocabulary.eos_id = id;
      vocabulary.tokens.push_back(std::move(token));
    } else if (field.number == 3) {
      for (const ProtoField& part : ProtoFields(field.bytes)) {
        if (part.number == 3) vocabulary.add_space_prefix = part.value != 0;
        if (part.number == 4) vocabulary.remove_extra_whitespaces = part.value != 0;
      }
    }
  }
  return vocabulary;
}

// A model of ../shared/models with everything a test of the forward pass needs.
struct TestModel {
  std::unique_ptr<MemorySource> source;
  ModelConfig config;
  Vocabulary vocabulary;
  Json reference;

  RunnableModel Runnable() const { return {source.get(), FindFamily(config.family), &config}; }
  static std::optional<TestModel> Open(const std::string& name) {
    const std::string path = SharedPath("models/" + name);
    if (path.empty()) return std::nullopt;
    TestModel model;
    model.source = ReadSafetensors(path + "/model.safetensors");
    model.config = ReadConfig(path + "/config.json");
    model.vocabulary = ReadVocabulary(path + "/tokenizer.model");
    model.reference = ReadJson(path + "/reference.json");
    return model;
  }
};

// A small model of random weights: hidden 24, 3 layers, 4 heads of 6 on 2 kv heads, ffn 40,
// vocabulary of 5000 (more than one tile of logits). `family`: llama, qwen2, or mixtral with 5
// experts, of which 2 see a token.
inline TestModel RandomModel(unsigned seed, bool tied, const std::string& family = "llama") {
  TestModel model;
  ModelConfig& c = model.config;
  c.family = family;
  c.experts = family == "mixtral" ? 5 : 0;
  c.experts_per_token = family == "mixtral" ? 2 : 0;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;
  c.vocab_size = 5000;
  c.context_length = 4096;
  c.rms_norm_eps = 1e-5;
  c.tie_embeddings = tied;
  model.source = std::make_unique<MemorySource>();
  std::mt19937 random(seed);
  const auto add = [&](const std::string& name, Shape shape, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
    for (float& v : values) v = normal(random);
    model.source->AddFloats(name, std::move(shape), values);
  };
  add("model.embed_tokens.weight", {5000, 24}, 0, 1);
  for (int layer = 0; layer < 3; ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    add(p + "input_layernorm.weight", {24}, 1, 0.2f);
    add(p + "self_attn.q_proj.weight", {24, 24}, 0, 0.3f);
    add(p + "self_attn.k_proj.weight", {12, 24}, 0, 0.3f);
    add(p + "self_attn.v_proj.weight", {12, 24}, 0, 0.3f);
    add(p + "self_attn.o_proj.weight", {24, 24}, 0, 0.3f);
    add(p + "post_attention_layernorm.weight", {24}, 1, 0.2f);
    if (family == "qwen2") {
      add(p + "self_attn.q_proj.bias", {24}, 0, 0.5f);
      add(p + "self_attn.k_proj.bias", {12}, 0, 0.5f);
      add(p + "self_attn.v_proj.bias", {12}, 0, 0.5f);
    }
    if (family == "mixtral") add(p + "block_sparse_moe.gate.weight", {5, 24}, 0, 0.3f);
    for (int64_t e = 0; e < c.experts; ++e) {
      const std::string expert = p + "block_sparse_moe.experts." + std::to_string(e);
      add(expert + ".w1.weight", {40, 24}, 0, 0.3f);
      add(expert + ".w3.weight", {40, 24}, 0, 0.3f);
      add(expert + ".w2.weight", {24, 40}, 0, 0.3f);
    }
    if (c.experts > 0) continue;
    add(p + "mlp.gate_proj.weight", {40, 24}, 0, 0.3f);
    add(p + "mlp.up_proj.weight", {40, 24}, 0, 0.3f);
    add(p + "mlp.down_proj.weight", {24, 40}, 0, 0.3f);
  }
  add("model.norm.weight", {24}, 1, 0.2f);
  if (!tied) add("lm_head.weight", {5000, 24}, 0, 0.3f);
  return model;
}

}  // namespace pennyweight
