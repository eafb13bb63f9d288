// Text to token ids and back, over a vocabulary that it is handed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

class Tokenizer {
 public:
  // Keeps a reference to `vocabulary`. Errors: kTokenizer when its kind cannot be run.
  static Result<std::unique_ptr<Tokenizer>> Create(const Vocabulary& vocabulary);
  virtual ~Tokenizer() = default;

  // Ids of a text, without BOS or EOS; control tokens that are spelled out in the text are text. A
  // byte that is not UTF-8 counts as U+FFFD.
  virtual std::vector<int32_t> Encode(std::string_view text) const = 0;
  // The same, but what spells out a control token ("<|eot_id|>") is that token.
  virtual std::vector<int32_t> EncodeSpecial(std::string_view text) const { return Encode(text); }
  // Text of ids; control tokens print nothing; the space that the vocabulary puts in front of a
  // text is taken away. Bytes that are not UTF-8 are passed on as they are.
  virtual std::string Decode(const std::vector<int32_t>& ids) const = 0;
};

}  // namespace pennyweight
