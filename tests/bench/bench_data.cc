#include "tests/bench/bench_data.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "lib/dtype.h"
#include "lib/file.h"
#include "lib/json.h"

namespace pennyweight {
namespace {

constexpr uint64_t kHeaderBytes = 64u << 20;
constexpr int64_t kLargest = int64_t{1} << 31;  // values of one matrix

std::vector<float> RandomMatrix(int64_t rows, int64_t cols, double column_sigma) {
  std::mt19937_64 engine(20240607);
  std::normal_distribution<double> normal;
  std::vector<double> scale(static_cast<size_t>(cols));
  for (double& s : scale) s = std::exp(column_sigma * normal(engine)) / 64;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = static_cast<float>(normal(engine) * scale[i % scale.size()]);
  }
  return w;
}

std::vector<float> RandomImportance(int64_t cols) {
  std::mt19937_64 engine(71);
  std::normal_distribution<double> normal;
  std::vector<float> importance(static_cast<size_t>(cols));
  for (float& h : importance) h = static_cast<float>(std::exp(normal(engine)));
  return importance;
}

Error Bad(const std::string& file, const std::string& message) {
  return Error(ErrorCode::kInvalidHeader, message).InFile(file);
}

// The dtype, shape and place of a tensor of a safetensors file.
struct Place {
  DType dtype = DType::kF32;
  int64_t rows = 1, cols = 1;
  uint64_t offset = 0;
};

Result<Place> FindTensor(const ReadFile& file, const std::string& name) {
  uint64_t length = 0;
  PW_TRY(file.ReadAt(0, &length, sizeof(length)));
  if (length > std::min(kHeaderBytes, file.size())) return Bad(file.path(), "header is too long");
  std::string text(length, '\0');
  PW_TRY(file.ReadAt(8, text.data(), length));
  PW_ASSIGN(const Json header, Json::Parse(text));
  const Json* entry = header.Find(name);
  if (entry == nullptr) return Bad(file.path(), "no tensor " + name);
  const Json* dtype = entry->Find("dtype");
  const Json* shape = entry->Find("shape");
  const Json* offsets = entry->Find("data_offsets");
  if (dtype == nullptr || !dtype->is_string() || shape == nullptr || !shape->is_array() ||
      offsets == nullptr || !offsets->is_array() || offsets->items().empty()) {
    return Bad(file.path(), "the entry of " + name + " is incomplete");
  }
  Place place;
  place.dtype = DTypeFromName(dtype->str()).value_or(DType::kI64);
  if (!IsFloatDType(place.dtype)) return Bad(file.path(), name + " is neither F32, F16 nor BF16");
  for (const Json& item : shape->items()) {
    const int64_t size = item.AsInteger().value_or(0);
    if (size <= 0 || size > kLargest || place.rows > kLargest / place.cols) {
      return Bad(file.path(), "the shape of " + name + " is not that of a matrix");
    }
    place.rows *= place.cols;
    place.cols = size;
  }
  place.offset = 8 + length + offsets->items()[0].AsUnsigned().value_or(0);
  return place;
}

Result<BenchData> ReadMatrix(const std::string& what, int64_t rows, int64_t cols) {
  const size_t colon = what.rfind(':');
  const std::string path = what.substr(0, colon);
  PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
  Place place;
  if (colon != std::string::npos) {
    PW_ASSIGN(place, FindTensor(file, what.substr(colon + 1)));
  } else {
    place.cols = cols;
    place.rows = static_cast<int64_t>(file.size() / 4) / cols;
  }
  BenchData data;
  // The model's folder tells more than "model.safetensors".
  const size_t slash = path.rfind('/');
  const bool model = BaseName(path) == "model.safetensors" && slash != std::string::npos;
  data.name = BaseName(model ? path.substr(0, slash) : path);
  if (colon != std::string::npos) data.name += " " + what.substr(colon + 1);
  data.rows = std::min(rows, place.rows);
  data.cols = place.cols;
  if (data.rows == 0 || data.rows > kLargest / data.cols) return Bad(path, "no rows to take");
  const auto count = static_cast<size_t>(data.rows * data.cols);
  const uint64_t bytes = count * static_cast<size_t>(DTypeBits(place.dtype)) / 8;
  if (bytes > file.size()) return Bad(path, "the file is shorter than the tensor");
  std::vector<uint8_t> stored(bytes);
  PW_TRY(file.ReadAt(place.offset, stored.data(), bytes));
  data.w.resize(count);
  DecodeToFloat(place.dtype, stored.data(), data.w.data(), count);
  return data;
}

}  // namespace

Result<BenchData> MakeBenchData(const std::string& what, int64_t rows, int64_t cols,
                                const std::string& importance_file) {
  if (rows <= 0 || cols <= 0 || rows > kLargest / cols) {
    return Error(ErrorCode::kUsage, "rows and columns are not those of a matrix");
  }
  BenchData data;
  if (what == "peer" || what == "gauss") {
    data.name = what;
    data.rows = rows;
    data.cols = cols;
    data.w = RandomMatrix(rows, cols, what == "peer" ? 0.3 : 0.0);
  } else {
    PW_ASSIGN(data, ReadMatrix(what, rows, cols));
  }
  if (importance_file.empty()) {
    data.importance = RandomImportance(data.cols);
    return data;
  }
  PW_ASSIGN(const ReadFile file, ReadFile::Open(importance_file));
  data.importance.resize(static_cast<size_t>(data.cols));
  PW_TRY(file.ReadAt(0, data.importance.data(), data.importance.size() * sizeof(float)));
  return data;
}

}  // namespace pennyweight
