#include "cmd/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace pennyweight {
namespace {

double Now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

Json OrNull(const std::string& text) { return text.empty() ? Json() : Json::String(text); }

}  // namespace

std::string Table::ToString() const {
  std::vector<size_t> widths;
  for (const std::string& h : header) widths.push_back(h.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (size_t i = 0; i < cells.size(); ++i) {
      const bool align_left = i == 0 || (i < left.size() && left[i]);
      if (i > 0) text += "  ";
      text += align_left ? fmt::format("{:<{}}", cells[i], widths[i])
                         : fmt::format("{:>{}}", cells[i], widths[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  line(header);
  for (const auto& row : rows) line(row);
  return out;
}

std::string HumanBytes(uint64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b < 1e3) return fmt::format("{} B", bytes);
  if (b < 1e6) return fmt::format("{:.1f} kB", b / 1e3);
  if (b < 1e9) return fmt::format("{:.1f} MB", b / 1e6);
  return fmt::format("{:.2f} GB", b / 1e9);
}

std::string Short(std::optional<double> value) {
  if (!value) return "-";
  if (*value == 0) return "0";
  if (!std::isfinite(*value)) return fmt::format("{}", *value);
  return std::abs(*value) >= 0.01 ? fmt::format("{:.4f}", *value) : fmt::format("{:.2e}", *value);
}

Result<Console> Console::Create(std::string_view command, const Arguments& arguments) {
  Console console;
  console.command_ = command;
  console.json_ = arguments.Has("--json");
  console.quiet_ = arguments.Has("--quiet");
  console.verbose_ = arguments.Has("--verbose");
  static constexpr std::string_view kModes[] = {"auto", "bar", "plain", "none"};
  PW_ASSIGN(const auto mode, arguments.OneOf("--progress", kModes));
  const std::string chosen = mode.value_or("auto");
  const bool terminal = isatty(STDERR_FILENO) == 1;
  if (chosen == "bar" || (chosen == "auto" && terminal)) console.mode_ = Mode::kBar;
  if (chosen == "plain" || (chosen == "auto" && !terminal)) console.mode_ = Mode::kPlain;
  if (chosen == "none" || console.quiet_) console.mode_ = Mode::kNone;
  return console;
}

void Console::Print(const std::string& text) {
  if (json_ || quiet_) return;
  EndProgress();
  fmt::print(stdout, "{}", text);
}

void Console::Note(const std::string& text) {
  if (quiet_) return;
  EndProgress();
  fmt::print(stderr, "{}\n", text);
}

std::string Console::Document(const std::string& result_json) const {
  return fmt::format("{{\"schema\":\"pennyweight.{}/1\",\"version\":\"{}\",\"result\":{}}}\n",
                     command_, PENNYWEIGHT_VERSION, result_json);
}

void Console::PrintResult(const std::string& result_json) {
  if (!json_) return;
  EndProgress();
  fmt::print(stdout, "{}", Document(result_json));
}

void Console::Phase(std::string_view name, int64_t total) {
  EndProgress();
  phase_ = name;
  total_ = total;
  last_ = Now();
  if (mode_ == Mode::kBar) Advance(0);
}

void Console::Advance(int64_t done) {
  if (mode_ == Mode::kNone) return;
  const double now = Now();
  if (mode_ == Mode::kBar) {
    fmt::print(stderr, "\r\033[K{} {}/{}", phase_, done, total_);
    std::fflush(stderr);
    open_ = true;
    return;
  }
  // A line every ten seconds, so that a log shows that something moves.
  if (now - last_ < 10) return;
  last_ = now;
  fmt::print(stderr, "{}: {} of {}\n", phase_, done, total_);
}

void Console::EndProgress() {
  if (!open_) return;
  open_ = false;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
}

std::string ErrorJson(const Error& error) {
  Json body = Json::Object();
  body.Set("code", Json::String(ErrorCodeName(error.code)));
  body.Set("message", Json::String(error.message));
  body.Set("hint", OrNull(error.hint));
  body.Set("file", OrNull(error.file));
  body.Set("tensor", OrNull(error.tensor));
  body.Set("offset", error.offset < 0 ? Json() : Json::Integer(error.offset));
  return body.Dump();
}

void PrintError(std::string_view command, const Error& error, bool json) {
  fmt::print(stderr, "pennyweight: {}\n", error.ToString());
  if (!error.hint.empty()) fmt::print(stderr, "  hint: {}\n", error.hint);
  if (!json) return;
  fmt::print(stdout, "{{\"schema\":\"pennyweight.{}/1\",\"version\":\"{}\",\"error\":{}}}\n",
             command.empty() ? "error" : command, PENNYWEIGHT_VERSION, ErrorJson(error));
}

}  // namespace pennyweight
