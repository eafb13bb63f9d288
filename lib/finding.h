// What `verify` reports: one table of rules, and findings that name a rule by its id. Ids,
// severities and keys are API.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/error.h"

namespace pennyweight {

enum class Severity : uint8_t { kNote, kWarning, kError };
// "note", "warning", "error": also the levels of SARIF.
std::string_view SeverityName(Severity severity);

struct Rule {
  std::string_view id;  // "PKL-MALICIOUS-GLOBAL": container or subject, then what is wrong
  Severity severity;
  std::string_view help;  // one line: what it means
};

// Sorted by id.
std::span<const Rule> Rules();
// Precondition: the id is in the table.
const Rule& RuleOf(std::string_view id);

struct Finding {
  std::string_view rule;  // an id of Rules()
  std::string message;    // what is wrong here, without file and tensor
  std::string file = {};  // path, or empty
  std::string tensor = {};
  int64_t offset = -1;  // bytes from the start of `file`, or -1
  int64_t bytes = -1;   // that it is about, or -1

  Severity severity() const { return RuleOf(rule).severity; }
};

// The finding that an error is, under a rule that says so.
Finding FindingOf(std::string_view rule, const Error& error);

// `text` with everything that a terminal could take for a command, or that is no UTF-8, as \xNN:
// for names that come from a file.
std::string SafeText(std::string_view text);

// What `verify` found.
struct Findings {
  std::vector<Finding> list;
  uint64_t tensors_checked = 0;

  size_t Count(Severity severity) const;
  // No error and no warning; when `strict` no note either.
  bool Ok(bool strict) const;
};

// The `result` object of --json: {"ok", "tensors_checked", "findings": [...]}.
std::string FindingsToJson(const Findings& findings, bool strict);
// One line for each finding, RFC 4180, header line first.
std::string FindingsToCsv(const Findings& findings);
// A SARIF 2.1.0 log of one run: every rule of the table, a result for each finding, and `error`
// (why the check ended early; may be null) as a notification of the tool.
std::string FindingsToSarif(const Findings& findings, const Error* error, std::string_view version);

}  // namespace pennyweight
