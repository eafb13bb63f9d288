#include "formats/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "formats/tokenizer_json_internal.h"
#include "lib/limits.h"

namespace pennyweight {

namespace tokenizer_json {

Error Refused(std::string what) {
  return Error(ErrorCode::kTokenizer, std::move(what) + " is not read here")
      .Hint(
          "BPE as sentencepiece does it, and byte-level BPE, can be run; commands that need no "
          "text still work");
}

Error Malformed(std::string what) {
  return Error(ErrorCode::kTokenizer, "malformed tokenizer: " + std::move(what));
}

const Json* FindNonNull(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string StringAt(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  return value != nullptr && value->is_string() ? value->str() : std::string();
}

bool BoolAt(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  return value != nullptr && value->AsBool().value_or(false);
}

// "Split, ByteLevel": the types inside a Sequence, or the one type.
std::string TypeNames(const Json& json, std::string_view list_key) {
  const Json* list = json.Find(list_key);
  if (list == nullptr || !list->is_array()) return StringAt(json, "type");
  std::string names;
  for (const Json& item : list->items()) {
    if (!names.empty()) names += ", ";
    names += StringAt(item, "type");
  }
  return names;
}

Result<std::pair<std::string_view, std::string_view>> MergeParts(const Json& merge) {
  if (merge.is_string()) {
    const std::string_view text = merge.str();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  } else if (merge.is_array() && merge.items().size() == 2 && merge.items()[0].is_string() &&
             merge.items()[1].is_string()) {
    return std::pair(std::string_view(merge.items()[0].str()),
                     std::string_view(merge.items()[1].str()));
  }
  return Malformed(fmt::format("the merge {:.100} is not a pair of tokens", merge.Dump()));
}

}  // namespace tokenizer_json

namespace {

using tokenizer_json::BoolAt;
using tokenizer_json::FindNonNull;
using tokenizer_json::Malformed;
using tokenizer_json::Refused;
using tokenizer_json::StringAt;
using tokenizer_json::TokenIds;
using tokenizer_json::TypeNames;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Ids may leave holes, but no file of a few bytes may ask for millions of tokens.
constexpr uint64_t kMaxHoles = 1u << 16;

// Whole multi-character tokens that no merge makes: after everything else.
constexpr float kNeverMergedScore = -1e9f;

bool IsPrepend(const Json& json) {
  return StringAt(json, "type") == "Prepend" && StringAt(json, "prepend") == kSpaceMark;
}

bool IsReplaceSpace(const Json& json) {
  const Json* pattern = json.Find("pattern");
  return StringAt(json, "type") == "Replace" && StringAt(json, "content") == kSpaceMark &&
         pattern != nullptr && StringAt(*pattern, "String") == " ";
}

// The normalizer must be sentencepiece's: spaces to U+2581, with or without one in front.
Status ParseNormalizer(const Json& json, Vocabulary* vocabulary) {
  const Json* pre = FindNonNull(json, "pre_tokenizer");
  if (pre != nullptr) {
    return Refused(fmt::format("a BPE that splits text first (pre-tokenizer {:.200})",
                               TypeNames(*pre, "pretokenizers")));
  }
  const Json* normalizer = FindNonNull(json, "normalizer");
  if (normalizer == nullptr) return Refused("a BPE without normalizer");
  const Json* list = normalizer->Find("normalizers");
  if (IsReplaceSpace(*normalizer)) {
    vocabulary->add_space_prefix = false;
    return OkStatus();
  }
  if (list != nullptr && list->is_array() && StringAt(*normalizer, "type") == "Sequence") {
    const std::vector<Json>& steps = list->items();
    vocabulary->add_space_prefix = steps.size() == 2 && IsPrepend(steps[0]);
    if (!steps.empty() && steps.size() <= 2 && IsReplaceSpace(steps.back()) &&
        (steps.size() == 1 || vocabulary->add_space_prefix)) {
      return OkStatus();
    }
  }
  return Refused(
      fmt::format("a BPE with normalizer {:.200}", TypeNames(*normalizer, "normalizers")));
}

Status CheckType(const Json& model) {
  const std::string type = StringAt(model, "type");
  // Files of the first versions do not say the type; only BPE has merges.
  const bool untyped_bpe = type.empty() && FindNonNull(model, "merges") != nullptr;
  if (type == "BPE" || untyped_bpe) return OkStatus();
  return Refused(type.empty() ? "a tokenizer that does not say its type"
                              : fmt::format("a tokenizer of type {:.100}", type));
}

Status CheckMerging(const Json& model) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!StringAt(model, key).empty()) return Refused(fmt::format("a BPE with {}", key));
  }
  return OkStatus();
}

// Appends unused tokens up to `size` of them.
void FillHoles(size_t size, Vocabulary* vocabulary) {
  std::vector<Token>& tokens = vocabulary->tokens;
  while (tokens.size() < size) {
    tokens.push_back({.text = fmt::format("[PAD{}]", tokens.size()),
                      .score = -10000.0f,
                      .type = TokenType::kUnused});
  }
}

Result<TokenIds> ParseVocab(const Json& vocab, Vocabulary* vocabulary) {
  const auto& members = vocab.members();
  if (members.empty()) return Malformed("the vocabulary is empty");
  if (members.size() > limits::kVocabulary) {
    return Error(ErrorCode::kLimit, fmt::format("a vocabulary of {} tokens; at most {} are taken",
                                                members.size(), limits::kVocabulary));
  }
  const uint64_t end = members.size() + kMaxHoles;
  TokenIds ids;
  ids.reserve(members.size());
  std::vector<bool> taken(end, false);
  size_t size = 0;
  for (const auto& [text, value] : members) {
    const std::optional<uint64_t> id = value.AsUnsigned();
    if (!id || *id >= end) {
      return Malformed(
          fmt::format("the id of token \"{:.100}\" must be an integer below {}", text, end));
    }
    if (text.empty() || text.size() > limits::kTokenBytes) {
      return Malformed(fmt::format("token {} has {} bytes", *id, text.size()));
    }
    if (taken[*id]) return Malformed(fmt::format("two tokens have the id {}", *id));
    taken[*id] = true;
    ids.emplace(text, *id);
    size = std::max(size, static_cast<size_t>(*id) + 1);
  }
  FillHoles(size, vocabulary);
  for (const auto& [text, id] : ids) {
    vocabulary->tokens[id] = {.text = std::string(text), .score = 0, .type = TokenType::kNormal};
  }
  return ids;
}

size_t CountCharacters(std::string_view utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

Status ParseMerges(const Json& model, const TokenIds& ids, Vocabulary* vocabulary) {
  const Json* merges = FindNonNull(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Malformed("\"merges\" must be a list");
  std::vector<bool> made(vocabulary->tokens.size(), false);
  int64_t rank = 0;
  std::string text;
  for (const Json& merge : merges->items()) {
    PW_ASSIGN(const auto parts, tokenizer_json::MergeParts(merge));
    text.assign(parts.first).append(parts.second);
    const auto found = ids.find(text);
    if (found == ids.end()) {
      return Malformed(
          fmt::format("the merge {} makes \"{:.100}\", which is no token", rank, text));
    }
    // Merges come in the order of their rank, so the first one counts.
    if (!made[found->second]) {
      made[found->second] = true;
      vocabulary->tokens[found->second].score = -static_cast<float>(rank);
    }
    ++rank;
  }
  for (size_t id = 0; id < made.size(); ++id) {
    Token& token = vocabulary->tokens[id];
    if (!made[id] && token.type == TokenType::kNormal && CountCharacters(token.text) > 1) {
      token.score = kNeverMergedScore;
    }
  }
  return OkStatus();
}

Status MarkBytes(const TokenIds& ids, Vocabulary* vocabulary) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = fmt::format("<0x{:02X}>", byte);
    const auto found = ids.find(text);
    if (found == ids.end()) {
      return Malformed(fmt::format("unknown text falls back to bytes, but {} is no token", text));
    }
    vocabulary->tokens[found->second].type = TokenType::kByte;
    vocabulary->tokens[found->second].score = 0;
  }
  return OkStatus();
}

Status ParseSentencePieceModel(const Json& model, const TokenIds& ids, Vocabulary* vocabulary) {
  vocabulary->kind = Vocabulary::Kind::kSentencePieceBpe;
  if (BoolAt(model, "ignore_merges")) return Refused("a BPE with ignore_merges");
  PW_TRY(ParseMerges(model, ids, vocabulary));
  vocabulary->byte_fallback = BoolAt(model, "byte_fallback");
  return vocabulary->byte_fallback ? MarkBytes(ids, vocabulary) : OkStatus();
}

// The special token of one element of a template; nullopt for the text itself.
std::optional<std::string> SpecialOf(const Json& element) {
  const Json* special = element.Find("SpecialToken");
  if (special == nullptr) return std::nullopt;
  return StringAt(*special, "id");
}

}  // namespace

Result<Vocabulary> ParseTokenizerJson(const Json& json) {
  const Json* model = json.Find("model");
  if (model == nullptr || !model->is_object()) return Malformed("\"model\" must be an object");
  PW_TRY(CheckType(*model));
  const Json* vocab = FindNonNull(*model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return Malformed("\"vocab\" must be an object");
  Vocabulary vocabulary;
  PW_TRY(CheckMerging(*model));
  const bool bytes = tokenizer_json::IsByteLevel(json);
  PW_TRY(bytes ? tokenizer_json::ParseByteLevelSteps(json, &vocabulary)
               : ParseNormalizer(json, &vocabulary));
  PW_ASSIGN(const TokenIds ids, ParseVocab(*vocab, &vocabulary));
  PW_TRY(bytes ? tokenizer_json::ParseByteLevelModel(*model, ids, &vocabulary)
               : ParseSentencePieceModel(*model, ids, &vocabulary));
  const auto unknown = ids.find(StringAt(*model, "unk_token"));
  if (unknown != ids.end()) {
    vocabulary.unk_id = static_cast<int64_t>(unknown->second);
    // In byte-level BPE it is a token as any other, until added_tokens say more.
    if (!bytes) vocabulary.tokens[unknown->second].type = TokenType::kUnknown;
    vocabulary.tokens[unknown->second].score = 0;
  }
  return vocabulary;
}

Result<AddedToken> ParseAddedToken(const Json& entry, std::optional<int64_t> id) {
  AddedToken token;
  if (!id) {
    const Json* value = entry.Find("id");
    id = value == nullptr ? std::nullopt : value->AsInteger();
  }
  token.text = StringAt(entry, "content");
  token.special = BoolAt(entry, "special");
  token.strip_left = BoolAt(entry, "lstrip");
  token.strip_right = BoolAt(entry, "rstrip");
  token.single_word = BoolAt(entry, "single_word");
  token.normalized = BoolAt(entry, "normalized");
  if (!id || *id < 0 || token.text.empty() || token.text.size() > limits::kTokenBytes) {
    return Malformed("an added token needs an id and content");
  }
  token.id = *id;
  return token;
}

Result<std::vector<AddedToken>> TokenizerJsonAddedTokens(const Json& json) {
  std::vector<AddedToken> tokens;
  const Json* list = FindNonNull(json, "added_tokens");
  if (list == nullptr) return tokens;
  if (!list->is_array()) return Malformed("\"added_tokens\" must be a list");
  for (const Json& entry : list->items()) {
    PW_ASSIGN(AddedToken token, ParseAddedToken(entry, std::nullopt));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::optional<TemplateEnds> TokenizerJsonTemplate(const Json& json) {
  const Json* processor = FindNonNull(json, "post_processor");
  if (processor == nullptr) return std::nullopt;
  const Json* list = processor->Find("processors");  // of a Sequence
  const bool sequence = list != nullptr && list->is_array();
  for (const Json& step : sequence ? list->items() : std::vector<Json>{*processor}) {
    if (StringAt(step, "type") != "TemplateProcessing") continue;
    const Json* single = step.Find("single");
    if (single == nullptr || !single->is_array() || single->items().empty()) return std::nullopt;
    return TemplateEnds{SpecialOf(single->items().front()), SpecialOf(single->items().back())};
  }
  return std::nullopt;
}

Status AddTokens(const std::vector<AddedToken>& added, std::optional<int64_t> vocab_size,
                 Vocabulary* vocabulary) {
  std::vector<Token>& tokens = vocabulary->tokens;
  const uint64_t end = tokens.size() + added.size() + kMaxHoles;
  std::unordered_map<std::string, size_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id].text, id);
  for (const AddedToken& token : added) {
    if (vocab_size && token.id >= *vocab_size) continue;
    const size_t id = static_cast<size_t>(token.id);
    if (id >= end) {
      return Malformed(fmt::format("added token \"{:.100}\" has the id {}, far beyond {} tokens",
                                   token.text, token.id, tokens.size()));
    }
    const auto [place, fresh] = ids.emplace(token.text, id);
    if (!fresh && place->second != id) {
      return Malformed(
          fmt::format("token \"{:.100}\" has the ids {} and {}", token.text, place->second, id));
    }
    if (id >= tokens.size()) FillHoles(id + 1, vocabulary);
    Token& slot = tokens[id];
    if (slot.text == token.text && slot.type != TokenType::kNormal) continue;
    slot = {.text = token.text,
            .score = -1000.0f,
            .type = token.special ? TokenType::kControl : TokenType::kUserDefined,
            .strip_left = token.strip_left,
            .strip_right = token.strip_right,
            .single_word = token.single_word,
            .normalized = token.normalized};
  }
  return OkStatus();
}

}  // namespace pennyweight
