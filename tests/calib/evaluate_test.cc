#include "calib/evaluate.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "calib/generate.h"
#include "calib/tokenizer.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

std::vector<int32_t> Ids(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.items()) ids.push_back(static_cast<int32_t>(*id.AsInteger()));
  return ids;
}

Windows RandomWindows(unsigned seed, std::vector<int64_t> lengths, int vocabulary) {
  std::mt19937 random(seed);
  Windows windows;
  for (const int64_t n : lengths) {
    for (int64_t i = 0; i < n; ++i) {
      windows.ids.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary)));
    }
    windows.first_scored.push_back(n % 2 == 0 ? n / 2 + 1 : 1);
  }
  windows.lengths = std::move(lengths);
  return windows;
}

double LogSumExp(const float* logits, size_t n) {
  double max = -1e300, sum = 0;
  for (size_t i = 0; i < n; ++i) max = std::max(max, static_cast<double>(logits[i]));
  for (size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]) - max);
  return max + std::log(sum);
}

TEST_CASE("evaluate: logits behind the prompt are the reference's") {
  for (const auto& [name, tolerance] :
       std::vector<std::pair<std::string, double>>{{"stories260K", 1e-3},
                                                   {"babyllama105", 1e-3},
                                                   {"pd-llama-4M", 2e-2},
                                                   {"pd-qwen2-4M", 2e-4},
                                                   {"pd-mixtral-4M", 2e-4}}) {
    CAPTURE(name);
    const auto model = TestModel::Open(name);
    if (!model) return;
    const std::vector<int32_t> ids = Ids(*model->reference.Find("prompt_ids"));
    const auto logits = ContextLogits({}, model->Runnable(), ids);
    REQUIRE(logits.ok());
    const auto vocabulary = static_cast<size_t>(model->config.vocab_size);
    REQUIRE(logits->size() == ids.size() * vocabulary);
    const Json& want = *model->reference.Find("last_logits");
    REQUIRE(want.items().size() == vocabulary);
    double worst = 0;
    for (size_t i = 0; i < vocabulary; ++i) {
      const double got = static_cast<double>((*logits)[(ids.size() - 1) * vocabulary + i]);
      worst = std::max(worst, std::abs(got - *want.items()[i].AsDouble()));
    }
    MESSAGE(name << ": largest difference of a logit " << worst);
    CHECK(worst < tolerance);
  }
}

TEST_CASE("evaluate: negative log-likelihood of a text is the reference's") {
  for (const char* name :
       {"stories260K", "babyllama105", "pd-llama-4M", "pd-qwen2-4M", "pd-mixtral-4M"}) {
    CAPTURE(name);
    const auto model = TestModel::Open(name);
    if (!model) return;
    const Json& eval = *model->reference.Find("eval");
    const std::string path = SharedPath("text/" + eval.Find("file")->str());
    if (path.empty()) return;
    const auto tokenizer = Tokenizer::Create(model->vocabulary);
    REQUIRE(tokenizer.ok());
    const auto windows =
        MakeWindows(**tokenizer, model->vocabulary, FirstDocuments(ReadAll(path), eval),
                    {*eval.Find("window")->AsInteger(), {}, eval.Find("separator")->str()});
    REQUIRE(windows.ok());
    Context context;
    context.threads = 2;
    const auto scores = Evaluate(context, model->Runnable(), nullptr, *windows, "");
    REQUIRE(scores.ok());
    const double want = *eval.Find("nll_sum")->AsDouble();
    MESSAGE(std::string(name) << ": nll " << scores->nll_sum << ", reference " << want);
    CHECK(scores->tokens == *eval.Find("tokens")->AsInteger());
    CHECK(scores->nll_sum == doctest::Approx(want).epsilon(2e-5));
    CHECK(scores->perplexity == doctest::Approx(*eval.Find("ppl")->AsDouble()).epsilon(1e-4));
    CHECK(!scores->reference);
  }
}

TEST_CASE("evaluate: greedy continuation is the reference's") {
  for (const char* name :
       {"stories260K", "babyllama105", "pd-llama-4M", "pd-qwen2-4M", "pd-mixtral-4M"}) {
    CAPTURE(name);
    const auto model = TestModel::Open(name);
    if (!model) return;
    const auto tokenizer = Tokenizer::Create(model->vocabulary);
    REQUIRE(tokenizer.ok());
    std::vector<int32_t> ids = Ids(*model->reference.Find("prompt_ids"));
    const auto generation = Generate({}, model->Runnable(), ids, 32, std::vector<int32_t>{1, 2});
    REQUIRE(generation.ok());
    REQUIRE(generation->top.size() == kTopTokens);
    CHECK(generation->top[0].id == generation->ids[0]);
    ids.insert(ids.end(), generation->ids.begin(), generation->ids.end());
    CHECK((*tokenizer)->Decode(ids) == model->reference.Find("greedy_32")->str());
    // Without room for its layers in memory the model says the same.
    Context small;
    small.memory_limit = 1;
    const auto again =
        Generate(small, model->Runnable(), Ids(*model->reference.Find("prompt_ids")), 4, {});
    REQUIRE(again.ok());
    CHECK(std::equal(again->ids.begin(), again->ids.end(), generation->ids.begin()));
  }
}

TEST_CASE("evaluate: scores against a reference follow from both models' logits") {
  const TestModel a = RandomModel(1, true);
  TestModel b = RandomModel(1, true);
  std::vector<uint8_t>& bytes = b.source->data("model.layers.1.mlp.up_proj.weight");
  for (size_t i = 0; i < bytes.size(); i += sizeof(float)) {
    float v;
    std::memcpy(&v, bytes.data() + i, sizeof(float));
    v += (i / 4 % 3 == 0) ? 0.05f : -0.02f;
    std::memcpy(bytes.data() + i, &v, sizeof(float));
  }
  const Windows windows = RandomWindows(8, {40, 7, 130, 1, 64}, 5000);
  const RunnableModel reference = b.Runnable();
  const auto scores = Evaluate({}, a.Runnable(), &reference, windows, "");
  REQUIRE(scores.ok());
  REQUIRE(scores->reference);
  std::vector<double> nll, reference_nll, kl;
  int64_t agreed = 0, start = 0;
  std::vector<double> window_kl;
  for (size_t w = 0; w < windows.lengths.size(); ++w) {
    const auto ids =
        std::span(windows.ids)
            .subspan(static_cast<size_t>(start), static_cast<size_t>(windows.lengths[w]));
    start += windows.lengths[w];
    const auto la = ContextLogits({}, a.Runnable(), ids);
    const auto lb = ContextLogits({}, b.Runnable(), ids);
    REQUIRE(la.ok());
    REQUIRE(lb.ok());
    double sum = 0;
    const size_t before = kl.size();
    for (size_t p = static_cast<size_t>(windows.first_scored[w]); p < ids.size(); ++p) {
      const float* x = la->data() + (p - 1) * 5000;
      const float* y = lb->data() + (p - 1) * 5000;
      const double zx = LogSumExp(x, 5000), zy = LogSumExp(y, 5000);
      nll.push_back(zx - static_cast<double>(x[ids[p]]));
      reference_nll.push_back(zy - static_cast<double>(y[ids[p]]));
      double divergence = 0;
      for (size_t i = 0; i < 5000; ++i) {
        const double ly = static_cast<double>(y[i]) - zy, lx = static_cast<double>(x[i]) - zx;
        divergence += std::exp(ly) * (ly - lx);
      }
      kl.push_back(divergence);
      sum += divergence;
      if (std::max_element(x, x + 5000) - x == std::max_element(y, y + 5000) - y) ++agreed;
    }
    if (kl.size() > before) window_kl.push_back(sum / static_cast<double>(kl.size() - before));
  }
  const auto mean = [](const std::vector<double>& v) {
    double s = 0;
    for (const double x : v) s += x;
    return s / static_cast<double>(v.size());
  };
  const auto n = static_cast<double>(kl.size());
  CHECK(scores->tokens == static_cast<int64_t>(kl.size()));
  CHECK(scores->nll_sum == doctest::Approx(mean(nll) * n).epsilon(1e-6));
  CHECK(scores->perplexity == doctest::Approx(std::exp(mean(nll))).epsilon(1e-6));
  double variance = 0;
  for (const double x : nll) variance += (x - mean(nll)) * (x - mean(nll)) / n;
  CHECK(scores->perplexity_stderr ==
        doctest::Approx(std::exp(mean(nll)) * std::sqrt(variance / (n - 1))).epsilon(1e-5));
  const ReferenceScores& r = *scores->reference;
  CHECK(r.nll_sum == doctest::Approx(mean(reference_nll) * n).epsilon(1e-6));
  CHECK(mean(kl) > 1e-4);
  CHECK(r.kl_mean == doctest::Approx(mean(kl)).epsilon(1e-3));
  REQUIRE(r.window_kl.size() == window_kl.size());
  for (size_t i = 0; i < window_kl.size(); ++i) {
    CHECK(r.window_kl[i] == doctest::Approx(window_kl[i]).epsilon(2e-3));
  }
  std::sort(kl.begin(), kl.end());
  CHECK(r.kl_max == doctest::Approx(kl.back()).epsilon(1e-3));
  const double at = 0.99 * (n - 1);
  const auto low = static_cast<size_t>(at);
  CHECK(r.kl_p99 ==
        doctest::Approx(kl[low] + (at - static_cast<double>(low)) * (kl[low + 1] - kl[low]))
            .epsilon(1e-3));
  CHECK(r.kl_median > kl.front());
  CHECK(r.kl_median < r.kl_mean * 2);
  CHECK(r.top1_agreement == doctest::Approx(static_cast<double>(agreed) / n));
  CHECK(r.top1_agreement < 1);
}

TEST_CASE("evaluate: a model against itself differs in nothing") {
  const TestModel model = RandomModel(2, false);
  const RunnableModel runnable = model.Runnable();
  const auto scores = Evaluate({}, runnable, &runnable, RandomWindows(3, {50, 33}, 5000), "");
  REQUIRE(scores.ok());
  CHECK(scores->reference->kl_max == 0);
  CHECK(scores->reference->top1_agreement == 1);
  CHECK(scores->reference->perplexity == scores->perplexity);
}

TEST_CASE("evaluate: threads and scratch files change no bit") {
  const TestModel model = RandomModel(3, false);
  const TestModel other = RandomModel(4, false);
  const RunnableModel reference = other.Runnable();
  // More than one chunk of 2048 tokens, and a window longer than a block of queries.
  const Windows windows = RandomWindows(5, {700, 700, 700, 700, 90}, 5000);
  const auto one = Evaluate({}, model.Runnable(), &reference, windows, "");
  REQUIRE(one.ok());
  Context small;
  small.threads = 2;
  small.memory_limit = RunBytes(model.Runnable(), windows.lengths);  // nothing for hidden states
  const char* dir = std::getenv("TMPDIR");
  const auto two =
      Evaluate(small, model.Runnable(), &reference, windows, dir != nullptr ? dir : "/tmp");
  REQUIRE(two.ok());
  CHECK(one->nll_sum == two->nll_sum);
  CHECK(one->window_nll == two->window_nll);
  CHECK(one->reference->window_kl == two->reference->window_kl);
}

TEST_CASE("evaluate: chunks are whole windows") {
  const std::vector<int64_t> lengths = {1000, 1000, 48, 1, 3000, 5};
  const auto chunks = CutChunks(lengths);
  REQUIRE(chunks.size() == 4);
  CHECK(chunks[0].tokens == 2048);
  CHECK(chunks[1].tokens == 1);
  CHECK(chunks[2].tokens == 3000);
  CHECK(chunks[3].token == 5049);
  CHECK(CutChunks({}).empty());
}

TEST_CASE("evaluate: what cannot be done is said") {
  const TestModel model = RandomModel(6, false);
  const Windows windows = RandomWindows(5, {30, 30}, 5000);
  SUBCASE("too little memory") {
    Context context;
    context.memory_limit = 1000;
    const auto scores = Evaluate(context, model.Runnable(), nullptr, windows, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kMemory);
    CHECK(scores.error().hint.starts_with("--memory "));
  }
  SUBCASE("interrupted") {
    std::atomic<bool> cancel = true;
    Context context;
    context.cancel = &cancel;
    const auto scores = Evaluate(context, model.Runnable(), nullptr, windows, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kInterrupted);
  }
  SUBCASE("NaN in a weight") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(model.source->data("model.layers.2.mlp.up_proj.weight").data() + 40, &nan, 4);
    const auto scores = Evaluate({}, model.Runnable(), nullptr, windows, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kNonFinite);
    const auto generation = Generate({}, model.Runnable(), windows.ids, 1, {});
    REQUIRE(!generation.ok());
    CHECK(generation.error().code == ErrorCode::kNonFinite);
  }
  SUBCASE("an id outside the embedding") {
    Windows bad = windows;
    bad.ids[7] = 5000;
    const auto scores = Evaluate({}, model.Runnable(), nullptr, bad, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kTokenizer);
  }
  SUBCASE("another vocabulary") {
    TestModel other = RandomModel(6, false);
    other.config.vocab_size = 4999;
    const RunnableModel reference = other.Runnable();
    const auto scores = Evaluate({}, model.Runnable(), &reference, windows, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kUsage);
  }
  SUBCASE("nothing to score") {
    Windows none = windows;
    none.first_scored = {30, 30};
    const auto scores = Evaluate({}, model.Runnable(), nullptr, none, "");
    REQUIRE(!scores.ok());
    CHECK(scores.error().code == ErrorCode::kTextTooShort);
  }
}

TEST_CASE("evaluate: a model without configuration, family or head is not run") {
  Model model;
  const auto code = [&] {
    const auto runnable = MakeRunnable(model);
    REQUIRE(!runnable.ok());
    CHECK(!runnable.error().hint.empty());
    return runnable.error().code;
  };
  model.source = std::move(RandomModel(1, true).source);
  CHECK(code() == ErrorCode::kUnknownFamily);
  model.config_error = Error(ErrorCode::kConfigMissing, "no hidden_size").Hint("add it");
  CHECK(code() == ErrorCode::kConfigMissing);
  model.config = RandomModel(1, true).config;
  model.config->architecture = "MambaForCausalLM";
  CHECK(code() == ErrorCode::kUnknownFamily);
  CHECK(MakeRunnable(model).error().hint.find("llama") != std::string::npos);
  model.family = FindFamily("llama");
  CHECK(MakeRunnable(model).ok());
  model.config->tie_embeddings = false;
  CHECK(code() == ErrorCode::kTensorMissing);
}

TEST_CASE("generate: stops before an end token, and counts probabilities") {
  const TestModel model = RandomModel(9, true);
  const std::vector<int32_t> prompt = {5, 77, 4000, 12};
  const auto free = Generate({}, model.Runnable(), prompt, 6, {});
  REQUIRE(free.ok());
  REQUIRE(free->ids.size() == 6);
  const auto logits = ContextLogits({}, model.Runnable(), prompt);
  REQUIRE(logits.ok());
  const float* last = logits->data() + 3 * 5000;
  const double z = LogSumExp(last, 5000);
  for (size_t i = 0; i < free->top.size(); ++i) {
    const NextToken& token = free->top[i];
    CHECK(token.probability ==
          doctest::Approx(std::exp(static_cast<double>(last[token.id]) - z)).epsilon(1e-4));
    if (i > 0) CHECK(token.probability <= free->top[i - 1].probability);
  }
  size_t stop = 0;  // the first id that has not come before
  while (stop < 5 && free->ids[stop] == free->ids[0]) ++stop;
  const auto stopped =
      Generate({}, model.Runnable(), prompt, 6, std::vector<int32_t>{free->ids[stop]});
  REQUIRE(stopped.ok());
  CHECK(stopped->ids ==
        std::vector<int32_t>(free->ids.begin(), free->ids.begin() + static_cast<int64_t>(stop)));
  const auto none = Generate({}, model.Runnable(), prompt, 0, {});
  REQUIRE(none.ok());
  CHECK(none->ids.empty());
  CHECK(none->top.size() == kTopTokens);
}

}  // namespace
}  // namespace pennyweight
