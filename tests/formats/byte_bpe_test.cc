// Byte-level BPE through every file that holds it: tokenizer.json, GGUF, and back.
#include <doctest/doctest.h>

#include <algorithm>

#include "formats/gguf_metadata.h"
#include "formats/hf_tokenizer.h"
#include "formats/hf_tokenizer_writer.h"
#include "formats/tokenizer_json.h"
#include "lib/pre_tokenizer.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/model_files.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

using test::ScratchFolder;

constexpr const char* kQwen2 =
    R"x((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)x";

struct Parts {
  std::string normalizer = R"({"type": "NFC"})";
  std::string pre = fmt::format(R"({{"type": "Sequence", "pretokenizers": [
      {{"type": "Split", "pattern": {{"Regex": "{}"}}, "behavior": "Isolated", "invert": false}},
      {{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}}]}})",
                                kQwen2);
  std::string post = "null";
  std::string vocab = R"({"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "<|end|>": 5})";
  std::string merges = R"(["a b", ["Ġ", "ab"]])";
  std::string more;
  std::string added = R"([{"id": 5, "content": "<|end|>", "special": true, "normalized": false},
      {"id": 8, "content": "<tool> x", "special": false, "lstrip": true, "rstrip": false,
       "single_word": true, "normalized": true}])";
};

std::string TokenizerJson(const Parts& parts) {
  return fmt::format(R"({{"normalizer": {}, "pre_tokenizer": {}, "post_processor": {},
      "added_tokens": {}, "model": {{"type": "BPE", "vocab": {}, "merges": {}{}}}}})",
                     parts.normalizer, parts.pre, parts.post, parts.added, parts.vocab,
                     parts.merges, parts.more);
}

Result<Vocabulary> Read(const Parts& parts, const std::string& config = "") {
  const ScratchFolder folder;
  folder.Write("tokenizer.json", TokenizerJson(parts));
  if (!config.empty()) folder.Write("tokenizer_config.json", config);
  return ReadHfTokenizer(folder.path(), nullptr);
}

TEST_CASE("byte-level tokenizer.json: tokens, merges, steps, added tokens") {
  const auto v = Read(Parts());
  REQUIRE_MESSAGE(v.ok(), v.error().ToString());
  CHECK(v->kind == Vocabulary::Kind::kByteBpe);
  CHECK(v->pre_tokenizer == PreTokenizer::kQwen2);
  CHECK(v->normalize_nfc);
  CHECK_FALSE(v->ignore_merges);
  CHECK_FALSE(v->add_space_prefix);
  CHECK_FALSE(v->add_bos);
  CHECK(v->merges == std::vector<Merge>{{0, 1, 3}, {2, 3, 4}});
  REQUIRE(v->tokens.size() == 9);
  CHECK(v->tokens[4].text ==
        "\xC4\xA0"
        "ab");
  CHECK(v->tokens[4].type == TokenType::kNormal);
  CHECK(v->tokens[5].type == TokenType::kControl);
  CHECK_FALSE(v->tokens[5].normalized);
  CHECK(v->tokens[6].type == TokenType::kUnused);  // a hole
  CHECK(v->tokens[8].type == TokenType::kUserDefined);
  CHECK(v->tokens[8].strip_left);
  CHECK_FALSE(v->tokens[8].strip_right);
  CHECK(v->tokens[8].single_word);
  CHECK(v->tokens[8].normalized);
}

TEST_CASE("byte-level tokenizer.json: the steps that are known") {
  struct Case {
    const char* pre;
    PreTokenizer id;
  };
  for (const Case& c : std::vector<Case>{
           {R"({"type": "ByteLevel", "add_prefix_space": false})", PreTokenizer::kGpt2},
           {R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
               {"type": "ByteLevel", "use_regex": true}]})",
            PreTokenizer::kSmolLm}}) {
    Parts parts;
    parts.pre = c.pre;
    parts.normalizer = R"({"type": "Sequence", "normalizers": []})";
    parts.more = R"(, "ignore_merges": true)";
    const auto v = Read(parts);
    REQUIRE_MESSAGE(v.ok(), v.error().ToString());
    CHECK(v->pre_tokenizer == c.id);
    CHECK_FALSE(v->normalize_nfc);
    CHECK(v->ignore_merges);
  }
  Parts prefix;
  prefix.pre = R"({"type": "ByteLevel", "add_prefix_space": true})";
  CHECK(Read(prefix)->add_space_prefix);
}

TEST_CASE("byte-level tokenizer.json: BOS where the template or the configuration puts it") {
  Parts parts;
  parts.post = R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>"}},
       {"Sequence": {"id": "A"}}]}]})";
  CHECK(Read(parts, R"({"bos_token": "<|end|>"})")->add_bos);
  CHECK(Read(parts, R"({"bos_token": "<|end|>"})")->bos_id == 5);
  CHECK_FALSE(Read(parts, R"({"bos_token": "<|end|>", "add_bos_token": false})")->add_bos);
  CHECK(Read(parts)->add_bos);  // no file calls it BOS, but the template has it in front
  CHECK(Read(parts)->bos_id == 5);
  CHECK_FALSE(Read(parts, R"({"bos_token": "ab"})")->add_bos);
  CHECK_FALSE(Read(Parts(), R"({"bos_token": "<|end|>"})")->add_bos);
  // tokenizer.json decides, whatever the configuration says of it.
  CHECK_FALSE(Read(Parts(), R"({"add_prefix_space": true})")->add_space_prefix);
}

TEST_CASE("byte-level tokenizers that cannot be run are refused by name") {
  struct Case {
    const char* id;
    Parts parts;
    const char* says;
  };
  const auto pre = [](const std::string& text) {
    Parts parts;
    parts.pre = text;
    return parts;
  };
  const auto model = [](const std::string& more) {
    Parts parts;
    parts.more = ", " + more;
    return parts;
  };
  const auto merges = [](const std::string& text) {
    Parts parts;
    parts.merges = text;
    return parts;
  };
  const auto split = [&](const std::string& step) {
    return pre(R"({"type": "Sequence", "pretokenizers": [)" + step +
               R"(, {"type": "ByteLevel", "use_regex": false}]})");
  };
  Parts lowercase;
  lowercase.normalizer = R"({"type": "Lowercase"})";
  const std::vector<Case> cases = {
      // A pattern that would take exponential time is not even compiled.
      {"unknown pattern",
       split(R"({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})"),
       "splits text by (a+)+$"},
      {"no pattern", pre(R"({"type": "ByteLevel", "use_regex": false})"), "nothing"},
      {"a string",
       split(R"({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"})"),
       "Split, ByteLevel"},
      {"removed",
       split(R"({"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Removed"})"),
       "Split, ByteLevel"},
      {"inverted",
       split(
           R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": true})"),
       "Split, ByteLevel"},
      {"punctuation", split(R"({"type": "Punctuation"})"), "Punctuation"},
      {"not last",
       pre(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})"),
       "ByteLevel, Digits"},
      {"prefix of each word",
       pre(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
           {"type": "ByteLevel", "add_prefix_space": true}]})"),
       "Digits"},
      {"lowercase", lowercase, "Lowercase"},
      {"dropout", model(R"("dropout": 0.1)"), "dropout"},
      {"unknown token", model(R"("unk_token": "a")"), "256"},
      {"byte fallback", model(R"("byte_fallback": true)"), "256"},
      {"suffix", model(R"("end_of_word_suffix": "</w>")"), "end_of_word_suffix"},
      {"no left", merges(R"(["x b"])"), "\"x\" of merge 0"},
      {"no right", merges(R"(["a b", "a x"])"), "\"x\" of merge 1"},
      {"no result", merges(R"(["b a"])"), "\"ba\" of merge 0"},
      {"three", merges(R"(["a b c"])"), "pair"},
      {"numbers", merges(R"([[0, 1]])"), "pair"},
      {"an object", merges("{}"), "merges"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.id);
    const auto v = Read(wrong.parts);
    REQUIRE_FALSE(v.ok());
    CAPTURE(v.error().message);
    CHECK(v.error().code == ErrorCode::kTokenizer);
    CHECK(v.error().message.find(wrong.says) != std::string::npos);
    CHECK(v.error().file.ends_with("tokenizer.json"));
  }
  CHECK(Read(split(R"({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"})"))
            .error()
            .hint.find("llama-bpe") != std::string::npos);
  const ScratchFolder folder;
  folder.Write("vocab.json", "{}");
  CHECK(ReadHfTokenizer(folder.path(), nullptr).error().hint.find("save_pretrained") !=
        std::string::npos);
}

void CheckSame(const Vocabulary& a, const Vocabulary& b) {
  REQUIRE(a.tokens.size() <= b.tokens.size());
  for (size_t id = 0; id < a.tokens.size(); ++id) {
    CAPTURE(id);
    CHECK(a.tokens[id].text == b.tokens[id].text);
    CHECK(a.tokens[id].type == b.tokens[id].type);
  }
  CHECK(a.kind == b.kind);
  CHECK(a.merges == b.merges);
  CHECK(a.pre_tokenizer == b.pre_tokenizer);
  CHECK(a.ignore_merges == b.ignore_merges);
  CHECK(a.normalize_nfc == b.normalize_nfc);
  CHECK(a.add_space_prefix == b.add_space_prefix);
  CHECK(a.bos_id == b.bos_id);
  CHECK(a.eos_id == b.eos_id);
  CHECK(a.add_bos == b.add_bos);
  CHECK(a.add_eos == b.add_eos);
  CHECK(a.chat_template == b.chat_template);
}

// What is written into GGUF metadata, as the file that holds them.
Result<GgufFile> ToGguf(const Vocabulary& vocabulary, int64_t size, const TempFolder& temp) {
  GgufHeader header;
  PW_TRY(AddVocabularyKeys(vocabulary, size, &header));
  PW_TRY(header.Finish());
  WriteText(temp / "v.gguf", header.bytes());
  return GgufFile::Open(temp / "v.gguf");
}

TEST_CASE("a byte-level vocabulary goes through GGUF, and through a folder, with every field") {
  for (const PreTokenizerRow& row : PreTokenizers()) {
    CAPTURE(row.gguf_names.front());
    Vocabulary v = *Read(Parts());
    v.pre_tokenizer = row.id;
    v.ignore_merges = row.ignore_merges;
    v.normalize_nfc = row.normalize_nfc;
    v.bos_id = 5;
    v.add_bos = row.add_bos;
    v.eos_id = 5;
    v.add_eos = !row.add_bos;
    v.chat_template = "{{ \"x\" }}";
    const TempFolder temp;
    const auto file = ToGguf(v, 11, temp);
    REQUIRE_MESSAGE(file.ok(), file.error().ToString());
    CHECK(file->AsString(*file->Find("tokenizer.ggml.model")) == "gpt2");
    CHECK(file->AsString(*file->Find("tokenizer.ggml.pre")) == row.gguf_names.front());
    CHECK(file->Find("tokenizer.ggml.scores") == nullptr);
    CHECK(file->AsStrings(*file->Find("tokenizer.ggml.merges")) ==
          std::vector<std::string_view>{"a b", "\xC4\xA0 ab"});
    const auto read = ReadGgufVocabulary(*file);
    REQUIRE_MESSAGE(read.ok(), read.error().ToString());
    CHECK(read->tokens.size() == 11);
    CHECK(read->tokens[10].text == "[PAD10]");
    CHECK(read->tokens[10].type == TokenType::kUnused);
    CheckSame(v, *read);

    const auto files = TokenizerFiles(v);
    REQUIRE_MESSAGE(files.ok(), files.error().ToString());
    REQUIRE(files->size() == 2);
    CHECK((*files)[0].first == "tokenizer.json");
    const ScratchFolder folder;
    for (const auto& [name, contents] : *files) folder.Write(name, contents);
    const auto again = ReadHfTokenizer(folder.path(), nullptr);
    REQUIRE_MESSAGE(again.ok(), again.error().ToString());
    CheckSame(v, *again);
    CHECK(again->tokens[8].strip_left);
    CHECK(again->tokens[8].single_word);
    CHECK(again->tokens[8].normalized);
    // The template of tokenizer.json says the same of BOS and EOS by itself.
    const std::string config = (*files)[1].second;
    const auto drop = [](std::string text, const std::string& line) {
      text.erase(text.find(line), line.size());
      return text;
    };
    folder.Write("tokenizer_config.json",
                 drop(drop(config, fmt::format("\"add_bos_token\": {},", v.add_bos)),
                      fmt::format("\"add_eos_token\": {},", v.add_eos)));
    const auto by_template = ReadHfTokenizer(folder.path(), nullptr);
    REQUIRE_MESSAGE(by_template.ok(), by_template.error().ToString());
    CHECK(by_template->add_bos == v.add_bos);
    CHECK(by_template->add_eos == v.add_eos);
  }
}

TEST_CASE("what llama.cpp's converter takes for control tokens is written as such") {
  Vocabulary v = *Read(Parts());
  v.tokens[8].text = "<|fim_pad|>";
  const TempFolder temp;
  const auto file = ToGguf(v, 9, temp);
  REQUIRE(file.ok());
  CHECK(ReadGgufVocabulary(*file)->tokens[8].type == TokenType::kControl);
  // A space before all text has no form there, and merges need their tokens.
  CHECK(ToGguf(v, 4, temp).error().code == ErrorCode::kTokenizer);
  v.add_space_prefix = true;
  CHECK(ToGguf(v, 9, temp).error().code == ErrorCode::kTokenizer);
}

TEST_CASE("vocabularies that tokenizer.json cannot hold are refused") {
  const auto refused = [](const Vocabulary& v) {
    const auto files = TokenizerFiles(v);
    REQUIRE_FALSE(files.ok());
    CHECK(files.error().code == ErrorCode::kTokenizer);
    CHECK(files.error().message.find("tokenizer.json") != std::string::npos);
    CHECK_FALSE(files.error().hint.empty());
  };
  const Vocabulary good = *Read(Parts());
  REQUIRE(TokenizerFiles(good).ok());
  Vocabulary v = good;
  v.tokens[0].text = "\xFF";
  refused(v);
  v = good;
  v.tokens[3].text = "b";  // twice
  refused(v);
  v = good;
  v.tokens[3].type = TokenType::kUnused;  // a merge makes it
  refused(v);
  v = good;
  v.merges.push_back({0, 1, 99});
  refused(v);
  v = good;
  v.merges.push_back({1, 0, 3});  // "ba" is not token 3
  refused(v);
  v = good;
  v.pre_tokenizer = PreTokenizer::kQwen2;
  v.add_space_prefix = true;
  refused(v);
}

struct GgufParts {
  std::string model = "gpt2";
  const char* pre = "gpt-2";
  std::vector<std::string> tokens = {"a", "b", "\xC4\xA0", "ab", "<|end|>"};
  std::vector<int32_t> types = {1, 1, 1, 1, 3};
  std::vector<std::string> merges = {"a b"};
  bool has_merges = true;
};

Result<Vocabulary> ReadGguf(const GgufParts& parts) {
  const int keys = 3 + (parts.pre != nullptr) + parts.has_merges;
  GgufBytes bytes;
  bytes.Start(0, keys);
  bytes.Text("tokenizer.ggml.model", parts.model);
  if (parts.pre != nullptr) bytes.Text("tokenizer.ggml.pre", parts.pre);
  bytes.ArrayStart("tokenizer.ggml.tokens", 8, parts.tokens.size());
  for (const std::string& text : parts.tokens) bytes.Str(text);
  bytes.ArrayStart("tokenizer.ggml.token_type", 5, parts.types.size());
  for (const int32_t type : parts.types) bytes.Put(type);
  if (parts.has_merges) {
    bytes.ArrayStart("tokenizer.ggml.merges", 8, parts.merges.size());
    for (const std::string& text : parts.merges) bytes.Str(text);
  }
  const ScratchFolder folder;
  PW_ASSIGN(const GgufFile file, GgufFile::Open(folder.Write("v.gguf", bytes.text)));
  return ReadGgufVocabulary(file);
}

TEST_CASE("byte-level vocabularies of GGUF files: defaults, and what is refused") {
  const auto v = ReadGguf(GgufParts());
  REQUIRE_MESSAGE(v.ok(), v.error().ToString());
  CHECK(v->merges == std::vector<Merge>{{0, 1, 3}});
  CHECK_FALSE(v->add_bos);
  CHECK_FALSE(v->add_space_prefix);
  GgufParts parts;
  parts.pre = nullptr;
  CHECK(ReadGguf(parts)->pre_tokenizer == PreTokenizer::kDefault);
  parts.pre = "";
  CHECK(ReadGguf(parts)->pre_tokenizer == PreTokenizer::kDefault);
  parts.pre = "llama-v3";
  CHECK(ReadGguf(parts)->pre_tokenizer == PreTokenizer::kLlama3);
  CHECK(ReadGguf(parts)->ignore_merges);
  CHECK(ReadGguf(parts)->add_bos);
  // Of a pair that is there twice, the first counts; its place in the order too.
  parts.merges = {"a b", "b a", "a b"};
  parts.tokens.push_back("ba");
  parts.types.push_back(1);
  CHECK(ReadGguf(parts)->merges == std::vector<Merge>{{0, 1, 3}, {1, 0, 5}});

  const auto refused = [](const GgufParts& wrong, const char* says) {
    const auto read = ReadGguf(wrong);
    REQUIRE_FALSE(read.ok());
    CAPTURE(read.error().message);
    CHECK(read.error().code == ErrorCode::kTokenizer);
    CHECK(read.error().message.find(says) != std::string::npos);
  };
  GgufParts wrong;
  wrong.pre = "deepseek-v3";
  refused(wrong, "deepseek-v3");
  CHECK(ReadGguf(wrong).error().hint.find("qwen2") != std::string::npos);
  wrong = GgufParts();
  wrong.model = "bert";
  refused(wrong, "bert");
  wrong = GgufParts();
  wrong.has_merges = false;
  refused(wrong, "merges");
  for (const char* merge : {"ab", "a x", "x b", "b a", "", " ", "a"}) {
    CAPTURE(merge);
    wrong = GgufParts();
    wrong.merges = {"a b", merge};
    refused(wrong, "merge 1");
  }
  wrong = GgufParts();
  wrong.types.pop_back();
  refused(wrong, "types");
}

TEST_CASE("the vocabularies of real models survive both ways") {
  const std::string shared = test::SharedFolder();
  if (shared.empty()) {
    MESSAGE("SKIPPED: ../shared is not there");
    return;
  }
  for (const char* name : {"llama3", "qwen3"}) {
    CAPTURE(name);
    const auto v = ReadHfTokenizer(fmt::format("{}/tokenizers/{}", shared, name), nullptr);
    REQUIRE_MESSAGE(v.ok(), v.error().ToString());
    CHECK(v->tokens.size() == (std::string(name) == "llama3" ? 128256 : 151669));
    const TempFolder temp;
    const auto file = ToGguf(*v, 151936, temp);
    REQUIRE_MESSAGE(file.ok(), file.error().ToString());
    const auto read = ReadGgufVocabulary(*file);
    REQUIRE_MESSAGE(read.ok(), read.error().ToString());
    CHECK(read->tokens.size() == 151936);
    CHECK(read->merges == v->merges);
    CHECK(read->pre_tokenizer == v->pre_tokenizer);
    CHECK(read->normalize_nfc == v->normalize_nfc);
    CHECK(read->ignore_merges == v->ignore_merges);
    const auto files = TokenizerFiles(*read);
    REQUIRE_MESSAGE(files.ok(), files.error().ToString());
  }
}

}  // namespace
}  // namespace pennyweight
