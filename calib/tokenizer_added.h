// Added tokens in a text: found before anything else is done with it. Source: added_vocabulary.rs
// of huggingface/tokenizers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/vocabulary.h"

namespace pennyweight {

class AddedTokenFinder {
 public:
  // A part of the text that is a token (`id`), or is none (id -1).
  using PartFunction = std::function<void(std::string_view part, int32_t id)>;

  // `text` is what is looked for; control tokens and the way of looking are read off `token`. Of
  // the same text twice, the first counts.
  void Add(std::string_view text, int32_t id, const Token& token);

  // Calls `part` for the parts of a text, in order: the leftmost token each time, the longest of
  // those that begin there. Control tokens count as text unless `special`. Thread-safe.
  // Precondition: `text` is UTF-8.
  void Split(std::string_view text, bool special, const PartFunction& part) const;

 private:
  struct Entry {
    int32_t id;
    bool control, strip_left, strip_right, single_word;
  };
  struct Match {
    size_t bytes = 0;  // 0: none
    size_t entry = 0;
  };
  Match Longest(std::string_view text, size_t at) const;

  std::vector<Entry> entries_;
  std::array<bool, 256> first_bytes_{};
  // A trie: node 0 is the root; (node, byte) leads to a node, a node may end an entry.
  std::unordered_map<uint64_t, uint32_t> children_;
  std::vector<int64_t> ends_ = {-1};
};

}  // namespace pennyweight
