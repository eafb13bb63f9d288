// pennyweight join: a model in several files as one file again, the inverse of split.
#include <fmt/format.h>

#include "cmd/commands.h"
#include "cmd/output_path.h"
#include "cmd/reshard.h"
#include "formats/gguf_split_sink.h"
#include "formats/readers.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT",
     "file to write; of safetensors also a folder, with the companions"},
    {"--force", "", "", "replace the output if it exists"},
    {"--resume", "", "", "go on from where a stopped run left this output"},
};

Status JoinGguf(const Invocation& invocation, const SinkOptions& options) {
  if (IsDirectory(options.path)) {
    return Error(ErrorCode::kUsage, "the output of a GGUF model is a file, and this is a folder")
        .Hint("-o " + JoinPath(options.path, "model.gguf"))
        .InFile(options.path);
  }
  const auto make = [](const SinkOptions& made) -> Result<std::unique_ptr<TensorSink>> {
    PW_ASSIGN(std::unique_ptr<GgufSplitSink> sink, GgufSplitSink::Join(made));
    return std::unique_ptr<TensorSink>(std::move(sink));
  };
  PW_TRY(CopyStored(invocation, "join", options, make));
  return OkStatus();
}

Status JoinSafetensors(const Invocation& invocation, SinkOptions options) {
  PW_TRY(CheckOutput(options.path, {}, options.force, *options.model));
  if (!options.path.ends_with(".safetensors")) {
    PW_TRY(NoteLeftBehind(*options.model, &invocation.console));
  }
  options.shard_bytes = UINT64_MAX;
  return ReshardSafetensors(invocation, "join", std::move(options));
}

// The container does not change here.
Status CheckSuffix(const std::string& path, std::string_view format) {
  const std::string_view other = format == "gguf" ? ".safetensors" : ".gguf";
  if (!path.ends_with(other)) return OkStatus();
  return Error(ErrorCode::kUsage,
               fmt::format("the input is {}, the output ends in {}", format, other))
      .Hint("use `pennyweight convert` to change the container");
}

}  // namespace

const CommandSpec kJoinSpec = {"join",
                               "the shards of a model as one file again",
                               "MODEL",
                               1,
                               "  pennyweight join ./Llama-8B-shards -o llama-8b.safetensors\n"
                               "  pennyweight join llama-8b-00001-of-00003.gguf -o llama-8b.gguf\n",
                               kFlags};

Result<int> RunJoin(const Invocation& invocation) {
  const Arguments& arguments = invocation.arguments;
  SinkOptions options;
  PW_ASSIGN(options.path, OutputPath("join", arguments));
  options.force = arguments.Has("--force");
  PW_ASSIGN(const Model model, OpenStored(arguments.inputs()[0]));
  options.model = &model;
  PW_TRY(CheckSuffix(options.path, model.source->format()));
  if (model.source->format() == "gguf") {
    PW_TRY(JoinGguf(invocation, options));
  } else {
    PW_TRY(JoinSafetensors(invocation, options));
  }
  // A name that looks like a shard's must not send the reader after the others.
  const bool one_file = options.path.ends_with(".safetensors");
  PW_ASSIGN(const Model output,
            one_file ? OpenSafetensors(options.path) : OpenStored(options.path));
  PW_TRY(PrintFiles(output, &invocation.console));
  return kExitDone;
}

}  // namespace pennyweight
