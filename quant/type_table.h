// Every type that the program has a name for: what it is made of, what helps it, what holds it.
// Facts of the types only; whether a type can be written in this build is IsWritable.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/encoding.h"

namespace pennyweight {

// What importance per column (an importance matrix, or calibration) does for the codes of a type.
enum class ImportanceUse : uint8_t {
  kNone,   // nothing: every value has one nearest code, or there is no scale to search
  kHelps,  // scales are searched under it
  kNeeds,  // so few codes that unweighted rounding leaves nothing of a model
};
std::string_view ImportanceUseName(ImportanceUse use);  // "none", "helps", "needs"

// Layouts as the command line names them, one bit each.
enum TypeLayout : uint32_t {
  kInGguf = 1u << 0,
  kInCompressedTensors = 1u << 1,
  kInSafetensors = 1u << 2,
  kInFp8 = 1u << 3,
  kInBnb = 1u << 4,
  kInGptq = 1u << 5,
  kInAwq = 1u << 6,
};
struct TypeLayoutName {
  TypeLayout bit;
  std::string_view name;
  std::string_view summary;  // one line
};
std::span<const TypeLayoutName> TypeLayouts();

struct TypeRow {
  std::string_view name;   // "q4_k", "int4", "fp8_e4m3": without suffixes
  std::string_view group;  // "plain", "legacy", "k-quant", "i-quant", "ternary", "float", ...
  Encoding encoding;       // with the default block, group or suffix
  ImportanceUse importance;
  // What method gptq does with it.
  std::string_view feedback;
  uint32_t layouts;           // TypeLayout bits
  std::string_view suffixes;  // what may follow the name; empty: nothing
  // Columns that share their finest scale; 0: the whole row.
  int64_t block() const;
};

// All rows, sorted by name, writable or not.
std::span<const TypeRow> TypeRows();
const TypeRow* FindTypeRow(std::string_view name);

// What a user may ask for with --type and friends: "f16", "q4_k", "int4_g64_asym", "fp8_e4m3",
// "nf4", ...; integer types take group size, symmetry and scale dtype from `integer` where the name
// does not say. nullopt when there is no such type. NamedType finds all, FindType what IsWritable.
std::optional<Encoding> NamedType(std::string_view name, const IntegerSpec& integer);
std::optional<Encoding> FindType(std::string_view name, const IntegerSpec& integer);

// True when there is an encoder for it. (A layout may still refuse it.)
bool IsWritable(const Encoding& encoding);

// Names of all types that can be written, sorted.
std::vector<std::string> TypeNames();

}  // namespace pennyweight
