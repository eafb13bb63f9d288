#include "lib/pre_tokenizer.h"

#include <doctest/doctest.h>

#include <set>

namespace pennyweight {
namespace {

TEST_CASE("pre-tokenizers: rows are found by each of their names, and by their patterns") {
  std::set<std::string_view> names;
  size_t place = 0;
  for (const PreTokenizerRow& row : PreTokenizers()) {
    CHECK(static_cast<size_t>(row.id) == place++);
    CHECK(RowOf(row.id).gguf_names.data() == row.gguf_names.data());
    REQUIRE(!row.gguf_names.empty());
    for (const std::string_view name : row.gguf_names) {
      CHECK(PreTokenizerByName(name) == row.id);
      CHECK(names.insert(name).second);
    }
    std::vector<std::string> patterns(row.patterns.begin(), row.patterns.end());
    CHECK(PreTokenizerByPatterns(patterns) == row.id);
    patterns.back() += "+";
    CHECK_FALSE(PreTokenizerByPatterns(patterns).has_value());
    patterns.pop_back();
    CHECK(PreTokenizerByPatterns(patterns) != row.id);
    CHECK(PreTokenizerNames().find(row.gguf_names.front()) != std::string::npos);
  }
  CHECK_FALSE(PreTokenizerByName("").has_value());
  CHECK_FALSE(PreTokenizerByName("llama").has_value());
  CHECK_FALSE(PreTokenizerByPatterns({}).has_value());
}

TEST_CASE("repeated merges: the first or the last of a pair stays, at its place") {
  const std::vector<Merge> merges = {{1, 2, 9}, {2, 1, 8}, {1, 2, 7}, {3, 3, 6}, {1, 2, 5}};
  std::vector<Merge> first = merges, last = merges;
  DropRepeatedMerges(false, &first);
  CHECK(first == std::vector<Merge>{{1, 2, 9}, {2, 1, 8}, {3, 3, 6}});
  DropRepeatedMerges(true, &last);
  CHECK(last == std::vector<Merge>{{2, 1, 8}, {3, 3, 6}, {1, 2, 5}});
  std::vector<Merge> none;
  DropRepeatedMerges(true, &none);
  CHECK(none.empty());
}

}  // namespace
}  // namespace pennyweight
