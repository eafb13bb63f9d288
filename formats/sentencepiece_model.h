// tokenizer.model -> Vocabulary: the protobuf that sentencepiece writes, walked with bounds checks.
// Field numbers: sentencepiece_model.proto (github.com/google/sentencepiece).
#pragma once

#include <string>
#include <string_view>

#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// Reads the bytes of a tokenizer.model. Errors: kTokenizer (with the byte offset where the bytes
// are malformed): not such a file, cut off, a model that is not BPE, text that is normalised by a
// character map, pieces that are empty or twice there; kLimit.
Result<Vocabulary> ParseSentencePieceModel(std::string_view bytes);

}  // namespace pennyweight
