// Writes a Llama of any shape with random weights as a Hugging Face folder, for measuring memory
// and speed: make_llama OUT_DIR TOKENIZER_DIR hidden=768 ffn=2048 layers=34 heads=12 kv_heads=4
// vocab=64000 context=512 dtype=bf16 seed=1. Weights are N(0, 0.02^2) times a log-normal scale per
// column, so that channels differ as they do in trained models.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Tensor {
  std::string name;
  int64_t rows, cols;  // cols == 0: one dimension (a norm)
};

struct Options {
  std::map<std::string, int64_t> number = {{"hidden", 768}, {"ffn", 2048},   {"layers", 34},
                                           {"heads", 12},   {"kv_heads", 4}, {"vocab", 64000},
                                           {"context", 512}, {"seed", 1}};
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
  return options->dtype == "bf16" || options->dtype == "f32";
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
      << (options.dtype == "bf16" ? "bfloat16" : "float32") << "\"\n}\n";
}

std::string Header(const Options& options, const std::vector<Tensor>& tensors) {
  const bool bf16 = options.dtype == "bf16";
  std::string text = "{\"__metadata__\":{\"format\":\"pt\"}";
  uint64_t offset = 0;
  for (const Tensor& t : tensors) {
    const uint64_t elements = static_cast<uint64_t>(t.rows * (t.cols == 0 ? 1 : t.cols));
    const uint64_t end = offset + elements * (bf16 ? 2 : 4);
    text += ",\"" + t.name + "\":{\"dtype\":\"" + (bf16 ? "BF16" : "F32") + "\",\"shape\":[" +
            std::to_string(t.rows) + (t.cols == 0 ? "" : "," + std::to_string(t.cols)) +
            "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

void AppendValue(float value, bool bf16, std::string* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (bf16) {
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    out->append(reinterpret_cast<const char*>(&bits), 2);
  } else {
    out->append(reinterpret_cast<const char*>(&bits), 4);
  }
}

void WriteWeights(const fs::path& dir, const Options& options) {
  const bool bf16 = options.dtype == "bf16";
  const std::vector<Tensor> tensors = Tensors(options);
  std::ofstream out(dir / "model.safetensors", std::ios::binary);
  const std::string header = Header(options, tensors);
  const uint64_t size = header.size();
  out.write(reinterpret_cast<const char*>(&size), 8);
  out << header;
  std::mt19937_64 random(static_cast<uint64_t>(options.number.at("seed")));
  std::normal_distribution<float> normal;
  std::string row;
  for (const Tensor& t : tensors) {
    std::vector<float> scale(static_cast<size_t>(t.cols));
    for (float& s : scale) s = 0.02f * std::exp(0.3f * normal(random));
    for (int64_t r = 0; r < t.rows; ++r) {
      row.clear();
      if (t.cols == 0) AppendValue(1.0f + 0.1f * normal(random), bf16, &row);
      for (const float s : scale) AppendValue(s * normal(random), bf16, &row);
      out << row;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
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
