// What the two readers of tokenizer.json (sentencepiece-style and byte-level) share.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "lib/error.h"
#include "lib/json.h"
#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight::tokenizer_json {

using TokenIds = std::unordered_map<std::string_view, size_t>;  // views into the JSON

Error Refused(std::string what);    // "`what` is not read here"
Error Malformed(std::string what);  // "malformed tokenizer: `what`"

// nullptr when there is no such member, or null.
const Json* FindNonNull(const Json& json, std::string_view key);
// "" and false when there is no such member of that kind.
std::string StringAt(const Json& json, std::string_view key);
bool BoolAt(const Json& json, std::string_view key);

// "Split, ByteLevel": the types inside a Sequence, or the one type.
std::string TypeNames(const Json& json, std::string_view list_key);

// The two halves of a merge: "a b", or ["a", "b"] since tokenizers 0.20. Views into `merge`.
Result<std::pair<std::string_view, std::string_view>> MergeParts(const Json& merge);

// True when the text becomes bytes before it is merged.
bool IsByteLevel(const Json& json);
// Pre-tokenizer and normalizer of a byte-level BPE. Errors: kTokenizer naming what is unknown.
Status ParseByteLevelSteps(const Json& json, Vocabulary* vocabulary);
// What the model does beyond merging, and its merges. Errors: kTokenizer.
Status ParseByteLevelModel(const Json& model, const TokenIds& ids, Vocabulary* vocabulary);

}  // namespace pennyweight::tokenizer_json
