#include "formats/pickle_audit_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace pennyweight {
namespace {

constexpr size_t kNames = 100;  // of one grade in one file that are named
constexpr size_t kRemembered = 4096;
constexpr size_t kNamesInLine = 8;  // where they share a finding
constexpr size_t kNameBytes = 100;  // of module and name that are shown

bool IsIdentifierByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.';
}

// The dotted name that `text` begins with, up to `end`; nullopt when it is none or does not end so.
std::optional<std::string_view> DottedLine(std::string_view text, char end) {
  size_t n = 0;
  while (n < text.size() && n < 256 && IsIdentifierByte(text[n])) ++n;
  if (n == 0 || n >= text.size() || text[n] != end) return std::nullopt;
  return text.substr(0, n);
}

}  // namespace

void PickleNames::Add(std::string_view module, std::string_view name, uint64_t at) {
  std::string key(module);
  key += '\n';
  key += name;
  if (graded_.contains(key)) return;
  if (graded_.size() < kRemembered) graded_.insert(std::move(key));
  const PickleGrade grade = GradeGlobal(module, name);
  if (grade == PickleGrade::kAllowed) return;
  std::vector<Name>& list = names_[grade];
  std::string dotted = fmt::format("{}.{}", SafeText(module.substr(0, kNameBytes)),
                                   SafeText(name.substr(0, kNameBytes)));
  if (seen_.contains(dotted)) return;
  if (list.size() >= kNames) {
    ++left_out_[grade];
    return;
  }
  seen_.insert(dotted);
  list.push_back({std::move(dotted), at});
}

void PickleNames::Sweep(std::string_view bytes, uint64_t at) {
  std::string_view before, last;  // the last two short strings, for STACK_GLOBAL
  for (size_t i = 0; i + 1 < bytes.size(); ++i) {
    const std::string_view rest = bytes.substr(i + 1);
    const auto op = static_cast<unsigned char>(bytes[i]);
    if (op == 'c' || op == 'i') {  // GLOBAL, INST: two lines
      const auto module = DottedLine(rest, '\n');
      const auto name = module ? DottedLine(rest.substr(module->size() + 1), '\n') : module;
      if (name && GradeGlobal(*module, *name) == PickleGrade::kMalicious) {
        Add(*module, *name, at + i);
      }
    } else if (op == 0x8c) {  // SHORT_BINUNICODE
      const size_t length = static_cast<unsigned char>(rest[0]);
      if (length == 0 || length + 1 > rest.size()) continue;
      const std::string_view text = rest.substr(1, length);
      if (!std::all_of(text.begin(), text.end(), IsIdentifierByte)) continue;
      before = last;
      last = text;
    } else if (op == 0x93 && !before.empty()) {  // STACK_GLOBAL
      if (GradeGlobal(before, last) == PickleGrade::kMalicious) Add(before, last, at + i);
    }
  }
}

void PickleNames::Report(const std::string& file, std::vector<Finding>* findings) const {
  struct Words {
    PickleGrade grade;
    std::string_view rule;
    std::string_view text;
  };
  constexpr Words kSingle[] = {
      {PickleGrade::kMalicious, "PKL-MALICIOUS-GLOBAL", "the pickle names {} (nothing was called)"},
      {PickleGrade::kUnknown, "PKL-UNKNOWN-GLOBAL", "the pickle names {} (nothing was called)"},
  };
  constexpr Words kShared[] = {
      {PickleGrade::kNested, "PKL-NESTED", "the pickle holds another one, for {}"},
      {PickleGrade::kModule, "PKL-MODULE", "a module was pickled whole: {}"},
      {PickleGrade::kBenign, "PKL-BENIGN-GLOBAL", "the pickle names {}"},
  };
  for (const Words& words : kSingle) {
    const auto list = names_.find(words.grade);
    if (list == names_.end()) continue;
    for (const Name& name : list->second) {
      findings->push_back({.rule = words.rule,
                           .message = fmt::format(fmt::runtime(words.text), name.dotted),
                           .file = file,
                           .offset = static_cast<int64_t>(name.at)});
    }
    const auto more = left_out_.find(words.grade);
    if (more == left_out_.end()) continue;
    findings->push_back({.rule = words.rule,
                         .message = fmt::format("{} more such names, not listed", more->second),
                         .file = file});
  }
  for (const Words& words : kShared) {
    const auto list = names_.find(words.grade);
    if (list == names_.end()) continue;
    std::string text;
    for (size_t i = 0; i < std::min(list->second.size(), kNamesInLine); ++i) {
      text += (i > 0 ? ", " : "") + list->second[i].dotted;
    }
    if (list->second.size() > kNamesInLine) {
      text += fmt::format(" and {} more", list->second.size() - kNamesInLine);
    }
    findings->push_back({.rule = words.rule,
                         .message = fmt::format(fmt::runtime(words.text), text),
                         .file = file,
                         .offset = static_cast<int64_t>(list->second[0].at)});
  }
}

}  // namespace pennyweight
