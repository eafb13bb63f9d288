#include "calib/tokenizer_bpe.h"

#include <fmt/format.h>

#include <thread>

#include "calib/tokenizer_text.h"
#include "formats/gguf_metadata.h"
#include "formats/gguf_reader.h"
#include "formats/hf_tokenizer.h"
#include "lib/pre_tokenizer.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

using Ids = std::vector<int32_t>;

Ids ToIds(const Json& array) {
  Ids ids;
  for (const Json& id : array.items()) ids.push_back(static_cast<int32_t>(*id.AsInteger()));
  return ids;
}

std::unique_ptr<Tokenizer> Make(const Vocabulary& vocabulary) {
  auto tokenizer = Tokenizer::Create(vocabulary);
  REQUIRE_MESSAGE(tokenizer.ok(), tokenizer.error().ToString());
  return std::move(tokenizer).value();
}

Vocabulary ReadFolder(const std::string& path) {
  auto vocabulary = ReadHfTokenizer(path, nullptr);
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  REQUIRE(vocabulary->kind == Vocabulary::Kind::kByteBpe);
  return std::move(vocabulary).value();
}

const std::string kTestData = std::string(PENNYWEIGHT_SOURCE_DIR) + "/testdata/tokenizer/";

Vocabulary SmallVocabulary() { return ReadFolder(kTestData + "byte-bpe"); }

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

TEST_CASE("byte BPE: ids are those of Hugging Face's tokenizers, for every variant") {
  const Json document = ReadJson(kTestData + "byte-bpe.json");
  REQUIRE(document.Find("variants")->items().size() == 7);
  size_t cases = 0, with_special = 0;
  for (const Json& variant : document.Find("variants")->items()) {
    CAPTURE(variant.Find("pre")->str());
    Vocabulary vocabulary = SmallVocabulary();
    const auto pre = PreTokenizerByName(variant.Find("pre")->str());
    REQUIRE(pre.has_value());
    vocabulary.pre_tokenizer = *pre;
    vocabulary.normalize_nfc = *variant.Find("nfc")->AsBool();
    vocabulary.ignore_merges = *variant.Find("ignore_merges")->AsBool();
    vocabulary.add_space_prefix = *variant.Find("add_prefix_space")->AsBool();
    const auto tokenizer = Make(vocabulary);
    for (const Json& test : variant.Find("cases")->items()) {
      const Json* text = test.Find("text");
      const std::string input = text ? text->str() : FromHex(test.Find("hex")->str());
      CAPTURE(input);
      const Ids ids = ToIds(*test.Find("ids"));
      CHECK(tokenizer->Encode(input) == ids);
      const Json* special = test.Find("special_ids");
      CHECK(tokenizer->EncodeSpecial(input) == (special ? ToIds(*special) : ids));
      ++cases;
      with_special += special != nullptr;
    }
  }
  CHECK(cases > 500);
  CHECK(with_special >= 7);
}

TEST_CASE("byte BPE: the vocabularies of Llama 3 and Qwen 3") {
  for (const char* name : {"llama3", "qwen3"}) {
    CAPTURE(name);
    const std::string folder = SharedPath(fmt::format("tokenizers/{}", name));
    const std::string vectors = SharedPath(fmt::format("tokenizers/vectors/{}.json", name));
    if (folder.empty() || vectors.empty()) return;
    const Vocabulary vocabulary = ReadFolder(folder);
    const auto tokenizer = Make(vocabulary);
    const Json document = ReadJson(vectors);
    CHECK(document.Find("cases")->items().size() == 47);
    for (const Json& test : document.Find("cases")->items()) {
      const std::string text = test.Find("text")->str();
      CAPTURE(text);
      Ids ids = tokenizer->Encode(text);
      CHECK(ids == ToIds(*test.Find("ids")));
      CHECK(tokenizer->Decode(ids) == test.Find("decoded")->str());
      if (vocabulary.add_bos) ids.insert(ids.begin(), static_cast<int32_t>(*vocabulary.bos_id));
      CHECK(ids == ToIds(*test.Find("ids_with_special")));
    }
  }
}

std::vector<std::string> Lines(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + separator.size();
  }
  return parts;
}

void CheckLlamaCpp(const std::string& name, const Vocabulary& vocabulary) {
  CAPTURE(name);
  const std::string in = SharedPath(fmt::format("gguf/ggml-vocab-{}.gguf.inp", name));
  const std::string out = SharedPath(fmt::format("gguf/ggml-vocab-{}.gguf.out", name));
  if (in.empty() || out.empty()) return;
  const auto texts = Lines(ReadAll(in), "\n__ggml_vocab_test__\n");
  const auto answers = Lines(ReadAll(out), "\n");
  REQUIRE(answers.size() >= texts.size());
  CHECK(texts.size() > 40);
  const auto tokenizer = Make(vocabulary);
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string ids;
    for (const int32_t id : tokenizer->Encode(texts[i])) ids += fmt::format(" {}", id);
    CAPTURE(texts[i]);
    CHECK(ids == answers[i]);
  }
}

TEST_CASE("byte BPE: llama.cpp's texts and ids") {
  const std::string gpt2 = SharedPath("gguf/ggml-vocab-gpt-2.gguf");
  if (gpt2.empty()) return;
  const auto files = OpenGgufFiles(gpt2);
  REQUIRE(files.ok());
  const auto vocabulary = ReadGgufVocabulary(files->front());
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  CheckLlamaCpp("gpt-2", *vocabulary);
  CheckLlamaCpp("llama-bpe", ReadFolder(SharedPath("tokenizers/llama3")));
  CheckLlamaCpp("qwen2", ReadFolder(SharedPath("tokenizers/qwen3")));
}

TEST_CASE("byte BPE: long words and long texts come back whole") {
  const Vocabulary vocabulary = SmallVocabulary();
  const auto tokenizer = Make(vocabulary);
  constexpr size_t kMegabyte = 1 << 20;
  // Quadratic work would take hours.
  std::string mixed;
  for (size_t i = 0; mixed.size() < kMegabyte; ++i) mixed += i % 3 == 0 ? " \n" : "   ";
  std::string marks = "a";
  while (marks.size() < kMegabyte) marks += "\xCC\x81\xCC\x96";  // of two classes, out of order
  for (const std::string& text :
       {std::string(kMegabyte, 'e'), std::string(kMegabyte, ' '), std::string(kMegabyte, '\n'),
        std::string(kMegabyte, '!'), std::string(kMegabyte, ' ') + "x", mixed}) {
    CHECK(tokenizer->Decode(tokenizer->Encode(text)) == text);
  }
  CHECK(tokenizer->Decode(tokenizer->Encode(marks)) == NormalizeNfc(marks));
  const Ids one = tokenizer->Encode("e"), two = tokenizer->Encode("ee");
  const Ids many = tokenizer->Encode(std::string(kMegabyte, 'e'));
  CHECK(many.size() == kMegabyte / (two.size() == 1 ? 2 : 1));
  CHECK(many.front() == (two.size() == 1 ? two : one).front());
}

TEST_CASE("byte BPE: every byte comes back, and many threads may encode at once") {
  Vocabulary vocabulary = SmallVocabulary();
  vocabulary.normalize_nfc = false;
  const auto tokenizer = Make(vocabulary);
  std::mt19937 random(7);
  std::string text;
  for (int i = 0; i < 20000; ++i) {
    const auto c = static_cast<uint32_t>(random() % (random() % 3 == 0 ? 0x110000 : 0x800));
    if (c >= 0xD800 && c < 0xE000) continue;
    const auto lead = [&](uint32_t bits, int shift) {
      text += static_cast<char>(bits | c >> shift);
    };
    const auto trail = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80) {
      lead(0, 0);
    } else if (c < 0x800) {
      lead(0xC0, 6), trail(0);
    } else if (c < 0x10000) {
      lead(0xE0, 12), trail(6), trail(0);
    } else {
      lead(0xF0, 18), trail(12), trail(6), trail(0);
    }
  }
  REQUIRE(IsUtf8(text));
  const Ids ids = tokenizer->Encode(text);
  CHECK(tokenizer->Decode(ids) == text);
  std::vector<Ids> found(4);
  std::vector<std::thread> threads;
  for (Ids& out : found) {
    threads.emplace_back([&] { out = tokenizer->Encode(text); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Ids& out : found) CHECK(out == ids);
  // Ids of no token print nothing; control tokens neither.
  CHECK(tokenizer->Decode({-1, 1 << 30, static_cast<int32_t>(*vocabulary.bos_id)}).empty());
}

TEST_CASE("byte BPE: words are those of a reading character by character") {
  // \s+(?!\S) leaves one space to the word behind it; the last newline ends a run of white space.
  Vocabulary v;
  v.kind = Vocabulary::Kind::kByteBpe;
  v.add_space_prefix = false;
  v.pre_tokenizer = PreTokenizer::kLlama3;
  v.ignore_merges = true;
  for (const char* text : {"a", "\xC4\xA0", "\xC4\x8A", "1",
                           "\xC4\xA0"
                           "a",
                           "\xC4\xA0\xC4\xA0", "111", "\xC4\xA0\xC4\x8A", "aa",
                           "\xC4\xA0\xC4\xA0"
                           "a"}) {
    v.tokens.push_back({text, 0, TokenType::kNormal});
  }
  const auto tokenizer = Make(v);
  CHECK(tokenizer->Encode("   a") == Ids{5, 4});
  CHECK(tokenizer->Encode(" \n a") == Ids{7, 4});
  CHECK(tokenizer->Encode("1111") == Ids{6, 3});
  CHECK(tokenizer->Encode("aaa") == Ids{0, 0, 0});  // no merges, and "aaa" is no token
  CHECK(tokenizer->Encode("aa") == Ids{8});
  CHECK(tokenizer->Encode("ab") == Ids{0});  // no token for "b": left out
}

TEST_CASE("byte BPE: vocabularies that cannot be run") {
  const auto refused = [](const Vocabulary& v) {
    const auto tokenizer = Tokenizer::Create(v);
    REQUIRE(!tokenizer.ok());
    CHECK(tokenizer.error().code == ErrorCode::kTokenizer);
    CHECK(!tokenizer.error().message.empty());
  };
  Vocabulary v;
  v.kind = Vocabulary::Kind::kByteBpe;
  refused(v);
  v.tokens.push_back({"ab", 0, TokenType::kNormal});
  refused(v);  // no byte
  v.tokens.push_back({"a", 0, TokenType::kNormal});
  CHECK(Tokenizer::Create(v).ok());
  for (const Merge& merge : {Merge{2, 1, 0}, Merge{1, -1, 0}, Merge{1, 1, 2}}) {
    v.merges = {merge};
    refused(v);
  }
}

TEST_CASE("NFC: composed, reordered, Hangul, and what stays") {
  const auto nfc = [](std::string_view text) { return NormalizeNfc(text); };
  CHECK(nfc("") == "");
  CHECK(nfc("plain") == "plain");
  CHECK(nfc("e\xCC\x81") == "\xC3\xA9");
  CHECK(nfc("a\xCC\x81\xCC\x96") == "\xC3\xA1\xCC\x96");  // the lower mark first, then composed
  CHECK(nfc("\xE2\x84\xAB") == "\xC3\x85");               // the Angstrom sign
  CHECK(nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8") == "\xEA\xB0\x81");
  CHECK(nfc("\xE0\xA5\x98") == "\xE0\xA4\x95\xE0\xA4\xBC");  // excluded from composition
  CHECK(nfc(std::string_view("a\0e\xCC\x81", 5)) == std::string_view("a\0\xC3\xA9", 4));
  // Across the blocks that a long text is cut into.
  for (const size_t front : {65534, 65535, 65536, 65537}) {
    CHECK(nfc(std::string(front, 'x') + "e\xCC\x81z") == std::string(front, 'x') + "\xC3\xA9z");
  }
  CHECK(ReplaceMalformed("a\xFF"
                         "b\xE2\x82") ==
        "a\xEF\xBF\xBD"
        "b\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace pennyweight
