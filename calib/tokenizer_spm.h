// Sentencepiece's BPE: neighbouring pieces are merged by score, best first, leftmost on ties.
// Source: sentencepiece 0.2, normalizer.cc and bpe_model.cc, with the identity normalization rule
// (the one that Llama, Mistral and their kin use). The result is sentencepiece's, id for id.
#pragma once

#include <memory>

#include "calib/tokenizer.h"

namespace pennyweight {

// Keeps a reference to `vocabulary`. Errors: kTokenizer when it is empty or larger than
// limits::kVocabulary, when a byte token is malformed, or when characters outside the vocabulary
// have no id (neither an unknown token nor all 256 byte tokens). Encode and Decode are thread-safe.
Result<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(const Vocabulary& vocabulary);

}  // namespace pennyweight
