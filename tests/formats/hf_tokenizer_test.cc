#include "formats/hf_tokenizer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "formats/sentencepiece_model.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

using test::ScratchFolder;

// Protobuf, as sentencepiece writes it.
std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  bytes += static_cast<char>(value);
  return bytes;
}
std::string Number(uint32_t field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(uint32_t field, const std::string& value) {
  std::string bytes = Varint(field << 3 | 2);
  bytes += Varint(value.size());
  bytes += value;
  return bytes;
}
std::string Piece(const std::string& text, float score, uint64_t type) {
  std::string piece = Bytes(1, text) + Varint(2 << 3 | 5);
  piece += std::string(reinterpret_cast<const char*>(&score), 4);
  if (type != 1) piece += Number(3, type);
  return Bytes(1, piece);
}

std::string Pieces() {
  return Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3) +
         Piece(
             "\xE2\x96\x81"
             "a",
             -0.5f, 1) +
         Piece("b", -1.5f, 1) + Piece("<x>", 0, 4);
}

const std::string kBpe = Bytes(2, Number(3, 2));
const std::string kNoExtra = Bytes(3, Bytes(1, "identity") + Number(4, 0));

TEST_CASE("a sentencepiece model: pieces, scores, types, specs") {
  const auto vocabulary = ParseSentencePieceModel(Pieces() + kBpe + kNoExtra);
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  CHECK(vocabulary->kind == Vocabulary::Kind::kSentencePieceBpe);
  REQUIRE(vocabulary->tokens.size() == 6);
  CHECK(vocabulary->tokens[3].text ==
        "\xE2\x96\x81"
        "a");
  CHECK(vocabulary->tokens[3].score == -0.5f);
  CHECK(vocabulary->tokens[3].type == TokenType::kNormal);
  CHECK(vocabulary->tokens[0].type == TokenType::kUnknown);
  CHECK(vocabulary->tokens[1].type == TokenType::kControl);
  CHECK(vocabulary->tokens[5].type == TokenType::kUserDefined);
  CHECK(vocabulary->bos_id == 1);
  CHECK(vocabulary->eos_id == 2);
  CHECK(vocabulary->unk_id == 0);
  CHECK_FALSE(vocabulary->pad_id.has_value());
  CHECK(vocabulary->add_space_prefix);
  CHECK_FALSE(vocabulary->remove_extra_whitespaces);
  CHECK_FALSE(vocabulary->byte_fallback);

  // The .proto's defaults where the normalizer says nothing, and ids that are set.
  const std::string trainer = Bytes(
      2, Number(3, 2) + Number(41, 2) + Number(42, UINT64_MAX) + Number(43, 4) + Number(40, 99));
  const auto other = ParseSentencePieceModel(Pieces() + trainer + Bytes(3, Number(3, 0)));
  REQUIRE(other.ok());
  CHECK(other->remove_extra_whitespaces);
  CHECK_FALSE(other->add_space_prefix);
  CHECK(other->bos_id == 2);
  CHECK_FALSE(other->eos_id.has_value());
  CHECK(other->pad_id == 4);
  CHECK_FALSE(other->unk_id.has_value());
}

TEST_CASE("sentencepiece models that cannot be read are refused by name") {
  struct Case {
    const char* id;
    std::string bytes;
    const char* says;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Case> cases = {
      {"empty", "", "no pieces"},
      {"text", "IQ== 0\nIg== 1\n", "not a sentencepiece model"},
      {"unigram", Pieces() + Bytes(2, Number(3, 1)), "unigram"},
      {"unigram by default", Pieces(), "unigram"},
      {"word", Pieces() + Bytes(2, Number(3, 3)), "word"},
      {"char", Pieces() + Bytes(2, Number(3, 4)), "char"},
      {"character map", Pieces() + kBpe + Bytes(3, Bytes(2, "map")), "character map"},
      {"raw spaces", Pieces() + kBpe + Bytes(3, Number(5, 0)), "unescaped"},
      {"suffix", Pieces() + Bytes(2, Number(3, 2) + Number(24, 1)), "suffix"},
      {"bytes missing", Pieces() + Bytes(2, Number(3, 2) + Number(35, 1)), "0 of 256"},
      {"twice", Pieces() + Piece("b", -3, 1) + kBpe, "twice"},
      {"no text", Piece("", 0, 1) + kBpe, "without text"},
      {"score", Piece("a", nan, 1) + kBpe, "score"},
      {"type", Piece("a", 0, 7) + kBpe, "type 7"},
      {"field 0", Pieces() + kBpe + std::string(2, '\0'), "no number"},
      {"group", Pieces() + kBpe + Varint(9 << 3 | 3), "wire type 3"},
      {"length beyond the file", Pieces() + kBpe + Varint(1 << 3 | 2) + Varint(1ull << 63),
       "are left"},
      {"endless number", Pieces() + kBpe + Varint(9 << 3) + std::string(11, '\xFF'), "64 bits"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const auto vocabulary = ParseSentencePieceModel(wrong.bytes);
    REQUIRE_FALSE(vocabulary.ok());
    CHECK(vocabulary.error().code == ErrorCode::kTokenizer);
    CAPTURE(vocabulary.error().message);
    CHECK(vocabulary.error().message.find(wrong.says) != std::string::npos);
  }
  // Cut anywhere inside a field: never taken.
  const std::string whole = Pieces();
  for (size_t n = 1; n + 1 < whole.size(); ++n) {
    CHECK_FALSE(ParseSentencePieceModel(whole.substr(0, n)).ok());
  }
}

constexpr const char* kSpaces =
    R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})";

std::string TokenizerJson(const std::string& normalizer, const std::string& more = "",
                          const std::string& model = "") {
  return fmt::format(
      R"({{"normalizer": {}, "pre_tokenizer": null{}, "added_tokens":
          [{{"id": 1, "content": "<s>", "special": true}},
           {{"id": 2, "content": "</s>", "special": true}},
           {{"id": 9, "content": "<tool>", "special": false}}],
          "model": {}}})",
      normalizer, more,
      model.empty() ? R"({"type": "BPE", "unk_token": "<unk>", "byte_fallback": false,
          "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6, "▁ab": 7},
          "merges": ["▁ a", "▁a b", ["▁", "ab"]]})"
                    : model);
}

Result<Vocabulary> ReadJson(const std::string& text, const ModelConfig* config = nullptr) {
  const ScratchFolder folder;
  folder.Write("tokenizer.json", text);
  return ReadHfTokenizer(folder.path(), config);
}

TEST_CASE("tokenizer.json: scores are minus the lowest rank that makes the token") {
  const auto vocabulary = ReadJson(TokenizerJson(kSpaces));
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  REQUIRE(vocabulary->tokens.size() == 10);
  CHECK(vocabulary->tokens[6].score == 0.0f);
  CHECK(vocabulary->tokens[7].score == -1.0f);
  CHECK(vocabulary->unk_id == 0);
  CHECK(vocabulary->tokens[0].type == TokenType::kUnknown);
  CHECK(vocabulary->tokens[1].type == TokenType::kControl);
  CHECK(vocabulary->tokens[4].type == TokenType::kNormal);
  CHECK(vocabulary->tokens[8].type == TokenType::kUnused);  // a hole
  CHECK(vocabulary->tokens[9].text == "<tool>");
  CHECK(vocabulary->tokens[9].type == TokenType::kUserDefined);
  CHECK(vocabulary->add_space_prefix);
  // Nothing names the special tokens, and nothing is put in front.
  CHECK_FALSE(vocabulary->bos_id.has_value());
  CHECK_FALSE(vocabulary->add_bos);

  const auto bare =
      ReadJson(TokenizerJson(R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})"));
  REQUIRE(bare.ok());
  CHECK_FALSE(bare->add_space_prefix);

  ModelConfig config;
  config.vocab_size = 8;
  config.bos_id = 1;
  config.eos_id = 2;
  const auto cut = ReadJson(TokenizerJson(kSpaces), &config);
  REQUIRE(cut.ok());
  CHECK(cut->tokens.size() == 8);  // the model has no row for <tool>
  CHECK(cut->bos_id == 1);
  CHECK(cut->eos_id == 2);
  config.vocab_size = 7;
  CHECK(ReadJson(TokenizerJson(kSpaces), &config).error().code == ErrorCode::kTokenizer);
}

TEST_CASE("other tokenizers are refused by name") {
  struct Case {
    const char* id;
    std::string text;
    const char* says;
  };
  const auto model = [](const std::string& text) { return TokenizerJson(kSpaces, "", text); };
  const std::vector<Case> cases = {
      {"metaspace",
       R"({"pre_tokenizer": {"type": "Metaspace"}, "model": {"type": "BPE", "vocab": {"a": 0},
           "merges": []}})",
       "Metaspace"},
      {"nfc", TokenizerJson(R"({"type": "NFC"})"), "NFC"},
      {"lowercase first",
       TokenizerJson(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"},
           {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})"),
       "Lowercase, Replace"},
      {"no normalizer", TokenizerJson("null"), "without normalizer"},
      {"unigram", model(R"({"type": "Unigram", "vocab": []})"), "Unigram"},
      {"wordpiece", model(R"({"type": "WordPiece", "vocab": {}})"), "WordPiece"},
      {"untyped", model(R"({"vocab": {"a": 0}})"), "does not say"},
      {"ignore_merges", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [],
          "ignore_merges": true})"),
       "ignore_merges"},
      {"suffix", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [],
          "end_of_word_suffix": "</w>"})"),
       "end_of_word_suffix"},
      {"same id", model(R"({"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []})"), "id 0"},
      {"far id", model(R"({"type": "BPE", "vocab": {"a": 16000000}, "merges": []})"), "below"},
      {"negative id", model(R"({"type": "BPE", "vocab": {"a": -1}, "merges": []})"), "below"},
      {"merge of nothing", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]})"),
       "no token"},
      {"merge of three", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]})"),
       "pair"},
      {"merge of numbers", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [[1, 2]]})"),
       "pair"},
      {"no merges", model(R"({"type": "BPE", "vocab": {"a": 0}})"), "merges"},
      {"bytes missing", model(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [],
          "byte_fallback": true})"),
       "<0x00>"},
      {"empty", model(R"({"type": "BPE", "vocab": {}, "merges": []})"), "empty"},
      {"no model", "{}", "model"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const auto vocabulary = ReadJson(wrong.text);
    REQUIRE_FALSE(vocabulary.ok());
    CAPTURE(vocabulary.error().message);
    CHECK(vocabulary.error().code == ErrorCode::kTokenizer);
    CHECK(vocabulary.error().message.find(wrong.says) != std::string::npos);
    CHECK(vocabulary.error().file.find("tokenizer.json") != std::string::npos);
  }
  const ScratchFolder folder;
  CHECK(ReadHfTokenizer(folder.path(), nullptr).error().code == ErrorCode::kTokenizer);
  folder.Write("vocab.txt", "[PAD]\n");
  CHECK(ReadHfTokenizer(folder.path(), nullptr).error().message.find("WordPiece") !=
        std::string::npos);
}

TEST_CASE("added tokens, special tokens and the template come from the files beside the model") {
  const ScratchFolder folder;
  folder.Write("tokenizer.model", Pieces() + kBpe + kNoExtra);
  folder.Write("tokenizer_config.json", R"({
      "bos_token": {"content": "<|im_start|>"}, "eos_token": "</s>", "pad_token": null,
      "add_bos_token": false, "add_eos_token": true, "add_prefix_space": false,
      "chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}],
      "added_tokens_decoder": {"1": {"content": "<s>", "special": true},
        "6": {"content": "<|im_start|>", "special": true}, "7": {"content": "word"}}})");
  const auto vocabulary = ReadHfTokenizer(folder.path(), nullptr);
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  REQUIRE(vocabulary->tokens.size() == 8);
  CHECK(vocabulary->tokens[1].score == 0.0f);  // as it was
  CHECK(vocabulary->tokens[6].type == TokenType::kControl);
  CHECK(vocabulary->tokens[6].score == -1000.0f);
  CHECK(vocabulary->tokens[7].type == TokenType::kUserDefined);
  CHECK(vocabulary->bos_id == 6);
  CHECK(vocabulary->eos_id == 2);
  CHECK_FALSE(vocabulary->add_bos);
  CHECK(vocabulary->add_eos);
  CHECK_FALSE(vocabulary->add_space_prefix);
  CHECK(vocabulary->chat_template == "D");

  folder.Write("chat_template.jinja", "{{ J }}");
  CHECK(ReadHfTokenizer(folder.path(), nullptr)->chat_template == "{{ J }}");

  struct Case {
    const char* name;
    const char* text;
  };
  for (const Case& wrong : std::vector<Case>{
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<y>"}}})"},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"6": {"content": ""}}})"},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"9999999": {"content": "y"}}})"},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"6": {"content": "b"}}})"},
           {"added_tokens.json", R"({"<y>": -1})"},
           {"added_tokens.json", R"({"<y>": "6"})"}}) {
    CAPTURE(wrong.text);
    const ScratchFolder other;
    other.Write("tokenizer.model", Pieces() + kBpe);
    other.Write(wrong.name, wrong.text);
    const auto refused = ReadHfTokenizer(other.path(), nullptr);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == ErrorCode::kTokenizer);
    CHECK(refused.error().file == other.Path(wrong.name));
  }
}

TEST_CASE("the template of tokenizer.json says whether BOS is put in front") {
  const std::string processor =
      R"(, "post_processor": {"type": "TemplateProcessing", "single":
          [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]})";
  ModelConfig config;
  config.bos_id = 1;
  config.eos_id = 2;
  const auto with = ReadJson(TokenizerJson(kSpaces, processor), &config);
  REQUIRE(with.ok());
  CHECK(with->add_bos);
  CHECK_FALSE(with->add_eos);
  const std::string only_text =
      R"(, "post_processor": {"type": "TemplateProcessing", "single":
          [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}]})";
  const auto behind = ReadJson(TokenizerJson(kSpaces, only_text), &config);
  REQUIRE(behind.ok());
  CHECK_FALSE(behind->add_bos);
  CHECK(behind->add_eos);
}

// Tokens of merges in the order in which they are made. Left out are those to which `scores` (of
// the same tokens) gives sentencepiece's "last of all": a tokenizer.json ranks them, at its end.
std::vector<std::string> MergeOrder(const Vocabulary& vocabulary, const Vocabulary& scores) {
  std::vector<const Token*> merged;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const Token& token = vocabulary.tokens[id];
    const auto characters = std::count_if(token.text.begin(), token.text.end(),
                                          [](char c) { return (c & 0xC0) != 0x80; });
    if (token.type == TokenType::kNormal && characters > 1 && scores.tokens[id].score > -1e8f) {
      merged.push_back(&token);
    }
  }
  std::stable_sort(merged.begin(), merged.end(),
                   [](const Token* a, const Token* b) { return a->score > b->score; });
  std::vector<std::string> texts;
  for (const Token* token : merged) texts.push_back(token->text);
  return texts;
}

TEST_CASE("real models: tokenizer.model and tokenizer.json give the same vocabulary") {
  const std::string shared = test::SharedFolder();
  if (shared.empty()) {
    MESSAGE("SKIPPED: ../shared is not there");
    return;
  }
  for (const char* name : {"models/pd-llama-4M", "models/stories260K", "models/babyllama105",
                           "models/pd-mixtral-4M", "tokenizers/llama2-spm"}) {
    CAPTURE(std::string(name));
    const std::string from = fmt::format("{}/{}/", shared, name);
    const auto model = ReadHfTokenizer(from, nullptr);
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    const ScratchFolder folder;
    folder.Write("tokenizer.json", test::ReadAll(from + "tokenizer.json"));
    if (std::filesystem::exists(from + "tokenizer_config.json")) {
      folder.Write("tokenizer_config.json", test::ReadAll(from + "tokenizer_config.json"));
    }
    const auto json = ReadHfTokenizer(folder.path(), nullptr);
    REQUIRE_MESSAGE(json.ok(), json.error().ToString());
    REQUIRE(model->tokens.size() == json->tokens.size());
    bool same = true;
    for (size_t id = 0; id < model->tokens.size(); ++id) {
      same = same && model->tokens[id].text == json->tokens[id].text &&
             model->tokens[id].type == json->tokens[id].type;
    }
    CHECK(same);
    CHECK(model->byte_fallback == json->byte_fallback);
    CHECK(model->add_space_prefix == json->add_space_prefix);
    CHECK(model->bos_id == 1);
    CHECK(model->eos_id == 2);
    CHECK(model->add_bos);
    CHECK_FALSE(model->add_eos);
    CHECK_FALSE(model->remove_extra_whitespaces);
    const std::vector<std::string> order = MergeOrder(*model, *model);
    if (std::string(name) != "models/babyllama105") CHECK(order.size() > 100);
    CHECK(order == MergeOrder(*json, *model));
  }
}

}  // namespace
}  // namespace pennyweight
