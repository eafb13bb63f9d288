#include "formats/gguf_metadata.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <tuple>

#include "formats/gguf_rope.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

struct Key {
  std::string name;
  std::function<void(GgufBytes&, const std::string&)> write;
};

Key U32Key(std::string name, uint32_t value) {
  return {std::move(name), [=](GgufBytes& b, const std::string& k) { b.U32(k, value); }};
}
Key F32Key(std::string name, float value) {
  return {std::move(name), [=](GgufBytes& b, const std::string& k) { b.F32(k, value); }};
}
Key TextKey(std::string name, std::string value) {
  return {std::move(name), [=](GgufBytes& b, const std::string& k) { b.Text(k, value); }};
}
Key U32sKey(std::string name, std::vector<uint32_t> values) {
  return {std::move(name), [=](GgufBytes& b, const std::string& k) {
            b.ArrayStart(k, 4, values.size());
            for (const uint32_t v : values) b.Put(v);
          }};
}

// Everything a llama needs, in short.
std::vector<Key> LlamaKeys() {
  return {TextKey("general.architecture", "llama"),
          TextKey("general.name", "tiny"),
          U32Key("llama.block_count", 2),
          U32Key("llama.context_length", 512),
          U32Key("llama.embedding_length", 64),
          U32Key("llama.feed_forward_length", 96),
          U32Key("llama.attention.head_count", 4),
          U32Key("llama.attention.head_count_kv", 2),
          U32Key("llama.vocab_size", 40),
          F32Key("llama.attention.layer_norm_rms_epsilon", 1e-5f)};
}

std::vector<Key> With(Key changed) {
  std::vector<Key> keys = LlamaKeys();
  for (Key& key : keys) {
    if (key.name == changed.name) {
      key = std::move(changed);
      return keys;
    }
  }
  keys.push_back(std::move(changed));
  return keys;
}

std::vector<Key> Without(const std::string& name) {
  std::vector<Key> keys = LlamaKeys();
  std::erase_if(keys, [&](const Key& key) { return key.name == name; });
  return keys;
}

// Opens a file of these keys, with rope_freqs.weight if `factors`.
std::vector<GgufFile> Open(const TempFolder& temp, const std::vector<Key>& keys,
                           const std::vector<float>& factors = {}) {
  GgufBytes b;
  b.Start(factors.empty() ? 0 : 1, keys.size());
  for (const Key& key : keys) key.write(b, key.name);
  if (!factors.empty()) {
    b.Tensor(kRopeFreqsName, {static_cast<int64_t>(factors.size())}, 0, 0).Align();
    for (const float factor : factors) b.Put(factor);
  }
  WriteText(temp / "x.gguf", b.text);
  auto files = OpenGgufFiles(temp / "x.gguf");
  REQUIRE_MESSAGE(files.ok(), files.error().ToString());
  return std::move(files).value();
}

Status Read(const std::vector<Key>& keys, ModelConfig* config,
            const std::vector<float>& factors = {}) {
  const TempFolder temp;
  return ReadGgufConfig(Open(temp, keys, factors), config);
}

TEST_CASE("llama keys become a configuration") {
  ModelConfig config;
  REQUIRE(Read(LlamaKeys(), &config).ok());
  CHECK(config.family == "llama");
  CHECK(config.name == "tiny");
  CHECK(config.layers == 2);
  CHECK(config.context_length == 512);
  CHECK(config.hidden_size == 64);
  CHECK(config.intermediate_size == 96);
  CHECK(config.heads == 4);
  CHECK(config.kv_heads == 2);
  CHECK(config.head_dim == 16);
  CHECK(config.vocab_size == 40);
  CHECK(config.rms_norm_eps == 1e-5);
  CHECK(config.rope_theta == 10000.0);
  CHECK(config.rope_scaling.kind == RopeScaling::Kind::kNone);
  CHECK(config.tie_embeddings);  // no output.weight
}

TEST_CASE("optional keys and their defaults") {
  ModelConfig config;
  REQUIRE(Read(Without("llama.attention.head_count_kv"), &config).ok());
  CHECK(config.kv_heads == 4);
  REQUIRE(Read(With(U32sKey("llama.attention.head_count_kv", {2, 2})), &config).ok());
  CHECK(config.kv_heads == 2);
  auto keys = With(U32Key("llama.attention.key_length", 32));
  keys.push_back(U32Key("llama.attention.value_length", 32));
  keys.push_back(F32Key("llama.rope.freq_base", 500000.0f));
  keys.push_back(TextKey("llama.rope.scaling.type", "linear"));
  keys.push_back(F32Key("llama.rope.scaling.factor", 2.5f));
  config = {};
  REQUIRE(Read(keys, &config).ok());
  CHECK(config.head_dim == 32);
  CHECK(config.rope_theta == 500000.0);
  CHECK(config.rope_scaling.kind == RopeScaling::Kind::kLinear);
  CHECK(config.rope_scaling.factor == 2.5);
}

TEST_CASE("of what cannot be run, what chooses types is known all the same") {
  ModelConfig config;
  std::vector<Key> experts = With(TextKey("general.architecture", "qwen2"));
  experts.push_back(U32Key("qwen2.block_count", 2));
  experts.push_back(U32Key("qwen2.attention.head_count", 4));
  experts.push_back(U32Key("qwen2.attention.head_count_kv", 2));
  experts.push_back(U32Key("qwen2.expert_count", 8));
  const Status refused = Read(experts, &config);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kUnknownFamily);
  CHECK(refused.error().message.find("\"qwen2\" with experts") != std::string::npos);
  CHECK(config.layers == 2);
  CHECK(config.heads == 4);
  CHECK(config.kv_heads == 2);
  CHECK(config.experts == 8);
  CHECK(config.family.empty());
  config = {};
  std::vector<Key> keys = With(TextKey("general.architecture", "mamba"));
  keys.push_back(U32Key("mamba.block_count", 7));
  keys.push_back(U32Key("mamba.attention.head_count", 0));  // wrong: passed over
  CHECK(Read(keys, &config).error().code == ErrorCode::kUnknownFamily);
  CHECK(config.layers == 7);
  CHECK(config.heads == 0);
  CHECK(config.experts == 0);
}

TEST_CASE("what cannot be run is refused with its code") {
  struct Case {
    const char* what;
    std::vector<Key> keys;
    ErrorCode code;
  };
  const std::vector<Case> cases = {
      {"no architecture", Without("general.architecture"), ErrorCode::kConfigMissing},
      {"no layers", Without("llama.block_count"), ErrorCode::kConfigMissing},
      {"no epsilon", Without("llama.attention.layer_norm_rms_epsilon"), ErrorCode::kConfigMissing},
      {"other family", With(TextKey("general.architecture", "mamba")), ErrorCode::kUnknownFamily},
      {"experts, none used", With(U32Key("llama.expert_count", 8)), ErrorCode::kConfigMissing},
      {"10^9 experts", With(U32Key("llama.expert_count", 1000000000)), ErrorCode::kConfigInvalid},
      {"experts as text", With(TextKey("llama.expert_count", "8")), ErrorCode::kConfigInvalid},
      {"U38 10^9 layers", With(U32Key("llama.block_count", 1000000000)), ErrorCode::kConfigInvalid},
      {"0 heads", With(U32Key("llama.attention.head_count", 0)), ErrorCode::kConfigInvalid},
      {"3 key heads of 4", With(U32Key("llama.attention.head_count_kv", 3)),
       ErrorCode::kConfigInvalid},
      {"5 heads of 64", With(U32Key("llama.attention.head_count", 5)), ErrorCode::kConfigInvalid},
      {"layers as text", With(TextKey("llama.block_count", "2")), ErrorCode::kConfigInvalid},
      {"epsilon NaN", With(F32Key("llama.attention.layer_norm_rms_epsilon", std::nanf(""))),
       ErrorCode::kConfigInvalid},
      {"layers differ", With(U32sKey("llama.attention.head_count_kv", {2, 4})),
       ErrorCode::kUnsupported},
      {"partial rope", With(U32Key("llama.rope.dimension_count", 8)), ErrorCode::kUnsupported},
      {"yarn", With(TextKey("llama.rope.scaling.type", "yarn")), ErrorCode::kUnsupported},
      {"values of another size", With(U32Key("llama.attention.value_length", 32)),
       ErrorCode::kUnsupported},
      {"window as text", With(TextKey("llama.attention.sliding_window", "all")),
       ErrorCode::kConfigInvalid},
      {"shared experts", With(U32Key("llama.expert_shared_count", 1)), ErrorCode::kUnsupported},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    ModelConfig config;
    const Status status = Read(c.keys, &config);
    REQUIRE_FALSE(status.ok());
    CHECK_MESSAGE(status.error().code == c.code, status.error().ToString());
  }
}

TEST_CASE("rope factors are those of Llama 3.1, and lead back to its four numbers") {
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = 8.0;
  const std::vector<float> factors = Llama3RopeFactors(scaling, 500000.0, 128);
  REQUIRE(factors.size() == 64);
  // transformers' llama3 rope for Llama-3.1-8B: the plain frequencies divided by the scaled ones.
  CHECK(factors[28] == 1.0f);
  CHECK(factors[29] == doctest::Approx(1.20748).epsilon(1e-5));
  CHECK(factors[34] == doctest::Approx(5.25733).epsilon(1e-5));
  CHECK(factors[35] == 8.0f);
  for (const auto& [factor, low, high, context] :
       {std::tuple{8.0, 1.0, 4.0, 8192}, {32.0, 1.0, 4.0, 8192}, {4.0, 2.0, 16.0, 16384}}) {
    scaling.factor = factor;
    scaling.low_freq_factor = low;
    scaling.high_freq_factor = high;
    scaling.original_context_length = context;
    const auto made = Llama3RopeFactors(scaling, 500000.0, 128);
    const auto fitted = FitRopeFactors(made, 500000.0, 128);
    REQUIRE(fitted);
    CHECK(fitted->factor == factor);
    const auto again = Llama3RopeFactors(*fitted, 500000.0, 128);
    for (size_t i = 0; i < made.size(); ++i) CHECK(again[i] == doctest::Approx(made[i]));
    CHECK(fitted->high_freq_factor / fitted->low_freq_factor ==
          doctest::Approx(high / low).epsilon(1e-3));
  }
  std::vector<float> other = factors;
  other[30] *= 1.5f;
  CHECK_FALSE(FitRopeFactors(other, 500000.0, 128));
  other[30] = std::nanf("");
  CHECK_FALSE(FitRopeFactors(other, 500000.0, 128));
  CHECK_FALSE(FitRopeFactors(factors, 500000.0, 64));
  CHECK(FitRopeFactors(std::vector<float>(64, 1.0f), 500000.0, 128)->kind ==
        RopeScaling::Kind::kNone);
}

TEST_CASE("rope_freqs.weight is read as rope scaling") {
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.factor = 4.0;
  scaling.original_context_length = 1024;
  const auto factors = Llama3RopeFactors(scaling, 10000.0, 16);
  ModelConfig config;
  const Status status = Read(LlamaKeys(), &config, factors);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  CHECK(config.rope_scaling.kind == RopeScaling::Kind::kLlama3);
  CHECK(config.rope_scaling.factor == 4.0);
  const auto again = Llama3RopeFactors(config.rope_scaling, 10000.0, 16);
  for (size_t i = 0; i < factors.size(); ++i) CHECK(again[i] == doctest::Approx(factors[i]));
  CHECK(Read(LlamaKeys(), &config, {1, 2, 3}).error().code == ErrorCode::kUnsupported);
}

// A byte-fallback vocabulary in miniature.
struct Tokens {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>", "<0x0A>", "\xE2\x96\x81the", "a b"};
  std::vector<float> scores = {0, 0, 0, 0, -1.5f, -1000};
  std::vector<int32_t> types = {2, 3, 3, 6, 1, 4};
};

std::vector<Key> VocabularyKeys(const Tokens& tokens, const std::string& kind = "llama") {
  std::vector<Key> keys = {TextKey("tokenizer.ggml.model", kind)};
  keys.push_back({"tokenizer.ggml.tokens", [=](GgufBytes& b, const std::string& k) {
                    b.ArrayStart(k, 8, tokens.texts.size());
                    for (const auto& text : tokens.texts) b.Str(text);
                  }});
  keys.push_back({"tokenizer.ggml.scores", [=](GgufBytes& b, const std::string& k) {
                    b.ArrayStart(k, 6, tokens.scores.size());
                    for (const float score : tokens.scores) b.Put(score);
                  }});
  keys.push_back({"tokenizer.ggml.token_type", [=](GgufBytes& b, const std::string& k) {
                    b.ArrayStart(k, 5, tokens.types.size());
                    for (const int32_t type : tokens.types) b.Put(type);
                  }});
  return keys;
}

Result<Vocabulary> ReadTokens(std::vector<Key> keys, std::vector<Key> more = {}) {
  const TempFolder temp;
  keys.insert(keys.end(), more.begin(), more.end());
  return ReadGgufVocabulary(Open(temp, keys).front());
}

TEST_CASE("tokens, scores, types and special ids become a vocabulary") {
  const auto vocabulary = ReadTokens(
      VocabularyKeys(Tokens()),
      {U32Key("tokenizer.ggml.bos_token_id", 1), U32Key("tokenizer.ggml.eos_token_id", 2),
       U32Key("tokenizer.ggml.unknown_token_id", 0), U32Key("tokenizer.ggml.padding_token_id", ~0u),
       TextKey("tokenizer.chat_template", "{{ x }}")});
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  CHECK(vocabulary->kind == Vocabulary::Kind::kSentencePieceBpe);
  REQUIRE(vocabulary->tokens.size() == 6);
  CHECK(vocabulary->tokens[4].text == "\xE2\x96\x81the");
  CHECK(vocabulary->tokens[4].score == -1.5f);
  CHECK(vocabulary->tokens[3].type == TokenType::kByte);
  CHECK(vocabulary->tokens[5].text ==
        "a\xE2\x96\x81"
        "b");
  CHECK(vocabulary->bos_id == 1);
  CHECK(vocabulary->unk_id == 0);
  CHECK_FALSE(vocabulary->pad_id);
  CHECK(vocabulary->add_bos);
  CHECK_FALSE(vocabulary->add_eos);
  CHECK(vocabulary->add_space_prefix);
  CHECK_FALSE(vocabulary->byte_fallback);  // one byte token of 256
  CHECK(vocabulary->chat_template == "{{ x }}");
}

TEST_CASE("inconsistent vocabularies are refused") {
  std::vector<std::pair<const char*, Result<Vocabulary>>> cases;
  cases.emplace_back("none", ReadTokens(LlamaKeys()));
  cases.emplace_back("other kind", ReadTokens(VocabularyKeys(Tokens(), "bert")));
  Tokens t;
  t.scores.pop_back();
  cases.emplace_back("U37 a score too few", ReadTokens(VocabularyKeys(t)));
  t = Tokens();
  t.types.push_back(1);
  cases.emplace_back("U37 a type too many", ReadTokens(VocabularyKeys(t)));
  t = Tokens();
  t.types[4] = 7;
  cases.emplace_back("type 7", ReadTokens(VocabularyKeys(t)));
  t = Tokens();
  t.texts[3] = "<0x-1>";
  cases.emplace_back("a byte that becomes a negative index", ReadTokens(VocabularyKeys(t)));
  t = Tokens();
  t.scores[4] = std::nanf("");
  cases.emplace_back("score NaN", ReadTokens(VocabularyKeys(t)));
  cases.emplace_back("bos outside", ReadTokens(VocabularyKeys(Tokens()),
                                               {U32Key("tokenizer.ggml.bos_token_id", 6)}));
  for (const auto& [what, vocabulary] : cases) {
    CAPTURE(what);
    REQUIRE_FALSE(vocabulary.ok());
    CHECK(vocabulary.error().code == ErrorCode::kTokenizer);
  }
  CHECK(cases[1].second.error().message.find("bert") != std::string::npos);
}

// What AddVocabularyKeys wrote, as the reader sees it.
Result<Vocabulary> Rewrite(const Vocabulary& vocabulary, int64_t size, const TempFolder& temp) {
  GgufHeader header;
  PW_TRY(AddVocabularyKeys(vocabulary, size, &header));
  PW_TRY(header.Finish());
  WriteText(temp / "v.gguf", header.bytes());
  PW_ASSIGN(const GgufFile file, GgufFile::Open(temp / "v.gguf"));
  if (file.AsString(*file.Find("tokenizer.ggml.pre")) != "default") {
    return Error(ErrorCode::kTokenizer, "pre");
  }
  return ReadGgufVocabulary(file);
}

TEST_CASE("a vocabulary survives writing, padded or cut to the model's size") {
  const TempFolder temp;
  Vocabulary vocabulary = *ReadTokens(VocabularyKeys(Tokens()));
  vocabulary.bos_id = 1;
  vocabulary.pad_id = 2;
  vocabulary.add_bos = false;
  vocabulary.add_eos = true;
  vocabulary.add_space_prefix = false;
  vocabulary.remove_extra_whitespaces = true;
  const auto padded = Rewrite(vocabulary, 8, temp);
  REQUIRE_MESSAGE(padded.ok(), padded.error().ToString());
  REQUIRE(padded->tokens.size() == 8);
  for (size_t i = 0; i < 6; ++i) {
    CHECK(padded->tokens[i].text == vocabulary.tokens[i].text);
    CHECK(padded->tokens[i].score == vocabulary.tokens[i].score);
    CHECK(padded->tokens[i].type == vocabulary.tokens[i].type);
  }
  CHECK(padded->tokens[7].text == "[PAD7]");
  CHECK(padded->tokens[7].type == TokenType::kUnused);
  CHECK(padded->tokens[7].score == -10000.0f);
  CHECK(padded->bos_id == 1);
  CHECK(padded->pad_id == 2);
  CHECK_FALSE(padded->eos_id);
  CHECK_FALSE(padded->add_bos);
  CHECK(padded->add_eos);
  CHECK_FALSE(padded->add_space_prefix);
  CHECK(padded->remove_extra_whitespaces);
  CHECK(Rewrite(vocabulary, 5, temp)->tokens.size() == 5);
  CHECK(Rewrite(vocabulary, 2, temp).error().code == ErrorCode::kTokenizer);  // pad_id is 2
  CHECK(Rewrite(Vocabulary(), 8, temp).error().code == ErrorCode::kTokenizer);
}

TEST_CASE("a configuration survives writing") {
  const TempFolder temp;
  ModelConfig config;
  REQUIRE(Read(LlamaKeys(), &config).ok());
  config.head_dim = 32;
  config.rope_theta = 123456.0;
  config.rope_scaling.kind = RopeScaling::Kind::kLinear;
  config.rope_scaling.factor = 3.0;
  GgufHeader header;
  AddConfigKeys(*FindFamily("llama"), config, &header);
  REQUIRE(header.Finish().ok());
  WriteText(temp / "c.gguf", header.bytes());
  ModelConfig again;
  const auto files = OpenGgufFiles(temp / "c.gguf");
  const Status status = ReadGgufConfig(*files, &again);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  CHECK(again.name == config.name);
  CHECK(again.layers == config.layers);
  CHECK(again.context_length == config.context_length);
  CHECK(again.hidden_size == config.hidden_size);
  CHECK(again.intermediate_size == config.intermediate_size);
  CHECK(again.heads == config.heads);
  CHECK(again.kv_heads == config.kv_heads);
  CHECK(again.head_dim == 32);
  CHECK(again.vocab_size == config.vocab_size);
  CHECK(again.rms_norm_eps == config.rms_norm_eps);
  CHECK(again.rope_theta == 123456.0);
  CHECK(again.rope_scaling.kind == RopeScaling::Kind::kLinear);
  CHECK(again.rope_scaling.factor == 3.0);
}

TEST_CASE("real vocabulary files") {
  const std::string folder = PENNYWEIGHT_SOURCE_DIR "/../shared/gguf/";
  if (!PathExists(folder + "ggml-vocab-llama-spm.gguf")) {
    MESSAGE("SKIPPED: no " << folder << "ggml-vocab-llama-spm.gguf");
    return;
  }
  const auto spm = OpenGgufFiles(folder + "ggml-vocab-llama-spm.gguf");
  REQUIRE_MESSAGE(spm.ok(), spm.error().ToString());
  const auto vocabulary = ReadGgufVocabulary(spm->front());
  REQUIRE_MESSAGE(vocabulary.ok(), vocabulary.error().ToString());
  CHECK(vocabulary->tokens.size() == 32000);
  CHECK(vocabulary->tokens[13].text == "<0x0A>");
  CHECK(vocabulary->tokens[278].text == "\xE2\x96\x81the");
  CHECK(vocabulary->byte_fallback);
  CHECK(vocabulary->bos_id == 1);
  ModelConfig config;
  const Status status = ReadGgufConfig(*spm, &config);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  CHECK(config.layers == 32);
  CHECK(config.head_dim == 128);
  CHECK(config.rms_norm_eps == 1e-5);

  const auto gpt2 = OpenGgufFiles(folder + "ggml-vocab-gpt-2.gguf");
  REQUIRE(gpt2.ok());
  const auto bytes = ReadGgufVocabulary(gpt2->front());
  REQUIRE_MESSAGE(bytes.ok(), bytes.error().ToString());
  CHECK(bytes->kind == Vocabulary::Kind::kByteBpe);
  CHECK(bytes->pre_tokenizer == PreTokenizer::kGpt2);
  CHECK(bytes->tokens.size() == 50257);
  CHECK(bytes->merges.size() == 50000);
  CHECK(bytes->tokens[static_cast<size_t>(bytes->merges[0].result)].text == "\xC4\xA0t");
  CHECK(bytes->tokens[50256].type == TokenType::kControl);
  CHECK(ReadGgufConfig(*gpt2, &config).error().code == ErrorCode::kUnknownFamily);
  CHECK(gpt2->front().AsStrings(*gpt2->front().Find("tokenizer.ggml.merges"))->size() == 50000);
}

}  // namespace
}  // namespace pennyweight
