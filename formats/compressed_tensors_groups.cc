#include "formats/compressed_tensors_groups.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kFormats[] = {
    "float-quantized", "int-quantized",        "mxfp4-pack-quantized", "mxfp8-quantized",
    "naive-quantized", "nvfp4-pack-quantized", "pack-quantized",
};

bool IsKnownFormat(std::string_view format) {
  return std::find(std::begin(kFormats), std::end(kFormats), format) != std::end(kFormats);
}

std::string NotRead(const std::string& format) {
  return fmt::format("\"{:.40}\" is not read here; {} are", format, fmt::join(kFormats, ", "));
}

// block_structure: [rows, cols], or "rowsxcols".
Status ParseBlocks(const JsonFields& weights, GroupRule* rule) {
  const Json* value = weights.Value("block_structure");
  if (value == nullptr) return OkStatus();
  std::vector<std::optional<int64_t>> numbers;
  if (value->is_array()) {
    for (const Json& item : value->items()) numbers.push_back(item.AsInteger());
  } else if (value->is_string() && value->str() == "128x128") {
    numbers = {128, 128};
  }
  const auto fits = [](const std::optional<int64_t>& n) {
    return n && *n >= 1 && *n <= limits::kDimension;
  };
  if (numbers.size() != 2 || !fits(numbers[0]) || !fits(numbers[1])) {
    return weights.Invalid("block_structure", "must be two numbers above 0");
  }
  rule->block_rows = *numbers[0];
  rule->block_cols = *numbers[1];
  return OkStatus();
}

Status ParseStrategy(const JsonFields& weights, GroupRule* rule) {
  PW_ASSIGN(const std::optional<int64_t> size,
            weights.GetInteger("group_size", -1, limits::kDimension));
  PW_ASSIGN(const std::optional<std::string> named, weights.GetString("strategy"));
  const bool grouped = size && *size > 0;
  const std::string strategy = named.value_or(grouped ? "group" : "channel");
  if (strategy == "group" || (strategy == "tensor_group" && !rule->integer)) {
    if (!size) return weights.Missing("group_size");
    rule->strategy = GroupRule::Strategy::kGroup;
    rule->group_size = grouped ? *size : 0;
  } else if (strategy == "tensor") {
    rule->strategy = GroupRule::Strategy::kTensor;
  } else if (strategy == "block" && !rule->integer) {
    rule->strategy = GroupRule::Strategy::kBlock;
    return ParseBlocks(weights, rule);
  } else if (strategy != "channel") {
    return weights.Unsupported("strategy", fmt::format("\"{:.40}\" is not read here", strategy));
  }
  return OkStatus();
}

Result<GroupRule> ParseGroup(const std::string& name, const JsonFields& group) {
  GroupRule rule;
  rule.name = name;
  PW_ASSIGN(const std::optional<std::string> format, group.GetString("format"));
  if (format && !IsKnownFormat(*format)) return group.Unsupported("format", NotRead(*format));
  PW_ASSIGN(const std::optional<JsonFields> weights, group.GetObject("weights"));
  if (!weights) return group.Missing("weights");
  PW_ASSIGN(const int64_t bits, weights->RequireInteger("num_bits", 1, 32));
  PW_ASSIGN(const std::optional<std::string> type, weights->GetString("type"));
  rule.integer = type.value_or("int") == "int";
  const bool known =
      rule.integer ? bits >= 2 && bits <= 8 : type == "float" && (bits == 4 || bits == 8);
  if (!known) {
    return weights->Unsupported(
        "num_bits", fmt::format("{:.40} of {} bits is not read here; int of 2 to 8 and float of 4 "
                                "and 8 are",
                                type.value_or("int"), bits));
  }
  rule.bits = static_cast<int>(bits);
  PW_ASSIGN(const std::optional<bool> symmetric, weights->GetBool("symmetric"));
  rule.symmetric = symmetric.value_or(true);  // QuantizationArgs' default
  PW_TRY(ParseStrategy(*weights, &rule));
  return rule;
}

}  // namespace

std::string GroupRule::ToString() const {
  const std::string shared = strategy == Strategy::kTensor ? "tensor"
                             : strategy == Strategy::kBlock
                                 ? fmt::format("blocks of {}x{}", block_rows, block_cols)
                             : group_size == 0 ? "channel"
                                               : fmt::format("groups of {}", group_size);
  return fmt::format("{} ({} bits, {}, {})", name, bits, shared,
                     symmetric ? "symmetric" : "asymmetric");
}

Result<std::vector<GroupRule>> ParseGroupRules(const JsonFields& fields) {
  PW_ASSIGN(const std::string format, fields.RequireString("format"));
  if (format != "mixed-precision" && !IsKnownFormat(format)) {
    return fields.Unsupported("format", NotRead(format));
  }
  PW_ASSIGN(const std::optional<JsonFields> sparsity, fields.GetObject("sparsity_config"));
  if (sparsity) {
    PW_ASSIGN(const std::optional<std::string> kind, sparsity->GetString("format"));
    if (kind && *kind != "dense") return sparsity->Unsupported("format", "sparse weights");
  }
  PW_ASSIGN(const std::optional<JsonFields> transform, fields.GetObject("transform_config"));
  if (transform && transform->Has("config_groups") &&
      !(transform->Value("config_groups")->is_object() &&
        transform->Value("config_groups")->members().empty())) {
    return fields.Unsupported("transform_config", "rotated weights are not read here");
  }
  const Json* groups = fields.Value("config_groups");
  if (groups == nullptr) return fields.Missing("config_groups");
  if (!groups->is_object() || groups->members().empty()) {
    return fields.Invalid("config_groups", "must be an object with at least one group");
  }
  std::vector<GroupRule> rules;
  for (const auto& [name, group] : groups->members()) {
    if (!group.is_object()) return fields.Invalid("config_groups", "must hold objects");
    const JsonFields inner(group, fields.file(),
                           fmt::format("quantization_config.config_groups.{:.40}.", name));
    PW_ASSIGN(GroupRule rule, ParseGroup(name, inner));
    rules.push_back(std::move(rule));
  }
  return rules;
}

}  // namespace pennyweight
