#include "cmd/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>

#include "lib/nearest.h"

namespace pennyweight {
namespace {

constexpr Flag kCommonFlags[] = {
    {"--json", "", "", "print one JSON document on stdout instead of tables"},
    {"--threads", "-j", "N", "worker threads (default: all cores)"},
    {"--memory", "", "SIZE", "resident memory to stay under (default: 3/4 of what is free)"},
    {"--progress", "", "MODE", "auto, bar, plain or none (default: auto)"},
    {"--quiet", "-q", "", "print errors only"},
    {"--verbose", "-v", "", "print every row of the tables"},
    {"--help", "-h", "", "print this help"},
};

std::vector<Flag> AllFlags(const CommandSpec& spec) {
  std::vector<Flag> flags(spec.flags.begin(), spec.flags.end());
  flags.insert(flags.end(), std::begin(kCommonFlags), std::end(kCommonFlags));
  return flags;
}

Error UnknownFlag(const std::string& word, const std::vector<Flag>& flags,
                  const CommandSpec& spec) {
  const std::string name = word.substr(0, word.find('='));
  std::vector<std::string> names;
  for (const Flag& f : flags) names.emplace_back(f.name);
  Error error(ErrorCode::kUsage, fmt::format("{} has no flag {}", spec.name, name));
  const auto nearest = NearestName(name, names);
  if (nearest) return std::move(error).Hint(fmt::format("did you mean {}?", *nearest));
  return std::move(error).Hint(fmt::format("see `pennyweight {} --help`", spec.name));
}

// What CLI11 says, reduced to one line of ours.
Error ParseError(const CLI::ParseError& e, const CommandSpec& spec) {
  return Error(ErrorCode::kUsage, e.what())
      .Hint(fmt::format("see `pennyweight {} --help`", spec.name));
}

}  // namespace

std::span<const Flag> CommonFlags() { return kCommonFlags; }

Result<Arguments> Arguments::Parse(const CommandSpec& spec, const std::vector<std::string>& words) {
  const std::vector<Flag> flags = AllFlags(spec);
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::map<std::string, std::vector<std::string>> values;
  std::map<std::string, bool> switches;
  for (const Flag& f : flags) {
    const std::string names =
        f.letter.empty() ? std::string(f.name) : fmt::format("{},{}", f.letter, f.name);
    const std::string key(f.name);
    if (f.value.empty()) {
      app.add_flag(names, switches[key]);
    } else {
      app.add_option(names, values[key])->expected(1)->take_all()->allow_extra_args(false);
    }
  }
  try {
    // CLI11 takes the words last first.
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ParseError& e) {
    return ParseError(e, spec);
  }
  Arguments out;
  out.words_ = words;
  for (const std::string& word : app.remaining()) {
    if (word.size() > 1 && word[0] == '-') return UnknownFlag(word, flags, spec);
    out.inputs_.push_back(word);
  }
  for (auto& [key, list] : values) {
    if (!list.empty()) out.values_[key] = std::move(list);
  }
  for (const auto& [key, on] : switches) {
    if (on) out.values_[key] = {};
  }
  const int inputs = static_cast<int>(out.inputs_.size());
  const bool fits = spec.input_count == kOneOrMore ? inputs > 0 : inputs == spec.input_count;
  if (!out.Has("--help") && !fits) {
    return Error(ErrorCode::kUsage,
                 fmt::format("{} takes {} (got {} input{})", spec.name,
                             spec.inputs.empty() ? "no input" : spec.inputs, out.inputs_.size(),
                             out.inputs_.size() == 1 ? "" : "s"))
        .Hint(fmt::format("see `pennyweight {} --help`", spec.name));
  }
  return out;
}

std::optional<std::string> Arguments::Get(std::string_view flag) const {
  const auto it = values_.find(flag);
  if (it == values_.end() || it->second.empty()) return std::nullopt;
  return it->second.back();
}

std::vector<std::string> Arguments::All(std::string_view flag) const {
  const auto it = values_.find(flag);
  return it == values_.end() ? std::vector<std::string>() : it->second;
}

Result<std::optional<int64_t>> Arguments::Integer(std::string_view flag, int64_t least,
                                                  int64_t most) const {
  const auto text = Get(flag);
  if (!text) return std::optional<int64_t>();
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (code != std::errc() || end != text->data() + text->size() || value < least || value > most) {
    return Error(ErrorCode::kUsage, fmt::format("{} takes a whole number from {} to {}, not \"{}\"",
                                                flag, least, most, *text));
  }
  return std::optional<int64_t>(value);
}

Result<std::optional<uint64_t>> Arguments::Size(std::string_view flag) const {
  const auto text = Get(flag);
  if (!text) return std::optional<uint64_t>();
  const Error bad(ErrorCode::kUsage,
                  fmt::format("{} takes a size such as 12G, 300M or 4Gi, not \"{}\"", flag, *text));
  double value = 0;
  const char* end = text->data() + text->size();
  const auto [rest, code] = std::from_chars(text->data(), end, value);
  if (code != std::errc() || !(value >= 0)) return Error(bad);
  static const std::map<std::string, double> kUnits = {
      {"", 1},     {"K", 1e3},     {"M", 1e6},        {"G", 1e9},
      {"T", 1e12}, {"Ki", 1024.0}, {"Mi", 1048576.0}, {"Gi", 1073741824.0}};
  std::string name(rest, end);
  if (name.ends_with('B')) name.pop_back();  // 5GB is 5G
  const auto unit = kUnits.find(name);
  if (unit == kUnits.end() || value * unit->second > 1e18) return Error(bad);
  return std::optional<uint64_t>(static_cast<uint64_t>(std::llround(value * unit->second)));
}

Result<std::optional<std::string>> Arguments::OneOf(
    std::string_view flag, std::span<const std::string_view> allowed) const {
  const auto text = Get(flag);
  if (!text || std::find(allowed.begin(), allowed.end(), *text) != allowed.end()) return text;
  std::vector<std::string> names(allowed.begin(), allowed.end());
  const std::string list = fmt::format("{}", fmt::join(names, ", "));
  Error error(ErrorCode::kUsage, fmt::format("{} is one of {}, not \"{}\"", flag, list, *text));
  if (const auto nearest = NearestName(*text, names)) {
    return std::move(error).Hint(fmt::format("did you mean {}?", *nearest));
  }
  return error;
}

std::string HelpText(const CommandSpec& spec) {
  std::string out =
      fmt::format("{}\n\nUsage: pennyweight {}{}{}{} [flags]\n\nExamples:\n{}\nFlags:\n",
                  spec.summary, spec.name, spec.inputs.empty() ? "" : " ", spec.inputs,
                  std::any_of(spec.flags.begin(), spec.flags.end(),
                              [](const Flag& f) { return f.name == "--output"; })
                      ? " -o OUTPUT"
                      : "",
                  spec.examples);
  for (const Flag& f : AllFlags(spec)) {
    std::string left =
        fmt::format("  {:2} {}{}{}", f.letter, f.name, f.value.empty() ? "" : " ", f.value);
    out += fmt::format("{:<32} {}\n", left, f.help);
  }
  return out;
}

}  // namespace pennyweight
