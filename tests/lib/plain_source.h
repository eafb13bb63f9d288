// Plain F32 tensors in memory, and the reader that lib's folded source asks for.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lib/dtype.h"
#include "lib/tensor_source.h"

namespace pennyweight {

class PlainSource : public TensorSource {
 public:
  void Add(const std::string& name, Shape shape, std::vector<float> values) {
    TensorInfo info;
    info.name = info.stored_name = name;
    info.shape = std::move(shape);
    info.bytes = values.size() * sizeof(float);
    tensors_.push_back(std::move(info));
    values_.push_back(std::move(values));
  }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    const int64_t cols = tensors_[index].cols();
    out->Resize(tensors_[index].encoding, count, cols);
    std::memcpy(out->data.data(), values_[index].data() + row * cols,
                static_cast<size_t>(count * cols) * sizeof(float));
    return OkStatus();
  }
  std::string_view format() const override { return "memory"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<std::vector<float>> values_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

// Rows of an F32 tensor.
inline Status ReadPlain(const TensorSource& source, size_t index, int64_t row, int64_t count,
                        float* out) {
  EncodedTensor rows;
  PW_TRY(source.ReadRows(index, row, count, &rows));
  DecodeToFloat(DType::kF32, rows.data.data(), out,
                static_cast<size_t>(count * source.tensors()[index].cols()));
  return OkStatus();
}

}  // namespace pennyweight
