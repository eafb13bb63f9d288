#include "lib/nearest.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace pennyweight {
namespace {

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(EditDistance("", "") == 0);
  CHECK(EditDistance("", "abc") == 3);
  CHECK(EditDistance("kitten", "sitting") == 3);
  CHECK(EditDistance("quantize", "quantise") == 1);
  CHECK(EditDistance("inspect", "inpsect") == 1);  // a swap is one edit
  CHECK(EditDistance("Q4_K_M", "q4_k_m") == 0);
  CHECK(EditDistance("abcdef", "ghijkl") == 6);
}

TEST_CASE("edit distance is symmetric and obeys the length bounds") {
  const std::vector<std::string> words = {"q4_0", "q4_k_m", "int4", "bf16", "compare", "compaer"};
  for (const auto& a : words) {
    for (const auto& b : words) {
      const size_t d = EditDistance(a, b);
      CHECK(d == EditDistance(b, a));
      CHECK((d == 0) == (a == b));
      CHECK(d <= std::max(a.size(), b.size()));
      CHECK(d >= std::max(a.size(), b.size()) - std::min(a.size(), b.size()));
    }
  }
}

TEST_CASE("a part is measured against its best place in the whole") {
  CHECK(PartDistance("down_proj", "model.layers.0.mlp.down_proj.weight") == 0);
  CHECK(PartDistance("dwn_proj", "model.layers.0.mlp.down_proj.weight") == 1);
  CHECK(PartDistance("", "anything") == 0);
  CHECK(PartDistance("abc", "") == 3);
}

TEST_CASE("nearest name finds the typing error and refuses the unrelated") {
  const std::vector<std::string> commands = {"inspect", "quantize", "compare", "eval"};
  CHECK(NearestName("quantise", commands) == "quantize");
  CHECK(NearestName("quantizee", commands) == "quantize");
  CHECK(NearestName("evla", commands) == "eval");
  CHECK(NearestName("INSPECT", commands) == "inspect");
  CHECK_FALSE(NearestName("xylophone", commands).has_value());
  CHECK_FALSE(NearestName("", commands).has_value());
  CHECK_FALSE(NearestName("eval", std::vector<std::string>{}).has_value());
  const std::vector<std::string> tie = {"q4_0", "q4_1"};
  CHECK(NearestName("q4_2", tie) == "q4_0");
}

TEST_CASE("nearest to a pattern looks inside long names and through escapes") {
  const std::vector<std::string> names = {
      "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
      "model.layers.0.mlp.down_proj.weight", "model.layers.10.mlp.down_proj.weight"};
  CHECK(NearestToPattern("dwn_proj", names) == names[2]);
  CHECK(NearestToPattern("^model\\.embd_tokens\\.weight$", names) == names[0]);
  CHECK(NearestToPattern("layers\\.0\\.attn\\.q_proj", names) == names[1]);
  CHECK_FALSE(NearestToPattern("x", std::vector<std::string>{}).has_value());
}

TEST_CASE("very long words are cut, not chewed") {
  const std::string long_word(100'000, 'a');
  CHECK(EditDistance(long_word, long_word) == 0);
  CHECK(EditDistance(long_word, "aa") == 254);
}

}  // namespace
}  // namespace pennyweight
