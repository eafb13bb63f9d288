// One row per subcommand; each is a file cmd/NAME_command.cc.
#pragma once

#include <span>

#include "cmd/arguments.h"
#include "cmd/console.h"
#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

// Exit codes.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFound = 1;   // a check found something
inline constexpr int kExitFailed = 2;  // could not do it
inline constexpr int kExitInterrupted = 130;

struct Invocation {
  const Arguments& arguments;
  Console& console;
  const Context& context;
};

struct Command {
  const CommandSpec* spec;
  Result<int> (*run)(const Invocation& invocation);  // the exit code
};

std::span<const Command> Commands();

extern const CommandSpec kInspectSpec, kConvertSpec, kQuantizeSpec, kEvalSpec, kCompareSpec;
extern const CommandSpec kSplitSpec, kJoinSpec, kVerifySpec, kTypesSpec, kCalibrateSpec;
Result<int> RunInspect(const Invocation& invocation);
Result<int> RunConvert(const Invocation& invocation);
Result<int> RunCalibrate(const Invocation& invocation);
Result<int> RunQuantize(const Invocation& invocation);
Result<int> RunEval(const Invocation& invocation);
Result<int> RunCompare(const Invocation& invocation);
Result<int> RunSplit(const Invocation& invocation);
Result<int> RunJoin(const Invocation& invocation);
Result<int> RunVerify(const Invocation& invocation);
Result<int> RunTypes(const Invocation& invocation);

}  // namespace pennyweight
