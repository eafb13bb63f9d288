#include "lib/manifest.h"

#include <fmt/format.h>

#include <unordered_map>

#include "lib/file.h"
#include "lib/json.h"

namespace pennyweight {
namespace {

constexpr const char* kSchema = "pennyweight.manifest/1";

Error Malformed(std::string text) {
  return Error(ErrorCode::kInvalidHeader, std::move(text))
      .Hint("write it again with `pennyweight verify MODEL --write-manifest FILE`");
}

Status ReadString(const Json& row, std::string_view key, std::string* out) {
  const Json* value = row.Find(key);
  if (value == nullptr || !value->is_string()) {
    return Malformed(fmt::format("a row of the manifest has no text \"{}\"", key));
  }
  *out = value->str();
  return OkStatus();
}

Status ReadNumber(const Json& row, std::string_view key, uint64_t* out) {
  const Json* value = row.Find(key);
  const auto number = value != nullptr ? value->AsUnsigned() : std::nullopt;
  if (!number) return Malformed(fmt::format("a row of the manifest has no number \"{}\"", key));
  *out = *number;
  return OkStatus();
}

Result<const std::vector<Json>*> ReadList(const Json& document, std::string_view key) {
  const Json* list = document.Find(key);
  if (list == nullptr || !list->is_array()) {
    return Malformed(fmt::format("the manifest has no list \"{}\"", key));
  }
  return &list->items();
}

Result<Manifest::Tensor> ReadTensor(const Json& row) {
  Manifest::Tensor tensor;
  PW_TRY(ReadString(row, "name", &tensor.name));
  PW_TRY(ReadString(row, "dtype", &tensor.dtype));
  PW_ASSIGN(const auto* shape, ReadList(row, "shape"));
  for (const Json& dimension : *shape) {
    const auto value = dimension.AsInteger();
    if (!value) return Malformed("a shape of the manifest is not made of integers");
    tensor.shape.push_back(*value);
  }
  PW_TRY(ReadString(row, "file", &tensor.file));
  PW_TRY(ReadNumber(row, "offset", &tensor.offset));
  PW_TRY(ReadNumber(row, "bytes", &tensor.bytes));
  PW_TRY(ReadString(row, "xxh3_128", &tensor.xxh3_128));
  return tensor;
}

std::string PathOf(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : JoinPath(folder, name);
}

void CompareFiles(const Manifest& expected, const Manifest& found, const std::string& folder,
                  std::vector<Finding>* findings) {
  std::unordered_map<std::string_view, const Manifest::File*> there;
  for (const Manifest::File& file : found.files) there.emplace(file.name, &file);
  for (const Manifest::File& file : expected.files) {
    const std::string path = PathOf(folder, file.name);
    const auto other = there.find(file.name);
    if (other == there.end()) {
      findings->push_back(
          {.rule = "MAN-FILE-MISSING", .message = "the file is not there", .file = path});
      continue;
    }
    const Manifest::File& now = *other->second;
    there.erase(other);
    if (now.bytes == file.bytes && now.sha256 == file.sha256) continue;
    findings->push_back({.rule = "MAN-FILE-CHANGED",
                         .message = fmt::format("{} bytes with SHA-256 {}; the manifest says {} "
                                                "bytes with {}",
                                                now.bytes, now.sha256, file.bytes, file.sha256),
                         .file = path});
  }
  for (const Manifest::File& file : found.files) {
    if (!there.contains(file.name)) continue;
    findings->push_back({.rule = "MAN-FILE-ADDED",
                         .message = "the file is not in the manifest",
                         .file = PathOf(folder, file.name)});
  }
}

void CompareTensors(const Manifest& expected, const Manifest& found, const std::string& folder,
                    std::vector<Finding>* findings) {
  std::unordered_map<std::string_view, const Manifest::Tensor*> there;
  for (const Manifest::Tensor& tensor : found.tensors) there.emplace(tensor.name, &tensor);
  for (const Manifest::Tensor& tensor : expected.tensors) {
    const auto other = there.find(tensor.name);
    if (other == there.end()) {
      findings->push_back({.rule = "MAN-TENSOR-MISSING",
                           .message = "the tensor is not there",
                           .file = PathOf(folder, tensor.file),
                           .tensor = tensor.name});
      continue;
    }
    const Manifest::Tensor& now = *other->second;
    there.erase(other);
    std::string what;
    if (now.dtype != tensor.dtype || now.shape != tensor.shape) {
      what = fmt::format("{} {}; the manifest says {} {}", now.dtype, ShapeToString(now.shape),
                         tensor.dtype, ShapeToString(tensor.shape));
    } else if (now.xxh3_128 != tensor.xxh3_128) {
      what = fmt::format("its values changed: XXH3-128 {}, the manifest says {}", now.xxh3_128,
                         tensor.xxh3_128);
    }
    if (what.empty()) continue;
    findings->push_back({.rule = "MAN-TENSOR-CHANGED",
                         .message = std::move(what),
                         .file = PathOf(folder, now.file),
                         .tensor = now.name,
                         .offset = static_cast<int64_t>(now.offset),
                         .bytes = static_cast<int64_t>(now.bytes)});
  }
  for (const Manifest::Tensor& tensor : found.tensors) {
    if (!there.contains(tensor.name)) continue;
    findings->push_back({.rule = "MAN-TENSOR-ADDED",
                         .message = "the tensor is not in the manifest",
                         .file = PathOf(folder, tensor.file),
                         .tensor = tensor.name,
                         .offset = static_cast<int64_t>(tensor.offset)});
  }
}

}  // namespace

std::string HexOf(const Hash128& hash) { return fmt::format("{:016x}{:016x}", hash[0], hash[1]); }

std::string ManifestToJson(const Manifest& manifest) {
  Json document = Json::Object();
  document.Set("schema", Json::String(kSchema));
  Json files = Json::Array();
  for (const Manifest::File& file : manifest.files) {
    Json row = Json::Object();
    row.Set("name", Json::String(file.name));
    row.Set("bytes", Json::Unsigned(file.bytes));
    row.Set("sha256", Json::String(file.sha256));
    files.Push(std::move(row));
  }
  document.Set("files", std::move(files));
  Json tensors = Json::Array();
  for (const Manifest::Tensor& tensor : manifest.tensors) {
    Json row = Json::Object();
    row.Set("name", Json::String(tensor.name));
    row.Set("dtype", Json::String(tensor.dtype));
    Json shape = Json::Array();
    for (const int64_t d : tensor.shape) shape.Push(Json::Integer(d));
    row.Set("shape", std::move(shape));
    row.Set("file", Json::String(tensor.file));
    row.Set("offset", Json::Unsigned(tensor.offset));
    row.Set("bytes", Json::Unsigned(tensor.bytes));
    row.Set("xxh3_128", Json::String(tensor.xxh3_128));
    tensors.Push(std::move(row));
  }
  document.Set("tensors", std::move(tensors));
  return document.Dump(1) + "\n";
}

Result<Manifest> ParseManifest(std::string_view text) {
  PW_ASSIGN(const Json document, Json::Parse(text));
  const Json* schema = document.Find("schema");
  if (schema == nullptr || !schema->is_string() || schema->str() != kSchema) {
    return Malformed(fmt::format("this is no manifest: its schema is not {}", kSchema));
  }
  Manifest manifest;
  PW_ASSIGN(const auto* files, ReadList(document, "files"));
  for (const Json& row : *files) {
    Manifest::File file;
    PW_TRY(ReadString(row, "name", &file.name));
    PW_TRY(ReadNumber(row, "bytes", &file.bytes));
    PW_TRY(ReadString(row, "sha256", &file.sha256));
    manifest.files.push_back(std::move(file));
  }
  PW_ASSIGN(const auto* tensors, ReadList(document, "tensors"));
  for (const Json& row : *tensors) {
    PW_ASSIGN(Manifest::Tensor tensor, ReadTensor(row));
    manifest.tensors.push_back(std::move(tensor));
  }
  return manifest;
}

std::vector<Finding> CompareManifests(const Manifest& expected, const Manifest& found,
                                      const std::string& folder) {
  std::vector<Finding> findings;
  CompareFiles(expected, found, folder, &findings);
  CompareTensors(expected, found, folder, &findings);
  return findings;
}

}  // namespace pennyweight
