// Writes a Llama of any shape with random weights as a Hugging Face folder, for measuring memory
// and speed: make_llama OUT_DIR TOKENIZER_DIR hidden=768 ffn=2048 layers=34 heads=12 kv_heads=4
// vocab=64000 context=512 dtype=bf16 seed=1 tails=0. Weights are N(0, 0.02^2) times a log-normal
// scale per column, so that channels differ as they do in trained models; with tails=1 rows differ
// too, and one weight in 4096 is an outlier of 10 to 30 standard deviations.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "lib/dtype.h"

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

struct Tensor {
  std::string name;
  int64_t rows, cols;  // cols == 0: one dimension (a norm)
};

struct Options {
  std::map<std::string, int64_t> number = {{"hidden", 768},  {"ffn", 2048},   {"layers", 34},
                                           {"heads", 12},    {"kv_heads", 4}, {"vocab", 64000},
                                           {"context", 512}, {"seed", 1},     {"tails", 0}};
  std::string dtype = "bf16";
};

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 3; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals == std::string::npos) return false;
    const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "dtype") {
      options->dtype = value;
    } else if (options->number.contains(key)) {
      options->number[key] = std::stoll(value);
    } else {
      return false;
    }
  }
  return options->dtype == "bf16" || options->dtype == "f16" || options->dtype == "f32";
}

std::vector<Tensor> Tensors(const Options& options) {
  const auto& n = options.number;
  const int64_t d = n.at("hidden"), f = n.at("ffn"), head = d / n.at("heads");
  const int64_t kv = n.at("kv_heads") * head;
  std::vector<Tensor> list = {{"model.embed_tokens.weight", n.at("vocab"), d}};
  for (int64_t l = 0; l < n.at("layers"); ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    list.push_back({p + "input_layernorm.weight", d, 0});
    list.push_back({p + "self_attn.q_proj.weight", d, d});
    list.push_back({p + "self_attn.k_proj.weight", kv, d});
    list.push_back({p + "self_attn.v_proj.weight", kv, d});
    list.push_back({p + "self_attn.o_proj.weight", d, d});
    list.push_back({p + "post_attention_layernorm.weight", d, 0});
    list.push_back({p + "mlp.gate_proj.weight", f, d});
    list.push_back({p + "mlp.up_proj.weight", f, d});
    list.push_back({p + "mlp.down_proj.weight", d, f});
  }
  list.push_back({"model.norm.weight", d, 0});
  list.push_back({"lm_head.weight", n.at("vocab"), d});
  return list;
}

void WriteConfig(const fs::path& dir, const Options& options) {
  const auto& n = options.number;
  std::ofstream out(dir / "config.json");
  out << "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n"
      << "  \"hidden_act\": \"silu\",\n  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n"
      << "  \"hidden_size\": " << n.at("hidden") << ",\n  \"intermediate_size\": " << n.at("ffn")
      << ",\n  \"num_hidden_layers\": " << n.at("layers")
      << ",\n  \"num_attention_heads\": " << n.at("heads")
      << ",\n  \"num_key_value_heads\": " << n.at("kv_heads")
      << ",\n  \"vocab_size\": " << n.at("vocab")
      << ",\n  \"max_position_embeddings\": " << n.at("context")
      << ",\n  \"rms_norm_eps\": 1e-05,\n  \"rope_theta\": 10000.0,\n  \"rope_scaling\": null,\n"
      << "  \"tie_word_embeddings\": false,\n  \"torch_dtype\": \""
      << (options.dtype == "bf16"  ? "bfloat16"
          : options.dtype == "f16" ? "float16"
                                   : "float32")
      << "\"\n}\n";
}

DType DTypeOf(const Options& options) {
  return options.dtype == "bf16"  ? DType::kBF16
         : options.dtype == "f16" ? DType::kF16
                                  : DType::kF32;
}

std::string Header(const Options& options, const std::vector<Tensor>& tensors) {
  const DType dtype = DTypeOf(options);
  std::string text = "{\"__metadata__\":{\"format\":\"pt\"}";
  uint64_t offset = 0;
  for (const Tensor& t : tensors) {
    const uint64_t elements = static_cast<uint64_t>(t.rows * (t.cols == 0 ? 1 : t.cols));
    const uint64_t end = offset + elements * static_cast<uint64_t>(DTypeBits(dtype) / 8);
    text += ",\"" + t.name + "\":{\"dtype\":\"" + std::string(DTypeName(dtype)) + "\",\"shape\":[" +
            std::to_string(t.rows) + (t.cols == 0 ? "" : "," + std::to_string(t.cols)) +
            "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

// One row of values; those of tails are multiplied up.
void FillRow(const Options& options, const std::vector<float>& scale, std::mt19937_64* random,
             std::vector<float>* row) {
  std::normal_distribution<float> normal;
  const bool tails = options.number.at("tails") != 0;
  const float row_scale = tails ? std::exp(0.3f * normal(*random)) : 1.0f;
  for (size_t c = 0; c < scale.size(); ++c) {
    (*row)[c] = row_scale * scale[c] * normal(*random);
    if (tails && (*random)() % 4096 == 0) {
      const float size = static_cast<float>(10 + (*random)() % 21);
      (*row)[c] = row_scale * scale[c] * ((*random)() % 2 == 0 ? size : -size);
    }
  }
}

void WriteWeights(const fs::path& dir, const Options& options) {
  const DType dtype = DTypeOf(options);
  const std::vector<Tensor> tensors = Tensors(options);
  std::ofstream out(dir / "model.safetensors", std::ios::binary);
  const std::string header = Header(options, tensors);
  const uint64_t size = header.size();
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << header;
  std::mt19937_64 random(static_cast<uint64_t>(options.number.at("seed")));
  std::normal_distribution<float> normal;
  for (const Tensor& t : tensors) {
    const auto width = static_cast<size_t>(t.cols == 0 ? 1 : t.cols);
    std::vector<float> scale(t.cols == 0 ? 0 : width);
    for (float& s : scale) s = 0.02f * std::exp(0.3f * normal(random));
    std::vector<float> row(width);
    std::string bytes(width * static_cast<size_t>(DTypeBits(dtype) / 8), '\0');
    for (int64_t r = 0; r < t.rows; ++r) {
      if (t.cols == 0) {
        row[0] = 1.0f + 0.1f * normal(random);
      } else {
        FillRow(options, scale, &random, &row);
      }
      EncodeFromFloat(dtype, row.data(), bytes.data(), width);
      out << bytes;
    }
  }
}

}  // namespace

int MakeLlama(int argc, char** argv) {
  Options options;
  if (argc < 3 || !Parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: make_llama OUT_DIR TOKENIZER_DIR [key=value...]\n");
    return 2;
  }
  const fs::path dir = argv[1];
  fs::create_directories(dir);
  for (const char* name : {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}) {
    const fs::path from = fs::path(argv[2]) / name;
    if (fs::exists(from)) {
      fs::copy_file(from, dir / name, fs::copy_options::overwrite_existing);
      fs::permissions(dir / name, fs::perms::owner_write, fs::perm_options::add);
    }
  }
  WriteConfig(dir, options);
  WriteWeights(dir, options);
  return 0;
}

}  // namespace pennyweight

int main(int argc, char** argv) { return pennyweight::MakeLlama(argc, argv); }
