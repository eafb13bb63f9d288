// pennyweight split: one model in several files. Nothing but the files' borders changes.
#include "cmd/commands.h"
#include "cmd/output_path.h"
#include "cmd/reshard.h"
#include "formats/gguf_split_sink.h"
#include "formats/readers.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

constexpr uint64_t kDefaultShardBytes = 5'000'000'000;

constexpr Flag kFlags[] = {
    {"--output", "-o", "OUTPUT",
     "folder to write; of a GGUF model NAME of NAME-00001-of-0000N.gguf"},
    {"--shard-size", "", "SIZE", "tensor bytes in one file (default: 5G)"},
    {"--force", "", "", "replace the output if it exists"},
    {"--resume", "", "", "go on from where a stopped run left this output"},
};

// NAME of the files NAME-00001-of-0000N.gguf.
Result<std::string> GgufPrefix(const std::string& output) {
  if (IsDirectory(output)) {
    return Error(ErrorCode::kUsage, "the output of a GGUF model is a name, and this is a folder")
        .Hint("-o " + JoinPath(output, "model"))
        .InFile(output);
  }
  constexpr std::string_view kSuffix = ".gguf";
  const bool suffix = output.ends_with(kSuffix) && output.size() > kSuffix.size();
  return suffix ? output.substr(0, output.size() - kSuffix.size()) : output;
}

Status SplitGguf(const Invocation& invocation, SinkOptions options, std::string* first) {
  PW_ASSIGN(options.path, GgufPrefix(options.path));
  const GgufSplitSink* split = nullptr;
  const auto make = [&](const SinkOptions& made) -> Result<std::unique_ptr<TensorSink>> {
    PW_ASSIGN(std::unique_ptr<GgufSplitSink> sink, GgufSplitSink::Split(made));
    split = sink.get();
    return std::unique_ptr<TensorSink>(std::move(sink));
  };
  PW_ASSIGN(const auto sink, CopyStored(invocation, "split", options, make));
  *first = split->paths().front();
  return OkStatus();
}

Status SplitSafetensors(const Invocation& invocation, const SinkOptions& options) {
  if (options.path.ends_with(".safetensors") || options.path.ends_with(".gguf")) {
    return Error(ErrorCode::kUsage, "safetensors shards go to a folder, and this names one file")
        .Hint("-o " + options.path.substr(0, options.path.rfind('.')));
  }
  PW_TRY(CheckOutput(options.path, {}, options.force, *options.model));
  PW_TRY(NoteLeftBehind(*options.model, &invocation.console));
  return ReshardSafetensors(invocation, "split", options);
}

}  // namespace

const CommandSpec kSplitSpec = {
    "split",
    "one model in several files: safetensors shards with index, or gguf-split's",
    "MODEL",
    1,
    "  pennyweight split ./Llama-8B -o ./Llama-8B-shards --shard-size 2G\n"
    "  pennyweight split llama-8b.gguf -o llama-8b --shard-size 2G\n",
    kFlags};

Result<int> RunSplit(const Invocation& invocation) {
  const Arguments& arguments = invocation.arguments;
  SinkOptions options;
  PW_ASSIGN(options.path, OutputPath("split", arguments));
  PW_ASSIGN(const auto shard_bytes, arguments.Size("--shard-size"));
  options.shard_bytes = shard_bytes.value_or(kDefaultShardBytes);
  if (options.shard_bytes == 0) {
    return Error(ErrorCode::kUsage, "a shard of 0 bytes holds no tensor").Hint("--shard-size 5G");
  }
  options.force = arguments.Has("--force");
  PW_ASSIGN(const Model model, OpenStored(arguments.inputs()[0]));
  options.model = &model;
  std::string written = options.path;
  if (model.source->format() == "gguf") {
    PW_TRY(SplitGguf(invocation, options, &written));
  } else {
    PW_TRY(SplitSafetensors(invocation, options));
  }
  PW_ASSIGN(const Model output, OpenStored(written));
  PW_TRY(PrintFiles(output, &invocation.console));
  return kExitDone;
}

}  // namespace pennyweight
