// tokenizer.* of GGUF metadata; declared in gguf_metadata.h.
#include <fmt/format.h>

#include <cmath>

#include "formats/gguf_metadata.h"
#include "lib/allowance.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr uint64_t kTokenCharge = 128;     // a token, and its texts and numbers while they are read
constexpr float kUnusedScore = -10000.0f;  // llama.cpp's converter

Error Bad(std::string text) { return Error(ErrorCode::kTokenizer, std::move(text)); }

const GgufEntry* Find(const GgufFile& file, std::string_view name) {
  return file.Find(std::string(kPrefix) + std::string(name));
}

bool BoolOr(const GgufFile& file, std::string_view name, bool otherwise) {
  const GgufEntry* entry = Find(file, name);
  return entry == nullptr ? otherwise : file.AsBool(*entry).value_or(otherwise);
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (;;) {
    const size_t at = text.find(from);
    out += text.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += to;
    text.remove_prefix(at + from.size());
  }
}

bool IsHex(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); }

int HexDigit(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

// "<0x0A>"; its digits become an index, so nothing else may pass.
bool IsByteText(std::string_view text) {
  return text.size() == 6 && text.substr(0, 3) == "<0x" && IsHex(text[3]) && IsHex(text[4]) &&
         text[5] == '>';
}

Result<TokenType> TokenTypeOf(int64_t value, size_t id) {
  if (value == 0) return TokenType::kNormal;  // "undefined", of early converters
  if (value >= 1 && value <= 6) return static_cast<TokenType>(value);
  return Bad(fmt::format("token {} has the type {}; types end at 6", id, value));
}

Status ReadTokens(const GgufFile& file, Vocabulary* out) {
  const GgufEntry* tokens = Find(file, "tokens");
  const GgufEntry* scores = Find(file, "scores");
  const GgufEntry* types = Find(file, "token_type");
  if (tokens == nullptr || scores == nullptr) {
    return Bad(fmt::format("the metadata have no key \"{}{}\"", kPrefix,
                           tokens == nullptr ? "tokens" : "scores"));
  }
  // Before anything is decoded: lists of another length, or of more tokens than the file warrants.
  if (scores->count != tokens->count || (types != nullptr && types->count != tokens->count)) {
    return Bad(fmt::format("{} tokens, {} scores, {} types", tokens->count, scores->count,
                           types != nullptr ? types->count : tokens->count));
  }
  if (tokens->count == 0 || tokens->count > limits::kVocabulary) {
    return Bad(fmt::format("{} tokens; 1 to {} are read", tokens->count, limits::kVocabulary));
  }
  if (!Allowance(file.file().size()).Take(tokens->count * kTokenCharge + 4 * tokens->bytes)) {
    return Allowance::Exceeded("the vocabulary").At(tokens->offset);
  }
  const auto texts = file.AsStrings(*tokens);
  const auto score_list = file.AsDoubles(*scores);
  const auto type_list = types == nullptr ? std::nullopt : file.AsIntegers(*types);
  if (!texts || !score_list || (types != nullptr && !type_list)) {
    return Bad("the lists of tokens, scores and types are not of strings, numbers and integers");
  }
  out->tokens.resize(texts->size());
  bool bytes[256] = {};
  for (size_t id = 0; id < texts->size(); ++id) {
    Token& token = out->tokens[id];
    const std::string_view text = (*texts)[id];
    if (text.size() > limits::kTokenBytes) {
      return Bad(fmt::format("token {} has {} bytes", id, text.size()));
    }
    token.text = text;
    token.score = static_cast<float>((*score_list)[id]);
    if (!std::isfinite(token.score))
      return Bad(fmt::format("the score of token {} is no number", id));
    PW_ASSIGN(token.type, TokenTypeOf(type_list ? (*type_list)[id] : 0, id));
    if (token.type == TokenType::kByte) {
      if (!IsByteText(text)) return Bad(fmt::format("byte token {} is not like <0x0A>", id));
      bytes[HexDigit(text[3]) * 16 + HexDigit(text[4])] = true;
    }
    // llama.cpp keeps these with spaces: it looks for them before it marks spaces.
    if (token.type == TokenType::kUserDefined) token.text = ReplaceAll(text, " ", kSpaceMark);
  }
  out->byte_fallback = true;
  for (const bool present : bytes) out->byte_fallback = out->byte_fallback && present;
  return OkStatus();
}

Status ReadId(const GgufFile& file, std::string_view name, size_t tokens,
              std::optional<int64_t>* out) {
  const GgufEntry* entry = Find(file, std::string(name) + "_token_id");
  if (entry == nullptr) return OkStatus();
  const std::optional<int64_t> id = file.AsInteger(*entry);
  // All bits set is the "none" of some converters.
  if (id && (*id == -1 || *id == UINT32_MAX)) return OkStatus();
  if (!id || *id < 0 || static_cast<size_t>(*id) >= tokens) {
    return Bad(fmt::format("key \"{}\" is {}, there are {} tokens", entry->key,
                           file.Printable(*entry), tokens))
        .At(entry->offset);
  }
  *out = id;
  return OkStatus();
}

}  // namespace

Result<Vocabulary> ReadGgufVocabulary(const GgufFile& file) {
  const GgufEntry* model = Find(file, "model");
  if (model == nullptr) return Bad("the metadata have no key \"tokenizer.ggml.model\"");
  const std::string_view kind = file.AsString(*model).value_or("");
  if (kind != "llama") {
    return Bad(
        fmt::format("the tokenizer is of the kind {}; only \"llama\" (sentencepiece BPE) is "
                    "read",
                    file.Printable(*model)));
  }
  Vocabulary out;
  out.kind = Vocabulary::Kind::kSentencePieceBpe;
  PW_TRY(ReadTokens(file, &out));
  PW_TRY(ReadId(file, "bos", out.tokens.size(), &out.bos_id));
  PW_TRY(ReadId(file, "eos", out.tokens.size(), &out.eos_id));
  PW_TRY(ReadId(file, "unknown", out.tokens.size(), &out.unk_id));
  PW_TRY(ReadId(file, "padding", out.tokens.size(), &out.pad_id));
  out.add_bos = BoolOr(file, "add_bos_token", true);
  out.add_eos = BoolOr(file, "add_eos_token", false);
  out.add_space_prefix = BoolOr(file, "add_space_prefix", true);
  out.remove_extra_whitespaces = BoolOr(file, "remove_extra_whitespaces", false);
  const GgufEntry* chat = file.Find("tokenizer.chat_template");
  if (chat != nullptr) out.chat_template = file.AsString(*chat).value_or("");
  return out;
}

namespace {

void AddTokens(const Vocabulary& vocabulary, int64_t vocab_size, GgufHeader* header) {
  const auto count = static_cast<size_t>(vocab_size);
  std::vector<std::string> made;  // texts that are not the vocabulary's own
  made.reserve(count);            // views into it must stay
  std::vector<std::string_view> texts(count);
  std::vector<float> scores(count, kUnusedScore);
  std::vector<int32_t> types(count, static_cast<int32_t>(TokenType::kUnused));
  for (size_t id = 0; id < count; ++id) {
    if (id >= vocabulary.tokens.size()) {
      texts[id] = made.emplace_back(fmt::format("[PAD{}]", id));
      continue;
    }
    const Token& token = vocabulary.tokens[id];
    texts[id] = token.type == TokenType::kUserDefined
                    ? made.emplace_back(ReplaceAll(token.text, kSpaceMark, " "))
                    : token.text;
    scores[id] = token.score;
    types[id] = static_cast<int32_t>(token.type);
  }
  header->AddStrings("tokenizer.ggml.tokens", texts);
  header->AddF32s("tokenizer.ggml.scores", scores);
  header->AddI32s("tokenizer.ggml.token_type", types);
}

}  // namespace

Status AddVocabularyKeys(const Vocabulary& vocabulary, int64_t vocab_size, GgufHeader* header) {
  if (vocabulary.kind != Vocabulary::Kind::kSentencePieceBpe || vocabulary.tokens.empty()) {
    return Bad("the model has no vocabulary that GGUF could hold");
  }
  if (vocab_size < 1 || static_cast<uint64_t>(vocab_size) > limits::kVocabulary) {
    return Bad(fmt::format("a vocabulary of {} tokens", vocab_size));
  }
  header->AddString("tokenizer.ggml.model", "llama");
  header->AddString("tokenizer.ggml.pre", "default");
  AddTokens(vocabulary, vocab_size, header);
  const std::pair<const char*, std::optional<int64_t>> ids[] = {{"bos", vocabulary.bos_id},
                                                                {"eos", vocabulary.eos_id},
                                                                {"unknown", vocabulary.unk_id},
                                                                {"padding", vocabulary.pad_id}};
  for (const auto& [name, id] : ids) {
    if (!id) continue;
    if (*id < 0 || *id >= vocab_size) {
      return Bad(fmt::format("the {} id is {}, the model has {} tokens", name, *id, vocab_size));
    }
    header->AddU32(fmt::format("tokenizer.ggml.{}_token_id", name), static_cast<uint32_t>(*id));
  }
  header->AddBool("tokenizer.ggml.add_bos_token", vocabulary.add_bos);
  header->AddBool("tokenizer.ggml.add_eos_token", vocabulary.add_eos);
  header->AddBool("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix);
  if (vocabulary.remove_extra_whitespaces) {
    header->AddBool("tokenizer.ggml.remove_extra_whitespaces", true);
  }
  if (!vocabulary.chat_template.empty()) {
    header->AddString("tokenizer.chat_template", vocabulary.chat_template);
  }
  return OkStatus();
}

}  // namespace pennyweight
