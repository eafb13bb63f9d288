#include "cmd/calibration_input.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "calib/builtin_text.h"
#include "calib/tokenizer.h"
#include "cmd/open_model.h"
#include "lib/hash.h"

namespace pennyweight {

Result<CalibrationInput> ReadCalibration(const Arguments& arguments, const Model& model) {
  constexpr int64_t kDefaultTokens = 65536;
  CalibrationInput input;
  std::string text;
  WindowOptions options;
  if (const auto path = arguments.Get("--calib")) {
    PW_ASSIGN(text, ReadText(*path));
    input.name = *path;
    options.separator = Separator(arguments);
  } else {
    text = BuiltinCalibrationText();
    input.name = "built-in";
    options.separator = "\n<|endoftext|>\n";
  }
  const Hash128 hash = HashBytes(text.data(), text.size());
  input.hash = fmt::format("{:016x}{:016x}", hash[0], hash[1]);
  PW_ASSIGN(options.context, ContextLength(arguments, *model.config));
  PW_ASSIGN(const auto tokens, arguments.Integer("--tokens", 1, int64_t{1} << 32));
  options.max_tokens = tokens.value_or(kDefaultTokens);
  PW_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*model.vocabulary));
  PW_ASSIGN(input.windows, MakeWindows(*tokenizer, *model.vocabulary, text, options));
  input.context = options.context;
  return input;
}

}  // namespace pennyweight
