// What the tests of quantized layouts share: opening parts in memory under a configuration, words
// of packed values, and tables of corrupt inputs.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "formats/quantized_checkpoint.h"
#include "formats/safetensors_reader.h"
#include "lib/json.h"
#include "quant/codec.h"
#include "tests/formats/model_files.h"

namespace pennyweight::test {

struct OpenedParts {
  ScratchFolder folder;
  std::unique_ptr<TensorSource> source;
  std::vector<std::string> notes;
  std::optional<Error> error;
};

// `config`: the text of a config.json; empty for none.
inline std::unique_ptr<OpenedParts> OpenParts(const std::vector<FileTensor>& tensors,
                                              const std::string& config) {
  auto opened = std::make_unique<OpenedParts>();
  auto parts =
      SafetensorsSource::Open({opened->folder.Write("x.safetensors", SafetensorsFile(tensors))});
  REQUIRE_MESSAGE(parts.ok(), parts.error().ToString());
  std::unique_ptr<TensorSource> stored = std::move(parts).value();
  Json json;
  if (!config.empty()) {
    auto parsed = Json::Parse(config);
    REQUIRE_MESSAGE(parsed.ok(), parsed.error().ToString());
    json = std::move(parsed).value();
  }
  auto grouped =
      GroupQuantizedParts(config.empty() ? nullptr : &json, "config.json", &stored, &opened->notes);
  CHECK((stored == nullptr) == grouped.ok());
  if (grouped.ok()) {
    opened->source = std::move(grouped).value();
  } else {
    opened->error = std::move(grouped).TakeError();
  }
  return opened;
}

inline std::string QuantizationText(const std::string& fields) {
  return R"({"quantization_config": {)" + fields + "}}";
}

// Values [0, 2^bits) as fields of 32-bit words, low bits first; a bit at a time, unlike the
// readers.
inline std::vector<uint32_t> StreamWords(const std::vector<int>& values, int bits) {
  std::vector<uint32_t> words((values.size() * static_cast<size_t>(bits) + 31) / 32, 0);
  for (size_t i = 0; i < values.size() * static_cast<size_t>(bits); ++i) {
    const int value = values[i / static_cast<size_t>(bits)];
    const int bit = value >> (i % static_cast<size_t>(bits)) & 1;
    words[i / 32] |= static_cast<uint32_t>(bit) << (i % 32);
  }
  return words;
}

// [rows, cols] to [cols, rows].
template <class T>
std::vector<T> Transposed(const std::vector<T>& values, size_t rows) {
  const size_t cols = values.size() / rows;
  std::vector<T> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i % cols * rows + i / cols] = values[i];
  return out;
}

// Every row of tensor `index` through ReadFloatRows, in tiles of `step` rows.
inline std::vector<float> DecodeAll(const TensorSource& source, size_t index, int64_t step) {
  const TensorInfo& info = source.tensors()[index];
  std::vector<float> out(static_cast<size_t>(info.elements()));
  for (int64_t row = 0; row < info.rows(); row += step) {
    const int64_t count = std::min(step, info.rows() - row);
    const Status status = ReadFloatRows(source, index, row, count, out.data() + row * info.cols());
    REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  }
  return out;
}

// The only tensor decodes to `want`, whatever the tiles.
inline void CheckDecoded(const OpenedParts& opened, const std::string& encoding, const Shape& shape,
                         const std::vector<float>& want) {
  REQUIRE_MESSAGE(!opened.error, opened.error->ToString());
  REQUIRE(opened.source->tensors().size() == 1);
  const TensorInfo& info = opened.source->tensors()[0];
  CHECK(info.encoding.Name() == encoding);
  CHECK(info.shape == shape);
  for (const int64_t step : {1, 5, 32, 1000}) CHECK(DecodeAll(*opened.source, 0, step) == want);
}

// An input that has to be refused.
struct BadParts {
  const char* id;
  std::vector<FileTensor> tensors;
  std::string config;
  ErrorCode code;
  std::string tensor;
};

inline void CheckRefused(const std::vector<BadParts>& cases) {
  for (const BadParts& wrong : cases) {
    CAPTURE(wrong.id);
    const auto opened = OpenParts(wrong.tensors, wrong.config);
    REQUIRE(opened->error.has_value());
    CAPTURE(opened->error->ToString());
    CHECK(std::string(ErrorCodeName(opened->error->code)) == ErrorCodeName(wrong.code));
    CHECK(opened->error->tensor == wrong.tensor);
    CHECK_FALSE(opened->error->file.empty());
  }
}

// `parts` with the one whose name ends in `suffix` changed.
inline std::vector<FileTensor> Changed(std::vector<FileTensor> parts, const std::string& suffix,
                                       const std::function<void(FileTensor&)>& change) {
  int hits = 0;
  for (FileTensor& tensor : parts) {
    if (!tensor.name.ends_with(suffix)) continue;
    change(tensor);
    ++hits;
  }
  REQUIRE(hits == 1);
  return parts;
}

inline std::vector<FileTensor> Without(const std::vector<FileTensor>& parts,
                                       const std::string& suffix) {
  return Changed(parts, suffix, [](FileTensor& tensor) { tensor.name = "elsewhere"; });
}

inline std::vector<FileTensor> Reshaped(const std::vector<FileTensor>& parts,
                                        const std::string& suffix, std::vector<int64_t> shape) {
  return Changed(parts, suffix, [&](FileTensor& tensor) { tensor.shape = shape; });
}

}  // namespace pennyweight::test
