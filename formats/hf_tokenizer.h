// The tokenizer files of a Hugging Face folder -> Vocabulary.
#pragma once

#include <string>

#include "lib/model_config.h"
#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// Reads tokenizer.model when there is one, else tokenizer.json; then added tokens
// (added_tokens.json, tokenizer_config.json, else tokenizer.json), special tokens
// (tokenizer_config.json, special_tokens_map.json, and the ids of `config` as a last resort) and
// the chat template (chat_template.jinja, chat_template.json, else tokenizer_config.json). `config`
// may be null. Errors: kTokenizer naming what cannot be read; those of reading a file.
Result<Vocabulary> ReadHfTokenizer(const std::string& directory, const ModelConfig* config);

}  // namespace pennyweight
