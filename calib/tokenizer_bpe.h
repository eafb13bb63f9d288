// Byte-level BPE, GPT-2's kind: text is normalized, parted into words by a pattern, and inside each
// word neighbouring tokens are merged, the pair of the lowest rank first, leftmost on ties,
// starting from bytes. Source: huggingface/tokenizers, whose ids it gives.
#pragma once

#include <memory>

#include "calib/tokenizer.h"

namespace pennyweight {

// Keeps a reference to `vocabulary`. Errors: kTokenizer when it is empty or larger than
// limits::kVocabulary, when a merge is of an id outside it, or when no byte has a token. A byte
// without one is left out of the ids. Encode, EncodeSpecial and Decode are thread-safe.
Result<std::unique_ptr<Tokenizer>> MakeByteBpeTokenizer(const Vocabulary& vocabulary);

}  // namespace pennyweight
