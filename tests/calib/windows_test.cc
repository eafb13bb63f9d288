#include "calib/windows.h"

#include <algorithm>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

// Letters are their own ids; nothing is put in front.
class LetterTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text) const override {
    return {text.begin(), text.end()};
  }
  std::string Decode(const std::vector<int32_t>& ids) const override {
    return {ids.begin(), ids.end()};
  }
};

Vocabulary WithBos() {
  Vocabulary vocabulary;
  vocabulary.bos_id = 1;
  return vocabulary;
}

Vocabulary WithoutBos() {
  Vocabulary vocabulary = WithBos();
  vocabulary.add_bos = false;
  return vocabulary;
}

Result<Windows> Cut(const Vocabulary& vocabulary, std::string_view text,
                    const WindowOptions& options) {
  return MakeWindows(LetterTokenizer(), vocabulary, text, options);
}

std::string Show(const Windows& windows) {
  std::string out;
  size_t at = 0;
  for (size_t w = 0; w < windows.lengths.size(); ++w) {
    for (int64_t i = 0; i < windows.lengths[w]; ++i) {
      const int32_t id = windows.ids[at++];
      out += id == 1 ? '^' : static_cast<char>(id);
    }
    out += '|';
  }
  CHECK(at == windows.ids.size());
  return out;
}

TEST_CASE("windows: one stream behind BOS, full windows, the rest dropped") {
  const auto windows = Cut(WithBos(), "abcdefghijkl", {4, {}, {}});
  REQUIRE(windows.ok());
  CHECK(Show(*windows) == "^abc|^efg|^ijk|");
  // The logits of positions 2 .. N-2 are judged, as llama.cpp does: only the last id here.
  CHECK(windows->first_scored == std::vector<int64_t>{3, 3, 3});
}

TEST_CASE("windows: without BOS no id is replaced") {
  const auto windows = Cut(WithoutBos(), "abcdefghij", {5, {}, {}});
  REQUIRE(windows.ok());
  CHECK(Show(*windows) == "abcde|fghij|");
  CHECK(windows->first_scored == std::vector<int64_t>{3, 3});
}

TEST_CASE("windows: the second half of 512 is 255 predictions") {
  const auto windows = Cut(WithBos(), std::string(1023, 'x'), {512, {}, {}});
  REQUIRE(windows.ok());
  CHECK(windows->lengths.size() == 2);
  CHECK(windows->lengths[0] - windows->first_scored[0] == 255);
}

TEST_CASE("windows: a limit on tokens keeps whole windows") {
  const auto windows = Cut(WithBos(), std::string(100, 'x'), {10, 39, {}});
  REQUIRE(windows.ok());
  CHECK(windows->lengths.size() == 3);
  CHECK(windows->tokens() == 30);
}

TEST_CASE("windows: fewer than two are an error") {
  for (const auto& [text, max] : std::vector<std::pair<std::string, std::optional<int64_t>>>{
           {"", {}}, {"abcdef", {}}, {std::string(100, 'x'), 7}, {std::string(100, 'x'), -5}}) {
    const auto windows = Cut(WithBos(), text, {4, max, {}});
    REQUIRE(!windows.ok());
    CHECK(windows.error().code == ErrorCode::kTextTooShort);
    CHECK(!windows.error().hint.empty());
  }
  CHECK(Cut(WithBos(), "abcdefg", {4, {}, {}}).ok());
}

TEST_CASE("windows: documents stand alone, in runs behind BOS, blank ones dropped") {
  const WindowOptions options{4, {}, "##"};
  const auto windows = Cut(WithBos(), "abcdefg## \n ##h\n####ij#", options);
  REQUIRE(windows.ok());
  CHECK(Show(*windows) == "^abc|^def|^g|^h\n|^ij#|");
  CHECK(std::ranges::all_of(windows->first_scored, [](int64_t f) { return f == 1; }));
}

TEST_CASE("windows: documents without BOS; a run of one predicts nothing") {
  const auto windows = Cut(WithoutBos(), "abcde##f", {4, {}, "##"});
  REQUIRE(windows.ok());
  CHECK(Show(*windows) == "abcd|");
}

TEST_CASE("windows: documents up to a limit on tokens") {
  WindowOptions options{4, 7, "##"};
  const auto windows = Cut(WithBos(), "abcd##efgh", options);
  REQUIRE(windows.ok());
  CHECK(Show(*windows) == "^abc|^d|");
  options.max_tokens = 3;
  const auto none = Cut(WithBos(), "abcd##efgh", options);
  REQUIRE(!none.ok());
  CHECK(none.error().code == ErrorCode::kTextTooShort);
}

TEST_CASE("windows: options that make no sense") {
  const auto blank = Cut(WithBos(), " \n## ", {4, {}, "##"});
  REQUIRE(!blank.ok());
  CHECK(blank.error().code == ErrorCode::kTextTooShort);
  const auto empty = Cut(WithBos(), "abc", {4, {}, ""});
  REQUIRE(!empty.ok());
  CHECK(empty.error().code == ErrorCode::kUsage);
  const auto tiny = Cut(WithBos(), "abcdef", {1, {}, {}});
  REQUIRE(!tiny.ok());
  CHECK(tiny.error().code == ErrorCode::kUsage);
}

TEST_CASE("windows: the number of scored tokens of the reference models") {
  for (const char* name : {"stories260K", "babyllama105", "pd-llama-4M"}) {
    CAPTURE(name);
    const auto model = TestModel::Open(name);
    if (!model) return;
    const Json& eval = *model->reference.Find("eval");
    const std::string path = SharedPath("text/" + eval.Find("file")->str());
    if (path.empty()) return;
    const std::string text = FirstDocuments(ReadAll(path), eval);
    const auto tokenizer = Tokenizer::Create(model->vocabulary);
    REQUIRE(tokenizer.ok());
    const auto windows = MakeWindows(**tokenizer, model->vocabulary, text,
                                     {.context = *eval.Find("window")->AsInteger(),
                                      .max_tokens = std::nullopt,
                                      .separator = eval.Find("separator")->str()});
    REQUIRE(windows.ok());
    CHECK(static_cast<int64_t>(ScoredPositions(*windows).size()) ==
          *eval.Find("tokens")->AsInteger());
  }
}

}  // namespace
}  // namespace pennyweight
