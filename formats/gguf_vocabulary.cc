// tokenizer.* of GGUF metadata; declared in gguf_metadata.h.
#include <fmt/format.h>

#include <cmath>
#include <unordered_map>

#include "formats/gguf_metadata.h"
#include "formats/gguf_text.h"
#include "lib/allowance.h"
#include "lib/limits.h"
#include "lib/pre_tokenizer.h"

namespace pennyweight {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr uint64_t kTokenCharge = 128;     // a token, and its texts and numbers while they are read
constexpr uint64_t kIdCharge = 64;         // a token's entry while merges are looked up
constexpr uint64_t kMergeCharge = 48;      // a merge, its text, and its place while they are sorted
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

Status ReadTokens(const GgufFile& file, Allowance* allowance, Vocabulary* out) {
  const GgufEntry* tokens = Find(file, "tokens");
  const GgufEntry* scores = Find(file, "scores");
  const GgufEntry* types = Find(file, "token_type");
  const bool needs_scores = out->kind == Vocabulary::Kind::kSentencePieceBpe;
  if (!needs_scores) scores = nullptr;
  if (tokens == nullptr || (needs_scores && scores == nullptr)) {
    return Bad(fmt::format("the metadata have no key \"{}{}\"", kPrefix,
                           tokens == nullptr ? "tokens" : "scores"));
  }
  // Before anything is decoded: lists of another length, or of more tokens than the file warrants.
  const auto count_of = [&](const GgufEntry* entry) {
    return entry == nullptr ? tokens->count : entry->count;
  };
  if (count_of(scores) != tokens->count || count_of(types) != tokens->count) {
    return Bad(fmt::format("{} tokens, {} scores, {} types", tokens->count, count_of(scores),
                           count_of(types)));
  }
  if (tokens->count == 0 || tokens->count > limits::kVocabulary) {
    return Bad(fmt::format("{} tokens; 1 to {} are read", tokens->count, limits::kVocabulary));
  }
  if (!allowance->Take(tokens->count * kTokenCharge + 4 * tokens->bytes)) {
    return Allowance::Exceeded("the vocabulary").At(tokens->offset);
  }
  const auto texts = file.AsStrings(*tokens);
  const auto score_list = scores == nullptr ? std::nullopt : file.AsDoubles(*scores);
  const auto type_list = types == nullptr ? std::nullopt : file.AsIntegers(*types);
  if (!texts || (scores != nullptr && !score_list) || (types != nullptr && !type_list)) {
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
    if (score_list) token.score = static_cast<float>((*score_list)[id]);
    if (!std::isfinite(token.score))
      return Bad(fmt::format("the score of token {} is no number", id));
    PW_ASSIGN(token.type, TokenTypeOf(type_list ? (*type_list)[id] : 0, id));
    if (out->kind == Vocabulary::Kind::kByteBpe) continue;
    if (token.type == TokenType::kByte) {
      if (!IsByteText(text)) return Bad(fmt::format("byte token {} is not like <0x0A>", id));
      bytes[HexDigit(text[3]) * 16 + HexDigit(text[4])] = true;
    }
    // llama.cpp keeps these with spaces: it looks for them before it marks spaces.
    if (token.type == TokenType::kUserDefined) token.text = ReplaceAll(text, " ", kSpaceMark);
  }
  out->byte_fallback = out->kind == Vocabulary::Kind::kSentencePieceBpe;
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

// "a b": pairs of tokens, in the order of their rank.
Status ReadMerges(const GgufFile& file, Allowance* allowance, Vocabulary* out) {
  const GgufEntry* merges = Find(file, "merges");
  if (merges == nullptr) return Bad(fmt::format("the metadata have no key \"{}merges\"", kPrefix));
  const uint64_t ids_bytes = out->tokens.size() * kIdCharge;
  if (merges->count > UINT32_MAX || !allowance->Take(merges->count * kMergeCharge) ||
      !allowance->Take(ids_bytes)) {
    return Allowance::Exceeded("the list of merges").At(merges->offset);
  }
  const auto texts = file.AsStrings(*merges);
  if (!texts) return Bad("the list of merges is not of strings").At(merges->offset);
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(out->tokens.size());
  for (size_t id = 0; id < out->tokens.size(); ++id) {
    ids.emplace(out->tokens[id].text, static_cast<int32_t>(id));
  }
  out->merges.reserve(texts->size());
  std::string joined;
  for (const std::string_view text : *texts) {
    // The first part is never empty, so it may begin with the space itself.
    const size_t space = text.find(' ', 1);
    if (space == std::string_view::npos) {
      return Bad(fmt::format("merge {} is not a pair of tokens", out->merges.size()));
    }
    joined.assign(text.substr(0, space)).append(text.substr(space + 1));
    int32_t found[3];
    const std::string_view parts[3] = {text.substr(0, space), text.substr(space + 1), joined};
    for (int i = 0; i < 3; ++i) {
      const auto place = ids.find(parts[i]);
      if (place == ids.end()) {
        return Bad(fmt::format("\"{:.100}\" of merge {} is no token", EscapeText(parts[i]),
                               out->merges.size()));
      }
      found[i] = place->second;
    }
    out->merges.push_back({.left = found[0], .right = found[1], .result = found[2]});
  }
  // Of a pair that is there twice, llama.cpp takes the first.
  DropRepeatedMerges(/*keep_last=*/false, &out->merges);
  return OkStatus();
}

Status ReadPreTokenizer(const GgufFile& file, Vocabulary* out) {
  const GgufEntry* pre = Find(file, "pre");
  const std::string_view name = pre == nullptr ? "default" : file.AsString(*pre).value_or("");
  const std::optional<PreTokenizer> known = PreTokenizerByName(name.empty() ? "default" : name);
  if (!known) {
    return Bad(fmt::format("the pre-tokenizer is {}, which is not known", file.Printable(*pre)))
        .Hint("known ones are " + PreTokenizerNames() + "; commands that need no text still work")
        .At(pre->offset);
  }
  const PreTokenizerRow& row = RowOf(*known);
  out->pre_tokenizer = *known;
  out->ignore_merges = row.ignore_merges;
  out->normalize_nfc = row.normalize_nfc;
  return OkStatus();
}

}  // namespace

Result<Vocabulary> ReadGgufVocabulary(const GgufFile& file) {
  const GgufEntry* model = Find(file, "model");
  if (model == nullptr) return Bad("the metadata have no key \"tokenizer.ggml.model\"");
  const std::string_view kind = file.AsString(*model).value_or("");
  const bool bytes = kind == "gpt2";
  if (!bytes && kind != "llama") {
    return Bad(
        fmt::format("the tokenizer is of the kind {}; only \"llama\" (sentencepiece BPE) and "
                    "\"gpt2\" (byte-level BPE) are read",
                    file.Printable(*model)));
  }
  Vocabulary out;
  out.kind = bytes ? Vocabulary::Kind::kByteBpe : Vocabulary::Kind::kSentencePieceBpe;
  Allowance allowance(file.file().size());
  if (bytes) PW_TRY(ReadPreTokenizer(file, &out));
  PW_TRY(ReadTokens(file, &allowance, &out));
  if (bytes) PW_TRY(ReadMerges(file, &allowance, &out));
  PW_TRY(ReadId(file, "bos", out.tokens.size(), &out.bos_id));
  PW_TRY(ReadId(file, "eos", out.tokens.size(), &out.eos_id));
  PW_TRY(ReadId(file, "unknown", out.tokens.size(), &out.unk_id));
  PW_TRY(ReadId(file, "padding", out.tokens.size(), &out.pad_id));
  out.add_bos = BoolOr(file, "add_bos_token", !bytes || RowOf(out.pre_tokenizer).add_bos);
  out.add_eos = BoolOr(file, "add_eos_token", false);
  // llama.cpp puts none in front of byte-level BPE, whatever the key says.
  out.add_space_prefix = !bytes && BoolOr(file, "add_space_prefix", true);
  out.remove_extra_whitespaces = BoolOr(file, "remove_extra_whitespaces", false);
  const GgufEntry* chat = file.Find("tokenizer.chat_template");
  if (chat != nullptr) out.chat_template = file.AsString(*chat).value_or("");
  return out;
}

namespace {

// llama.cpp's converter takes these added tokens for control tokens, whether they are marked as
// special or not (does_token_look_special of its conversion/base.py).
bool LooksSpecial(std::string_view text) {
  const auto within = [&](std::string_view front, std::string_view back) {
    return text.size() >= front.size() + back.size() && text.starts_with(front) &&
           text.ends_with(back);
  };
  return within("<|", "|>") || within("<\xEF\xBD\x9C", "\xEF\xBD\x9C>") || within("<unused", ">") ||
         text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]";
}

// How an added token takes spaces along, stands alone or is normalized has no key in GGUF.
TokenType GgufType(const Vocabulary& vocabulary, const Token& token) {
  const bool marked = vocabulary.kind == Vocabulary::Kind::kByteBpe &&
                      token.type == TokenType::kUserDefined && LooksSpecial(token.text);
  return marked ? TokenType::kControl : token.type;
}

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
    const TokenType type = GgufType(vocabulary, token);
    texts[id] = type == TokenType::kUserDefined
                    ? made.emplace_back(ReplaceAll(token.text, kSpaceMark, " "))
                    : token.text;
    scores[id] = token.score;
    types[id] = static_cast<int32_t>(type);
  }
  header->AddStrings("tokenizer.ggml.tokens", texts);
  if (vocabulary.kind == Vocabulary::Kind::kSentencePieceBpe) {
    header->AddF32s("tokenizer.ggml.scores", scores);
  }
  header->AddI32s("tokenizer.ggml.token_type", types);
}

// Errors: kTokenizer when a merge is of a token that is left out.
Status AddMerges(const Vocabulary& vocabulary, int64_t vocab_size, GgufHeader* header) {
  std::vector<std::string> made;
  made.reserve(vocabulary.merges.size());
  for (const Merge& merge : vocabulary.merges) {
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      if (id >= 0 && id < vocab_size && static_cast<size_t>(id) < vocabulary.tokens.size())
        continue;
      return Bad(
          fmt::format("merge {} is of token {}; the model has {}", made.size(), id, vocab_size));
    }
    made.push_back(vocabulary.tokens[static_cast<size_t>(merge.left)].text + " " +
                   vocabulary.tokens[static_cast<size_t>(merge.right)].text);
  }
  header->AddStrings("tokenizer.ggml.merges", {made.begin(), made.end()});
  return OkStatus();
}

}  // namespace

Status AddVocabularyKeys(const Vocabulary& vocabulary, int64_t vocab_size, GgufHeader* header) {
  const bool bytes = vocabulary.kind == Vocabulary::Kind::kByteBpe;
  if (vocabulary.kind == Vocabulary::Kind::kNone || vocabulary.tokens.empty()) {
    return Bad("the model has no vocabulary that GGUF could hold");
  }
  if (vocab_size < 1 || static_cast<uint64_t>(vocab_size) > limits::kVocabulary) {
    return Bad(fmt::format("a vocabulary of {} tokens", vocab_size));
  }
  if (bytes && vocabulary.add_space_prefix) {
    return Bad("byte-level BPE that puts a space in front of a text has no form in GGUF");
  }
  header->AddString("tokenizer.ggml.model", bytes ? "gpt2" : "llama");
  header->AddString("tokenizer.ggml.pre",
                    bytes ? RowOf(vocabulary.pre_tokenizer).gguf_names.front() : "default");
  AddTokens(vocabulary, vocab_size, header);
  if (bytes) PW_TRY(AddMerges(vocabulary, vocab_size, header));
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
  if (!bytes) header->AddBool("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix);
  if (vocabulary.remove_extra_whitespaces) {
    header->AddBool("tokenizer.ggml.remove_extra_whitespaces", true);
  }
  if (!vocabulary.chat_template.empty()) {
    header->AddString("tokenizer.chat_template", vocabulary.chat_template);
  }
  return OkStatus();
}

}  // namespace pennyweight
