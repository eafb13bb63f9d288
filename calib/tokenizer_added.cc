#include "calib/tokenizer_added.h"

#include <algorithm>

#include "calib/tokenizer_text.h"

namespace pennyweight {
namespace {

uint64_t Edge(uint32_t node, char byte) {
  return uint64_t{node} << 8 | static_cast<unsigned char>(byte);
}

// Where the character that ends at `end` begins. Precondition: end > 0.
size_t CharacterBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

// No letter or digit touches the part [begin, end).
bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  const auto is_word = [&](size_t i) { return IsWordCharacter(CharacterAt(text, i)); };
  return (begin == 0 || !is_word(CharacterBefore(text, begin))) &&
         (end == text.size() || !is_word(end));
}

}  // namespace

void AddedTokenFinder::Add(std::string_view text, int32_t id, const Token& token) {
  if (text.empty()) return;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto [place, fresh] =
        children_.emplace(Edge(node, byte), static_cast<uint32_t>(ends_.size()));
    if (fresh) ends_.push_back(-1);
    node = place->second;
  }
  if (ends_[node] >= 0) return;
  ends_[node] = static_cast<int64_t>(entries_.size());
  entries_.push_back({id, token.type != TokenType::kUserDefined, token.strip_left,
                      token.strip_right, token.single_word});
  first_bytes_[static_cast<unsigned char>(text.front())] = true;
}

AddedTokenFinder::Match AddedTokenFinder::Longest(std::string_view text, size_t at) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto next = children_.find(Edge(node, text[i]));
    if (next == children_.end()) break;
    node = next->second;
    if (ends_[node] >= 0) match = {i + 1 - at, static_cast<size_t>(ends_[node])};
  }
  return match;
}

void AddedTokenFinder::Split(std::string_view text, bool special, const PartFunction& part) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    if (!first_bytes_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = Longest(text, at);
    if (match.bytes == 0) {
      ++at;
      continue;
    }
    // What is not taken is passed over all the same: nothing is looked for inside it.
    const Entry& entry = entries_[match.entry];
    size_t begin = at, end = at + match.bytes;
    at = end;
    if (entry.control && !special) continue;
    if (entry.single_word && !StandsAlone(text, begin, end)) continue;
    while (entry.strip_left && begin > done) {
      const size_t before = CharacterBefore(text, begin);
      if (before < done || !IsWhiteSpace(CharacterAt(text, before))) break;
      begin = before;
    }
    while (entry.strip_right && end < text.size() && IsWhiteSpace(CharacterAt(text, end))) {
      ++end;
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    }
    if (begin > done) part(text.substr(done, begin - done), -1);
    part(text.substr(begin, end - begin), entry.id);
    done = end;
  }
  if (done < text.size()) part(text.substr(done), -1);
}

}  // namespace pennyweight
