// GGUF metadata to and from the model's configuration and vocabulary.
// Keys: ggml's docs/gguf.md and llama.cpp's llama-arch.cpp.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf_reader.h"
#include "formats/gguf_writer.h"
#include "lib/arch/family.h"
#include "lib/model_config.h"
#include "lib/result.h"
#include "lib/vocabulary.h"

namespace pennyweight {

// A tensor of any of the files; `file` is its place in `files`.
struct GgufTensorPlace {
  const GgufTensor* tensor = nullptr;  // nullptr: none of that name
  size_t file = 0;
};
GgufTensorPlace FindTensor(const std::vector<GgufFile>& files, std::string_view name);

// Fills `config` with what the metadata of files.front() say. On an error, what could be read of
// general.* stays. rope_freqs.weight is read too: it is metadata in the form of a tensor.
// Errors: kConfigMissing and kConfigInvalid (which name the key), kUnknownFamily, kUnsupported
// (rope scaling, attention windows or per-layer counts that no family here has).
Status ReadGgufConfig(const std::vector<GgufFile>& files, ModelConfig* config);

// Errors: kTokenizer: none, of a kind that cannot be run here (which it names), or inconsistent.
Result<Vocabulary> ReadGgufVocabulary(const GgufFile& file);

// general.architecture and the family's own keys, rope scaling included where it has keys.
void AddConfigKeys(const Family& family, const ModelConfig& config, GgufHeader* header);

// tokenizer.*. The list gets exactly `vocab_size` entries: llama.cpp asks for as many as the
// embedding has rows. Missing ones are "[PADn]", unused; surplus ones are left out.
// Errors: kTokenizer when a special id is outside the list, or the kind has no GGUF form.
Status AddVocabularyKeys(const Vocabulary& vocabulary, int64_t vocab_size, GgufHeader* header);

}  // namespace pennyweight
