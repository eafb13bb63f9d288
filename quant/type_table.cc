// The types that can be written, by the names that a user types.
#include <algorithm>
#include <charconv>
#include <iterator>
#include <utility>

#include "quant/mix.h"
#include "quant/type_scaled.h"

namespace pennyweight {
namespace {

struct TypeRow {
  std::string_view name;
  Encoding::Kind kind;
  DType dtype = DType::kF32;           // kPlain
  BlockType block = BlockType::kQ4_0;  // kBlock
  int bits = 0;                        // kInteger
};

constexpr auto kPlain = Encoding::Kind::kPlain;
constexpr auto kBlock = Encoding::Kind::kBlock;
constexpr auto kInteger = Encoding::Kind::kInteger;

// Sorted by name. A block type is here when MakeGrid has a grid for it.
constexpr TypeRow kTypes[] = {
    {"bf16", kPlain, DType::kBF16},
    {"f16", kPlain, DType::kF16},
    {"f32", kPlain, DType::kF32},
    {.name = "int2", .kind = kInteger, .bits = 2},
    {.name = "int3", .kind = kInteger, .bits = 3},
    {.name = "int4", .kind = kInteger, .bits = 4},
    {.name = "int5", .kind = kInteger, .bits = 5},
    {.name = "int6", .kind = kInteger, .bits = 6},
    {.name = "int8", .kind = kInteger, .bits = 8},
    {.name = "q2_k", .kind = kBlock, .block = BlockType::kQ2_K},
    {.name = "q3_k", .kind = kBlock, .block = BlockType::kQ3_K},
    {.name = "q4_0", .kind = kBlock, .block = BlockType::kQ4_0},
    {.name = "q4_1", .kind = kBlock, .block = BlockType::kQ4_1},
    {.name = "q4_k", .kind = kBlock, .block = BlockType::kQ4_K},
    {.name = "q5_0", .kind = kBlock, .block = BlockType::kQ5_0},
    {.name = "q5_1", .kind = kBlock, .block = BlockType::kQ5_1},
    {.name = "q5_k", .kind = kBlock, .block = BlockType::kQ5_K},
    {.name = "q6_k", .kind = kBlock, .block = BlockType::kQ6_K},
    {.name = "q8_0", .kind = kBlock, .block = BlockType::kQ8_0},
};

const TypeRow* FindRow(std::string_view name) {
  const auto* row =
      std::lower_bound(std::begin(kTypes), std::end(kTypes), name,
                       [](const TypeRow& r, std::string_view n) { return r.name < n; });
  return row != std::end(kTypes) && row->name == name ? row : nullptr;
}

// What may follow "int4" and "int8", as Encoding::Name prints it: "_channel" or "_gN", then
// optionally "_asym". nullopt when it is anything else.
std::optional<IntegerSpec> ParseSuffix(std::string_view suffix, IntegerSpec spec) {
  if (suffix.starts_with("_channel")) {
    spec.group_size = 0;
    suffix.remove_prefix(8);
  } else if (suffix.starts_with("_g")) {
    suffix.remove_prefix(2);
    int64_t group = 0;
    const auto [end, error] = std::from_chars(suffix.data(), suffix.data() + suffix.size(), group);
    if (error != std::errc() || group <= 0) return std::nullopt;
    spec.group_size = group;
    suffix.remove_prefix(static_cast<size_t>(end - suffix.data()));
  } else {
    return std::nullopt;
  }
  spec.symmetric = suffix.empty();
  if (!suffix.empty() && suffix != "_asym") return std::nullopt;
  return spec;
}

}  // namespace

std::optional<Encoding> FindType(std::string_view name, const IntegerSpec& integer) {
  if (const auto scaled = FindScaledType(name)) return scaled;
  const size_t stem = name.starts_with("int") ? name.find('_') : std::string_view::npos;
  const TypeRow* row = FindRow(name.substr(0, stem));
  if (row == nullptr) return std::nullopt;
  switch (row->kind) {
    case Encoding::Kind::kPlain:
      return Encoding::Plain(row->dtype);
    case Encoding::Kind::kBlock:
      return Encoding::Block(row->block);
    case Encoding::Kind::kScaled:
    case Encoding::Kind::kCodebook:
      return std::nullopt;  // FindScaledType has these
    case Encoding::Kind::kInteger:
      break;
  }
  IntegerSpec spec = integer;
  spec.bits = row->bits;
  if (stem == std::string_view::npos) return Encoding::Integer(spec);
  const auto parsed = ParseSuffix(name.substr(stem), spec);
  if (!parsed) return std::nullopt;
  return Encoding::Integer(*parsed);
}

std::vector<std::string> TypeNames() {
  std::vector<std::string> names;
  for (const TypeRow& row : kTypes) names.emplace_back(row.name);
  for (std::string& name : ScaledTypeNames()) names.push_back(std::move(name));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace pennyweight
