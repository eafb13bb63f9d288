// A command's run that makes an output, from its journal to the rename: what stays when it is
// stopped, and how it goes on.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cmd/commands.h"
#include "lib/journal.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

class OutputRun {
 public:
  // Opens the journal of `output`, by --resume and --force. The recipe is what the output's bytes
  // depend on: this version, the flags (but not how many threads, how much memory, what is
  // printed), the input's files by size and time, `tensors`, and `more`.
  // Errors: those of Journal::Open.
  static Result<OutputRun> Begin(const Invocation& invocation, const std::string& command,
                                 const std::string& output, const Model& model,
                                 const std::vector<OutputTensor>& tensors,
                                 const std::map<std::string, std::string>& more);

  using MakeSink = std::function<Result<std::unique_ptr<TensorSink>>(Journal* journal)>;
  using Fill = std::function<Status(TensorSink* sink, Journal* journal)>;
  // Begins the sink, lets `fill` write every tensor, seals and commits it; gives the sink back.
  // When that fails, what was written stays if the reason may pass and there is something to go on
  // from, and the hint is then the command that does; else it is removed. Errors: those of the sink
  // and of `fill`; kInterrupted; kVerifyFailed when an input changed meanwhile.
  Result<std::unique_ptr<TensorSink>> Write(const MakeSink& make, const Fill& fill) const;

 private:
  OutputRun() = default;
  Status WriteInto(const MakeSink& make, const Fill& fill, std::unique_ptr<TensorSink>* sink) const;
  Error Stop(Error error, TensorSink* sink) const;

  Status CheckInputs() const;

  const Context* context_ = nullptr;
  std::map<std::string, std::string> inputs_;  // files and their fingerprints at the beginning
  std::vector<OutputTensor> tensors_;
  std::unique_ptr<Journal> journal_;
  std::string resume_;  // the command to type
};

}  // namespace pennyweight
