// Folders, random tiles and damage for the tests of sinks.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "formats/sinks.h"
#include "lib/model.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// A fresh folder, gone at the end of the test.
class TempFolder {
 public:
  TempFolder() {
    std::random_device device;
    path_ = std::filesystem::temp_directory_path() /
            ("pennyweight_sink_test_" + std::to_string(device()) + std::to_string(device()));
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  // Names directly inside, sorted; hidden ones too.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// A Hugging Face folder's small files, and the model that was opened from it, without tensors.
inline Model MakeInputFolder(const TempFolder& temp, const std::string& extra_config = "") {
  const std::string dir = temp / "input";
  std::filesystem::create_directories(dir);
  WriteText(dir + "/config.json",
            "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
            "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 1, "
            "\"num_attention_heads\": 4, \"rms_norm_eps\": 1e-05, \"torch_dtype\": \"bfloat16\", "
            "\"vocab_size\": 40, \"a_key_of_its_own\": [1, 2.5, \"x\"]" +
                extra_config + "}");
  WriteText(dir + "/tokenizer.json", "{\"not\": \"a tokenizer\"}");
  WriteText(dir + "/tokenizer_config.json", "{}");
  WriteText(dir + "/generation_config.json", "{\"do_sample\": true}");
  WriteText(dir + "/LICENSE.txt", "free");
  WriteText(dir + "/README.md", "read me");
  WriteText(dir + "/modeling_own.py", "import os");
  WriteText(dir + "/optimizer.bin", "left behind");
  Model model;
  model.path = dir;
  model.directory = dir;
  model.family = FindFamily("llama");
  return model;
}

// Random bits in every part; codes and zero points in the range of their bits. Scales and plain
// floats are small positive numbers.
inline EncodedTensor RandomTile(const Encoding& encoding, int64_t rows, int64_t cols,
                                uint32_t seed) {
  std::mt19937 rng(seed);
  EncodedTensor tile = EncodedTensor::Allocate(encoding, rows, cols);
  for (auto& b : tile.data) b = static_cast<uint8_t>(rng());
  const int bits = encoding.integer.bits;
  const auto code = [&] {
    return static_cast<int8_t>(static_cast<int>(rng() % (1u << bits)) - (1 << (bits - 1)));
  };
  for (auto& c : tile.codes) c = code();
  for (auto& z : tile.zeros) z = code();
  const DType dtype = encoding.integer.scale_dtype;
  const size_t width = static_cast<size_t>(DTypeBits(dtype)) / 8;
  for (size_t i = 0; i + width <= tile.scales.size(); i += width) {
    const float scale = 0.001f + static_cast<float>(rng() % 1000) * 1e-4f;
    EncodeFromFloat(dtype, &scale, tile.scales.data() + i, 1);
  }
  return tile;
}

// Rows [row, row + count) of a tile.
inline EncodedTensor RowsOf(const EncodedTensor& tile, int64_t row, int64_t count) {
  EncodedTensor part = tile;
  part.rows = count;
  const auto cut = [&](auto* values) {
    if (tile.rows == 0) return;
    const int64_t each = static_cast<int64_t>(values->size()) / tile.rows;
    values->assign(values->begin() + row * each, values->begin() + (row + count) * each);
  };
  cut(&part.data);
  cut(&part.codes);
  cut(&part.scales);
  cut(&part.zeros);
  return part;
}

// Writes a whole tensor in tiles of `tile_rows`, the last tile first.
inline void WriteInTiles(TensorSink* sink, size_t index, const EncodedTensor& whole,
                         int64_t tile_rows) {
  const int64_t last = whole.rows == 0 ? 0 : (whole.rows - 1) / tile_rows * tile_rows;
  for (int64_t row = last; row >= 0; row -= tile_rows) {
    const Status status =
        sink->Write(index, row, RowsOf(whole, row, std::min(tile_rows, whole.rows - row)));
    REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  }
}

// Every file under `root`, with its path.
inline std::vector<std::string> FilesUnder(const std::string& root) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.is_regular_file()) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Flips one bit of a file, `from_end` bytes before its end.
inline void FlipBit(const std::string& path, int64_t from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-from_end, std::ios::end);
  const auto at = file.tellg();
  char byte = 0;
  file.get(byte);
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 4));
}

inline bool SameTile(const EncodedTensor& a, const EncodedTensor& b) {
  return a.rows == b.rows && a.cols == b.cols && a.data == b.data && a.codes == b.codes &&
         a.scales == b.scales && a.zeros == b.zeros;
}

// The sink that `make` gives for a path and the model that is written.
inline std::unique_ptr<TensorSink> OpenSink(
    Result<std::unique_ptr<TensorSink>> (*make)(const SinkOptions&), const std::string& path,
    const Model& model) {
  SinkOptions options;
  options.path = path;
  options.model = &model;
  auto sink = make(options);
  REQUIRE(sink.ok());
  return std::move(*sink);
}

}  // namespace pennyweight
