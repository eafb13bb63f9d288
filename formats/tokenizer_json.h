// tokenizer.json of Hugging Face's tokenizers library -> Vocabulary, for the kinds that can be run
// here: BPE over text whose spaces became U+2581, as sentencepiece does it, and byte-level BPE.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/json.h"
#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// A token that stands beside the model's own.
struct AddedToken {
  int64_t id = 0;
  std::string text;
  bool special = false;
  bool strip_left = false, strip_right = false, single_word = false, normalized = false;
};

// Reads model, normalizer, pre-tokenizer and special ids. In the sentencepiece kind the score of a
// token is minus the lowest rank of the merges that make it, so that merging by score is merging by
// rank. Added tokens are left to the
// caller. Errors: kTokenizer naming what it is that cannot be read, or what is malformed; kLimit.
Result<Vocabulary> ParseTokenizerJson(const Json& json);

// Its "added_tokens". Errors: kTokenizer.
Result<std::vector<AddedToken>> TokenizerJsonAddedTokens(const Json& json);

// What its post-processor puts around a text: the ids of the special token in front and behind;
// nullopt when it has no template and leaves the question open.
struct TemplateEnds {
  std::optional<std::string> first;
  std::optional<std::string> last;
};
std::optional<TemplateEnds> TokenizerJsonTemplate(const Json& json);

// One added token of "added_tokens" or "added_tokens_decoder" (there the id is the key).
// Errors: kTokenizer.
Result<AddedToken> ParseAddedToken(const Json& entry, std::optional<int64_t> id);

// Puts added tokens at their ids. One of the model's own tokens at such an id gives way, as it does
// in tokenizers. Ids at or above `vocab_size` (when known) are left out: the model has no row for
// them. Holes are filled with unused tokens. Errors: kTokenizer for an id far beyond the
// vocabulary, and for a text that would have two ids.
Status AddTokens(const std::vector<AddedToken>& added, std::optional<int64_t> vocab_size,
                 Vocabulary* vocabulary);

}  // namespace pennyweight
