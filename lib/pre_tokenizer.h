// The pre-tokenizers of byte-level BPE that are known, by the names and patterns that files give
// them. A pattern from a file is never run: it is looked up here, and what is run is the row's own.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lib/vocabulary.h"

namespace pennyweight {

struct PreTokenizerRow {
  PreTokenizer id;
  // Values of tokenizer.ggml.pre that stand for it in llama.cpp; the first one is written.
  std::span<const std::string_view> gguf_names;
  // Regular expressions, as in the Split steps of tokenizer.json: each parts what the one before
  // left. Matches and what lies between them are words.
  std::span<const std::string_view> patterns;
  // What comes with it where the file does not say so (GGUF).
  bool ignore_merges = false;
  bool normalize_nfc = false;
  bool add_bos = false;
};

// All of them, in the order of the enumeration.
std::span<const PreTokenizerRow> PreTokenizers();
const PreTokenizerRow& RowOf(PreTokenizer id);

// nullopt when no row has that name, or those patterns.
std::optional<PreTokenizer> PreTokenizerByName(std::string_view gguf_name);
std::optional<PreTokenizer> PreTokenizerByPatterns(std::span<const std::string> patterns);

// "llama-bpe, qwen2, ...": for errors.
std::string PreTokenizerNames();

// GPT-2's own pattern: what a ByteLevel step with `use_regex` does.
extern const std::string_view kGpt2Pattern;

}  // namespace pennyweight
