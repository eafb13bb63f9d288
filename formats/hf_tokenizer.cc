#include "formats/hf_tokenizer.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/json_fields.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_json.h"
#include "lib/file.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// Holds the files of one folder while its vocabulary is put together.
class TokenizerReader {
 public:
  TokenizerReader(const std::string& directory, const ModelConfig* config)
      : directory_(directory), config_(config) {}

  Result<Vocabulary> Read();

 private:
  std::string Path(const char* name) const { return JoinPath(directory_, name); }
  // The object in a file of the folder; null JSON when there is no such file.
  Result<Json> ReadIfThere(const char* name) const;
  Status NeedTokenizerJson();
  Error NoTokenizer() const;

  Status ReadModel();
  Status ReadAddedTokens();
  Status ReadSpecialTokens();
  Status ReadEnds();
  Status ReadChatTemplate();

  std::optional<int64_t> VocabSize() const {
    if (config_ == nullptr || config_->vocab_size <= 0) return std::nullopt;
    return config_->vocab_size;
  }
  std::optional<int64_t> FindToken(std::string_view text) const;
  // The id of a token named in a configuration file: "<s>", or {"content": "<s>", ...}.
  std::optional<int64_t> FindNamed(const Json& file, const char* key) const;

  const std::string& directory_;
  const ModelConfig* config_;
  Json tokenizer_config_;  // null when there is none
  Json special_tokens_;    // special_tokens_map.json
  Json tokenizer_json_;    // read when it is needed
  Vocabulary vocabulary_;
};

Result<Json> TokenizerReader::ReadIfThere(const char* name) const {
  if (!PathExists(Path(name))) return Json();
  return ReadConfigObject(Path(name));
}

Status TokenizerReader::NeedTokenizerJson() {
  if (!tokenizer_json_.is_null()) return OkStatus();
  PW_ASSIGN(tokenizer_json_, ReadIfThere("tokenizer.json"));
  return OkStatus();
}

Error TokenizerReader::NoTokenizer() const {
  constexpr const char* kResave =
      "make a tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(...) of "
      "transformers";
  for (const auto& [name, what, hint] :
       {std::tuple("vocab.json", "byte-level BPE without tokenizer.json", kResave),
        std::tuple("vocab.txt", "WordPiece", ""), std::tuple("tekken.json", "tekken", kResave),
        std::tuple("tiktoken.model", "tiktoken", kResave)}) {
    if (!PathExists(Path(name))) continue;
    return Error(ErrorCode::kTokenizer,
                 fmt::format("a tokenizer of type {} ({}) is not read here", what, name))
        .Hint(hint)
        .InFile(Path(name));
  }
  return Error(ErrorCode::kTokenizer, "there is no tokenizer.model and no tokenizer.json")
      .Hint("copy the tokenizer files of the model into its folder")
      .InFile(directory_);
}

Status TokenizerReader::ReadModel() {
  const std::string path = Path("tokenizer.model");
  Result<Vocabulary> vocabulary = Vocabulary();
  std::string source = path;
  if (PathExists(path)) {
    PW_ASSIGN(const std::string bytes, ReadWholeFile(path, limits::kJsonFileBytes));
    vocabulary = ParseSentencePieceModel(bytes);
  } else {
    PW_TRY(NeedTokenizerJson());
    if (tokenizer_json_.is_null()) return NoTokenizer();
    source = Path("tokenizer.json");
    vocabulary = ParseTokenizerJson(tokenizer_json_);
  }
  if (!vocabulary.ok()) return std::move(vocabulary).TakeError().InFile(source);
  vocabulary_ = std::move(vocabulary).value();
  const int64_t size = static_cast<int64_t>(vocabulary_.tokens.size());
  if (size > VocabSize().value_or(size)) {
    return Error(ErrorCode::kTokenizer,
                 fmt::format("the vocabulary has {} tokens, the model {}", size, *VocabSize()))
        .Hint("use the tokenizer files that belong to the model")
        .InFile(source);
  }
  return OkStatus();
}

// `text` as the id of an entry in added_tokens_decoder.
std::optional<int64_t> IdFromKey(std::string_view text) {
  int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return id;
}

Result<std::vector<AddedToken>> ParseDecoder(const Json& decoder) {
  std::vector<AddedToken> tokens;
  for (const auto& [key, entry] : decoder.members()) {
    // A key that is no number becomes an id that ParseAddedToken refuses.
    PW_ASSIGN(AddedToken token, ParseAddedToken(entry, IdFromKey(key).value_or(-1)));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

Result<std::vector<AddedToken>> ParseAddedTokensFile(const Json& object) {
  std::vector<AddedToken> tokens;
  for (const auto& [text, value] : object.members()) {
    const std::optional<int64_t> id = value.AsInteger();
    if (!id || *id < 0 || text.empty()) {
      return Error(
          ErrorCode::kTokenizer,
          fmt::format("the id of added token \"{:.100}\" must be an integer of 0 or more", text));
    }
    // The file does not say it; tokens in angle brackets are special by custom.
    const bool special = text.size() > 2 && text.front() == '<' && text.back() == '>';
    tokens.push_back({.id = *id, .text = text, .special = special});
  }
  return tokens;
}

Status TokenizerReader::ReadAddedTokens() {
  const auto add = [this](Result<std::vector<AddedToken>> tokens, const char* name) -> Status {
    Status status = tokens.ok() ? AddTokens(*tokens, VocabSize(), &vocabulary_)
                                : Status(std::move(tokens).TakeError());
    if (!status.ok()) return std::move(status).TakeError().InFile(Path(name));
    return OkStatus();
  };
  // Byte-level BPE is run by tokenizer.json, which says of each token how it is found in a text.
  const bool json_first = vocabulary_.kind == Vocabulary::Kind::kByteBpe;
  if (json_first) PW_TRY(add(TokenizerJsonAddedTokens(tokenizer_json_), "tokenizer.json"));
  // The tokenizer_config knows more of a token, so it is read first; the same text and id again
  // changes nothing.
  const Json* decoder = tokenizer_config_.Find("added_tokens_decoder");
  const bool has_decoder = decoder != nullptr && decoder->is_object();
  if (has_decoder) PW_TRY(add(ParseDecoder(*decoder), "tokenizer_config.json"));
  PW_ASSIGN(const Json added, ReadIfThere("added_tokens.json"));
  if (!added.is_null()) PW_TRY(add(ParseAddedTokensFile(added), "added_tokens.json"));
  if (json_first || has_decoder || !added.is_null()) return OkStatus();
  PW_TRY(NeedTokenizerJson());
  if (tokenizer_json_.is_null()) return OkStatus();
  return add(TokenizerJsonAddedTokens(tokenizer_json_), "tokenizer.json");
}

std::optional<int64_t> TokenizerReader::FindToken(std::string_view text) const {
  for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
    if (vocabulary_.tokens[id].text == text) return static_cast<int64_t>(id);
  }
  return std::nullopt;
}

std::optional<int64_t> TokenizerReader::FindNamed(const Json& file, const char* key) const {
  const Json* value = file.Find(key);
  if (value != nullptr && value->is_object()) value = value->Find("content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return FindToken(value->str());
}

Status TokenizerReader::ReadSpecialTokens() {
  const auto choose = [this](const char* key, std::optional<int64_t> last_resort,
                             std::optional<int64_t>* id) {
    for (const Json* file : {&tokenizer_config_, &special_tokens_}) {
      const std::optional<int64_t> named = FindNamed(*file, key);
      if (!named) continue;
      *id = named;
      return;
    }
    // What the vocabulary's own file says comes before the model's configuration.
    const int64_t size = static_cast<int64_t>(vocabulary_.tokens.size());
    if (!*id && last_resort && *last_resort < size) *id = last_resort;
  };
  PW_ASSIGN(special_tokens_, ReadIfThere("special_tokens_map.json"));
  choose("bos_token", config_ == nullptr ? std::nullopt : config_->bos_id, &vocabulary_.bos_id);
  choose("eos_token", config_ == nullptr ? std::nullopt : config_->eos_id, &vocabulary_.eos_id);
  choose("unk_token", std::nullopt, &vocabulary_.unk_id);
  choose("pad_token", std::nullopt, &vocabulary_.pad_id);
  return OkStatus();
}

// Whether BOS and EOS are put around a text.
Status TokenizerReader::ReadEnds() {
  const bool bytes = vocabulary_.kind == Vocabulary::Kind::kByteBpe;
  std::optional<bool> add_bos, add_eos;
  if (!tokenizer_config_.is_null()) {
    const JsonFields fields(tokenizer_config_, Path("tokenizer_config.json"));
    PW_ASSIGN(add_bos, fields.GetBool("add_bos_token"));
    PW_ASSIGN(add_eos, fields.GetBool("add_eos_token"));
    PW_ASSIGN(const std::optional<bool> prefix, fields.GetBool("add_prefix_space"));
    if (prefix && !bytes) vocabulary_.add_space_prefix = *prefix;
  }
  if (!add_bos || !add_eos) {
    PW_TRY(NeedTokenizerJson());
    const std::optional<TemplateEnds> ends = TokenizerJsonTemplate(tokenizer_json_);
    // A folder may name no special token, and yet put one in front.
    if (bytes && ends && ends->first && !vocabulary_.bos_id) {
      vocabulary_.bos_id = FindToken(*ends->first);
    }
    if (bytes && ends && ends->last && !vocabulary_.eos_id) {
      vocabulary_.eos_id = FindToken(*ends->last);
    }
    const auto is = [this](const std::optional<std::string>& text, std::optional<int64_t> id) {
      return text && id && vocabulary_.tokens[static_cast<size_t>(*id)].text == *text;
    };
    if (ends && !add_bos) add_bos = is(ends->first, vocabulary_.bos_id);
    if (ends && !add_eos) add_eos = is(ends->last, vocabulary_.eos_id);
  }
  // Sentencepiece models have BOS unless told otherwise; of byte-level ones the files say it.
  vocabulary_.add_bos = add_bos.value_or(!bytes) && vocabulary_.bos_id.has_value();
  vocabulary_.add_eos = add_eos.value_or(false) && vocabulary_.eos_id.has_value();
  return OkStatus();
}

// A template, or the one called "default" in a list of named ones; empty when neither.
std::string TemplateIn(const Json& file) {
  const Json* value = file.Find("chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return value->str();
  if (!value->is_array()) return "";
  for (const Json& entry : value->items()) {
    const Json* name = entry.Find("name");
    const Json* text = entry.Find("template");
    if (name != nullptr && name->is_string() && name->str() == "default" && text != nullptr &&
        text->is_string()) {
      return text->str();
    }
  }
  return "";
}

Status TokenizerReader::ReadChatTemplate() {
  const std::string jinja = Path("chat_template.jinja");
  if (PathExists(jinja)) {
    PW_ASSIGN(vocabulary_.chat_template, ReadWholeFile(jinja, limits::kGgufStringBytes));
    return OkStatus();
  }
  PW_ASSIGN(const Json file, ReadIfThere("chat_template.json"));
  vocabulary_.chat_template = TemplateIn(file.is_null() ? tokenizer_config_ : file);
  return OkStatus();
}

Result<Vocabulary> TokenizerReader::Read() {
  PW_ASSIGN(tokenizer_config_, ReadIfThere("tokenizer_config.json"));
  PW_TRY(ReadModel());
  PW_TRY(ReadAddedTokens());
  PW_TRY(ReadSpecialTokens());
  PW_TRY(ReadEnds());
  PW_TRY(ReadChatTemplate());
  return std::move(vocabulary_);
}

}  // namespace

Result<Vocabulary> ReadHfTokenizer(const std::string& directory, const ModelConfig* config) {
  return TokenizerReader(directory, config).Read();
}

}  // namespace pennyweight
