#include "cmd/output_run.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "lib/file.h"
#include "lib/hash.h"
#include "lib/json.h"

namespace pennyweight {
namespace {

// Flags that the bytes of an output do not depend on.
constexpr std::array<std::string_view, 9> kFreeFlags = {"--json",     "--threads", "--memory",
                                                        "--progress", "--quiet",   "--verbose",
                                                        "--force",    "--resume",  "--report"};

// As a shell takes it.
std::string Quoted(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// A changed file is told by its size and time; reading it all would take as long as the work.
std::string Fingerprint(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) != 0) return "missing";
  return fmt::format("{} bytes of time {}.{:09}", found.st_size, found.st_mtim.tv_sec,
                     found.st_mtim.tv_nsec);
}

std::string TensorsHash(const std::vector<OutputTensor>& tensors) {
  Hasher hasher;
  for (const OutputTensor& t : tensors) {
    const std::string line =
        fmt::format("{}\n{}\n{}\n", t.name, t.encoding.Name(), ShapeToString(t.shape));
    hasher.Update(line.data(), line.size());
  }
  const Hash128 hash = hasher.Digest();
  return fmt::format("{:016x}{:016x}", hash[0], hash[1]);
}

// The files that an output is made from.
std::map<std::string, std::string> Inputs(const Model& model) {
  std::map<std::string, std::string> inputs;
  for (const std::string& file : model.source->files()) inputs[file] = Fingerprint(file);
  if (model.directory.empty()) return inputs;
  // Configuration and tokenizer shape the output as the weights do.
  const auto beside = ListDirectory(model.directory);
  if (!beside.ok()) return inputs;
  for (const std::string& name : *beside) {
    // The output may be made inside the model's folder.
    if (name.find(".pennyweight.") != std::string::npos) continue;
    const std::string path = JoinPath(model.directory, name);
    inputs[path] = Fingerprint(path);
  }
  return inputs;
}

Json Recipe(const Invocation& invocation, const std::string& command,
            const std::map<std::string, std::string>& inputs,
            const std::vector<OutputTensor>& tensors,
            const std::map<std::string, std::string>& more) {
  Json recipe = Json::Object();
  recipe.Set("version", Json::String(PENNYWEIGHT_VERSION));
  recipe.Set("command", Json::String(command));
  for (const auto& [flag, values] : invocation.arguments.flags()) {
    if (std::find(kFreeFlags.begin(), kFreeFlags.end(), flag) != kFreeFlags.end()) continue;
    recipe.Set(flag, Json::String(fmt::format("{}", fmt::join(values, " "))));
  }
  for (const auto& [file, fingerprint] : inputs) {
    recipe.Set("input " + BaseName(file), Json::String(fingerprint));
  }
  recipe.Set("tensors", Json::String(TensorsHash(tensors)));
  for (const auto& [key, value] : more) recipe.Set(key, Json::String(value));
  return recipe;
}

// Whether trying again later may succeed.
bool MayPass(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInterrupted:
    case ErrorCode::kNoSpace:
    case ErrorCode::kIo:
    case ErrorCode::kMemory:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<OutputRun> OutputRun::Begin(const Invocation& invocation, const std::string& command,
                                   const std::string& output, const Model& model,
                                   const std::vector<OutputTensor>& tensors,
                                   const std::map<std::string, std::string>& more) {
  OutputRun run;
  run.context_ = &invocation.context;
  run.tensors_ = tensors;
  run.inputs_ = Inputs(model);
  const Arguments& arguments = invocation.arguments;
  run.resume_ = "pennyweight " + command;
  for (const std::string& word : arguments.words()) {
    if (word != "--resume") run.resume_ += " " + Quoted(word);
  }
  run.resume_ += " --resume";
  const bool resume = arguments.Has("--resume");
  const auto mode = resume                     ? Journal::Mode::kResume
                    : arguments.Has("--force") ? Journal::Mode::kReplace
                                               : Journal::Mode::kBegin;
  PW_ASSIGN(run.journal_,
            Journal::Open(output, Recipe(invocation, command, run.inputs_, tensors, more), mode));
  if (resume && !run.journal_->resumed()) {
    invocation.console.Note("note: there is nothing to resume: beginning anew");
  }
  return run;
}

Status OutputRun::CheckInputs() const {
  for (const auto& [file, fingerprint] : inputs_) {
    if (Fingerprint(file) == fingerprint) continue;
    return Error(ErrorCode::kVerifyFailed, "the input changed while it was read")
        .Hint("run it again when nothing writes to the input")
        .InFile(file);
  }
  return OkStatus();
}

Status OutputRun::WriteInto(const MakeSink& make, const Fill& fill,
                            std::unique_ptr<TensorSink>* sink) const {
  PW_ASSIGN(*sink, make(journal_.get()));
  PW_TRY((*sink)->Begin(tensors_));
  PW_TRY(fill(sink->get(), journal_.get()));
  PW_TRY((*sink)->Seal());
  // Reading back takes as long as writing did; who stopped it meanwhile wants no output.
  if (context_->Cancelled()) return Error(ErrorCode::kInterrupted, "stopped before it was done");
  PW_TRY(CheckInputs());
  return (*sink)->Commit();
}

Result<std::unique_ptr<TensorSink>> OutputRun::Write(const MakeSink& make, const Fill& fill) const {
  std::unique_ptr<TensorSink> sink;
  Status status = WriteInto(make, fill, &sink);
  if (!status.ok()) return Stop(std::move(status).TakeError(), sink.get());
  journal_->Remove();
  return sink;
}

Error OutputRun::Stop(Error error, TensorSink* sink) const {
  if (!MayPass(error.code) || !journal_->has_units()) {
    journal_->Remove();
    return error;
  }
  if (sink != nullptr) sink->Keep();
  error.hint = (error.code == ErrorCode::kNoSpace  ? "free some space, then go on with: "
                : error.code == ErrorCode::kMemory ? error.hint + ", and go on with: "
                                                   : "go on with: ") +
               resume_;
  return error;
}

}  // namespace pennyweight
