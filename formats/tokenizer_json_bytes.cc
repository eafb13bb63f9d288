// Byte-level BPE in tokenizer.json: GPT-2's kind, as in Llama 3 and Qwen. Semantics: models/bpe and
// pre_tokenizers/byte_level.rs of huggingface/tokenizers.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "formats/tokenizer_json_internal.h"
#include "lib/pre_tokenizer.h"

namespace pennyweight::tokenizer_json {
namespace {

// The members of a Sequence, or the one step that stands there.
std::vector<Json> Steps(const Json& json, std::string_view list_key) {
  const Json* list = json.Find(list_key);
  if (StringAt(json, "type") != "Sequence" || list == nullptr || !list->is_array()) return {json};
  return list->items();
}

// The pattern of one step before the last; nullopt when it is of another kind.
std::optional<std::string> PatternOf(const Json& step) {
  const std::string type = StringAt(step, "type");
  if (type == "Digits") return BoolAt(step, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)";
  if (type != "Split" || StringAt(step, "behavior") != "Isolated" || BoolAt(step, "invert")) {
    return std::nullopt;
  }
  const Json* pattern = step.Find("pattern");
  const Json* regex = pattern == nullptr ? nullptr : pattern->Find("Regex");
  return regex == nullptr ? std::nullopt : regex->AsString();
}

Status ParsePreTokenizer(const Json& pre, Vocabulary* vocabulary) {
  const std::vector<Json> steps = Steps(pre, "pretokenizers");
  const Json& last = steps.back();
  const auto unknown = [&] {
    return Refused(
        fmt::format("byte-level BPE with the steps {:.200}", TypeNames(pre, "pretokenizers")));
  };
  if (StringAt(last, "type") != "ByteLevel") return unknown();
  std::vector<std::string> patterns;
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    std::optional<std::string> pattern = PatternOf(steps[i]);
    if (!pattern) return unknown();
    patterns.push_back(std::move(*pattern));
  }
  const Json* use_regex = last.Find("use_regex");
  if (use_regex == nullptr || use_regex->AsBool().value_or(true)) {
    patterns.emplace_back(kGpt2Pattern);
  }
  const std::optional<PreTokenizer> known = PreTokenizerByPatterns(patterns);
  if (!known) {
    const std::string splits =
        patterns.empty() ? "nothing" : fmt::format("{}", fmt::join(patterns, " then "));
    return Error(ErrorCode::kTokenizer,
                 fmt::format("byte-level BPE that splits text by {:.400} is not read here", splits))
        .Hint("known splits are those of " + PreTokenizerNames() +
              "; commands that need no text still work");
  }
  vocabulary->pre_tokenizer = *known;
  // Behind another step every word would get one.
  vocabulary->add_space_prefix = BoolAt(last, "add_prefix_space");
  if (vocabulary->add_space_prefix && steps.size() > 1) return unknown();
  return OkStatus();
}

Status ParseNormalizer(const Json& json, Vocabulary* vocabulary) {
  const Json* normalizer = FindNonNull(json, "normalizer");
  if (normalizer == nullptr) return OkStatus();
  for (const Json& step : Steps(*normalizer, "normalizers")) {
    if (StringAt(step, "type") != "NFC") {
      return Refused(fmt::format("byte-level BPE with normalizer {:.200}",
                                 TypeNames(*normalizer, "normalizers")));
    }
    vocabulary->normalize_nfc = true;
  }
  return OkStatus();
}

// The first 256 characters of GPT-2's alphabet are all there: then no text has an unknown part.
bool HasAllBytes(const TokenIds& ids) {
  int found = 0;
  for (const auto& [text, id] : ids) {
    const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const bool two = text.size() == 2 && at(0) >= 0xC0;
    const unsigned code = text.size() == 1 ? at(0)
                          : two            ? (at(0) & 0x1Fu) << 6 | (at(1) & 0x3Fu)
                                           : 0;
    // Printable Latin-1 stands for itself; U+0100 and up for the other 68.
    found += (code >= '!' && code <= '~') || (code >= 0xA1 && code <= 0x143 && code != 0xAD);
  }
  return found == 256;
}

Status ParseByteMerges(const Json& model, const TokenIds& ids, Vocabulary* vocabulary) {
  const Json* merges = FindNonNull(model, "merges");
  if (merges == nullptr || !merges->is_array()) return Malformed("\"merges\" must be a list");
  std::string text;
  vocabulary->merges.reserve(merges->items().size());
  for (const Json& merge : merges->items()) {
    PW_ASSIGN(const auto parts, MergeParts(merge));
    text.assign(parts.first).append(parts.second);
    const auto left = ids.find(parts.first), right = ids.find(parts.second), made = ids.find(text);
    for (const auto& [place, part] : {std::pair(left, parts.first), std::pair(right, parts.second),
                                      std::pair(made, std::string_view(text))}) {
      if (place != ids.end()) continue;
      return Malformed(
          fmt::format("\"{:.100}\" of merge {} is no token", part, vocabulary->merges.size()));
    }
    vocabulary->merges.push_back({.left = static_cast<int32_t>(left->second),
                                  .right = static_cast<int32_t>(right->second),
                                  .result = static_cast<int32_t>(made->second)});
  }
  // Of a pair that is there twice, the last counts.
  DropRepeatedMerges(/*keep_last=*/true, &vocabulary->merges);
  return OkStatus();
}

}  // namespace

bool IsByteLevel(const Json& json) {
  const Json* pre = FindNonNull(json, "pre_tokenizer");
  return pre != nullptr && TypeNames(*pre, "pretokenizers").find("ByteLevel") != std::string::npos;
}

Status ParseByteLevelSteps(const Json& json, Vocabulary* vocabulary) {
  vocabulary->kind = Vocabulary::Kind::kByteBpe;
  PW_TRY(ParsePreTokenizer(*FindNonNull(json, "pre_tokenizer"), vocabulary));
  return ParseNormalizer(json, vocabulary);
}

Status ParseByteLevelModel(const Json& model, const TokenIds& ids, Vocabulary* vocabulary) {
  const Json* dropout = FindNonNull(model, "dropout");
  if (dropout != nullptr && dropout->AsDouble() != 0.0) return Refused("a BPE with dropout");
  if ((FindNonNull(model, "unk_token") != nullptr || BoolAt(model, "byte_fallback")) &&
      !HasAllBytes(ids)) {
    return Refused("byte-level BPE with an unknown token and not all 256 bytes");
  }
  vocabulary->ignore_merges = BoolAt(model, "ignore_merges");
  return ParseByteMerges(model, ids, vocabulary);
}

}  // namespace pennyweight::tokenizer_json
