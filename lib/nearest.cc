#include "lib/nearest.h"

#include <algorithm>
#include <vector>

namespace pennyweight {
namespace {

// Longer words are cut: the distance costs the product of both lengths, and words may be untrusted.
constexpr size_t kLongestWord = 256;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Rows of the dynamic programme over `a`, columns over `b`. With `free_ends`, leaving out a prefix
// and a suffix of `b` costs nothing (Sellers 1980).
size_t Distance(std::string_view a, std::string_view b, bool free_ends) {
  a = a.substr(0, kLongestWord);
  b = b.substr(0, kLongestWord);
  std::vector<size_t> two_ago(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = free_ends ? 0 : j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = Lower(a[i - 1]) == Lower(b[j - 1]);
      size_t best = previous[j - 1] + (same ? 0 : 1);
      best = std::min({best, previous[j] + 1, current[j - 1] + 1});
      if (i > 1 && j > 1 && Lower(a[i - 1]) == Lower(b[j - 2]) &&
          Lower(a[i - 2]) == Lower(b[j - 1])) {
        best = std::min(best, two_ago[j - 2] + 1);
      }
      current[j] = best;
    }
    std::swap(two_ago, previous);
    std::swap(previous, current);
  }
  return free_ends ? *std::min_element(previous.begin(), previous.end()) : previous[b.size()];
}

// The literal text of a regular expression, roughly: what a person meant to be in the name.
std::string LiteralText(std::string_view pattern) {
  std::string text;
  for (const char c : pattern) {
    if (std::string_view("\\^$()[]{}*+?|").find(c) == std::string_view::npos) text += c;
  }
  return text;
}

}  // namespace

size_t EditDistance(std::string_view a, std::string_view b) { return Distance(a, b, false); }

size_t PartDistance(std::string_view part, std::string_view whole) {
  return Distance(part, whole, true);
}

std::optional<std::string> NearestName(std::string_view word,
                                       std::span<const std::string> candidates) {
  const std::string* nearest = nullptr;
  size_t best = 0;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    const size_t limit = std::max<size_t>(2, std::max(word.size(), candidate.size()) / 3);
    // Not one byte in common is not a typing error, however short the words.
    if (distance > limit || distance >= std::max(word.size(), candidate.size())) continue;
    if (nearest == nullptr || distance < best) {
      nearest = &candidate;
      best = distance;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  return *nearest;
}

std::optional<std::string> NearestToPattern(std::string_view pattern,
                                            std::span<const std::string> candidates) {
  const std::string text = LiteralText(pattern);
  const std::string* nearest = nullptr;
  size_t best = 0;
  for (const std::string& candidate : candidates) {
    const size_t distance = PartDistance(text, candidate);
    if (nearest == nullptr || distance < best ||
        (distance == best && candidate.size() < nearest->size())) {
      nearest = &candidate;
      best = distance;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  return *nearest;
}

}  // namespace pennyweight
