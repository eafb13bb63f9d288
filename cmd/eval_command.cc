// pennyweight eval: perplexity of a text; KL divergence against a reference; logits; greedy text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "calib/evaluate.h"
#include "calib/generate.h"
#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "formats/safetensors_writer.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--text", "", "FILE", "text to score"},
    {"--reference", "", "MODEL", "also KL divergence and agreement against this model"},
    {"--separator", "", "STR", "what parts the documents of --text (\\n is understood)"},
    {"--tokens", "", "N", "tokens of the text (default: all there are)"},
    {"--context", "", "N", "tokens of a window (default: 512 or the model's limit)"},
    {"--logits", "", "FILE", "write the first window's tokens and logits as safetensors"},
    {"--prompt", "", "TEXT", "continue this text"},
    {"--generate", "", "N", "new tokens behind --prompt, the likeliest each time (default: 0)"},
    {"--force", "", "", "replace the file of --logits if it exists"},
};

Json Ids(const std::vector<int32_t>& ids) {
  Json list = Json::Array();
  for (const int32_t id : ids) list.Push(Json::Integer(id));
  return list;
}

// 95 % interval of the mean over predictions, by resampling whole windows (predictions of one are
// not independent). The seed is fixed, so the interval is reproducible.
std::pair<double, double> BootstrapInterval(const std::vector<double>& window_means,
                                            const std::vector<int64_t>& window_tokens) {
  constexpr int kResamples = 2000;
  std::mt19937_64 random(20240229);
  std::vector<double> means;
  for (int i = 0; i < kResamples; ++i) {
    double sum = 0, tokens = 0;
    for (size_t k = 0; k < window_means.size(); ++k) {
      const size_t pick = random() % window_means.size();
      const double count = static_cast<double>(window_tokens[pick]);
      sum += window_means[pick] * count;
      tokens += count;
    }
    means.push_back(sum / tokens);
  }
  std::sort(means.begin(), means.end());
  return {means[kResamples * 25 / 1000], means[kResamples * 975 / 1000]};
}

Status WriteLogits(const std::string& path, bool force, std::span<const int32_t> ids,
                   const std::vector<float>& logits) {
  const int64_t tokens = static_cast<int64_t>(ids.size());
  const int64_t vocabulary = static_cast<int64_t>(logits.size()) / tokens;
  PW_ASSIGN(
      const SafetensorsLayout layout,
      LayOutSafetensors(
          {{"tokens", DType::kI64, {tokens}}, {"logits", DType::kF32, {tokens, vocabulary}}}, {}));
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  PW_ASSIGN(const std::unique_ptr<AtomicFile> file,
            AtomicFile::Create(path, layout.file_bytes, force));
  PW_TRY(file->WriteAt(0, layout.head.data(), layout.head.size()));
  PW_TRY(file->WriteAt(layout.offsets[0], wide.data(), layout.bytes[0]));
  PW_TRY(file->WriteAt(layout.offsets[1], logits.data(), layout.bytes[1]));
  PW_TRY(file->Seal());
  return file->Commit();
}

// What was asked for, filled by the parts below; what does not apply stays null.
struct EvalResult {
  Json context, tokens, perplexity, perplexity_stderr, nll_sum, reference;
  Json prompt_ids, ids, text, top;
  std::string words;  // for people
};

void AddScores(const EvalScores& scores, EvalResult* out) {
  out->tokens = Json::Integer(scores.tokens);
  out->perplexity = Json::Double(scores.perplexity);
  out->perplexity_stderr = Json::Double(scores.perplexity_stderr);
  out->nll_sum = Json::Double(scores.nll_sum);
  out->words += fmt::format("perplexity {:.4f} +- {:.4f} over {} tokens\n", scores.perplexity,
                            scores.perplexity_stderr, scores.tokens);
  if (!scores.reference) return;
  const ReferenceScores& r = *scores.reference;
  const auto [low, high] = BootstrapInterval(r.window_kl, scores.window_tokens);
  Json body = Json::Object();
  body.Set("perplexity", Json::Double(r.perplexity));
  body.Set("kl_mean", Json::Double(r.kl_mean));
  body.Set("kl_mean_low", Json::Double(low));
  body.Set("kl_mean_high", Json::Double(high));
  body.Set("kl_median", Json::Double(r.kl_median));
  body.Set("kl_p99", Json::Double(r.kl_p99));
  body.Set("kl_max", Json::Double(r.kl_max));
  body.Set("top1_agreement", Json::Double(r.top1_agreement));
  out->reference = std::move(body);
  out->words += fmt::format(
      "reference: perplexity {:.4f}\n"
      "KL divergence: mean {:.5f} (95 % {:.5f} to {:.5f}), median {:.5f}, p99 {:.4f}, max {:.3f}\n"
      "same likeliest token: {:.2f} %\n",
      r.perplexity, r.kl_mean, low, high, r.kl_median, r.kl_p99, r.kl_max, 100 * r.top1_agreement);
}

Status Score(const Invocation& invocation, const Model& model, const RunnableModel& runnable,
             const Tokenizer& tokenizer, EvalResult* out) {
  const Arguments& arguments = invocation.arguments;
  PW_ASSIGN(const std::string text, ReadText(*arguments.Get("--text")));
  WindowOptions options;
  PW_ASSIGN(options.context, ContextLength(arguments, *model.config));
  PW_ASSIGN(options.max_tokens, arguments.Integer("--tokens", 1, int64_t{1} << 32));
  options.separator = Separator(arguments);
  PW_ASSIGN(const Windows windows, MakeWindows(tokenizer, *model.vocabulary, text, options));
  out->context = Json::Integer(options.context);

  if (const auto path = arguments.Get("--logits")) {
    const auto ids = std::span(windows.ids).subspan(0, static_cast<size_t>(windows.lengths[0]));
    PW_ASSIGN(const std::vector<float> logits, ContextLogits(invocation.context, runnable, ids));
    PW_TRY(WriteLogits(*path, arguments.Has("--force"), ids, logits));
  }
  std::optional<Model> reference_model;
  std::optional<RunnableModel> reference;
  if (const auto path = arguments.Get("--reference")) {
    PW_ASSIGN(reference_model, OpenModel(*path));
    PW_ASSIGN(reference, MakeRunnable(*reference_model));
  }
  PW_ASSIGN(const EvalScores scores, Evaluate(invocation.context, runnable,
                                              reference ? &*reference : nullptr, windows, "."));
  AddScores(scores, out);
  return OkStatus();
}

Status Continue(const Invocation& invocation, const Model& model, const RunnableModel& runnable,
                const Tokenizer& tokenizer, EvalResult* out) {
  const Vocabulary& vocabulary = *model.vocabulary;
  std::vector<int32_t> prompt;
  if (vocabulary.add_bos && vocabulary.bos_id) {
    prompt.push_back(static_cast<int32_t>(*vocabulary.bos_id));
  }
  for (const int32_t id : tokenizer.Encode(*invocation.arguments.Get("--prompt"))) {
    prompt.push_back(id);
  }
  if (prompt.empty()) return Error(ErrorCode::kTextTooShort, "the prompt has no tokens");
  PW_ASSIGN(const auto count, invocation.arguments.Integer("--generate", 0, 1 << 20));
  const int64_t limit = model.config->LongestContext();
  const int64_t wanted = static_cast<int64_t>(prompt.size()) + count.value_or(0);
  if (limit > 0 && wanted > limit) {
    return Error(ErrorCode::kUsage,
                 fmt::format("prompt and --generate make {} tokens, the model's limit is {}",
                             wanted, limit))
        .Hint(fmt::format("use --generate {} or less",
                          std::max<int64_t>(0, limit - static_cast<int64_t>(prompt.size()))));
  }
  std::vector<int32_t> stop;
  for (const auto& id : {vocabulary.bos_id, vocabulary.eos_id}) {
    if (id) stop.push_back(static_cast<int32_t>(*id));
  }
  PW_ASSIGN(const Generation generation,
            Generate(invocation.context, runnable, prompt, count.value_or(0), stop));
  std::vector<int32_t> all = prompt;
  all.insert(all.end(), generation.ids.begin(), generation.ids.end());
  const std::string text = tokenizer.Decode(all);
  out->prompt_ids = Ids(prompt);
  out->ids = Ids(generation.ids);
  out->text = Json::String(text);
  out->top = Json::Array();
  for (const NextToken& next : generation.top) {
    Json row = Json::Object();
    row.Set("id", Json::Integer(next.id));
    // An embedding may have more rows than the tokenizer has tokens.
    const size_t id = static_cast<size_t>(next.id);
    row.Set("text",
            id < vocabulary.tokens.size() ? Json::String(vocabulary.tokens[id].text) : Json());
    row.Set("probability", Json::Double(next.probability));
    out->top.Push(std::move(row));
  }
  out->words += text + "\n";
  return OkStatus();
}

std::string ResultJson(EvalResult result) {
  Json json = Json::Object();
  json.Set("context", std::move(result.context));
  json.Set("tokens", std::move(result.tokens));
  json.Set("perplexity", std::move(result.perplexity));
  json.Set("perplexity_stderr", std::move(result.perplexity_stderr));
  json.Set("nll_sum", std::move(result.nll_sum));
  json.Set("reference", std::move(result.reference));
  json.Set("prompt_ids", std::move(result.prompt_ids));
  json.Set("ids", std::move(result.ids));
  json.Set("text", std::move(result.text));
  json.Set("top", std::move(result.top));
  return json.Dump();
}

}  // namespace

const CommandSpec kEvalSpec = {
    "eval",
    "perplexity, KL divergence against a reference, logits, greedy text",
    "MODEL",
    1,
    "  pennyweight eval llama-8b.gguf --text wiki.txt\n"
    "  pennyweight eval llama-8b.gguf --reference ./Llama-8B --text wiki.txt --json\n"
    "  pennyweight eval ./Llama-8B --prompt \"Once upon a time\" --generate 32\n",
    kFlags};

Result<int> RunEval(const Invocation& invocation) {
  const Arguments& arguments = invocation.arguments;
  if (!arguments.Has("--text") && !arguments.Has("--prompt")) {
    return Error(ErrorCode::kUsage, "nothing to evaluate")
        .Hint("give --text FILE, or --prompt TEXT --generate N");
  }
  for (const char* flag : {"--reference", "--logits", "--separator", "--tokens", "--context"}) {
    if (arguments.Has(flag) && !arguments.Has("--text")) {
      return Error(ErrorCode::kUsage, fmt::format("{} needs --text", flag)).Hint("add --text FILE");
    }
  }
  const auto logits = arguments.Get("--logits");
  if (logits && !arguments.Has("--force") && PathExists(*logits)) {
    return Error(ErrorCode::kOutputExists, "the output exists")
        .Hint("give --logits another name, or --force to replace it")
        .InFile(*logits);
  }
  PW_ASSIGN(const Model model, OpenModel(arguments.inputs()[0]));
  PW_TRY(RequireRunnable(model));
  PW_ASSIGN(const RunnableModel runnable, MakeRunnable(model));
  PW_ASSIGN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(*model.vocabulary));
  EvalResult result;
  if (arguments.Has("--text")) {
    PW_TRY(Score(invocation, model, runnable, *tokenizer, &result));
  }
  if (arguments.Has("--prompt")) {
    PW_TRY(Continue(invocation, model, runnable, *tokenizer, &result));
  }
  invocation.console.Print(result.words);
  invocation.console.PrintResult(invocation.console.json() ? ResultJson(std::move(result))
                                                           : std::string());
  return kExitDone;
}

}  // namespace pennyweight
