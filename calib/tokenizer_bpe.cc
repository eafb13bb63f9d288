#include "calib/tokenizer_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>
#include <utility>

#include "calib/pre_tokenizer.h"
#include "calib/tokenizer_added.h"
#include "calib/tokenizer_text.h"
#include "lib/limits.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr size_t kCachedWords = 1 << 16;
constexpr size_t kCachedBytes = 64;  // of one word; longer ones hardly come back

// GPT-2's alphabet (its bytes_to_unicode): a printable Latin-1 byte stands for itself, the others
// are U+0100 and up, in order.
constexpr size_t kAlphabetEnd = 0x144;

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kAlphabetEnd> byte{};  // -1: no character of the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet out;
  out.byte.fill(-1);
  char32_t next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool plain = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
    out.character[b] = plain ? b : next++;
    out.byte[out.character[b]] = static_cast<int16_t>(b);
  }
  return out;
}
constexpr Alphabet kAlphabet = MakeAlphabet();

// The bytes that a token's text stands for; a text that is not all of the alphabet, itself.
std::string BytesOf(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text, i);
    const char32_t c = length == 0 ? kAlphabetEnd : CharacterAt(text, i);
    if (c >= kAlphabetEnd || kAlphabet.byte[c] < 0) return std::string(text);
    bytes += static_cast<char>(kAlphabet.byte[c]);
    i += length;
  }
  return bytes;
}

// (left, right) -> rank and result; open addressing, at most half full.
class MergeTable {
 public:
  struct Found {
    uint32_t rank = 0;
    int32_t result = -1;  // -1: these two do not merge
  };

  void Fill(const std::vector<Merge>& merges) {
    size_t size = 2;
    shift_ = 63;
    for (; size < 2 * merges.size() + 2; size *= 2) --shift_;
    slots_.assign(size, {});
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const Merge& merge = merges[rank];
      const uint64_t key = Key(merge.left, merge.right);
      size_t at = Hash(key);
      while (slots_[at].found.result >= 0 && slots_[at].key != key) at = (at + 1) & (size - 1);
      if (slots_[at].found.result < 0) {
        slots_[at] = {key, {static_cast<uint32_t>(rank), merge.result}};
      }
    }
  }

  Found Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t at = Hash(key);; at = (at + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[at];
      if (slot.found.result < 0 || slot.key == key) return slot.found;
    }
  }

 private:
  struct Slot {
    uint64_t key = 0;
    Found found;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t Hash(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }

  std::vector<Slot> slots_;
  int shift_ = 63;
};

// A token of a word while its neighbours are merged.
struct Symbol {
  int64_t prev, next;  // -1: none
  int32_t id;          // -1: merged into its left neighbour
};

struct Candidate {
  uint32_t rank;
  int32_t result;
  int64_t left;
};

// For std::*_heap, whose top is the greatest.
bool Later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// What one Encode keeps: nothing of it is shared between threads.
struct Scratch {
  std::vector<int32_t> ids;  // the result
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string spelled;
  // Words met before: their ids are [begin, begin + count) of cached_ids.
  std::unordered_map<std::string, std::pair<size_t, size_t>, TextHash, std::equal_to<>> cache;
  std::vector<int32_t> cached_ids;
};

class ByteBpeTokenizer : public Tokenizer {
 public:
  explicit ByteBpeTokenizer(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  Status Init();
  std::vector<int32_t> Encode(std::string_view text) const override { return Run(text, false); }
  std::vector<int32_t> EncodeSpecial(std::string_view text) const override {
    return Run(text, true);
  }
  std::string Decode(const std::vector<int32_t>& ids) const override;

 private:
  Status CheckVocabulary() const;
  void AddToken(int32_t id, const Token& token);

  std::vector<int32_t> Run(std::string_view text, bool special) const;
  void AppendPlain(std::string_view text, Scratch* scratch) const;
  void AppendWord(std::string_view word, Scratch* scratch) const;
  // The ids of a word, behind those of scratch->ids.
  void AppendMerged(std::string_view word, Scratch* scratch) const;
  // The token that the word is as it stands, or -1.
  int32_t WholeWord(std::string_view word, Scratch* scratch) const;

  const Vocabulary& vocabulary_;
  std::unique_ptr<WordSplitter> splitter_;
  AddedTokenFinder raw_added_, normalized_added_;
  std::array<int32_t, 256> byte_ids_{};
  MergeTable merges_;
  std::unordered_map<std::string_view, int32_t> words_;  // only with ignore_merges
};

Status ByteBpeTokenizer::CheckVocabulary() const {
  const size_t size = vocabulary_.tokens.size();
  if (size == 0) return Error(ErrorCode::kTokenizer, "the vocabulary has no tokens");
  if (size > limits::kVocabulary) {
    return Error(ErrorCode::kTokenizer, fmt::format("the vocabulary has {} tokens, more than {}",
                                                    size, limits::kVocabulary));
  }
  for (size_t i = 0; i < vocabulary_.merges.size(); ++i) {
    const Merge& merge = vocabulary_.merges[i];
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      if (id >= 0 && static_cast<size_t>(id) < size) continue;
      return Error(ErrorCode::kTokenizer,
                   fmt::format("merge {} is of token {}; the vocabulary has {}", i, id, size));
    }
  }
  return OkStatus();
}

void ByteBpeTokenizer::AddToken(int32_t id, const Token& token) {
  if (token.type == TokenType::kNormal) {
    const std::string bytes = BytesOf(token.text);
    if (bytes.size() == 1 && byte_ids_[static_cast<unsigned char>(bytes[0])] < 0) {
      byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
    }
    if (vocabulary_.ignore_merges) words_.emplace(token.text, id);
    return;
  }
  if (token.type != TokenType::kControl && token.type != TokenType::kUserDefined) return;
  if (!token.normalized) {
    raw_added_.Add(token.text, id, token);
  } else if (vocabulary_.normalize_nfc) {
    normalized_added_.Add(NormalizeNfc(ReplaceMalformed(token.text)), id, token);
  } else {
    normalized_added_.Add(token.text, id, token);
  }
}

Status ByteBpeTokenizer::Init() {
  PW_TRY(CheckVocabulary());
  PW_ASSIGN(splitter_, WordSplitter::Create(vocabulary_.pre_tokenizer));
  byte_ids_.fill(-1);
  for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
    AddToken(static_cast<int32_t>(id), vocabulary_.tokens[id]);
  }
  if (std::ranges::all_of(byte_ids_, [](int32_t id) { return id < 0; })) {
    return Error(ErrorCode::kTokenizer, "the vocabulary has no token for a single byte");
  }
  merges_.Fill(vocabulary_.merges);
  return OkStatus();
}

int32_t ByteBpeTokenizer::WholeWord(std::string_view word, Scratch* scratch) const {
  std::string& spelled = scratch->spelled;
  spelled.clear();
  for (const char byte : word) {
    const char32_t c = kAlphabet.character[static_cast<unsigned char>(byte)];
    if (c < 0x80) {
      spelled += static_cast<char>(c);
    } else {
      spelled += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    }
  }
  const auto found = words_.find(spelled);
  return found == words_.end() ? -1 : found->second;
}

void ByteBpeTokenizer::AppendMerged(std::string_view word, Scratch* scratch) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  symbols.clear();
  heap.clear();
  for (const char byte : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id < 0) continue;
    const auto index = static_cast<int64_t>(symbols.size());
    symbols.push_back({index - 1, index + 1, id});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  const auto at = [&](int64_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto find = [&](int64_t left) {
    const Symbol& symbol = at(left);
    return symbol.next < 0 ? MergeTable::Found() : merges_.Find(symbol.id, at(symbol.next).id);
  };
  for (int64_t i = 0; i + 1 < static_cast<int64_t>(symbols.size()); ++i) {
    const MergeTable::Found found = find(i);
    if (found.result >= 0) heap.push_back({found.rank, found.result, i});
  }
  std::ranges::make_heap(heap, Later);
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, Later);
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = at(top.left);
    // What was offered may have been merged away, or into something else, since.
    if (left.id < 0 || find(top.left).result != top.result) continue;
    Symbol& right = at(left.next);
    left.id = top.result;
    right.id = -1;
    left.next = right.next;
    if (right.next >= 0) at(right.next).prev = top.left;
    for (const int64_t i : {left.prev, top.left}) {
      const MergeTable::Found found = i < 0 ? MergeTable::Found() : find(i);
      if (found.result < 0) continue;
      heap.push_back({found.rank, found.result, i});
      std::ranges::push_heap(heap, Later);
    }
  }
  for (int64_t i = 0; i >= 0; i = at(i).next) scratch->ids.push_back(at(i).id);
}

void ByteBpeTokenizer::AppendWord(std::string_view word, Scratch* scratch) const {
  std::vector<int32_t>& ids = scratch->ids;
  const auto cached = scratch->cache.find(word);
  if (cached != scratch->cache.end()) {
    const auto [begin, count] = cached->second;
    const auto from = scratch->cached_ids.begin() + static_cast<std::ptrdiff_t>(begin);
    ids.insert(ids.end(), from, from + static_cast<std::ptrdiff_t>(count));
    return;
  }
  const size_t before = ids.size();
  const int32_t whole = vocabulary_.ignore_merges ? WholeWord(word, scratch) : -1;
  if (whole >= 0) {
    ids.push_back(whole);
  } else {
    AppendMerged(word, scratch);
  }
  if (word.size() > kCachedBytes || scratch->cache.size() >= kCachedWords) return;
  scratch->cache.emplace(word, std::pair(scratch->cached_ids.size(), ids.size() - before));
  scratch->cached_ids.insert(scratch->cached_ids.end(),
                             ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
}

void ByteBpeTokenizer::AppendPlain(std::string_view text, Scratch* scratch) const {
  std::string prefixed;
  if (vocabulary_.add_space_prefix && !text.starts_with(' ')) {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  splitter_->Split(text, [&](std::string_view word) { AppendWord(word, scratch); });
}

std::vector<int32_t> ByteBpeTokenizer::Run(std::string_view text, bool special) const {
  std::string repaired, normalized;
  if (!IsUtf8(text)) {
    repaired = ReplaceMalformed(text);
    text = repaired;
  }
  Scratch scratch;
  raw_added_.Split(text, special, [&](std::string_view part, int32_t id) {
    if (id >= 0) {
      scratch.ids.push_back(id);
      return;
    }
    if (vocabulary_.normalize_nfc) {
      normalized = NormalizeNfc(part);
      part = normalized;
    }
    normalized_added_.Split(part, special, [&](std::string_view piece, int32_t piece_id) {
      if (piece_id >= 0) {
        scratch.ids.push_back(piece_id);
      } else {
        AppendPlain(piece, &scratch);
      }
    });
  });
  return std::move(scratch.ids);
}

std::string ByteBpeTokenizer::Decode(const std::vector<int32_t>& ids) const {
  std::string out;
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= vocabulary_.tokens.size()) continue;
    const Token& token = vocabulary_.tokens[static_cast<size_t>(id)];
    if (token.type == TokenType::kNormal) out += BytesOf(token.text);
    if (token.type == TokenType::kUserDefined) out += token.text;
  }
  if (vocabulary_.add_space_prefix && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> MakeByteBpeTokenizer(const Vocabulary& vocabulary) {
  auto tokenizer = std::make_unique<ByteBpeTokenizer>(vocabulary);
  PW_TRY(tokenizer->Init());
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace pennyweight
