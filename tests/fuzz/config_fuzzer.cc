// The small files beside the weights. The first byte chooses: any JSON, config.json,
// tokenizer.json, tokenizer.model.
#include "formats/hf_config.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_json.h"
#include "lib/json.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

namespace pennyweight::fuzz {
namespace {

void ReadTokenizer(const Json& json) {
  auto vocabulary = ParseTokenizerJson(json);
  const auto added = TokenizerJsonAddedTokens(json);
  (void)TokenizerJsonTemplate(json);
  if (vocabulary.ok() && added.ok()) (void)AddTokens(*added, 1000, &*vocabulary).ok();
}

void ReadJson(char kind, const std::string& text) {
  const auto json = Json::Parse(text);
  if (!json.ok()) return;
  switch (kind) {
    case 'c':
      (void)ParseHfConfig(*json, "config.json", "model");
      return;
    case 't':
      ReadTokenizer(*json);
      return;
    default: {
      // What is written can be read again, and says the same.
      const std::string written = json->Dump();
      const auto again = Json::Parse(written);
      Require(again.ok(), "written JSON can be read");
      Require(again->Dump() == written, "written JSON says what was read");
    }
  }
}

}  // namespace
}  // namespace pennyweight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const pennyweight::fuzz::AllocationCap cap(size);
  if (data[0] == 's') {
    (void)pennyweight::ParseSentencePieceModel(text).ok();
  } else {
    pennyweight::fuzz::ReadJson(static_cast<char>(data[0]), text);
  }
  return 0;
}
