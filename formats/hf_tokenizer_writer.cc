#include "formats/hf_tokenizer_writer.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_json_writer.h"
#include "lib/json.h"

namespace pennyweight {
namespace {

// Real models have some hundreds. Adding a key to a JSON object looks through all of them.
constexpr size_t kMaxListed = 8192;

// A message of the protobuf wire format.
class Message {
 public:
  void Bytes(uint32_t field, std::string_view bytes) {
    Varint(field << 3 | 2);
    Varint(bytes.size());
    out_ += bytes;
  }
  // Negative numbers as the format has them: sign-extended to 64 bits.
  void Number(uint32_t field, int64_t value) {
    Varint(field << 3);
    Varint(static_cast<uint64_t>(value));
  }
  void Float(uint32_t field, float value) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    Varint(field << 3 | 5);
    for (int shift = 0; shift < 32; shift += 8) out_ += static_cast<char>(bits >> shift & 0xFF);
  }
  const std::string& bytes() const { return out_; }

 private:
  void Varint(uint64_t value) {
    for (; value >= 128; value >>= 7) out_ += static_cast<char>((value & 127) | 128);
    out_ += static_cast<char>(value);
  }
  std::string out_;
};

struct SpecialToken {
  const char* key;  // in tokenizer_config.json
  uint32_t id_field;
  uint32_t text_field;
  std::optional<int64_t> id;
};

std::vector<SpecialToken> SpecialTokens(const Vocabulary& vocabulary) {
  return {{"unk_token", 40, 45, vocabulary.unk_id},
          {"bos_token", 41, 46, vocabulary.bos_id},
          {"eos_token", 42, 47, vocabulary.eos_id},
          {"pad_token", 43, 48, vocabulary.pad_id}};
}

const std::string& TextOf(const Vocabulary& vocabulary, int64_t id) {
  return vocabulary.tokens[static_cast<size_t>(id)].text;
}

std::string SentencePieceModel(const Vocabulary& vocabulary) {
  constexpr int64_t kBpe = 2;
  Message model;
  for (const Token& token : vocabulary.tokens) {
    Message piece;
    piece.Bytes(1, token.text);
    piece.Float(2, token.score);
    if (token.type != TokenType::kNormal) piece.Number(3, static_cast<int64_t>(token.type));
    model.Bytes(1, piece.bytes());
  }
  Message trainer;
  trainer.Number(3, kBpe);
  trainer.Number(4, static_cast<int64_t>(vocabulary.tokens.size()));
  trainer.Number(35, vocabulary.byte_fallback ? 1 : 0);
  for (const SpecialToken& special : SpecialTokens(vocabulary)) {
    trainer.Number(special.id_field, special.id.value_or(-1));
  }
  // sentencepiece finds the special pieces by their texts, not by the ids.
  for (const SpecialToken& special : SpecialTokens(vocabulary)) {
    if (special.id) trainer.Bytes(special.text_field, TextOf(vocabulary, *special.id));
  }
  model.Bytes(2, trainer.bytes());
  Message normalizer;
  normalizer.Bytes(1, "identity");
  normalizer.Number(3, vocabulary.add_space_prefix ? 1 : 0);
  normalizer.Number(4, vocabulary.remove_extra_whitespaces ? 1 : 0);
  normalizer.Number(5, 1);
  model.Bytes(3, normalizer.bytes());
  return model.bytes();
}

Json AddedTokenJson(const Token& token) {
  Json json = Json::Object();
  json.Set("content", Json::String(token.text));
  json.Set("lstrip", Json::Bool(token.strip_left));
  json.Set("normalized", Json::Bool(token.normalized));
  json.Set("rstrip", Json::Bool(token.strip_right));
  json.Set("single_word", Json::Bool(token.single_word));
  json.Set("special", Json::Bool(token.type != TokenType::kUserDefined));
  return json;
}

// Of a sentencepiece model the user-defined ones stand in its own file.
bool IsListed(const Vocabulary& vocabulary, const Token& token) {
  return token.type == TokenType::kControl || token.type == TokenType::kUnknown ||
         (token.type == TokenType::kUserDefined && vocabulary.kind == Vocabulary::Kind::kByteBpe);
}

std::string TokenizerConfig(const Vocabulary& vocabulary) {
  const bool bytes = vocabulary.kind == Vocabulary::Kind::kByteBpe;
  Json config = Json::Object();
  config.Set("add_bos_token", Json::Bool(vocabulary.add_bos));
  config.Set("add_eos_token", Json::Bool(vocabulary.add_eos));
  config.Set("add_prefix_space", Json::Bool(vocabulary.add_space_prefix));
  Json added = Json::Object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const Token& token = vocabulary.tokens[id];
    if (IsListed(vocabulary, token)) added.Set(std::to_string(id), AddedTokenJson(token));
  }
  config.Set("added_tokens_decoder", std::move(added));
  if (!vocabulary.chat_template.empty()) {
    config.Set("chat_template", Json::String(vocabulary.chat_template));
  }
  config.Set("clean_up_tokenization_spaces", Json::Bool(false));
  // As llama.cpp does: text behind a special token begins with a space too.
  if (!bytes) config.Set("legacy", Json::Bool(true));
  for (const SpecialToken& special : SpecialTokens(vocabulary)) {
    config.Set(special.key, special.id ? Json::String(TextOf(vocabulary, *special.id)) : Json());
  }
  config.Set("tokenizer_class", Json::String(bytes ? "PreTrainedTokenizerFast" : "LlamaTokenizer"));
  return config.Dump(2) + "\n";
}

bool SameTokens(const Vocabulary& a, const Vocabulary& b) {
  if (a.tokens.size() != b.tokens.size()) return false;
  for (size_t id = 0; id < a.tokens.size(); ++id) {
    const Token& x = a.tokens[id];
    const Token& y = b.tokens[id];
    if (x.text != y.text || x.score != y.score || x.type != y.type) return false;
  }
  return true;
}

}  // namespace

Result<std::vector<std::pair<std::string, std::string>>> TokenizerFiles(
    const Vocabulary& vocabulary) {
  using Files = std::vector<std::pair<std::string, std::string>>;
  const bool bytes = vocabulary.kind == Vocabulary::Kind::kByteBpe;
  const auto refuse = [&](const std::string& why) {
    return Error(ErrorCode::kTokenizer,
                 fmt::format("the tokenizer cannot be written as {}: {}",
                             bytes ? "tokenizer.json" : "tokenizer.model", why))
        .Hint("copy the tokenizer files of the model into its folder");
  };
  if (vocabulary.kind == Vocabulary::Kind::kNone) return refuse("not of its kind");
  size_t unknown = 0, listed = 0;
  for (const Token& token : vocabulary.tokens) {
    unknown += token.type == TokenType::kUnknown;
    listed += IsListed(vocabulary, token);
  }
  if (listed > kMaxListed) return refuse("too many control tokens");
  if (bytes) {
    Result<std::string> json = ByteBpeTokenizerJson(vocabulary);
    if (!json.ok()) return refuse(json.error().message);
    return Files{{"tokenizer.json", std::move(*json)},
                 {"tokenizer_config.json", TokenizerConfig(vocabulary)}};
  }
  if (unknown != 1 || !vocabulary.unk_id) return refuse("it needs one unknown token");
  std::string model = SentencePieceModel(vocabulary);
  const Result<Vocabulary> read = ParseSentencePieceModel(model);
  if (!read.ok()) return refuse(read.error().message);
  if (!SameTokens(*read, vocabulary)) return refuse("it gives other tokens");
  return Files{{"tokenizer.model", std::move(model)},
               {"tokenizer_config.json", TokenizerConfig(vocabulary)}};
}

}  // namespace pennyweight
