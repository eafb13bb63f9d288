// Every decision of llama-quantize on crafted models of several architectures, for every mix:
// testdata/golden/mixes.txt, made by tests/interop/make_golden_mixes.py, which tells its layout.
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "quant/mix.h"
#include "quant/mix_gguf.h"

namespace pennyweight {
namespace {

constexpr const char* kOverride = R"(blk\.(0|2|5)\.(attn_v|attn_qkv|ffn_down.*)\.weight)";

struct Golden {
  std::string name;
  ModelConfig config;
  std::vector<TensorInfo> tensors;  // under GGUF names
  std::vector<std::string> patterns;
  std::vector<int64_t> layers;  // of each tensor, counted inside its pattern
  std::vector<bool> left;
};

struct Run {
  std::string mix, how, default_type;
  std::map<std::string, std::vector<std::string>> types;  // by pattern, one a layer
};

std::string AtLayer(const std::string& pattern, int64_t layer) { return NameFor(pattern, layer); }

void AddTensors(std::istringstream& line, bool left, Golden* model) {
  std::string pattern;
  int64_t count = 0;
  line >> pattern >> count;
  Shape shape;
  for (int64_t d = 0; line >> d;) shape.push_back(d);
  for (int64_t layer = 0; layer < count; ++layer) {
    TensorInfo info;
    info.name = info.stored_name = AtLayer(pattern, layer);
    info.shape = shape;
    info.encoding = Encoding::Plain(DType::kF32);
    model->tensors.push_back(std::move(info));
    model->patterns.push_back(pattern);
    model->layers.push_back(layer);
    model->left.push_back(left);
  }
}

Run ReadRun(std::istringstream& line) {
  Run run;
  line >> run.mix >> run.how >> run.default_type;
  for (std::string word; line >> word;) {
    const size_t equals = word.find('=');
    std::vector<std::string>& types = run.types[word.substr(0, equals)];
    std::istringstream pieces(word.substr(equals + 1));
    for (std::string piece; std::getline(pieces, piece, ',');) {
      const size_t star = piece.find('*');
      types.insert(types.end(), std::stoul(piece.substr(star + 1)), piece.substr(0, star));
    }
  }
  return run;
}

MixOptions OptionsOf(const Run& run) {
  MixOptions options;
  options.type = run.mix;
  options.integer.group_size = 128;
  options.plain = Encoding::Plain(DType::kF16);
  options.norm = Encoding::Plain(DType::kF32);
  options.pure = run.how == "pure";
  options.importance = run.how == "imatrix";
  if (run.how == "override") {
    options.tensor_types = {{kOverride, Encoding::Block(BlockType::kQ8_0)}};
  }
  return options;
}

// Compares one run; returns how many tensors differ.
int Differences(const Golden& model, const Run& run, const Family* family) {
  const std::vector<TensorInfo>& tensors = model.tensors;
  const auto choices = DecideTypes(OptionsOf(run), family, model.config, tensors);
  REQUIRE_MESSAGE(choices.ok(), choices.error().message);
  int differences = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::string expected = run.default_type;
    const auto row = run.types.find(model.patterns[i]);
    if (row != run.types.end()) {
      REQUIRE(static_cast<size_t>(model.layers[i]) < row->second.size());
      expected = row->second[static_cast<size_t>(model.layers[i])];
    }
    if (model.left[i]) expected = "f32";
    const std::string got = (*choices)[i].encoding.Name();
    if (got == expected) continue;
    ++differences;
    FAIL_CHECK(model.name << " " << run.mix << " " << run.how << " " << tensors[i].name << " "
                          << tensors[i].shape.back() << ": " << got << ", not " << expected);
  }
  return differences;
}

// The family of a crafted model; nullptr where it is of none that is known.
const Family* FamilyOf(const Golden& model) {
  if (model.name.starts_with("dense_")) return FindFamily("llama");
  if (model.name.starts_with("mixtral_")) return FindFamily("mixtral");
  return model.name.starts_with("qwen2_") ? FindFamily("qwen2") : nullptr;
}

// The same tensors as the Hugging Face folder lists them: each expert's matrix alone.
Golden UnderHfNames(const Golden& model, const Family& family) {
  Golden out = model;
  out.tensors.clear();
  out.patterns.clear();
  out.layers.clear();
  out.left.clear();
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    TensorInfo info = model.tensors[i];
    const TensorPlace place = PlaceOfGguf(family, info.name);
    REQUIRE(place.rule != nullptr);
    const int64_t experts = IsExpertRule(*place.rule) ? model.config.experts : 1;
    if (IsExpertRule(*place.rule)) {
      REQUIRE(info.shape[0] == experts);
      info.shape.erase(info.shape.begin());
    }
    for (int64_t e = 0; e < experts; ++e) {
      info.name = NameFor(place.rule->hf, place.layer, e);
      out.tensors.push_back(info);
      out.patterns.push_back(model.patterns[i]);
      out.layers.push_back(model.layers[i]);
      out.left.push_back(model.left[i]);
    }
  }
  return out;
}

TEST_CASE("every mix chooses the types that llama-quantize chooses") {
  std::ifstream file(PENNYWEIGHT_SOURCE_DIR "/testdata/golden/mixes.txt");
  REQUIRE(file.good());
  Golden model;
  std::map<std::string, int> mixes, models, families;
  int runs = 0, differences = 0;
  for (std::string text; std::getline(file, text) && differences < 50;) {
    std::istringstream line(text);
    std::string kind;
    line >> kind;
    if (kind == "model") {
      model = Golden();
      ModelConfig& c = model.config;
      line >> model.name >> c.architecture >> c.layers >> c.heads >> c.kv_heads >> c.experts;
      ++models[c.architecture];
    } else if (kind == "tensor" || kind == "left") {
      AddTensors(line, kind == "left", &model);
    } else {
      REQUIRE(kind == "run");
      const Run run = ReadRun(line);
      ++mixes[run.mix];
      ++runs;
      differences += Differences(model, run, nullptr);
      if (const Family* family = FamilyOf(model)) {
        ++families[std::string(family->name)];
        differences += Differences(UnderHfNames(model, *family), run, family);
      }
    }
  }
  CHECK(differences == 0);
  CHECK(runs > 1000);
  CHECK(models.size() >= 6);
  CHECK(families.size() == 3);
  for (const Mix& mix : Mixes()) {
    if (mix.style == MixStyle::kGguf) CHECK_MESSAGE(mixes[std::string(mix.name)] >= 20, mix.name);
  }
}

}  // namespace
}  // namespace pennyweight
