// The text that a model is run over: --calib, --separator, --tokens, --context.
#pragma once

#include <string>

#include "calib/windows.h"
#include "cmd/arguments.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

struct CalibrationInput {
  Windows windows;
  std::string name;     // as typed, or "built-in"
  std::string hash;     // XXH3-128 of the text, hexadecimal
  int64_t context = 0;  // tokens of a window
};

// The text of --calib, or the one built into the program, in windows of the model's tokens.
// Precondition: RequireRunnable(model). Errors: those of ReadText, ContextLength, Tokenizer::Create
// and MakeWindows.
Result<CalibrationInput> ReadCalibration(const Arguments& arguments, const Model& model);

}  // namespace pennyweight
