// Weights of a family's tensors, checked against the configuration (declared in calib/forward.h).
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "calib/forward.h"
#include "lib/arch/check.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

constexpr int64_t kDecodeRows = 64;  // rows that are decoded at a time

Role RoleOf(const Family& family, std::string_view pattern) {
  for (const TensorRule& rule : family.tensors) {
    if (rule.hf == pattern) return rule.role;
  }
  return Role::kOther;
}

Status CheckShape(const TensorInfo& info, const Shape& expected) {
  if (expected.empty() || info.shape == expected) return OkStatus();
  return Error(ErrorCode::kInvalidTensor,
               fmt::format("its shape is {}, the configuration says {}", ShapeToString(info.shape),
                           ShapeToString(expected)))
      .Hint(
          "the configuration is of another model than the weights: download both again, or see "
          "`pennyweight verify`")
      .InFile(info.file)
      .InTensor(info.name);
}

Result<size_t> FindTensor(const TensorSource& source, const std::string& name) {
  const int64_t index = source.Find(name);
  if (index >= 0) return static_cast<size_t>(index);
  return Error(ErrorCode::kTensorMissing, "the family needs this tensor, the files do not have it")
      .InTensor(name);
}

// The bias beside a matrix; nothing where the family can do without one.
Status LoadBias(const TensorSource& source, const Family& family, std::string name, int64_t rows,
                std::vector<float>* bias) {
  constexpr std::string_view kWeight = ".weight";
  if (!name.ends_with(kWeight)) return OkStatus();
  name.replace(name.size() - kWeight.size(), kWeight.size(), ".bias");
  const int64_t index = source.Find(name);
  if (index < 0) {
    const TensorRule* rule = PlaceOfHf(family, name).rule;
    if (rule == nullptr || !rule->required) return OkStatus();
    return FindTensor(source, name).TakeError();
  }
  const TensorInfo& info = source.tensors()[static_cast<size_t>(index)];
  PW_TRY(CheckShape(info, {rows}));
  bias->resize(static_cast<size_t>(rows));
  return ReadFloatRows(source, static_cast<size_t>(index), 0, 1, bias->data());
}

// Rows [row, row + count) of tensor `index`.
Result<Weight> ReadWeight(const TensorSource& source, size_t index, int64_t row, int64_t count) {
  const TensorInfo& info = source.tensors()[index];
  Weight weight;
  weight.rows = count;
  weight.cols = info.cols();
  const Encoding& encoding = info.encoding;
  if (encoding.kind == Encoding::Kind::kPlain &&
      (encoding.dtype == DType::kF16 || encoding.dtype == DType::kBF16)) {
    EncodedTensor stored;
    PW_TRY(source.ReadRows(index, row, count, &stored));
    weight.dtype = encoding.dtype;
    weight.data = std::move(stored.data);
    return weight;
  }
  weight.dtype = DType::kF32;
  weight.data.resize(static_cast<size_t>(count * weight.cols) * sizeof(float));
  auto* values = reinterpret_cast<float*>(weight.data.data());
  for (int64_t done = 0; done < count; done += kDecodeRows) {
    PW_TRY(ReadFloatRows(source, index, row + done, std::min(kDecodeRows, count - done),
                         values + done * weight.cols));
  }
  return weight;
}

// The tensor `name` of a family's rule, in the shape that the rule and the config ask for.
Result<size_t> FindTensorOf(const TensorSource& source, const Family& family,
                            const ModelConfig& config, std::string_view pattern,
                            const std::string& name) {
  PW_ASSIGN(const size_t index, FindTensor(source, name));
  PW_TRY(CheckShape(source.tensors()[index], ExpectedShape(RoleOf(family, pattern), config)));
  return index;
}

}  // namespace

Result<Weight> LoadWeightRows(const TensorSource& source, const Family& family,
                              const ModelConfig& config, std::string_view pattern, int64_t layer,
                              int64_t row, int64_t count) {
  PW_ASSIGN(const size_t index,
            FindTensorOf(source, family, config, pattern, NameFor(pattern, layer)));
  return ReadWeight(source, index, row, count);
}

Result<Weight> LoadWeight(const TensorSource& source, const Family& family,
                          const ModelConfig& config, std::string_view pattern, int64_t layer,
                          int64_t expert) {
  const std::string name = NameFor(pattern, layer, expert);
  PW_ASSIGN(const size_t index, FindTensorOf(source, family, config, pattern, name));
  const TensorInfo& info = source.tensors()[index];
  PW_ASSIGN(Weight weight, ReadWeight(source, index, 0, info.rows()));
  if (RoleOf(family, pattern) != Role::kNorm) {
    PW_TRY(LoadBias(source, family, name, weight.rows, &weight.bias));
  }
  return weight;
}

Result<Weight> LoadBiasAndShape(const TensorSource& source, const Family& family,
                                const ModelConfig& config, std::string_view pattern, int64_t layer,
                                int64_t expert) {
  const std::string name = NameFor(pattern, layer, expert);
  PW_ASSIGN(const size_t index, FindTensorOf(source, family, config, pattern, name));
  const TensorInfo& info = source.tensors()[index];
  Weight weight;
  weight.rows = info.rows();
  weight.cols = info.cols();
  PW_TRY(LoadBias(source, family, name, weight.rows, &weight.bias));
  return weight;
}

Result<LayerWeights> LoadLayer(const TensorSource& source, const Family& family,
                               const ModelConfig& config, int64_t layer) {
  LayerWeights weights;
  for (const Step& step : family.layer) {
    if (step.weight.empty()) continue;
    const bool experts = step.kind == StepKind::kExpertLinear;
    for (int64_t e = experts ? 0 : -1; e < (experts ? config.experts : 0); ++e) {
      PW_ASSIGN(Weight weight, LoadWeight(source, family, config, step.weight, layer, e));
      weights[{step.weight, e}] = std::move(weight);
    }
  }
  return weights;
}

Status EmbedTokens(const TensorSource& source, const Family& family, const ModelConfig& config,
                   std::span<const int32_t> ids, float* out) {
  PW_ASSIGN(const size_t index, FindTensor(source, std::string(family.embedding)));
  const TensorInfo& info = source.tensors()[index];
  PW_TRY(CheckShape(info, ExpectedShape(Role::kEmbedding, config)));
  // In the order of the ids, so that the file is read forwards and each row once.
  std::vector<std::pair<int32_t, size_t>> order;
  order.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) order.emplace_back(ids[i], i);
  std::ranges::sort(order);
  const int64_t width = config.hidden_size;
  const float* previous = nullptr;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [id, at] = order[i];
    if (id < 0 || id >= info.rows()) {
      return Error(ErrorCode::kTokenizer,
                   fmt::format("token id {} is outside the embedding of {} rows: tokenizer and "
                               "model do not belong together",
                               id, info.rows()))
          .InTensor(info.name);
    }
    float* row = out + static_cast<int64_t>(at) * width;
    if (i > 0 && order[i - 1].first == id) {
      std::copy_n(previous, width, row);
    } else {
      PW_TRY(ReadFloatRows(source, index, id, 1, row));
    }
    previous = row;
  }
  return OkStatus();
}

}  // namespace pennyweight
