// Vocabulary of a byte-level BPE -> tokenizer.json of Hugging Face's tokenizers library.
#pragma once

#include <string>

#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// The text of tokenizer.json. It was read back by ParseTokenizerJson and gives the same tokens (ids
// without one are left out), merges and settings. Errors: kTokenizer saying what cannot be written.
// Precondition: the vocabulary is of Kind::kByteBpe.
Result<std::string> ByteBpeTokenizerJson(const Vocabulary& vocabulary);

}  // namespace pennyweight
