// AuditGguf of formats/audit.h.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "formats/audit.h"
#include "formats/gguf_reader.h"

namespace pennyweight {
namespace {

// The layer of "blk.12.attn_q.weight"; -1 for other names.
int64_t BlockOf(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return -1;
  int64_t block = 0;
  const char* begin = name.data() + kPrefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), block);
  const bool whole = error == std::errc() && end != begin && end < name.data() + name.size();
  return whole && *end == '.' ? block : -1;
}

class GgufAuditor {
 public:
  explicit GgufAuditor(const std::vector<GgufFile>& files) : files_(files), first_(files.front()) {}

  std::vector<Finding> Run() {
    for (const GgufFile& file : files_) {
      for (const std::string& note : file.notes()) {
        findings_.push_back(
            {.rule = "GGUF-LAYOUT", .message = SafeText(note), .file = file.file().path()});
      }
    }
    CheckTokens();
    CheckBlocks();
    CheckTemplates();
    return std::move(findings_);
  }

 private:
  void Add(std::string_view rule, std::string message, uint64_t at) {
    findings_.push_back({.rule = rule,
                         .message = std::move(message),
                         .file = first_.file().path(),
                         .offset = static_cast<int64_t>(at)});
  }

  void CheckTokens() {
    const GgufEntry* tokens = first_.Find("tokenizer.ggml.tokens");
    if (tokens == nullptr || tokens->type != GgufType::kArray) return;
    for (const char* key : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
      const GgufEntry* entry = first_.Find(key);
      if (entry == nullptr || entry->count == tokens->count) continue;
      Add("GGUF-TOKEN-ARRAYS",
          fmt::format("{} has {} elements, tokenizer.ggml.tokens has {}", key, entry->count,
                      tokens->count),
          entry->offset);
    }
    constexpr std::string_view kPrefix = "tokenizer.ggml.";
    constexpr std::string_view kSuffix = "_token_id";
    for (const GgufEntry& entry : first_.entries()) {
      const std::string_view key = entry.key;
      if (!key.starts_with(kPrefix) || !key.ends_with(kSuffix)) continue;
      const auto id = first_.AsInteger(entry);
      // Some writers say -1, or all ones, for "none".
      if (!id || (*id >= 0 && static_cast<uint64_t>(*id) < tokens->count)) continue;
      if (*id == -1 || *id == 0xFFFFFFFF) continue;
      Add("GGUF-TOKEN-ID",
          fmt::format("{} is {}, the vocabulary has {} tokens", SafeText(key), *id, tokens->count),
          entry.offset);
    }
  }

  void CheckBlocks() {
    const GgufEntry* architecture = first_.Find("general.architecture");
    const auto name = architecture != nullptr ? first_.AsString(*architecture) : std::nullopt;
    if (!name) return;
    const GgufEntry* entry = first_.Find(fmt::format("{}.block_count", *name));
    const auto count = entry != nullptr ? first_.AsInteger(*entry) : std::nullopt;
    if (!count) return;
    int64_t highest = -1;
    for (const GgufFile& file : files_) {
      for (const GgufTensor& tensor : file.tensors()) {
        highest = std::max(highest, BlockOf(tensor.name));
      }
    }
    if (highest < 0 || highest + 1 == *count) return;
    Add("GGUF-BLOCK-COUNT",
        fmt::format("block_count is {}, the tensors are of {} blocks", *count, highest + 1),
        entry->offset);
  }

  void CheckTemplates() {
    for (const GgufEntry& entry : first_.entries()) {
      if (!std::string_view(entry.key).starts_with("tokenizer.chat_template")) continue;
      const auto text = first_.AsString(entry);
      if (!text) continue;
      for (Finding& finding : AuditTemplate(*text, first_.file().path())) {
        finding.offset = static_cast<int64_t>(entry.offset);
        findings_.push_back(std::move(finding));
      }
    }
  }

  const std::vector<GgufFile>& files_;
  const GgufFile& first_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> AuditGguf(const std::string& path) {
  const Result<std::vector<GgufFile>> files = OpenGgufFiles(path);
  if (!files.ok()) return {};
  return GgufAuditor(*files).Run();
}

}  // namespace pennyweight
