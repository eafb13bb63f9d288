#include "lib/fold_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <unordered_map>

#include "lib/base64.h"
#include "lib/checked.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr uint64_t kVersion = 1;
constexpr int kOctaves = 127;  // the largest code of "octave16"

// 2^(i/16) to the nearest f32.
constexpr std::array<float, 16> kSixteenths = {1.0f,        1.04427378f, 1.09050773f, 1.13878863f,
                                               1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
                                               1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f,
                                               1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};

// The codes of scales that all are powers of 2^(1/16); empty otherwise.
std::vector<uint8_t> OctaveCodes(const std::vector<float>& scale) {
  std::vector<uint8_t> codes;
  codes.reserve(scale.size());
  for (const float s : scale) {
    const int k = NearestOctave(static_cast<double>(s));
    if (OctaveScale(k) != s) return {};
    codes.push_back(static_cast<uint8_t>(static_cast<int8_t>(k)));
  }
  return codes;
}

Json Names(const std::vector<std::string>& names) {
  Json list = Json::Array();
  for (const std::string& name : names) list.Push(Json::String(name));
  return list;
}

Error Bad(size_t number, std::string_view what) {
  return Error(ErrorCode::kInvalidHeader,
               fmt::format("the record of folds is damaged: fold {}: {}", number, what));
}

Result<std::vector<float>> ParseScale(const Json& fold, size_t number) {
  const Json* text = fold.Find("scale");
  const Json* encoding = fold.Find("encoding");
  if (text == nullptr || !text->is_string() || encoding == nullptr || !encoding->is_string()) {
    return Bad(number, "\"scale\" and \"encoding\" are texts");
  }
  const auto bytes = DecodeBase64(text->str());
  if (!bytes) return Bad(number, "\"scale\" is not base64");
  std::vector<float> scale;
  if (encoding->str() == "f32") {
    if (bytes->size() % sizeof(float) != 0) return Bad(number, "\"scale\" ends inside a number");
    scale.resize(bytes->size() / sizeof(float));
    std::memcpy(scale.data(), bytes->data(), bytes->size());
  } else if (encoding->str() == "octave16") {
    for (const uint8_t code : *bytes) scale.push_back(OctaveScale(static_cast<int8_t>(code)));
  } else {
    return Bad(number, fmt::format("the encoding \"{}\" is not known", encoding->str()));
  }
  if (scale.empty()) return Bad(number, "it has no scales");
  for (size_t i = 0; i < scale.size(); ++i) {
    // Its inverse has to be a number too.
    if (!std::isnormal(scale[i]) || scale[i] <= 0 || !std::isnormal(1.0f / scale[i])) {
      return Bad(number, fmt::format("scale {} is {}, and not a positive number", i, scale[i]));
    }
  }
  return scale;
}

Result<std::vector<std::string>> ParseNames(const Json& fold, std::string_view key, size_t number) {
  const Json* list = fold.Find(key);
  if (list == nullptr || !list->is_array()) {
    return Bad(number, fmt::format("\"{}\" is no list", key));
  }
  std::vector<std::string> names;
  for (const Json& name : list->items()) {
    if (!name.is_string() || name.str().empty() || name.str().size() > limits::kTensorNameBytes) {
      return Bad(number, fmt::format("\"{}\" holds what is no name", key));
    }
    names.push_back(name.str());
  }
  return names;
}

Result<RecordedFold> ParseFold(const Json& json, size_t number) {
  RecordedFold fold;
  PW_ASSIGN(fold.scale, ParseScale(json, number));
  PW_ASSIGN(fold.divided, ParseNames(json, "divided", number));
  PW_ASSIGN(fold.multiplied, ParseNames(json, "multiplied", number));
  for (const auto& [key, to] : {std::pair("repeat", &fold.repeat), {"head_dim", &fold.head_dim}}) {
    const Json* value = json.Find(key);
    const auto integer = value == nullptr ? std::optional<int64_t>() : value->AsInteger();
    if (!integer || *integer < 1 || *integer > limits::kDimension) {
      return Bad(number, fmt::format("\"{}\" is no positive number", key));
    }
    *to = *integer;
  }
  if (static_cast<int64_t>(fold.scale.size()) % fold.head_dim != 0) {
    return Bad(number,
               fmt::format("{} scales are no whole heads of {}", fold.scale.size(), fold.head_dim));
  }
  return fold;
}

// The scale of every column of a multiplied matrix.
std::vector<float> Columns(const RecordedFold& fold, int64_t cols) {
  if (fold.repeat == 1) return fold.scale;
  std::vector<float> out(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t head = c / fold.head_dim / fold.repeat;
    out[static_cast<size_t>(c)] =
        fold.scale[static_cast<size_t>(head * fold.head_dim + c % fold.head_dim)];
  }
  return out;
}

}  // namespace

float OctaveScale(int k) {
  const int octave = k >= 0 ? k / 16 : -((15 - k) / 16);
  return std::ldexp(kSixteenths[static_cast<size_t>(k - 16 * octave)], octave);
}

int NearestOctave(double value) {
  return static_cast<int>(
      std::clamp(std::round(16 * std::log2(value)), -1.0 * kOctaves, 1.0 * kOctaves));
}

std::string FoldRecordToJson(const FoldRecord& record) {
  Json folds = Json::Array();
  for (const RecordedFold& fold : record.folds) {
    const std::vector<uint8_t> codes = OctaveCodes(fold.scale);
    const auto* floats = reinterpret_cast<const uint8_t*>(fold.scale.data());
    Json json = Json::Object();
    json.Set("scale",
             Json::String(codes.empty() ? EncodeBase64({floats, fold.scale.size() * sizeof(float)})
                                        : EncodeBase64(codes)));
    json.Set("encoding", Json::String(codes.empty() ? "f32" : "octave16"));
    json.Set("divided", Names(fold.divided));
    json.Set("multiplied", Names(fold.multiplied));
    json.Set("repeat", Json::Integer(fold.repeat));
    json.Set("head_dim", Json::Integer(fold.head_dim));
    folds.Push(std::move(json));
  }
  Json out = Json::Object();
  out.Set("version", Json::Unsigned(kVersion));
  out.Set("folds", std::move(folds));
  return out.Dump();
}

Result<FoldRecord> ParseFoldRecord(std::string_view text) {
  if (text.size() > limits::kFoldsBytes) {
    return Error(ErrorCode::kLimit,
                 fmt::format("the record of folds has {} bytes, at most {} are taken", text.size(),
                             limits::kFoldsBytes));
  }
  const Result<Json> json = Json::Parse(text);
  if (!json.ok()) {
    return Error(ErrorCode::kInvalidHeader,
                 "the record of folds is damaged: " + json.error().message);
  }
  const Json* version = json->is_object() ? json->Find("version") : nullptr;
  const Json* folds = json->is_object() ? json->Find("folds") : nullptr;
  if (version == nullptr || folds == nullptr || !folds->is_array()) {
    return Error(ErrorCode::kInvalidHeader,
                 "the record of folds is damaged: it has no \"version\" or no \"folds\"");
  }
  if (version->AsUnsigned() != kVersion) {
    return Error(ErrorCode::kInvalidHeader,
                 fmt::format("the record of folds is of version {}, this program knows {}",
                             version->Dump(), kVersion));
  }
  FoldRecord record;
  for (const Json& fold : folds->items()) {
    PW_ASSIGN(RecordedFold parsed, ParseFold(fold, record.folds.size()));
    record.folds.push_back(std::move(parsed));
  }
  return record;
}

Result<std::vector<std::pair<size_t, Fold>>> FoldsOf(const FoldRecord& record,
                                                     const TensorSource& source) {
  std::unordered_map<std::string_view, size_t> by_name;
  for (size_t i = 0; i < source.tensors().size(); ++i) by_name[source.tensors()[i].name] = i;
  std::map<size_t, Fold> folds;
  const auto add = [&](const std::string& name, const RecordedFold& fold, bool divided) -> Status {
    const auto it = by_name.find(name);
    if (it == by_name.end()) {
      return Error(ErrorCode::kInvalidHeader,
                   "the record of folds names a tensor that is not there")
          .InTensor(name);
    }
    const TensorInfo& info = source.tensors()[it->second];
    const bool vector = info.shape.size() <= 1;
    const auto scales = static_cast<uint64_t>(fold.scale.size());
    const auto wanted =
        divided ? std::optional(scales) : CheckedMul(scales, static_cast<uint64_t>(fold.repeat));
    const int64_t length = divided && !vector ? info.rows() : info.cols();
    if (!wanted || *wanted != static_cast<uint64_t>(length) || (vector && !divided)) {
      return Error(ErrorCode::kInvalidHeader,
                   fmt::format("the record of folds has {} scales for its shape {}", scales,
                               ShapeToString(info.shape)))
          .InTensor(name);
    }
    Fold one;
    if (divided) {
      (vector ? one.col_scale : one.row_scale) = fold.scale;
      one = Inverse(one);
    } else {
      one.col_scale = Columns(fold, info.cols());
    }
    Fold& all = folds[it->second];
    all = Compose(all, one);
    return OkStatus();
  };
  for (const RecordedFold& fold : record.folds) {
    for (const std::string& name : fold.divided) PW_TRY(add(name, fold, true));
    for (const std::string& name : fold.multiplied) PW_TRY(add(name, fold, false));
  }
  return std::vector<std::pair<size_t, Fold>>(folds.begin(), folds.end());
}

}  // namespace pennyweight
