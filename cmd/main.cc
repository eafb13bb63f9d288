// pennyweight COMMAND INPUT... [flags]
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "cmd/commands.h"
#include "lib/linalg.h"
#include "lib/nearest.h"
#include "lib/parallel.h"
#include "lib/peak_rss.h"

namespace pennyweight {
namespace {

constexpr Command kCommands[] = {
    {&kInspectSpec, RunInspect},     {&kVerifySpec, RunVerify}, {&kConvertSpec, RunConvert},
    {&kQuantizeSpec, RunQuantize},   {&kEvalSpec, RunEval},     {&kCompareSpec, RunCompare},
    {&kSplitSpec, RunSplit},         {&kJoinSpec, RunJoin},     {&kTypesSpec, RunTypes},
    {&kCalibrateSpec, RunCalibrate},
};

std::atomic<bool> g_cancel{false};

// The first signal asks the work to stop and tidy up; the second one ends it.
void OnSignal(int) {
  if (g_cancel.exchange(true)) _exit(kExitInterrupted);
}

std::string Overview() {
  std::string out =
      "pennyweight shrinks, converts and audits model weights.\n\n"
      "Usage: pennyweight COMMAND INPUT... [flags]\n\nCommands:\n";
  for (const Command& c : kCommands) {
    out += fmt::format("  {:<10} {}\n", c.spec->name, c.spec->summary);
  }
  out +=
      "\nExamples:\n"
      "  pennyweight quantize ./Llama-8B -o llama-8b.gguf\n"
      "  pennyweight quantize ./Llama-8B -o llama-8b-int4/ --type int4 --report errors.csv\n"
      "  pennyweight convert llama-8b.gguf -o ./Llama-8B-f16 --dtype f16\n"
      "  pennyweight eval llama-8b.gguf --reference ./Llama-8B --text wiki.txt\n"
      "\n`pennyweight COMMAND --help` tells more; `pennyweight --version` the version.\n";
  return out;
}

int Fail(std::string_view command, const Error& error, bool json) {
  PrintError(command, error, json);
  return error.code == ErrorCode::kInterrupted ? kExitInterrupted : kExitFailed;
}

Result<Context> MakeContext(const Arguments& arguments, Console* console) {
  Context context;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  PW_ASSIGN(const auto threads, arguments.Integer("--threads", 1, 1024));
  context.threads = threads ? static_cast<int>(*threads) : cores;
  PW_ASSIGN(const auto memory, arguments.Size("--memory"));
  context.memory_limit = memory.value_or(AvailableMemoryBytes() / 4 * 3);
  context.progress = console;
  context.cancel = &g_cancel;
  return context;
}

int RunCommand(const Command& command, const std::vector<std::string>& words) {
  const std::string_view name = command.spec->name;
  const bool json = std::find(words.begin(), words.end(), "--json") != words.end();
  Result<Arguments> arguments = Arguments::Parse(*command.spec, words);
  if (!arguments.ok()) return Fail(name, arguments.error(), json);
  if (arguments->Has("--help")) {
    fmt::print("{}", HelpText(*command.spec));
    return kExitDone;
  }
  Result<Console> console = Console::Create(name, *arguments);
  if (!console.ok()) return Fail(name, console.error(), json);
  const Result<Context> context = MakeContext(*arguments, &*console);
  if (!context.ok()) return Fail(name, context.error(), json);
  const Status path = SelectComputePath();
  if (!path.ok()) return Fail(name, path.error(), json);
  const ThreadLimit limit(context->threads);
  Result<int> code = command.run({*arguments, *console, *context});
  console->EndProgress();
  if (!code.ok()) return Fail(name, code.error(), json);
  return *code;
}

int Main(const std::vector<std::string>& words) {
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
  std::signal(SIGPIPE, SIG_DFL);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of the write, not an end
  if (words.empty()) {
    fmt::print(stderr, "{}", Overview());
    return kExitFailed;
  }
  if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    fmt::print("{}", Overview());
    return kExitDone;
  }
  if (words[0] == "--version") {
    fmt::print("pennyweight {}\n", PENNYWEIGHT_VERSION);
    return kExitDone;
  }
  std::vector<std::string> names;
  for (const Command& c : kCommands) {
    if (c.spec->name == words[0]) return RunCommand(c, {words.begin() + 1, words.end()});
    names.emplace_back(c.spec->name);
  }
  Error error(ErrorCode::kUsage, fmt::format("there is no command \"{}\"", words[0]));
  const auto nearest = NearestName(words[0], names);
  error.hint = nearest ? fmt::format("did you mean `pennyweight {}`?", *nearest)
                       : "see `pennyweight --help`";
  const bool json = std::find(words.begin(), words.end(), "--json") != words.end();
  return Fail("", error, json);
}

}  // namespace

std::span<const Command> Commands() { return kCommands; }

}  // namespace pennyweight

int main(int argc, char** argv) {
  return pennyweight::Main(std::vector<std::string>(argv + 1, argv + argc));
}
