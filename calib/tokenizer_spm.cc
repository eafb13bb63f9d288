#include "calib/tokenizer_spm.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>

#include "calib/tokenizer_added.h"
#include "calib/tokenizer_text.h"
#include "lib/limits.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";          // U+2581, a space inside a piece
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";    // U+FFFD, a byte that is not UTF-8
constexpr std::string_view kUnknownText = " \xE2\x81\x87 ";  // how an unknown token is printed
constexpr size_t kCachedWords = 1 << 16;

// The value of "<0x0A>" (exactly two upper-case digits); -1 for anything else.
int ByteOfToken(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(c >= 'A' && c <= 'F')) return -1;
    value = value * 16 + (digit ? c - '0' : c - 'A' + 10);
  }
  return value;
}

// True when U+2581 stands after another character of the piece: then words cannot be encoded apart.
bool SpansWords(std::string_view piece) {
  while (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
  return piece.find(kSpace) != std::string_view::npos;
}

struct Symbol {
  int64_t prev, next;      // -1: none
  std::string_view piece;  // empty once merged into its left neighbour
  bool frozen;             // a user-defined token: takes no part in merges
};

struct Pair {
  float score;
  int64_t left, right;
  size_t bytes;  // of both together: tells whether the pair is still what it was
};

struct PairOrder {
  bool operator()(const Pair& a, const Pair& b) const {
    return a.score != b.score ? a.score < b.score : a.left > b.left;
  }
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  Status Init();
  std::vector<int32_t> Encode(std::string_view text) const override;
  std::vector<int32_t> EncodeSpecial(std::string_view text) const override;
  std::string Decode(const std::vector<int32_t>& ids) const override;

 private:
  // An unused piece that was merged nevertheless: its two halves, to be taken apart again.
  using Halves =
      std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;

  std::string Normalize(std::string_view text) const;
  // Length of the longest user-defined token at the start of a text; 0: none.
  size_t UserDefinedLength(std::string_view text) const;
  std::vector<Symbol> Split(std::string_view text) const;
  std::vector<int32_t> EncodeWord(std::string_view word) const;
  void AppendPiece(std::string_view piece, const Halves& halves, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary_;
  std::unordered_map<std::string_view, int32_t> pieces_;  // normal, user-defined and unused ones
  std::array<int32_t, 256> byte_ids_{};
  std::array<std::vector<std::string_view>, 256> user_defined_;  // by first byte, longest first
  AddedTokenFinder control_;
  bool words_apart_ = true;  // no piece spans words: each word can be encoded by itself
};

Status SentencePieceTokenizer::Init() {
  const auto& tokens = vocabulary_.tokens;
  if (tokens.empty()) return Error(ErrorCode::kTokenizer, "the vocabulary has no tokens");
  if (tokens.size() > limits::kVocabulary) {
    return Error(ErrorCode::kTokenizer, fmt::format("the vocabulary has {} tokens, more than {}",
                                                    tokens.size(), limits::kVocabulary));
  }
  byte_ids_.fill(-1);
  pieces_.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Token& token = tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (token.type == TokenType::kByte) {
      const int byte = ByteOfToken(token.text);
      if (byte < 0) {
        return Error(ErrorCode::kTokenizer,
                     fmt::format("byte token {} is not of the form <0xHH>", id));
      }
      if (byte_ids_[static_cast<size_t>(byte)] < 0) byte_ids_[static_cast<size_t>(byte)] = id;
      continue;
    }
    if (token.type == TokenType::kControl) control_.Add(token.text, id, token);
    if (token.type == TokenType::kControl || token.type == TokenType::kUnknown) continue;
    if (token.text.empty()) continue;
    pieces_.emplace(token.text, id);
    words_apart_ = words_apart_ && !SpansWords(token.text);
    if (token.type == TokenType::kUserDefined) {
      user_defined_[static_cast<uint8_t>(token.text[0])].push_back(token.text);
    }
  }
  for (auto& list : user_defined_) {
    std::ranges::stable_sort(list, std::ranges::greater(), &std::string_view::size);
  }
  if (vocabulary_.byte_fallback) {
    const auto missing = std::ranges::find(byte_ids_, -1);
    if (missing == byte_ids_.end()) return OkStatus();
    return Error(ErrorCode::kTokenizer, fmt::format("byte fallback without a token <0x{:02X}>",
                                                    missing - byte_ids_.begin()));
  }
  const auto unknown = vocabulary_.unk_id;
  if (!unknown || *unknown < 0 || *unknown >= static_cast<int64_t>(tokens.size())) {
    return Error(ErrorCode::kTokenizer,
                 "the vocabulary has neither byte fallback nor an unknown token");
  }
  return OkStatus();
}

size_t SentencePieceTokenizer::UserDefinedLength(std::string_view text) const {
  for (const std::string_view token : user_defined_[static_cast<uint8_t>(text[0])]) {
    if (text.starts_with(token)) return token.size();
  }
  return 0;
}

std::string SentencePieceTokenizer::Normalize(std::string_view text) const {
  const bool squeeze = vocabulary_.remove_extra_whitespaces;
  if (squeeze) text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  if (vocabulary_.add_space_prefix) out += kSpace;
  bool after_space = squeeze;
  while (!text.empty()) {
    size_t length = UserDefinedLength(text);
    if (length == 0) length = Utf8Length(text, 0);
    std::string_view part = length == 0 ? kReplacement : text.substr(0, length);
    text.remove_prefix(std::max<size_t>(length, 1));
    if (after_space) part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
    if (part.empty()) continue;
    for (const char c : part) {
      if (c == ' ') {
        out += kSpace;
      } else {
        out += c;
      }
    }
    after_space = squeeze && part.back() == ' ';
  }
  while (squeeze && out.ends_with(kSpace)) out.resize(out.size() - kSpace.size());
  return out;
}

std::vector<Symbol> SentencePieceTokenizer::Split(std::string_view text) const {
  std::vector<Symbol> symbols;
  while (!text.empty()) {
    size_t length = UserDefinedLength(text);
    const bool frozen = length > 0;
    if (!frozen) length = std::max<size_t>(Utf8Length(text, 0), 1);
    const auto index = static_cast<int64_t>(symbols.size());
    symbols.push_back({index - 1, index + 1, text.substr(0, length), frozen});
    text.remove_prefix(length);
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

std::vector<int32_t> SentencePieceTokenizer::EncodeWord(std::string_view word) const {
  std::vector<Symbol> symbols = Split(word);
  std::priority_queue<Pair, std::vector<Pair>, PairOrder> agenda;
  Halves halves;
  const auto offer = [&](int64_t left, int64_t right) {
    if (left < 0 || right < 0) return;
    const Symbol& a = symbols[static_cast<size_t>(left)];
    const Symbol& b = symbols[static_cast<size_t>(right)];
    if (a.frozen || b.frozen) return;
    const std::string_view piece(a.piece.data(), a.piece.size() + b.piece.size());
    const auto found = pieces_.find(piece);
    if (found == pieces_.end()) return;
    const Token& token = vocabulary_.tokens[static_cast<size_t>(found->second)];
    agenda.push({token.score, left, right, piece.size()});
    if (token.type == TokenType::kUnused) halves[piece] = {a.piece, b.piece};
  };
  for (size_t i = 1; i < symbols.size(); ++i) {
    offer(static_cast<int64_t>(i) - 1, static_cast<int64_t>(i));
  }
  while (!agenda.empty()) {
    const Pair top = agenda.top();
    agenda.pop();
    Symbol& left = symbols[static_cast<size_t>(top.left)];
    Symbol& right = symbols[static_cast<size_t>(top.right)];
    if (left.piece.empty() || right.piece.empty() ||
        left.piece.size() + right.piece.size() != top.bytes) {
      continue;
    }
    left.piece = std::string_view(left.piece.data(), top.bytes);
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<size_t>(right.next)].prev = top.left;
    right.piece = {};
    offer(left.prev, top.left);
    offer(top.left, left.next);
  }
  std::vector<int32_t> ids;
  for (int64_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    AppendPiece(symbols[static_cast<size_t>(i)].piece, halves, &ids);
  }
  return ids;
}

void SentencePieceTokenizer::AppendPiece(std::string_view piece, const Halves& halves,
                                         std::vector<int32_t>* ids) const {
  // A stack instead of recursion: the depth is a text's to choose.
  std::vector<std::string_view> pending = {piece};
  while (!pending.empty()) {
    const std::string_view part = pending.back();
    pending.pop_back();
    const auto found = pieces_.find(part);
    if (found != pieces_.end()) {
      const Token& token = vocabulary_.tokens[static_cast<size_t>(found->second)];
      const auto split = token.type == TokenType::kUnused ? halves.find(part) : halves.end();
      if (split == halves.end()) {
        ids->push_back(found->second);
      } else {
        pending.push_back(split->second.second);
        pending.push_back(split->second.first);
      }
    } else if (vocabulary_.byte_fallback) {
      for (const char c : part) ids->push_back(byte_ids_[static_cast<uint8_t>(c)]);
    } else {
      ids->push_back(static_cast<int32_t>(*vocabulary_.unk_id));
    }
  }
}

std::vector<int32_t> SentencePieceTokenizer::Encode(std::string_view text) const {
  const std::string normalized = Normalize(text);
  const int64_t unknown = vocabulary_.byte_fallback ? -1 : *vocabulary_.unk_id;
  std::vector<int32_t> ids;
  const auto append = [&](const std::vector<int32_t>& word_ids) {
    for (const int32_t id : word_ids) {
      // A run of characters outside the vocabulary is one unknown token.
      if (id == unknown && !ids.empty() && ids.back() == unknown) continue;
      ids.push_back(id);
    }
  };
  std::unordered_map<std::string_view, std::vector<int32_t>> cache;
  std::string_view rest = normalized;
  while (!rest.empty()) {
    size_t end = rest.size();
    if (words_apart_) {
      size_t at = 0;
      while (rest.substr(at).starts_with(kSpace)) at += kSpace.size();
      end = std::min(rest.find(kSpace, at), rest.size());
    }
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end);
    const auto cached = cache.find(word);
    if (cached != cache.end()) {
      append(cached->second);
      continue;
    }
    std::vector<int32_t> word_ids = EncodeWord(word);
    append(word_ids);
    if (cache.size() < kCachedWords) cache.emplace(word, std::move(word_ids));
  }
  return ids;
}

std::vector<int32_t> SentencePieceTokenizer::EncodeSpecial(std::string_view text) const {
  std::string repaired;
  if (!IsUtf8(text)) {
    repaired = ReplaceMalformed(text);
    text = repaired;
  }
  // As llama.cpp: what stands between is a text of its own, with the space in front.
  std::vector<int32_t> ids;
  control_.Split(text, true, [&](std::string_view part, int32_t id) {
    if (id >= 0) {
      ids.push_back(id);
      return;
    }
    const std::vector<int32_t> part_ids = Encode(part);
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  });
  return ids;
}

std::string SentencePieceTokenizer::Decode(const std::vector<int32_t>& ids) const {
  const bool squeeze = vocabulary_.remove_extra_whitespaces;
  bool may_strip = vocabulary_.add_space_prefix || squeeze;
  std::string out;
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocabulary_.tokens.size()) continue;
    const Token& token = vocabulary_.tokens[static_cast<size_t>(id)];
    if (token.type == TokenType::kControl) continue;
    if (token.type == TokenType::kUnknown) {
      out += kUnknownText;
      may_strip = false;
      continue;
    }
    if (token.type == TokenType::kByte) {
      out += static_cast<char>(ByteOfToken(token.text));
      may_strip = false;
      continue;
    }
    std::string_view piece = token.text;
    if (may_strip) {
      // Only the first piece carries the space put in front; with squeezed spaces every one that
      // stands before the first visible character goes.
      if (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
      may_strip = squeeze && piece.empty();
    }
    while (!piece.empty()) {
      if (piece.starts_with(kSpace)) {
        out += ' ';
        piece.remove_prefix(kSpace.size());
      } else {
        out += piece.front();
        piece.remove_prefix(1);
      }
    }
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(const Vocabulary& vocabulary) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>(vocabulary);
  PW_TRY(tokenizer->Init());
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace pennyweight
