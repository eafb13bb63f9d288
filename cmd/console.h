// What people and scripts see: stdout for data, stderr for words, progress and errors.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cmd/arguments.h"
#include "lib/context.h"
#include "lib/error.h"
#include "lib/json.h"

namespace pennyweight {

// A table with a header; columns after the first are right-aligned unless left[i].
struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::vector<bool> left;
  std::string ToString() const;
};

// "8.4 MB", "1.2 GB": powers of 1000, as --memory takes them.
std::string HumanBytes(uint64_t bytes);
// Three significant digits; "-" when there is none.
std::string Short(std::optional<double> value);

class Console : public Progress {
 public:
  // Reads --json, --quiet, --verbose and --progress. Errors: kUsage.
  static Result<Console> Create(std::string_view command, const Arguments& arguments);

  bool json() const { return json_; }
  bool verbose() const { return verbose_; }

  // To stdout, unless --json or --quiet.
  void Print(const std::string& text);
  // To stderr, unless --quiet.
  void Note(const std::string& text);
  // The one document of --json; nothing without it.
  void PrintResult(const std::string& result_json);
  std::string Document(const std::string& result_json) const;

  void Phase(std::string_view name, int64_t total) override;
  void Advance(int64_t done) override;
  // Ends a line that a progress bar has left open.
  void EndProgress();

 private:
  enum class Mode : uint8_t { kBar, kPlain, kNone };
  std::string command_;
  bool json_ = false, quiet_ = false, verbose_ = false;
  Mode mode_ = Mode::kNone;
  std::string phase_;
  int64_t total_ = 0;
  double last_ = 0;
  bool open_ = false;
};

// The `error` object of --json.
std::string ErrorJson(const Error& error);
// Prints an error of `command` (may be empty) on stderr, and as a document when `json`.
void PrintError(std::string_view command, const Error& error, bool json);

}  // namespace pennyweight
