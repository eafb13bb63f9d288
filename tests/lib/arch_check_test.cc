#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "lib/arch/check.h"

namespace pennyweight {
namespace {

// A list of tensors without bytes.
class ListedSource : public TensorSource {
 public:
  explicit ListedSource(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {}
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t, int64_t, int64_t, EncodedTensor*) const override { return OkStatus(); }
  std::string_view format() const override { return "listed"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

ModelConfig Config(const std::string& family = "llama") {
  ModelConfig config;
  config.family = family;
  config.experts = family == "mixtral" ? 3 : 0;
  config.experts_per_token = family == "mixtral" ? 2 : 0;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 100;
  return config;
}

std::vector<TensorInfo> Tensors(const ModelConfig& config = Config()) {
  std::vector<TensorInfo> tensors;
  for (const TensorRule& rule : FindFamily(config.family)->tensors) {
    if (!rule.required) continue;
    const bool layered = rule.hf.find("{}") != std::string_view::npos;
    for (int64_t layer = 0; layer < (layered ? 2 : 1); ++layer) {
      for (int64_t e = 0; e < (IsExpertRule(rule) ? config.experts : 1); ++e) {
        TensorInfo info;
        info.name = NameFor(rule.hf, layer, e);
        info.shape = ExpectedShape(rule.role, config);
        if (rule.role == Role::kBias)
          info.shape = {info.name.find(".q_") == std::string::npos ? 32 : 64};
        tensors.push_back(info);
      }
    }
  }
  return tensors;
}

std::vector<Finding> Check(std::vector<TensorInfo> tensors, const ModelConfig& config = Config()) {
  Model model;
  model.config = config;
  model.family = FindFamily(config.family);
  model.source = std::make_unique<ListedSource>(std::move(tensors));
  return CheckFamily(model);
}

void Erase(std::vector<TensorInfo>* tensors, const std::string& name) {
  REQUIRE(std::erase_if(*tensors, [&](const TensorInfo& t) { return t.name == name; }) == 1);
}

TEST_CASE("a whole model fits its configuration") {
  CHECK(Tensors().size() == 3 + 2 * 9);
  CHECK(Check(Tensors()).empty());
  CHECK(Check({}).empty());  // a vocabulary alone
}

TEST_CASE("a tensor that is missing, and a head that need not be there") {
  std::vector<TensorInfo> tensors = Tensors();
  std::erase_if(tensors, [](const TensorInfo& t) {
    return t.name == "model.layers.1.self_attn.v_proj.weight";
  });
  const std::vector<Finding> findings = Check(tensors);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].rule == "CFG-TENSOR-MISSING");
  CHECK(findings[0].tensor == "model.layers.1.self_attn.v_proj.weight");
  tensors = Tensors();
  std::erase_if(tensors, [](const TensorInfo& t) { return t.name == "lm_head.weight"; });
  CHECK(Check(tensors).size() == 1);
  ModelConfig tied = Config();
  tied.tie_embeddings = true;
  CHECK(Check(tensors, tied).empty());
}

TEST_CASE("tensors of no place, of a layer too many, and what old files have") {
  std::vector<TensorInfo> tensors = Tensors();
  TensorInfo extra = tensors[0];
  for (const char* name :
       {"model.layers.0.self_attn.backdoor.weight", "model.layers.2.input_layernorm.weight", "x"}) {
    extra.name = name;
    tensors.push_back(extra);
  }
  extra.name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  tensors.push_back(extra);
  const std::vector<Finding> findings = Check(tensors);
  REQUIRE(findings.size() == 3);
  for (const Finding& finding : findings) CHECK(finding.rule == "CFG-TENSOR-UNEXPECTED");
  CHECK(findings[1].tensor == "model.layers.2.input_layernorm.weight");
}

TEST_CASE("shapes, those of biases too") {
  std::vector<TensorInfo> tensors = Tensors();
  const auto k = std::find_if(tensors.begin(), tensors.end(), [](const TensorInfo& t) {
    return t.name == "model.layers.0.self_attn.k_proj.weight";
  });
  k->shape = {64, 64};
  TensorInfo bias = *k;
  bias.name = "model.layers.0.self_attn.k_proj.bias";
  bias.shape = {32};
  tensors.push_back(bias);
  CHECK(Check(tensors).size() == 1);
  tensors.back().shape = {64};
  const std::vector<Finding> findings = Check(tensors);
  REQUIRE(findings.size() == 2);
  for (const Finding& finding : findings) CHECK(finding.rule == "CFG-SHAPE");
  CHECK(findings[0].message == "its shape is [64, 64], the configuration says [32, 64]");
}

TEST_CASE("qwen2 needs its biases") {
  const ModelConfig config = Config("qwen2");
  std::vector<TensorInfo> tensors = Tensors(config);
  CHECK(tensors.size() == 3 + 2 * 12);
  CHECK(Check(tensors, config).empty());
  Erase(&tensors, "model.layers.1.self_attn.k_proj.bias");
  const std::vector<Finding> findings = Check(tensors, config);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].rule == "CFG-TENSOR-MISSING");
  CHECK(findings[0].tensor == "model.layers.1.self_attn.k_proj.bias");
}

TEST_CASE("mixtral: a router, and every matrix of every expert") {
  const ModelConfig config = Config("mixtral");
  std::vector<TensorInfo> tensors = Tensors(config);
  CHECK(tensors.size() == 3 + 2 * (7 + 3 * 3));
  CHECK(Check(tensors, config).empty());
  const std::string experts = "model.layers.1.block_sparse_moe.experts.";
  for (TensorInfo& info : tensors) {
    if (info.name == experts + "2.w2.weight") info.shape = {96, 64};
    if (info.name == "model.layers.0.block_sparse_moe.gate.weight") info.shape = {4, 64};
  }
  std::vector<Finding> findings = Check(tensors, config);
  REQUIRE(findings.size() == 2);
  for (const Finding& finding : findings) CHECK(finding.rule == "CFG-SHAPE");
  CHECK(findings[0].message == "its shape is [4, 64], the configuration says [3, 64]");
  CHECK(findings[1].message == "its shape is [96, 64], the configuration says [64, 96]");

  tensors = Tensors(config);
  Erase(&tensors, experts + "0.w3.weight");
  TensorInfo fourth = tensors.front();
  fourth.name = experts + "3.w3.weight";
  tensors.push_back(fourth);
  findings = Check(tensors, config);
  REQUIRE(findings.size() == 2);
  CHECK(findings[0].rule == "CFG-TENSOR-UNEXPECTED");
  CHECK(findings[0].tensor == experts + "3.w3.weight");
  CHECK(findings[0].message == "the configuration has 3 experts");
  CHECK(findings[1].rule == "CFG-TENSOR-MISSING");
  CHECK(findings[1].tensor == experts + "0.w3.weight");
}

TEST_CASE("a family that is not known is not checked") {
  Model model;
  model.config = Config();
  model.source = std::make_unique<ListedSource>(std::vector<TensorInfo>(1));
  CHECK(CheckFamily(model).empty());
}

}  // namespace
}  // namespace pennyweight
