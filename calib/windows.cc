#include "calib/windows.h"

#include <fmt/format.h>

#include <algorithm>

namespace pennyweight {
namespace {

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\n\r\f\v") == std::string_view::npos;
}

// The id put in front of a context, or none.
std::optional<int32_t> FrontId(const Vocabulary& vocabulary) {
  if (!vocabulary.add_bos || !vocabulary.bos_id) return std::nullopt;
  return static_cast<int32_t>(*vocabulary.bos_id);
}

Result<Windows> StreamWindows(const Tokenizer& tokenizer, std::optional<int32_t> front,
                              std::string_view text, const WindowOptions& options) {
  // As llama.cpp: the stream itself begins with BOS, and so the first window has lost no id to it.
  std::vector<int32_t> stream;
  if (front) stream.push_back(*front);
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  stream.insert(stream.end(), ids.begin(), ids.end());
  int64_t usable = static_cast<int64_t>(stream.size());
  if (options.max_tokens) usable = std::min(usable, *options.max_tokens);
  const int64_t count = usable / options.context;
  if (count < 2) {
    const bool capped = usable < static_cast<int64_t>(stream.size());
    return Error(ErrorCode::kTextTooShort,
                 fmt::format("{} tokens{} make {} windows of {}; two are needed", usable,
                             capped ? " (the limit that was set)" : "", count, options.context))
        .Hint(capped ? fmt::format("--tokens {}", 2 * options.context)
                     : "give a longer text, or a smaller --context");
  }
  stream.resize(static_cast<size_t>(count * options.context));
  Windows windows;
  windows.ids = std::move(stream);
  windows.lengths.assign(static_cast<size_t>(count), options.context);
  // The logits at positions N/2 .. N-2 are judged: they predict the ids N/2+1 .. N-1.
  windows.first_scored.assign(static_cast<size_t>(count), options.context / 2 + 1);
  if (front) {
    for (int64_t w = 0; w < count; ++w) {
      windows.ids[static_cast<size_t>(w * options.context)] = *front;
    }
  }
  return windows;
}

// Appends the runs of one document; false when the limit on tokens is reached.
bool AppendDocument(const std::vector<int32_t>& ids, std::optional<int32_t> front,
                    const WindowOptions& options, Windows* windows) {
  const int64_t run = front ? options.context - 1 : options.context;
  const int64_t size = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; begin < size; begin += run) {
    const int64_t count = std::min(run, size - begin);
    const int64_t length = count + (front ? 1 : 0);
    if (length < 2) continue;  // nothing in it is predicted
    if (options.max_tokens && windows->tokens() + length > *options.max_tokens) return false;
    if (front) windows->ids.push_back(*front);
    windows->ids.insert(windows->ids.end(), ids.begin() + begin, ids.begin() + begin + count);
    windows->lengths.push_back(length);
    windows->first_scored.push_back(1);
  }
  return true;
}

Result<Windows> DocumentWindows(const Tokenizer& tokenizer, std::optional<int32_t> front,
                                std::string_view text, const WindowOptions& options) {
  const std::string& separator = *options.separator;
  if (separator.empty()) {
    return Error(ErrorCode::kUsage, "the separator of documents is empty")
        .Hint("--separator '<|endoftext|>'");
  }
  Windows windows;
  bool more = true;
  while (more && !text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    const std::string_view document = text.substr(0, end);
    text.remove_prefix(std::min(end + separator.size(), text.size()));
    if (IsBlank(document)) continue;
    more = AppendDocument(tokenizer.Encode(document), front, options, &windows);
  }
  if (windows.lengths.empty()) {
    return Error(ErrorCode::kTextTooShort,
                 more ? "the text has no document with a token to predict"
                      : fmt::format("the first run of the first document is longer than the limit "
                                    "of {} tokens",
                                    *options.max_tokens))
        .Hint(more ? "give a text that is not blank" : fmt::format("--tokens {}", options.context));
  }
  return windows;
}

}  // namespace

Result<Windows> MakeWindows(const Tokenizer& tokenizer, const Vocabulary& vocabulary,
                            std::string_view text, const WindowOptions& options) {
  if (options.context < 2) {
    return Error(ErrorCode::kUsage,
                 fmt::format("a context of {} tokens predicts nothing", options.context))
        .Hint("--context 512");
  }
  const std::optional<int32_t> front = FrontId(vocabulary);
  if (options.separator) return DocumentWindows(tokenizer, front, text, options);
  return StreamWindows(tokenizer, front, text, options);
}

}  // namespace pennyweight
