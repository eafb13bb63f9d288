// Text to words, for byte-level BPE: the patterns of a PreTokenizer, run by PCRE2.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

class WordSplitter {
 public:
  using WordFunction = std::function<void(std::string_view word)>;

  // Compiles the patterns of the row of `id` (lib/pre_tokenizer.h). Errors: kTokenizer, when PCRE2
  // was built without Unicode.
  static Result<std::unique_ptr<WordSplitter>> Create(PreTokenizer id);
  virtual ~WordSplitter() = default;

  // Calls `word` with the parts of a text, in order; together they are the text. Takes time linear
  // in its bytes. Thread-safe. Precondition: `text` is UTF-8.
  virtual void Split(std::string_view text, const WordFunction& word) const = 0;
};

}  // namespace pennyweight
