// The nearest right word for a wrong one: commands, flags, types, tensor names.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace pennyweight {

// Fewest single-byte insertions, deletions, substitutions and swaps of neighbours (optimal string
// alignment) that turn `a` into `b`, both taken as lower case.
size_t EditDistance(std::string_view a, std::string_view b);

// As EditDistance, but from `part` to the best matching piece of `whole`.
size_t PartDistance(std::string_view part, std::string_view whole);

// The candidate nearest to `word`; the first one on a tie. nullopt when none is near enough to be
// what was meant: more than a third of the longer word (at least 2 edits) would have to change.
std::optional<std::string> NearestName(std::string_view word,
                                       std::span<const std::string> candidates);

// The candidate with the piece nearest to the regular expression `pattern`, whose escapes and
// anchors are disregarded; ties go to the shorter candidate, then the first. nullopt only when
// there are no candidates.
std::optional<std::string> NearestToPattern(std::string_view pattern,
                                            std::span<const std::string> candidates);

}  // namespace pennyweight
