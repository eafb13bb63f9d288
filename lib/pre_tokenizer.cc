// Patterns: the tokenizer.json files of the models, and byte_level.rs of huggingface/tokenizers.
// Names, and what GGUF files leave unsaid: llama.cpp's llama-vocab.cpp.
#include "lib/pre_tokenizer.h"

#include <algorithm>

namespace pennyweight {

constexpr std::string_view kGpt2Pattern =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// The same as GPT-2 published it.
constexpr std::string_view kGpt2Published =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::string_view kDefaultNames[] = {"default"};
constexpr std::string_view kGpt2Names[] = {"gpt-2",      "phi-2",      "jina-es", "jina-de",
                                           "jina-v2-es", "jina-v2-de", "gigachat"};
constexpr std::string_view kLlama3Names[] = {"llama-bpe", "llama3",   "llama-v3", "falcon3",
                                             "falcon-h1", "midm-2.0", "lfm2"};
constexpr std::string_view kQwen2Names[] = {"qwen2", "deepseek-r1-qwen", "megrez"};
constexpr std::string_view kTekkenNames[] = {"tekken"};
constexpr std::string_view kSmolLmNames[] = {"smollm",    "starcoder", "refact",
                                             "command-r", "codeshell", "minerva-7b"};

// llama.cpp's, for files that name none.
constexpr std::string_view kDefaultPatterns[] = {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Published,
                                                 R"(\p{N}+)", "[0-9][0-9][0-9]"};
constexpr std::string_view kGpt2Patterns[] = {kGpt2Pattern};
constexpr std::string_view kLlama3Patterns[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kQwen2Patterns[] = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kTekkenPatterns[] = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::string_view kSmolLmPatterns[] = {R"(\p{N})", kGpt2Pattern};

constexpr PreTokenizerRow kRows[] = {
    {PreTokenizer::kDefault, kDefaultNames, kDefaultPatterns},
    {PreTokenizer::kGpt2, kGpt2Names, kGpt2Patterns},
    {.id = PreTokenizer::kLlama3,
     .gguf_names = kLlama3Names,
     .patterns = kLlama3Patterns,
     .ignore_merges = true,
     .add_bos = true},
    // llama.cpp does not normalize; the models were trained on text that was.
    {.id = PreTokenizer::kQwen2,
     .gguf_names = kQwen2Names,
     .patterns = kQwen2Patterns,
     .normalize_nfc = true},
    {.id = PreTokenizer::kTekken,
     .gguf_names = kTekkenNames,
     .patterns = kTekkenPatterns,
     .ignore_merges = true,
     .add_bos = true},
    {PreTokenizer::kSmolLm, kSmolLmNames, kSmolLmPatterns},
};

// Different spellings of one pattern are one.
std::string_view Canonical(std::string_view pattern) {
  return pattern == kGpt2Published ? kGpt2Pattern : pattern;
}

}  // namespace

std::span<const PreTokenizerRow> PreTokenizers() { return kRows; }

const PreTokenizerRow& RowOf(PreTokenizer id) { return kRows[static_cast<size_t>(id)]; }

std::optional<PreTokenizer> PreTokenizerByName(std::string_view gguf_name) {
  for (const PreTokenizerRow& row : kRows) {
    if (std::ranges::find(row.gguf_names, gguf_name) != row.gguf_names.end()) return row.id;
  }
  return std::nullopt;
}

std::optional<PreTokenizer> PreTokenizerByPatterns(std::span<const std::string> patterns) {
  for (const PreTokenizerRow& row : kRows) {
    if (std::ranges::equal(row.patterns, patterns, {}, Canonical, Canonical)) return row.id;
  }
  return std::nullopt;
}

std::string PreTokenizerNames() {
  std::string names;
  for (const PreTokenizerRow& row : kRows) {
    if (!names.empty()) names += ", ";
    names += row.gguf_names.front();
  }
  return names;
}

}  // namespace pennyweight
