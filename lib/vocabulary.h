// A tokenizer as data: filled by formats/ from tokenizer files or GGUF metadata, used by calib/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pennyweight {

// Values are GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6,
};

struct Token {
  std::string text;  // as in the vocabulary: U+2581 for a space, "<0x0A>" for a byte
  float score = 0;   // merges prefer the higher score
  TokenType type = TokenType::kNormal;
};

struct Vocabulary {
  enum class Kind : uint8_t {
    kNone,
    kSentencePieceBpe,  // merges by score, spaces as U+2581, optional byte fallback
  };
  Kind kind = Kind::kNone;
  std::vector<Token> tokens;  // by id
  std::optional<int64_t> bos_id, eos_id, unk_id, pad_id;
  bool add_bos = true;
  bool add_eos = false;
  bool add_space_prefix = true;
  bool byte_fallback = false;            // every byte has a kByte token
  bool remove_extra_whitespaces = false; // runs of spaces become one; ends are trimmed
  std::string chat_template;             // Jinja text, never run; empty when none
};

}  // namespace pennyweight
