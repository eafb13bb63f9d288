// The small files beside the weights, and text. The first byte chooses: any JSON, config.json,
// tokenizer.json, tokenizer.model, a text for the tokenizer of testdata/tokenizer/byte-bpe.
#include "calib/tokenizer.h"
#include "calib/tokenizer_text.h"
#include "formats/hf_config.h"
#include "formats/hf_tokenizer.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_json.h"
#include "formats/tokenizer_json_writer.h"
#include "lib/json.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

namespace pennyweight::fuzz {
namespace {

void ReadTokenizer(const Json& json) {
  auto vocabulary = ParseTokenizerJson(json);
  const auto added = TokenizerJsonAddedTokens(json);
  (void)TokenizerJsonTemplate(json);
  if (!vocabulary.ok() || !added.ok() || !AddTokens(*added, 1000, &*vocabulary).ok()) return;
  if (vocabulary->kind == Vocabulary::Kind::kByteBpe) (void)ByteBpeTokenizerJson(*vocabulary).ok();
  const auto tokenizer = Tokenizer::Create(*vocabulary);
  if (!tokenizer.ok()) return;
  const std::string_view text = " a b<|end|>  \n12\xCC\x81\xFF";
  (void)(*tokenizer)->Decode((*tokenizer)->EncodeSpecial(text));
}

const Tokenizer& SmallTokenizer() {
  static const Result<Vocabulary> vocabulary =
      ReadHfTokenizer(PENNYWEIGHT_SOURCE_DIR "/testdata/tokenizer/byte-bpe", nullptr);
  static const auto tokenizer = Tokenizer::Create(*vocabulary);
  return **tokenizer;
}

void Encode(const std::string& text) {
  const Tokenizer& tokenizer = SmallTokenizer();
  // Every byte is a token, so all of the text comes back but for the spaces around <tool>.
  const std::string back = tokenizer.Decode(tokenizer.Encode(text));
  const std::string well_formed = NormalizeNfc(ReplaceMalformed(text));
  Require(text.find("<tool>") != std::string::npos || NormalizeNfc(back) == well_formed,
          "the text comes back");
  (void)tokenizer.EncodeSpecial(text);
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
  (void)pennyweight::fuzz::SmallTokenizer();
  const pennyweight::fuzz::AllocationCap cap(size);
  if (data[0] == 'e') {
    pennyweight::fuzz::Encode(text);
  } else if (data[0] == 's') {
    (void)pennyweight::ParseSentencePieceModel(text).ok();
  } else {
    pennyweight::fuzz::ReadJson(static_cast<char>(data[0]), text);
  }
  return 0;
}
