// Vocabulary -> the tokenizer files of a Hugging Face folder, for inputs that came without a
// folder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// Names and contents of tokenizer.model (the protobuf of sentencepiece: field numbers of
// sentencepiece_model.proto) and tokenizer_config.json. What is returned was read back by
// ParseSentencePieceModel and gives the same tokens.
// Errors: kTokenizer when the vocabulary is not one that sentencepiece loads.
Result<std::vector<std::pair<std::string, std::string>>> TokenizerFiles(
    const Vocabulary& vocabulary);

}  // namespace pennyweight
