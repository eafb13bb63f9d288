#include "quant/type_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "quant/grid.h"

namespace pennyweight {
namespace {

TEST_CASE("the type table is sorted and round-trips through names") {
  IntegerSpec spec;
  spec.group_size = 64;
  std::string_view previous;
  std::string waiting;
  for (const TypeRow& row : TypeRows()) {
    CAPTURE(row.name);
    CHECK(previous < row.name);
    previous = row.name;
    CHECK(FindTypeRow(row.name) == &row);
    const auto type = NamedType(row.name, spec);
    REQUIRE(type.has_value());
    // The full name finds the same again.
    const auto again = NamedType(type->Name(), spec);
    REQUIRE(again.has_value());
    CHECK(again->Name() == type->Name());
    CHECK(type->Name().starts_with(row.name));
    CHECK(FindType(row.name, spec).has_value() == IsWritable(*type));
    if (!IsWritable(*type)) waiting += " " + std::string(row.name);
    CHECK(row.layouts != 0);
    CHECK_FALSE(row.feedback.empty());
    CHECK(row.encoding.BitsPerWeight(4096) > 1);
    CHECK(row.encoding.BitsPerWeight(4096) <= 32);
  }
  MESSAGE("types that wait for an encoder:" << (waiting.empty() ? " none" : waiting));
}

TEST_CASE("what is offered has an encoder, and every block type with an encoder is offered") {
  const auto names = TypeNames();
  CHECK(std::is_sorted(names.begin(), names.end()));
  for (const char* name : {"f16", "q4_0", "q4_k", "q6_k", "q8_0", "int4", "int8"}) {
    CHECK_MESSAGE(std::count(names.begin(), names.end(), name) == 1, name);
  }
  for (int i = 0; i <= static_cast<int>(BlockType::kQ2_0); ++i) {
    const BlockTraits& traits = TraitsOf(static_cast<BlockType>(i));
    CAPTURE(traits.name);
    const Encoding encoding = Encoding::Block(traits.type);
    CHECK(FindType(traits.name, IntegerSpec()).has_value() == IsWritable(encoding));
    // q8_1 and q8_k are for activations: no file of weights holds them.
    const bool activation = traits.type == BlockType::kQ8_1 || traits.type == BlockType::kQ8_K;
    CHECK((FindTypeRow(traits.name) == nullptr) == activation);
  }
}

TEST_CASE("integer types take group size and symmetry from the options, or from their own name") {
  IntegerSpec spec;
  spec.group_size = 64;
  spec.symmetric = false;
  spec.scale_dtype = DType::kBF16;
  const auto plain = FindType("int8", spec);
  REQUIRE(plain.has_value());
  CHECK(plain->integer.bits == 8);
  CHECK(plain->integer.group_size == 64);
  CHECK_FALSE(plain->integer.symmetric);
  CHECK(plain->integer.scale_dtype == DType::kBF16);
  for (const char* name : {"int4_g32", "int4_g32_asym", "int8_channel", "int8_channel_asym",
                           "int2_g16", "int3_g64_asym", "int5_channel", "int6_g256"}) {
    const auto type = FindType(name, spec);
    REQUIRE(type.has_value());
    CHECK(type->Name() == name);
  }
  for (const char* name :
       {"int4_", "int4_g", "int4_g0", "int4_g-1", "int4_g32x", "int4_asym", "int7", "int1",
        "q4_0_g32", "int4_g99999999999999999999", "", "Q4_0", "q4_0_", "f16_tensor"}) {
    CAPTURE(name);
    CHECK_FALSE(NamedType(name, spec).has_value());
  }
}

TEST_CASE("scaled and codebook types by name and suffix") {
  const IntegerSpec spec;
  for (const char* name : {"fp8_e4m3_tensor", "fp8_e4m3_channel", "fp8_e4m3_b128x128",
                           "fp8_e5m2_b64x96", "fp8_e5m2_tensor"}) {
    const auto type = NamedType(name, spec);
    REQUIRE(type.has_value());
    CHECK(type->kind == Encoding::Kind::kScaled);
    CHECK(type->Name() == name);
  }
  CHECK(NamedType("fp8_e4m3", spec)->Name() == "fp8_e4m3_channel");
  for (const char* name : {"nf4_b64", "fp4_b128", "nf4_b4096"}) {
    const auto type = NamedType(name, spec);
    REQUIRE(type.has_value());
    CHECK(type->kind == Encoding::Kind::kCodebook);
    CHECK(type->Name() == name);
  }
  CHECK(NamedType("fp4", spec)->Name() == "fp4_b64");
  for (const char* name : {"fp8", "fp8_e4m3_", "fp8_e4m3_row", "fp8_e4m3_b64", "fp8_e4m3_b0x64",
                           "nf4_g64", "nf4_b16", "nf4_b96", "nf4_b64x", "nf4_b8192", "fp4_e2m1"}) {
    CAPTURE(name);
    CHECK_FALSE(NamedType(name, spec).has_value());
  }
}

TEST_CASE("what the rows say of blocks and bits") {
  const auto row = [](std::string_view name) -> const TypeRow& {
    const TypeRow* found = FindTypeRow(name);
    REQUIRE(found != nullptr);
    return *found;
  };
  CHECK(row("q4_k").block() == 256);
  CHECK(row("q4_k").encoding.BitsPerWeight(4096) == 4.5);
  CHECK(row("int4").block() == 128);
  CHECK(row("int4").encoding.BitsPerWeight(4096) == 4.125);
  CHECK(row("nf4").block() == 64);
  CHECK(row("nf4").encoding.BitsPerWeight(4096) == 4.5);
  CHECK(row("fp8_e4m3").block() == 0);
  CHECK(row("iq2_xxs").importance == ImportanceUse::kNeeds);
  CHECK(row("q4_k").importance == ImportanceUse::kHelps);
  CHECK(row("bf16").importance == ImportanceUse::kNone);
  CHECK(row("nf4").layouts == kInBnb);
}

}  // namespace
}  // namespace pennyweight
