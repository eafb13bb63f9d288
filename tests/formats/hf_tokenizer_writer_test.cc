#include "formats/hf_tokenizer_writer.h"

#include <doctest/doctest.h>

#include "formats/hf_tokenizer.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

Vocabulary SmallVocabulary() {
  Vocabulary v;
  v.kind = Vocabulary::Kind::kSentencePieceBpe;
  v.tokens = {{"<unk>", 0, TokenType::kUnknown},
              {"<s>", 0, TokenType::kControl},
              {"</s>", 0, TokenType::kControl},
              {"\xE2\x96\x81", -1.5f, TokenType::kNormal},
              {"a", -2.25f, TokenType::kNormal},
              {"\xE2\x96\x81"
               "a",
               -1e-7f, TokenType::kNormal},
              {"\xE2\x96\x81user", -1000, TokenType::kUserDefined},
              {"[PAD7]", -10000, TokenType::kUnused}};
  v.unk_id = 0;
  v.bos_id = 1;
  v.eos_id = 2;
  return v;
}

// Through the files of a folder and the ordinary reader.
Vocabulary ThereAndBack(const Vocabulary& vocabulary) {
  const auto files = TokenizerFiles(vocabulary);
  REQUIRE(files.ok());
  TempFolder temp;
  for (const auto& [name, contents] : *files) WriteText(temp / name, contents);
  auto read = ReadHfTokenizer(temp.path(), nullptr);
  REQUIRE_MESSAGE(read.ok(), read.error().ToString());
  return std::move(*read);
}

TEST_CASE("a vocabulary comes back from its files with every field") {
  for (const int variant : {0, 1}) {
    Vocabulary v = SmallVocabulary();
    v.add_bos = variant == 0;
    v.add_eos = variant == 1;
    v.add_space_prefix = variant == 0;
    v.remove_extra_whitespaces = variant == 1;
    if (variant == 1) {
      v.chat_template = "{{ bos_token }}\n\"quoted\"";
      v.pad_id = 7;
      v.byte_fallback = true;
      for (int byte = 0; byte < 256; ++byte) {
        char text[8];
        std::snprintf(text, sizeof(text), "<0x%02X>", byte);
        v.tokens.push_back({text, 0, TokenType::kByte});
      }
    }
    const Vocabulary read = ThereAndBack(v);
    REQUIRE(read.tokens.size() == v.tokens.size());
    for (size_t id = 0; id < v.tokens.size(); ++id) {
      CHECK(read.tokens[id].text == v.tokens[id].text);
      CHECK(read.tokens[id].score == v.tokens[id].score);
      CHECK(read.tokens[id].type == v.tokens[id].type);
    }
    CHECK(read.kind == v.kind);
    CHECK(read.unk_id == v.unk_id);
    CHECK(read.bos_id == v.bos_id);
    CHECK(read.eos_id == v.eos_id);
    CHECK(read.pad_id == v.pad_id);
    CHECK(read.add_bos == v.add_bos);
    CHECK(read.add_eos == v.add_eos);
    CHECK(read.add_space_prefix == v.add_space_prefix);
    CHECK(read.remove_extra_whitespaces == v.remove_extra_whitespaces);
    CHECK(read.byte_fallback == v.byte_fallback);
    CHECK(read.chat_template == v.chat_template);
  }
}

TEST_CASE("what sentencepiece would not load is refused") {
  const auto refused = [](const Vocabulary& v) {
    const auto files = TokenizerFiles(v);
    REQUIRE(!files.ok());
    CHECK(files.error().code == ErrorCode::kTokenizer);
    CHECK(!files.error().hint.empty());
  };
  Vocabulary v = SmallVocabulary();
  v.tokens[0].type = TokenType::kNormal;
  refused(v);  // no unknown token
  v = SmallVocabulary();
  v.unk_id.reset();
  refused(v);
  v = SmallVocabulary();
  v.tokens[4].text = "</s>";
  refused(v);  // a piece twice
  v = SmallVocabulary();
  v.tokens[4].text.clear();
  refused(v);
  v = SmallVocabulary();
  v.byte_fallback = true;
  refused(v);  // without its 256 tokens
  refused(Vocabulary());
}

}  // namespace
}  // namespace pennyweight
