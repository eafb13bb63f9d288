// A tokenizer as data: filled by formats/ from tokenizer files or GGUF metadata, used by calib/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pennyweight {

// Values are GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Token {
  // As in the vocabulary. kSentencePieceBpe: U+2581 for a space, "<0x0A>" for a byte. kByteBpe:
  // normal tokens in GPT-2's alphabet of 256 characters for bytes, all others as they are.
  std::string text;
  float score = 0;  // kSentencePieceBpe: merges prefer the higher score
  TokenType type = TokenType::kNormal;
  // kByteBpe: how an added token (control, user-defined) is found in a text.
  bool strip_left : 1 = false;   // takes the white space in front of it along
  bool strip_right : 1 = false;  // and that behind it
  bool single_word : 1 = false;  // only where no letter or digit touches it
  bool normalized : 1 = false;   // looked for in the normalized text, not in the text as it came
};

// Two neighbours that become one token; all three are ids.
struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
  bool operator==(const Merge&) const = default;
};

// How a text is parted into the words inside which tokens are merged: a row each in
// lib/pre_tokenizer.cc, with the patterns.
enum class PreTokenizer : uint8_t { kDefault, kGpt2, kLlama3, kQwen2, kTekken, kSmolLm };

struct Vocabulary {
  enum class Kind : uint8_t {
    kNone,
    kSentencePieceBpe,  // merges by score, spaces as U+2581, optional byte fallback
    kByteBpe,           // merges by rank, of bytes, inside the words of a pattern
  };
  Kind kind = Kind::kNone;
  std::vector<Token> tokens;  // by id
  std::optional<int64_t> bos_id, eos_id, unk_id, pad_id;
  bool add_bos = true;
  bool add_eos = false;
  bool add_space_prefix = true;
  bool byte_fallback = false;             // every byte has a kByte token
  bool remove_extra_whitespaces = false;  // runs of spaces become one; ends are trimmed
  // kByteBpe only.
  PreTokenizer pre_tokenizer = PreTokenizer::kDefault;
  std::vector<Merge> merges;   // the first one goes first; no pair is there twice
  bool ignore_merges = false;  // a word that is a token is that token, whatever merges make of it
  bool normalize_nfc = false;  // text is brought to Unicode's form NFC first
  std::string chat_template;   // Jinja text, never run; empty when none
};

// Leaves one merge of each pair, the first or the last of them, at its place.
void DropRepeatedMerges(bool keep_last, std::vector<Merge>* merges);

}  // namespace pennyweight
