#include "calib/tokenizer.h"

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

std::vector<int32_t> Ids(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.items()) ids.push_back(static_cast<int32_t>(*id.AsInteger()));
  return ids;
}

std::unique_ptr<Tokenizer> Make(const Vocabulary& vocabulary) {
  auto tokenizer = Tokenizer::Create(vocabulary);
  REQUIRE(tokenizer.ok());
  return std::move(tokenizer).value();
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// The model that the committed vectors were made with; "" when it is nowhere.
std::string VectorModel() {
  const std::string own =
      std::string(PENNYWEIGHT_SOURCE_DIR) + "/testdata/pd-llama-4M/tokenizer.model";
  return PathExists(own) ? own : SharedPath("models/pd-llama-4M/tokenizer.model");
}

void Apply(const Json& changes, Vocabulary* vocabulary) {
  const auto flag = [&](const char* name, bool* to) {
    if (const Json* value = changes.Find(name)) *to = *value->AsBool();
  };
  flag("remove_extra_whitespaces", &vocabulary->remove_extra_whitespaces);
  flag("add_space_prefix", &vocabulary->add_space_prefix);
  flag("byte_fallback", &vocabulary->byte_fallback);
  if (!vocabulary->byte_fallback) {
    for (Token& token : vocabulary->tokens) {
      if (token.type == TokenType::kByte) token.type = TokenType::kControl;
    }
  }
  if (const Json* replace = changes.Find("replace")) {
    for (const Json& entry : replace->items()) {
      Token& token = vocabulary->tokens[*entry.Find("id")->AsUnsigned()];
      token.text = entry.Find("text")->str();
      token.type = static_cast<TokenType>(*entry.Find("type")->AsUnsigned());
    }
  }
  if (const Json* unused = changes.Find("unused")) {
    for (const Json& id : unused->items()) {
      vocabulary->tokens[*id.AsUnsigned()].type = TokenType::kUnused;
    }
  }
}

// Six tokens: unknown, control, pieces with scores, one that prefers the right pair.
Vocabulary TinyVocabulary() {
  Vocabulary v;
  v.kind = Vocabulary::Kind::kSentencePieceBpe;
  v.tokens = {{"<unk>", 0, TokenType::kUnknown},
              {"<s>", 0, TokenType::kControl},
              {"\xE2\x96\x81", -10, TokenType::kNormal},
              {"a", -10, TokenType::kNormal},
              {"aa", -1, TokenType::kNormal},
              {"b", -10, TokenType::kNormal},
              {"ab", -0.5f, TokenType::kNormal}};
  v.unk_id = 0;
  v.add_space_prefix = false;
  return v;
}

TEST_CASE("tokenizer: ids and text are sentencepiece's, for every variant of a vocabulary") {
  const std::string path = VectorModel();
  if (path.empty()) return;
  const Json document =
      ReadJson(std::string(PENNYWEIGHT_SOURCE_DIR) + "/testdata/tokenizer/pd-llama-4M.json");
  REQUIRE(document.Find("variants")->items().size() == 5);
  for (const Json& variant : document.Find("variants")->items()) {
    CAPTURE(variant.Find("name")->str());
    Vocabulary vocabulary = ReadVocabulary(path);
    Apply(*variant.Find("changes"), &vocabulary);
    const auto tokenizer = Make(vocabulary);
    for (const Json& test : variant.Find("cases")->items()) {
      const Json* text = test.Find("text");
      const std::string input = text ? text->str() : FromHex(test.Find("hex")->str());
      CAPTURE(input);
      const std::vector<int32_t> ids = Ids(*test.Find("ids"));
      CHECK(tokenizer->Encode(input) == ids);
      if (text) CHECK(tokenizer->Decode(ids) == test.Find("decoded")->str());
    }
  }
}

TEST_CASE("tokenizer: prompts of the reference models") {
  for (const char* name : {"stories260K", "babyllama105", "pd-llama-4M"}) {
    CAPTURE(name);
    const auto model = TestModel::Open(name);
    if (!model) return;
    std::vector<int32_t> ids =
        Make(model->vocabulary)->Encode(model->reference.Find("prompt")->str());
    ids.insert(ids.begin(), static_cast<int32_t>(*model->vocabulary.bos_id));
    CHECK(ids == Ids(*model->reference.Find("prompt_ids")));
  }
}

TEST_CASE("tokenizer: Llama 2's 32000 pieces, as Hugging Face's tokenizers") {
  const std::string model = SharedPath("tokenizers/llama2-spm/tokenizer.model");
  const std::string vectors = SharedPath("tokenizers/vectors/llama2-spm.json");
  if (model.empty() || vectors.empty()) return;
  const Vocabulary vocabulary = ReadVocabulary(model);
  const auto tokenizer = Make(vocabulary);
  const Json document = ReadJson(vectors);
  for (const Json& test : document.Find("cases")->items()) {
    CAPTURE(test.Find("text")->str());
    CHECK(tokenizer->Encode(test.Find("text")->str()) == Ids(*test.Find("ids")));
  }
}

TEST_CASE("tokenizer: a long text comes back whole, and word by word is the same as at once") {
  const std::string path = VectorModel();
  const std::string text_path = SharedPath("text/pd/eval.txt");
  if (path.empty() || text_path.empty()) return;
  Vocabulary vocabulary = ReadVocabulary(path);
  const std::string text = ReadAll(text_path).substr(0, 100000);
  const std::vector<int32_t> ids = Make(vocabulary)->Encode(text);
  CHECK(Make(vocabulary)->Decode(ids) == text);
  CHECK(ids.size() > 20000);
  CHECK(ids.size() < 60000);
  // A piece that spans words, but occurs nowhere, forbids the split into words.
  vocabulary.tokens.push_back({"\x01\xE2\x96\x81\x01", 0, TokenType::kNormal});
  CHECK(Make(vocabulary)->Encode(text) == ids);
}

TEST_CASE("tokenizer: the best score is merged first, the left one on ties") {
  Vocabulary v = TinyVocabulary();
  CHECK(Make(v)->Encode("aaa") == std::vector<int32_t>{4, 3});
  CHECK(Make(v)->Encode("aab") == std::vector<int32_t>{3, 6});  // ab before aa
  v.tokens[6].score = -2;
  CHECK(Make(v)->Encode("aab") == std::vector<int32_t>{4, 5});
}

TEST_CASE("tokenizer: a run of unknown characters is one unknown token") {
  const Vocabulary v = TinyVocabulary();
  CHECK(Make(v)->Encode("xyz") == std::vector<int32_t>{0});
  CHECK(Make(v)->Encode("xayb") == std::vector<int32_t>{0, 3, 0, 5});
  CHECK(Make(v)->Decode({1, 3, 0, 5, 99, -1}) == "a \xE2\x81\x87 b");
}

TEST_CASE("tokenizer: vocabularies that cannot be run") {
  const auto code = [](const Vocabulary& v) {
    const auto tokenizer = Tokenizer::Create(v);
    REQUIRE(!tokenizer.ok());
    CHECK(!tokenizer.error().message.empty());
    return tokenizer.error().code;
  };
  Vocabulary none;
  CHECK(code(none) == ErrorCode::kTokenizer);
  Vocabulary empty;
  empty.kind = Vocabulary::Kind::kSentencePieceBpe;
  CHECK(code(empty) == ErrorCode::kTokenizer);
  Vocabulary no_unknown = TinyVocabulary();
  no_unknown.unk_id.reset();
  CHECK(code(no_unknown) == ErrorCode::kTokenizer);
  no_unknown.unk_id = 7;  // one behind the last
  CHECK(code(no_unknown) == ErrorCode::kTokenizer);
  no_unknown.unk_id = -1;
  CHECK(code(no_unknown) == ErrorCode::kTokenizer);
  Vocabulary no_bytes = TinyVocabulary();
  no_bytes.byte_fallback = true;
  CHECK(code(no_bytes) == ErrorCode::kTokenizer);
  for (const char* text : {"<0x-1>", "<0x0a>", "<0x0A", "0x0A", "<0x0G>", "<0x100>", ""}) {
    CAPTURE(text);
    Vocabulary bad = TinyVocabulary();
    bad.tokens.push_back({text, 0, TokenType::kByte});
    CHECK(code(bad) == ErrorCode::kTokenizer);
  }
}

}  // namespace
}  // namespace pennyweight
