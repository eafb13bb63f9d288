#include "formats/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "formats/detect.h"
#include "formats/pickle_audit.h"
#include "formats/pytorch_reader.h"
#include "formats/safetensors_reader.h"
#include "formats/shard_index.h"
#include "lib/file.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr size_t kTensorFindings = 100;  // of one rule that name a tensor
constexpr uint64_t kTemplateBytes = 16 << 20;

// The bytes of all tensors as their files list them, quantized ones in parts; nullopt when a header
// cannot be read.
std::optional<uint64_t> TensorBytes(const WeightFiles& files) {
  uint64_t total = 0;
  for (const std::string& path : files.paths) {
    const Result<ReadFile> file = ReadFile::Open(path);
    if (!file.ok()) return std::nullopt;
    const Result<SafetensorsHeader> header = ReadSafetensorsHeader(*file);
    if (!header.ok()) return std::nullopt;
    for (const TensorInfo& tensor : header->tensors) total += tensor.bytes;
  }
  return total;
}

// 3 of "model-00001-of-00003.safetensors".
std::optional<uint64_t> ShardCount(const std::string& name) {
  const size_t of = name.rfind("-of-");
  if (of == std::string::npos) return std::nullopt;
  uint64_t count = 0;
  const char* begin = name.data() + of + 4;
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), count);
  if (error != std::errc() || end == begin) return std::nullopt;
  return count;
}

void AuditIndex(const WeightFiles& files, std::vector<Finding>* findings) {
  for (const std::string& path : files.paths) {
    const auto count = ShardCount(BaseName(path));
    if (!count || *count == files.paths.size()) continue;
    findings->push_back({.rule = "IDX-SHARD-COUNT",
                         .message = fmt::format("the name says {} shards, there are {}", *count,
                                                files.paths.size()),
                         .file = path});
    break;
  }
  if (files.pytorch) return;
  const Result<Json> index = Json::ParseFile(files.index);
  if (!index.ok()) return;
  const Json* metadata = index->Find("metadata");
  const Json* size = metadata != nullptr ? metadata->Find("total_size") : nullptr;
  if (size == nullptr) return;
  const auto bytes = TensorBytes(files);
  // Some writers store it as a float.
  const auto says = size->AsDouble();
  if (!bytes || !says || *says == static_cast<double>(*bytes)) return;
  findings->push_back(
      {.rule = "IDX-TOTAL-SIZE",
       .message = fmt::format("total_size is {}, the tensors have {} bytes", size->Dump(), *bytes),
       .file = files.index});
}

// A text, or a list of {"name", "template"}.
void AuditTemplates(const Json& value, const std::string& file, std::vector<Finding>* findings) {
  std::vector<std::string> texts;
  if (value.is_string()) texts.push_back(value.str());
  if (value.is_array()) {
    for (const Json& item : value.items()) {
      const Json* text = item.Find("template");
      if (text != nullptr && text->is_string()) texts.push_back(text->str());
    }
  }
  for (const std::string& text : texts) {
    for (Finding& finding : AuditTemplate(text, file)) findings->push_back(std::move(finding));
  }
}

std::vector<Finding> Capped(std::vector<Finding> findings) {
  if (findings.size() <= kTensorFindings) return findings;
  const size_t more = findings.size() - kTensorFindings;
  findings.resize(kTensorFindings);
  findings.push_back({.rule = findings[0].rule,
                      .message = fmt::format("{} more tensors, not listed", more),
                      .file = findings[0].file});
  return findings;
}

// A file whose name says that it is an archive, or a document that is one, hides nothing by it.
bool IsNamedArchive(std::string_view path) {
  for (const std::string_view suffix :
       {".7z", ".bz2", ".docx", ".gz", ".jar", ".keras", ".npz", ".nemo", ".odt", ".pptx", ".rar",
        ".tgz", ".whl", ".xlsx", ".xz", ".zip", ".zst"}) {
    if (path.ends_with(suffix)) return true;
  }
  return false;
}

}  // namespace

std::vector<Finding> AuditHuggingFace(const std::string& directory) {
  std::vector<Finding> findings;
  const Result<WeightFiles> files = FindWeightFiles(directory);
  if (files.ok() && !files->index.empty()) AuditIndex(*files, &findings);
  const std::string config_path = JoinPath(directory, "config.json");
  const Result<Json> config = Json::ParseFile(config_path);
  if (config.ok() && config->Find("auto_map") != nullptr) {
    findings.push_back({.rule = "CFG-REMOTE-CODE",
                        .message = "auto_map names classes in Python files (nothing was run)",
                        .file = config_path});
  }
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const std::string path = JoinPath(directory, name);
    const Result<Json> json = Json::ParseFile(path);
    const Json* text = json.ok() ? json->Find("chat_template") : nullptr;
    if (text != nullptr) AuditTemplates(*text, path, &findings);
  }
  const std::string jinja = JoinPath(directory, "chat_template.jinja");
  const Result<std::string> text = ReadWholeFile(jinja, kTemplateBytes);
  if (text.ok()) {
    for (Finding& finding : AuditTemplate(*text, jinja)) findings.push_back(std::move(finding));
  }
  return findings;
}

std::vector<Finding> AuditFile(const std::string& path) {
  const Result<ReadFile> file = ReadFile::Open(path);
  if (!file.ok() || file->size() == 0) return {};
  char head[16] = {};
  const uint64_t n = std::min<uint64_t>(sizeof(head), file->size());
  if (!file->ReadAt(0, head, n).ok()) return {};
  const bool archive = IsNamedArchive(path);
  if (IsCompressedArchive(std::string_view(head, n))) {
    if (archive) return {};
    return {{.rule = "FILE-ARCHIVE",
             .message = "this is a compressed archive, which was not looked into",
             .file = path,
             .offset = 0}};
  }
  const Result<FileFormat> format = DetectFormat(path);
  if (format.ok() && *format != FileFormat::kPytorch) return {};
  return AuditTorchFile(*file, /*weights=*/!archive);
}

std::vector<Finding> AuditTensorList(const Model& model) {
  std::vector<Finding> names, misaligned, all;
  const bool safetensors = model.source->format() == "safetensors";
  for (const TensorInfo& info : model.source->tensors()) {
    const auto add = [&](std::string_view rule, std::string message, std::vector<Finding>* list) {
      list->push_back({.rule = rule,
                       .message = std::move(message),
                       .file = info.file,
                       .tensor = info.name,
                       .offset = static_cast<int64_t>(info.offset)});
    };
    if (SafeText(info.name) != info.name) {
      add("NAME-CONTROL", fmt::format("the name is \"{}\"", SafeText(info.name)), &names);
    }
    if (!safetensors || info.encoding.kind != Encoding::Kind::kPlain || info.bytes == 0) continue;
    const uint64_t element = static_cast<uint64_t>(DTypeBits(info.encoding.dtype)) / 8;
    if (element > 1 && info.offset % element != 0) {
      add("ST-MISALIGNED",
          fmt::format("it begins at byte {}, which {} does not divide", info.offset, element),
          &misaligned);
    }
  }
  const auto& metadata = model.source->metadata();
  if (const auto unused = metadata.find("unused_records");
      unused != metadata.end() && model.source->format() == "pytorch") {
    all.push_back({.rule = "ZIP-UNUSED",
                   .message = fmt::format("{} storages are used by no tensor", unused->second),
                   .file = model.source->files()[0]});
  }
  for (std::vector<Finding>* list : {&names, &misaligned}) {
    for (Finding& finding : Capped(std::move(*list))) all.push_back(std::move(finding));
  }
  return all;
}

}  // namespace pennyweight
