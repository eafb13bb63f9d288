#include "formats/tokenizer_json_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "formats/tokenizer_json.h"
#include "lib/json.h"
#include "lib/pre_tokenizer.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

bool IsAdded(const Token& token) {
  return token.type == TokenType::kControl || token.type == TokenType::kUserDefined ||
         token.type == TokenType::kUnknown;
}

bool IsWritten(const Token& token) { return IsAdded(token) || token.type == TokenType::kNormal; }

std::string Quoted(std::string_view text) { return Json::String(std::string(text)).Dump(); }

const Token& TokenAt(const Vocabulary& vocabulary, int64_t id) {
  return vocabulary.tokens[static_cast<size_t>(id)];
}

// Objects of many members are written as text: adding one to a Json looks through all of them.
std::string AddedTokens(const Vocabulary& vocabulary) {
  std::string out;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const Token& token = vocabulary.tokens[id];
    if (!IsAdded(token)) continue;
    out += fmt::format(
        "{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": {}, \"lstrip\": {}, "
        "\"rstrip\": {}, \"normalized\": {}, \"special\": {}}}",
        out.empty() ? "" : ",", id, Quoted(token.text), bool(token.single_word),
        bool(token.strip_left), bool(token.strip_right), bool(token.normalized),
        token.type != TokenType::kUserDefined);
  }
  return "[" + out + "\n  ]";
}

std::string Vocab(const Vocabulary& vocabulary) {
  std::string out;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    // Added tokens too: tokenizers gives new ids to those that the model does not know.
    if (!IsWritten(vocabulary.tokens[id])) continue;
    out += fmt::format("{}\n      {}: {}", out.empty() ? "" : ",",
                       Quoted(vocabulary.tokens[id].text), id);
  }
  return "{" + out + "\n    }";
}

std::string Merges(const Vocabulary& vocabulary) {
  std::string out;
  for (const Merge& merge : vocabulary.merges) {
    out += out.empty() ? "\n      " : ",\n      ";
    out +=
        Quoted(TokenAt(vocabulary, merge.left).text + " " + TokenAt(vocabulary, merge.right).text);
  }
  return "[" + out + "\n    ]";
}

Json ByteLevel(bool add_prefix_space, bool use_regex) {
  Json step = Json::Object();
  step.Set("type", Json::String("ByteLevel"));
  step.Set("add_prefix_space", Json::Bool(add_prefix_space));
  step.Set("trim_offsets", Json::Bool(false));
  step.Set("use_regex", Json::Bool(use_regex));
  return step;
}

Json PreTokenizerSteps(const Vocabulary& vocabulary) {
  const auto patterns = RowOf(vocabulary.pre_tokenizer).patterns;
  // ByteLevel has GPT-2's pattern itself.
  const bool own = patterns.back() == kGpt2Pattern;
  Json last = ByteLevel(vocabulary.add_space_prefix, own);
  if (own && patterns.size() == 1) return last;
  Json list = Json::Array();
  for (size_t i = 0; i + (own ? 1 : 0) < patterns.size(); ++i) {
    Json regex = Json::Object();
    regex.Set("Regex", Json::String(std::string(patterns[i])));
    Json split = Json::Object();
    split.Set("type", Json::String("Split"));
    split.Set("pattern", std::move(regex));
    split.Set("behavior", Json::String("Isolated"));
    split.Set("invert", Json::Bool(false));
    list.Push(std::move(split));
  }
  list.Push(std::move(last));
  Json sequence = Json::Object();
  sequence.Set("type", Json::String("Sequence"));
  sequence.Set("pretokenizers", std::move(list));
  return sequence;
}

// A text's place in a template ("A", "B"), or a special token's.
Json TemplateItem(const char* kind, const std::string& id, int64_t type) {
  Json inner = Json::Object();
  inner.Set("id", Json::String(id));
  inner.Set("type_id", Json::Integer(type));
  Json item = Json::Object();
  item.Set(kind, std::move(inner));
  return item;
}

Json PostProcessor(const Vocabulary& vocabulary) {
  Json bytes = ByteLevel(vocabulary.add_space_prefix, false);
  const auto used = [](bool add, std::optional<int64_t> id) { return add ? id : std::nullopt; };
  const std::optional<int64_t> bos = used(vocabulary.add_bos, vocabulary.bos_id);
  const std::optional<int64_t> eos = used(vocabulary.add_eos, vocabulary.eos_id);
  if (!bos && !eos) return bytes;
  Json single = Json::Array(), pair = Json::Array(), special = Json::Object();
  const auto add_special = [&](std::optional<int64_t> id, Json* items, int64_t type) {
    if (!id) return;
    const std::string& text = TokenAt(vocabulary, *id).text;
    items->Push(TemplateItem("SpecialToken", text, type));
    Json token = Json::Object();
    token.Set("id", Json::String(text));
    token.Set("ids", Json::Array().Push(Json::Integer(*id)));
    token.Set("tokens", Json::Array().Push(Json::String(text)));
    special.Set(text, std::move(token));
  };
  const auto add_text = [&](const char* which, Json* items, int64_t type) {
    add_special(bos, items, type);
    items->Push(TemplateItem("Sequence", which, type));
    add_special(eos, items, type);
  };
  add_text("A", &single, 0);
  add_text("A", &pair, 0);
  add_text("B", &pair, 1);
  Json processing = Json::Object();
  processing.Set("type", Json::String("TemplateProcessing"));
  processing.Set("single", std::move(single));
  processing.Set("pair", std::move(pair));
  processing.Set("special_tokens", std::move(special));
  Json sequence = Json::Object();
  sequence.Set("type", Json::String("Sequence"));
  sequence.Set("processors", Json::Array().Push(std::move(bytes)).Push(std::move(processing)));
  return sequence;
}

std::string Text(const Vocabulary& vocabulary) {
  return fmt::format(
      "{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
      "  \"added_tokens\": {},\n  \"normalizer\": {},\n  \"pre_tokenizer\": {},\n"
      "  \"post_processor\": {},\n  \"decoder\": {},\n"
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
      "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": {},\n"
      "    \"vocab\": {},\n    \"merges\": {}\n  }}\n}}\n",
      AddedTokens(vocabulary), vocabulary.normalize_nfc ? "{\"type\": \"NFC\"}" : "null",
      PreTokenizerSteps(vocabulary).Dump(), PostProcessor(vocabulary).Dump(),
      ByteLevel(vocabulary.add_space_prefix, false).Dump(), vocabulary.ignore_merges,
      Vocab(vocabulary), Merges(vocabulary));
}

bool SameToken(const Token& a, const Token& b) {
  return a.text == b.text && a.strip_left == b.strip_left && a.strip_right == b.strip_right &&
         a.single_word == b.single_word && a.normalized == b.normalized &&
         (a.type == b.type || (a.type == TokenType::kUnknown && b.type == TokenType::kControl));
}

// `b` was made of what was written for `a`: ids without a token may be missing at its end.
bool SameVocabulary(const Vocabulary& a, const Vocabulary& b) {
  for (size_t id = 0; id < a.tokens.size(); ++id) {
    const bool there = id < b.tokens.size() && IsWritten(b.tokens[id]);
    if (there != IsWritten(a.tokens[id])) return false;
    if (there && !SameToken(a.tokens[id], b.tokens[id])) return false;
  }
  return a.merges == b.merges && a.pre_tokenizer == b.pre_tokenizer &&
         a.ignore_merges == b.ignore_merges && a.normalize_nfc == b.normalize_nfc &&
         a.add_space_prefix == b.add_space_prefix;
}

Result<Vocabulary> ReadBack(const std::string& text) {
  PW_ASSIGN(const Json json, Json::Parse(text));
  PW_ASSIGN(Vocabulary vocabulary, ParseTokenizerJson(json));
  PW_ASSIGN(const std::vector<AddedToken> added, TokenizerJsonAddedTokens(json));
  PW_TRY(AddTokens(added, std::nullopt, &vocabulary));
  return vocabulary;
}

}  // namespace

Result<std::string> ByteBpeTokenizerJson(const Vocabulary& vocabulary) {
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  for (const Merge& merge : vocabulary.merges) {
    for (const int64_t id : {merge.left, merge.right, merge.result}) {
      if (id < 0 || id >= size || !IsWritten(TokenAt(vocabulary, id))) {
        return Error(ErrorCode::kTokenizer, fmt::format("a merge is of {}, which is no token", id));
      }
    }
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id].text;
    for (size_t i = 0; i < token.size();) {
      const size_t length = Utf8Length(token, i);
      if (length == 0) {
        return Error(ErrorCode::kTokenizer, fmt::format("token {} is not UTF-8", id));
      }
      i += length;
    }
  }
  std::string text = Text(vocabulary);
  PW_ASSIGN(const Vocabulary read, ReadBack(text));
  if (!SameVocabulary(vocabulary, read)) {
    return Error(ErrorCode::kTokenizer, "it gives other tokens when it is read");
  }
  return text;
}

}  // namespace pennyweight
