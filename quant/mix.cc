#include "quant/mix.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "lib/nearest.h"
#include "quant/codec.h"
#include "quant/encode_scaled.h"
#include "quant/mix_gguf.h"
#include "quant/type_scaled.h"

namespace pennyweight {
namespace {

constexpr uint32_t Number(GgufFileType type) { return static_cast<uint32_t>(type); }

// Sorted by name. A mix is here when every type that it can choose is in TypeNames.
constexpr Mix kMixes[] = {
    {"int4", MixStyle::kInteger, "int4", 0},
    {"int8", MixStyle::kInteger, "int8", 0},
    {"q2_k", MixStyle::kGguf, "q2_k", Number(GgufFileType::kQ2_K)},
    {"q3_k_l", MixStyle::kGguf, "q3_k", Number(GgufFileType::kQ3_K_L)},
    {"q3_k_m", MixStyle::kGguf, "q3_k", Number(GgufFileType::kQ3_K_M)},
    {"q3_k_s", MixStyle::kGguf, "q3_k", Number(GgufFileType::kQ3_K_S)},
    {"q4_0", MixStyle::kGguf, "q4_0", Number(GgufFileType::kQ4_0)},
    {"q4_1", MixStyle::kGguf, "q4_1", Number(GgufFileType::kQ4_1)},
    {"q4_k_m", MixStyle::kGguf, "q4_k", Number(GgufFileType::kQ4_K_M)},
    {"q4_k_s", MixStyle::kGguf, "q4_k", Number(GgufFileType::kQ4_K_S)},
    {"q5_0", MixStyle::kGguf, "q5_0", Number(GgufFileType::kQ5_0)},
    {"q5_1", MixStyle::kGguf, "q5_1", Number(GgufFileType::kQ5_1)},
    {"q5_k_m", MixStyle::kGguf, "q5_k", Number(GgufFileType::kQ5_K_M)},
    {"q5_k_s", MixStyle::kGguf, "q5_k", Number(GgufFileType::kQ5_K_S)},
    {"q6_k", MixStyle::kGguf, "q6_k", Number(GgufFileType::kQ6_K)},
    {"q8_0", MixStyle::kGguf, "q8_0", Number(GgufFileType::kQ8_0)},
};

// A tensor's place in the model, and what the user's patterns say of it.
struct Entry {
  const TensorInfo* tensor = nullptr;
  Role role = Role::kOther;
  int64_t layer = -1;
  std::string gguf_name;           // the tensor's own name where the family does not know it
  std::optional<Encoding> wanted;  // first matching --tensor-type
  bool keep = false;
};

std::vector<Entry> MakeEntries(const Family* family, std::span<const TensorInfo> tensors) {
  std::vector<Entry> entries;
  entries.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) {
    Entry entry;
    entry.tensor = &tensor;
    const TensorPlace place = family == nullptr ? TensorPlace() : PlaceOfHf(*family, tensor.name);
    entry.layer = place.layer;
    if (place.rule != nullptr) {
      entry.role = place.rule->role;
      entry.gguf_name = NameFor(place.rule->gguf, place.layer);
    } else {
      entry.role = GuessRole(tensor.name, tensor.shape.size());
      entry.gguf_name = tensor.name;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

// std::regex throws by design; this is the border at which that becomes an Error.
Result<std::regex> CompilePattern(const std::string& pattern) {
  if (pattern.empty()) return Error(ErrorCode::kUsage, "an empty pattern matches every tensor");
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    return Error(ErrorCode::kUsage,
                 fmt::format("\"{}\" is not a regular expression: {}", pattern, error.what()))
        .Hint("escape . [ ] ( ) and other signs with a backslash");
  }
}

Result<bool> Matches(const std::regex& regex, const std::string& pattern, const Entry& entry) {
  try {
    return std::regex_search(entry.tensor->name, regex) ||
           std::regex_search(entry.gguf_name, regex);
  } catch (const std::regex_error& error) {
    return Error(ErrorCode::kUsage, fmt::format("\"{}\" is too complex a regular expression: {}",
                                                pattern, error.what()))
        .InTensor(entry.tensor->name);
  }
}

// Calls `on_match(entry)` for each entry that the pattern finds; kUsage when it finds none.
template <class OnMatch>
Status ForMatches(const std::string& pattern, std::vector<Entry>& entries, OnMatch on_match) {
  PW_ASSIGN(const std::regex regex, CompilePattern(pattern));
  bool any = false;
  for (Entry& entry : entries) {
    PW_ASSIGN(const bool found, Matches(regex, pattern, entry));
    if (!found) continue;
    any = true;
    on_match(entry);
  }
  if (any) return OkStatus();
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.push_back(entry.tensor->name);
  Error error(ErrorCode::kUsage, fmt::format("the pattern \"{}\" matches no tensor", pattern));
  const auto nearest = NearestToPattern(pattern, names);
  if (!nearest) return error;
  return std::move(error).Hint(fmt::format("the nearest tensor is {}", *nearest));
}

Status ApplyPatterns(const MixOptions& options, std::vector<Entry>& entries) {
  for (const MixOptions::Override& override : options.tensor_types) {
    PW_TRY(ForMatches(override.pattern, entries, [&](Entry& entry) {
      if (!entry.wanted) entry.wanted = override.encoding;
    }));
  }
  for (const std::string& pattern : options.keep) {
    PW_TRY(ForMatches(pattern, entries, [](Entry& entry) { entry.keep = true; }));
  }
  return OkStatus();
}

// Why the tensor is not a weight matrix to be quantized; nullopt when it is one.
std::optional<std::string> NotQuantizable(const Entry& entry) {
  switch (entry.role) {
    case Role::kNorm:
      return "norms are not quantized";
    case Role::kBias:
      return "biases are not quantized";
    case Role::kRouter:
      return "routers are not quantized";
    default:
      break;
  }
  if (IsGgufQuantized(entry.gguf_name, entry.tensor->shape)) return std::nullopt;
  return entry.tensor->shape.size() < 2 ? "vectors are not quantized" : "not a weight matrix";
}

// The encoding where the rows fit it; else the nearest that does, with the reason.
Choice Fit(const Encoding& wanted, int64_t cols) {
  Choice choice;
  choice.encoding = wanted;
  int64_t unit = 0;
  if (wanted.kind == Encoding::Kind::kBlock) {
    choice.encoding = FitBlocks(wanted.block, cols);
    unit = TraitsOf(wanted.block).elements;
  } else if (wanted.kind == Encoding::Kind::kInteger) {
    unit = wanted.integer.group_size;
    if (unit != 0 && cols % unit != 0) choice.encoding.integer.group_size = 0;
  } else if (wanted.kind == Encoding::Kind::kScaled && !CanEncodeScaled(wanted, cols)) {
    unit = wanted.scaled.block_cols;
    choice.encoding = Encoding::Plain(DType::kF16);
  }
  choice.quantize = choice.encoding.kind != Encoding::Kind::kPlain;
  if (choice.encoding == wanted) return choice;
  choice.degraded = true;
  choice.fallback =
      wanted.kind != Encoding::Kind::kInteger
          ? fmt::format("{} columns do not divide into blocks of {}: {}", cols, unit,
                        choice.encoding.Name())
          : fmt::format("{} columns do not divide into groups of {}: one scale per row", cols,
                        unit);
  return choice;
}

// Decides tensor after tensor; GGUF mixes need GgufOrder.
class Chooser {
 public:
  Chooser(const MixOptions& options, const Mix* mix, const Encoding& base,
          const GgufMixFacts& facts)
      : options_(options), mix_(mix), base_(base), tied_(facts.tied), gguf_(facts) {}

  Choice Choose(const Entry& entry) {
    const TensorInfo& tensor = *entry.tensor;
    if (!CanDecode(tensor.encoding)) {
      return LeftAlone(tensor.encoding,
                       fmt::format("{} is copied as it is", tensor.encoding.Name()));
    }
    if (auto reason = NotQuantizable(entry)) return Small(entry, *reason);
    if (auto explicit_type = ExplicitType(entry)) return Fit(*explicit_type, tensor.cols());
    if (entry.keep) return LeftAlone(options_.plain, "kept as asked");
    if (mix_ == nullptr) return Fit(base_, tensor.cols());
    return mix_->style == MixStyle::kGguf ? ByGgufMix(entry) : ByIntegerMix(entry);
  }

 private:
  // A tensor that is not a weight matrix: a pattern may still choose its plain dtype.
  Choice Small(const Entry& entry, const std::string& reason) const {
    const bool is_matrix = entry.role == Role::kOther && entry.tensor->shape.size() >= 2;
    Encoding encoding = is_matrix ? options_.plain : options_.norm;
    if (entry.wanted && entry.wanted->kind == Encoding::Kind::kPlain) encoding = *entry.wanted;
    return LeftAlone(encoding, reason);
  }

  Choice LeftAlone(const Encoding& encoding, const std::string& reason) const {
    Choice choice;
    choice.encoding = encoding;
    // Nothing is left alone where nothing is to be quantized.
    if (base_.kind != Encoding::Kind::kPlain) choice.fallback = reason;
    return choice;
  }

  std::optional<Encoding> ExplicitType(const Entry& entry) const {
    if (entry.role == Role::kEmbedding && options_.embedding_type) return options_.embedding_type;
    const bool is_output = entry.role == Role::kHead || (entry.role == Role::kEmbedding && tied_);
    if (is_output && options_.output_type) return options_.output_type;
    return entry.wanted;
  }

  Choice ByGgufMix(const Entry& entry) {
    const int64_t cols = entry.tensor->cols();
    return Fit(Encoding::Block(gguf_.Choose(entry.role, cols)), cols);
  }

  Choice ByIntegerMix(const Entry& entry) const {
    const bool is_linear = IsLayerLinear(entry.role) ||
                           (entry.role == Role::kOther && entry.tensor->name.ends_with(".weight"));
    if (!is_linear) {
      return LeftAlone(options_.plain,
                       fmt::format("{} keeps the {} plain", options_.type, RoleName(entry.role)));
    }
    if (entry.tensor->shape.size() != 2) {
      return LeftAlone(options_.plain, fmt::format("{} takes matrices, not {}", options_.type,
                                                   ShapeToString(entry.tensor->shape)));
    }
    return Fit(base_, entry.tensor->cols());
  }

  const MixOptions& options_;
  const Mix* mix_;  // nullptr: one type for every matrix
  Encoding base_;
  bool tied_;
  GgufMix gguf_;
};

Error UnknownType(const std::string& name) {
  std::vector<std::string> names = TypeNames();
  for (const Mix& mix : kMixes) names.emplace_back(mix.name);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  Error error(ErrorCode::kUsage, fmt::format("there is no type or mix named \"{}\"", name));
  if (const auto nearest = NearestName(name, names)) {
    return std::move(error).Hint(fmt::format("did you mean {}?", *nearest));
  }
  return std::move(error).Hint(fmt::format("one of: {}", fmt::join(names, " ")));
}

GgufMixFacts FactsOf(const Mix* mix, const Encoding& base, const Family* family,
                     const ModelConfig& config, const std::vector<Entry>& entries) {
  GgufMixFacts facts;
  if (mix != nullptr) facts.file_type = static_cast<GgufFileType>(mix->gguf_file_type);
  if (base.kind == Encoding::Kind::kBlock) facts.base = base.block;
  facts.is_70b = Is70B(config, family);
  facts.heads_per_kv = config.kv_heads > 0 ? config.heads / config.kv_heads : 1;
  facts.layers = config.layers;
  facts.tied = true;
  for (const Entry& entry : entries) {
    facts.layers = std::max(facts.layers, entry.layer + 1);
    if (entry.role == Role::kAttnV || entry.role == Role::kAttnQkv) ++facts.value_tensors;
    if (entry.role == Role::kHead) facts.tied = false;
  }
  return facts;
}

}  // namespace

std::span<const Mix> Mixes() { return kMixes; }

const Mix* FindMix(std::string_view name) {
  for (const Mix& mix : kMixes) {
    if (mix.name == name) return &mix;
  }
  return nullptr;
}

Result<std::vector<Choice>> ChooseTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors) {
  const Mix* mix = options.pure ? nullptr : FindMix(options.type);
  // A mix under --pure lends its base: `--type q4_k_m --pure` is q4_k throughout.
  const Mix* named = FindMix(options.type);
  const auto base = FindType(named != nullptr ? named->base : options.type, options.integer);
  if (!base) return UnknownType(options.type);
  if (base->kind == Encoding::Kind::kInteger && base->integer.group_size < 0) {
    return Error(ErrorCode::kUsage, "the group size is negative").Hint("--group-size 128");
  }
  if (base->kind == Encoding::Kind::kInteger && !options.pure) {
    mix = FindMix(base->integer.bits == 8 ? "int8" : "int4");  // what groups, the same tensors
  }
  if (IsScaledType(*base) && !options.pure) mix = FindMix("int4");
  std::vector<Entry> entries = MakeEntries(family, tensors);
  PW_TRY(ApplyPatterns(options, entries));

  std::vector<std::string> names;
  std::vector<int64_t> layers;
  for (const Entry& entry : entries) {
    names.push_back(entry.gguf_name);
    layers.push_back(entry.layer);
  }
  Chooser chooser(options, mix, *base, FactsOf(mix, *base, family, config, entries));
  std::vector<Choice> choices(entries.size());
  for (const size_t i : GgufOrder(names, layers)) choices[i] = chooser.Choose(entries[i]);
  return choices;
}

}  // namespace pennyweight
