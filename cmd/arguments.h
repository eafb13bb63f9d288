// The command line as a table: one row per flag gives parsing and help. CLI11 is included in
// arguments.cc only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/result.h"

namespace pennyweight {

struct Flag {
  std::string_view name;    // "--threads"
  std::string_view letter;  // "-j", or empty
  std::string_view value;   // "N"; empty: a switch
  std::string_view help;    // one line
};

inline constexpr int kOneOrMore = -1;

struct CommandSpec {
  std::string_view name;
  std::string_view summary;   // one line
  std::string_view inputs;    // "MODEL", "MODEL_A MODEL_B"
  int input_count = 1;        // or kOneOrMore
  std::string_view examples;  // lines
  std::span<const Flag> flags;
};

// What was typed after the command, checked against its table.
class Arguments {
 public:
  // Errors: kUsage naming the word, with the nearest flag as a hint.
  static Result<Arguments> Parse(const CommandSpec& spec, const std::vector<std::string>& words);

  const std::vector<std::string>& inputs() const { return inputs_; }
  // Every flag that was given, with its values in order (none for a switch).
  const std::map<std::string, std::vector<std::string>, std::less<>>& flags() const {
    return values_;
  }
  // As typed after the command.
  const std::vector<std::string>& words() const { return words_; }
  bool Has(std::string_view flag) const { return values_.contains(flag); }
  // The last value given.
  std::optional<std::string> Get(std::string_view flag) const;
  std::vector<std::string> All(std::string_view flag) const;
  // A whole number in [least, most]. Errors: kUsage.
  Result<std::optional<int64_t>> Integer(std::string_view flag, int64_t least, int64_t most) const;
  // Bytes: 12G, 300MB, 4Ki, 123. K M G are powers of 1000, Ki Mi Gi of 1024. Errors: kUsage.
  Result<std::optional<uint64_t>> Size(std::string_view flag) const;
  // One of `allowed`. Errors: kUsage with the nearest as a hint.
  Result<std::optional<std::string>> OneOf(std::string_view flag,
                                           std::span<const std::string_view> allowed) const;

 private:
  std::vector<std::string> words_;
  std::vector<std::string> inputs_;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

// Help of one command: usage, examples, flags.
std::string HelpText(const CommandSpec& spec);

// Flags that every command takes, and those of every command that writes or computes.
std::span<const Flag> CommonFlags();

}  // namespace pennyweight
