#include "quant/mix.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "lib/nearest.h"
#include "quant/codec.h"
#include "quant/mix_gguf.h"

namespace pennyweight {
namespace {

constexpr uint32_t Number(GgufFileType type) { return static_cast<uint32_t>(type); }

constexpr Mix GgufRow(std::string_view name, std::string_view base, GgufFileType type) {
  return {name, MixStyle::kGguf, base, Number(type)};
}
constexpr Mix LinearsRow(std::string_view name) { return {name, MixStyle::kLinears, name, 0}; }

// Sorted by name.
constexpr Mix kMixes[] = {
    LinearsRow("fp4"),
    LinearsRow("fp8_e4m3"),
    LinearsRow("fp8_e5m2"),
    LinearsRow("int2"),
    LinearsRow("int3"),
    LinearsRow("int4"),
    LinearsRow("int5"),
    LinearsRow("int6"),
    LinearsRow("int8"),
    GgufRow("iq1_m", "iq1_m", GgufFileType::kIQ1_M),
    GgufRow("iq1_s", "iq1_s", GgufFileType::kIQ1_S),
    GgufRow("iq2_m", "iq2_s", GgufFileType::kIQ2_M),
    GgufRow("iq2_s", "iq2_xs", GgufFileType::kIQ2_S),
    GgufRow("iq2_xs", "iq2_xs", GgufFileType::kIQ2_XS),
    GgufRow("iq2_xxs", "iq2_xxs", GgufFileType::kIQ2_XXS),
    GgufRow("iq3_m", "iq3_s", GgufFileType::kIQ3_M),
    GgufRow("iq3_s", "iq3_s", GgufFileType::kIQ3_S),
    GgufRow("iq3_xs", "iq3_s", GgufFileType::kIQ3_XS),
    GgufRow("iq3_xxs", "iq3_xxs", GgufFileType::kIQ3_XXS),
    GgufRow("iq4_nl", "iq4_nl", GgufFileType::kIQ4_NL),
    GgufRow("iq4_xs", "iq4_xs", GgufFileType::kIQ4_XS),
    GgufRow("mxfp4_moe", "mxfp4", GgufFileType::kMXFP4_MoE),
    LinearsRow("nf4"),
    GgufRow("q1_0", "q1_0", GgufFileType::kQ1_0),
    GgufRow("q2_0", "q2_0", GgufFileType::kQ2_0),
    GgufRow("q2_k", "q2_k", GgufFileType::kQ2_K),
    GgufRow("q2_k_s", "q2_k", GgufFileType::kQ2_K_S),
    GgufRow("q3_k_l", "q3_k", GgufFileType::kQ3_K_L),
    GgufRow("q3_k_m", "q3_k", GgufFileType::kQ3_K_M),
    GgufRow("q3_k_s", "q3_k", GgufFileType::kQ3_K_S),
    GgufRow("q4_0", "q4_0", GgufFileType::kQ4_0),
    GgufRow("q4_1", "q4_1", GgufFileType::kQ4_1),
    GgufRow("q4_k_m", "q4_k", GgufFileType::kQ4_K_M),
    GgufRow("q4_k_s", "q4_k", GgufFileType::kQ4_K_S),
    GgufRow("q5_0", "q5_0", GgufFileType::kQ5_0),
    GgufRow("q5_1", "q5_1", GgufFileType::kQ5_1),
    GgufRow("q5_k_m", "q5_k", GgufFileType::kQ5_K_M),
    GgufRow("q5_k_s", "q5_k", GgufFileType::kQ5_K_S),
    GgufRow("q6_k", "q6_k", GgufFileType::kQ6_K),
    GgufRow("q8_0", "q8_0", GgufFileType::kQ8_0),
    GgufRow("tq1_0", "tq1_0", GgufFileType::kTQ1_0),
    GgufRow("tq2_0", "tq2_0", GgufFileType::kTQ2_0),
};

// A tensor's place in the model, and what the user's patterns say of it.
struct Entry {
  const TensorInfo* tensor = nullptr;
  Role role = Role::kOther;
  int64_t layer = -1;
  std::string gguf_name;           // a guess, or its own, where the family does not know it
  bool expert = false;             // holds experts of a layer, or is one of them
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
      entry.gguf_name = GuessGgufName(tensor.name, entry.role);
      entry.layer = LayerOf(entry.gguf_name);
      if (entry.gguf_name.find("ffn_gate_inp") != std::string::npos) entry.role = Role::kRouter;
    }
    const size_t rank = tensor.shape.size();
    entry.expert = (rank >= 3 && tensor.shape[rank - 3] > 1) ||
                   tensor.name.find(".experts.") != std::string::npos;
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
  }
  choice.quantize = choice.encoding.kind != Encoding::Kind::kPlain;
  if (choice.encoding == wanted) return choice;
  choice.degraded = true;
  choice.fallback =
      wanted.kind == Encoding::Kind::kBlock
          ? fmt::format("{} columns do not divide into blocks of {}: {}", cols, unit,
                        choice.encoding.Name())
          : fmt::format("{} columns do not divide into groups of {}: one scale per row", cols,
                        unit);
  return choice;
}

// "ffn_down" of "blk.7.ffn_down.weight".
std::string_view PartName(std::string_view gguf_name) {
  gguf_name = gguf_name.substr(0, gguf_name.rfind('.'));
  const size_t dot = gguf_name.rfind('.');
  return dot == std::string_view::npos ? gguf_name : gguf_name.substr(dot + 1);
}

// Decides tensor after tensor; GGUF mixes need GgufOrder.
class Chooser {
 public:
  // `style`: nullopt for one type for every matrix. `name`: of the mix, for reasons.
  Chooser(const MixOptions& options, std::optional<MixStyle> style, std::string name,
          const Encoding& base, const GgufMixFacts& facts)
      : options_(options),
        style_(style),
        name_(std::move(name)),
        base_(base),
        tied_(facts.tied),
        gguf_(facts) {}

  Choice Choose(const Entry& entry) {
    const TensorInfo& tensor = *entry.tensor;
    if (!CanDecode(tensor.encoding)) {
      return LeftAlone(tensor.encoding,
                       fmt::format("{} is copied as it is", tensor.encoding.Name()));
    }
    if (auto reason = NotQuantizable(entry)) return Small(entry, *reason);
    if (auto explicit_type = ExplicitType(entry)) {
      return Because("asked for", Fit(*explicit_type, tensor.cols()));
    }
    if (entry.keep) return LeftAlone(options_.plain, "kept as asked");
    if (!style_) return Because("every matrix", Fit(base_, tensor.cols()));
    return *style_ == MixStyle::kGguf ? ByGgufMix(entry) : ForLinears(entry);
  }

 private:
  static Choice Because(std::string why, Choice choice) {
    choice.why = std::move(why);
    return choice;
  }

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
    if (entry.role == Role::kHead && options_.output_type) return options_.output_type;
    if (entry.wanted) return entry.wanted;
    // An embedding that serves as head is still a tensor that a pattern may name.
    return entry.role == Role::kEmbedding && tied_ ? options_.output_type : std::nullopt;
  }

  Choice ByGgufMix(const Entry& entry) {
    const int64_t cols = entry.tensor->cols();
    const BlockType type = gguf_.Choose(entry.gguf_name, cols, entry.expert);
    const bool by_rule = base_.kind == Encoding::Kind::kBlock && type != base_.block;
    std::string why = by_rule
                          ? fmt::format("{} has a rule for {}", name_, PartName(entry.gguf_name))
                          : fmt::format("{}", name_);
    return Because(std::move(why), Fit(Encoding::Block(type), cols));
  }

  Choice ForLinears(const Entry& entry) const {
    const bool is_linear = IsLayerLinear(entry.role) ||
                           (entry.role == Role::kOther && entry.tensor->name.ends_with(".weight"));
    if (!is_linear) {
      return LeftAlone(options_.plain,
                       fmt::format("{} keeps the {} plain", name_, RoleName(entry.role)));
    }
    if (entry.tensor->shape.size() != 2) {
      return LeftAlone(options_.plain, fmt::format("{} takes matrices, not {}", name_,
                                                   ShapeToString(entry.tensor->shape)));
    }
    return Because(name_, Fit(base_, entry.tensor->cols()));
  }

  const MixOptions& options_;
  std::optional<MixStyle> style_;
  std::string name_;
  Encoding base_;
  bool tied_;
  GgufMix gguf_;
};

Error UnknownType(const std::string& name) {
  std::vector<std::string> names = TypeNames();
  for (const Mix& mix : kMixes) {
    if (IsOffered(mix)) names.emplace_back(mix.name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  Error error(ErrorCode::kUsage, fmt::format("there is no type or mix named \"{}\"", name));
  if (const auto nearest = NearestName(name, names)) {
    return std::move(error).Hint(fmt::format("did you mean {}?", *nearest));
  }
  return std::move(error).Hint(fmt::format("one of: {}", fmt::join(names, " ")));
}

GgufMixFacts FactsOf(const MixOptions& options, const Mix* mix, const Encoding& base,
                     const Family* family, const ModelConfig& config,
                     const std::vector<Entry>& entries) {
  GgufMixFacts facts;
  if (mix != nullptr) facts.file_type = static_cast<GgufFileType>(mix->gguf_file_type);
  if (base.kind == Encoding::Kind::kBlock) facts.base = base.block;
  const std::string architecture = GgufArchitecture(config, family);
  facts.is_70b = Is70B(config, family);
  facts.falcon = architecture == "falcon";
  facts.only_ffn_experts = architecture == "bailingmoe3";
  facts.heads_per_kv = config.kv_heads > 0 ? config.heads / config.kv_heads : 1;
  facts.experts = config.experts;
  facts.layers = config.layers;
  facts.importance = options.importance;
  facts.tied = true;
  for (const Entry& entry : entries) {
    facts.layers = std::max(facts.layers, entry.layer + 1);
    const GgufPart part = PartOf(entry.gguf_name);
    if (IsValueLike(part)) ++facts.value_tensors;
    if (part == GgufPart::kOutput) facts.tied = false;
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

bool IsOffered(const Mix& mix) {
  const auto base = NamedType(mix.base, IntegerSpec());
  if (!base || !IsWritable(*base)) return false;
  if (mix.style != MixStyle::kGguf) return true;
  const auto types = TypesOfMix(static_cast<GgufFileType>(mix.gguf_file_type), base->block);
  return std::all_of(types.begin(), types.end(),
                     [](BlockType type) { return IsWritable(Encoding::Block(type)); });
}

bool NeedsImportance(const Mix& mix) {
  const auto base = NamedType(mix.base, IntegerSpec());
  if (mix.style != MixStyle::kGguf || !base) return false;
  const auto file_type = static_cast<GgufFileType>(mix.gguf_file_type);
  const auto types = TypesOfMix(file_type, base->block);
  return std::any_of(types.begin(), types.end(),
                     [&](BlockType type) { return NeedsImportance(type, file_type); });
}

Result<std::vector<Choice>> DecideTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors) {
  // A mix under --pure lends its base: `--type q4_k_m --pure` is q4_k throughout.
  const Mix* named = FindMix(options.type);
  const Mix* mix = options.pure ? nullptr : named;
  const auto base =
      NamedType(named != nullptr ? named->base : std::string_view(options.type), options.integer);
  if (!base) return UnknownType(options.type);
  if (base->kind == Encoding::Kind::kInteger && base->integer.group_size < 0) {
    return Error(ErrorCode::kUsage, "the group size is negative").Hint("--group-size 128");
  }
  std::optional<MixStyle> style;
  if (mix != nullptr) style = mix->style;
  const bool one_format =
      base->kind == Encoding::Kind::kPlain || base->kind == Encoding::Kind::kBlock;
  // "int4_g32" is no mix by name; what groups, the same tensors.
  if (!one_format && !options.pure) style = MixStyle::kLinears;
  std::vector<Entry> entries = MakeEntries(family, tensors);
  PW_TRY(ApplyPatterns(options, entries));

  std::vector<std::string> names;
  std::vector<int64_t> layers;
  for (const Entry& entry : entries) {
    names.push_back(entry.gguf_name);
    layers.push_back(entry.layer);
  }
  Chooser chooser(options, style, options.type.substr(0, options.type.find("_g")), *base,
                  FactsOf(options, mix, *base, family, config, entries));
  std::vector<Choice> choices(entries.size());
  for (const size_t i : GgufOrder(names, layers)) choices[i] = chooser.Choose(entries[i]);
  return choices;
}

Result<std::vector<Choice>> ChooseTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors) {
  PW_ASSIGN(std::vector<Choice> choices, DecideTypes(options, family, config, tensors));
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].quantize || IsWritable(choices[i].encoding)) continue;
    return Error(ErrorCode::kUnsupported,
                 fmt::format("{} is read here but not written", choices[i].encoding.Name()))
        .Hint(fmt::format("types that are written: {}", fmt::join(TypeNames(), ", ")))
        .InTensor(tensors[i].name);
  }
  return choices;
}

}  // namespace pennyweight
