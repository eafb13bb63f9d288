#include "formats/safetensors_writer.h"

#include <doctest/doctest.h>

#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

TEST_CASE("the header tells every tensor's place, without holes, from an aligned start") {
  const std::vector<StoredTensor> tensors = {{"b", DType::kI64, {2}},
                                             {"a \"quoted\" \u00e9", DType::kBF16, {3, 5}},
                                             {"scalar", DType::kF32, {}},
                                             {"empty", DType::kF16, {0, 7}},
                                             {"half bytes", DType::kF4, {3, 2}},
                                             {"last", DType::kU8, {9}}};
  const auto layout = LayOutSafetensors(tensors, {{"pennyweight.version", "1.2"}, {"z", "\n"}});
  REQUIRE(layout.ok());
  const std::string& head = layout->head;
  REQUIRE(head.size() > 8);
  uint64_t n = 0;
  for (int i = 7; i >= 0; --i) n = n << 8 | static_cast<uint8_t>(head[static_cast<size_t>(i)]);
  CHECK(n + 8 == head.size());
  CHECK(head.size() % 8 == 0);
  CHECK(head[8] == '{');
  CHECK((head.back() == ' ' || head.back() == '}'));

  const auto json = Json::Parse(std::string_view(head).substr(8));
  REQUIRE(json.ok());
  REQUIRE(json->members().size() == tensors.size() + 1);
  const Json* meta = json->Find("__metadata__");
  REQUIRE(meta != nullptr);
  CHECK(meta->Find("format")->str() == "pt");
  CHECK(meta->Find("pennyweight.version")->str() == "1.2");
  CHECK(meta->Find("z")->str() == "\n");
  const std::vector<uint64_t> bytes = {16, 30, 4, 0, 3, 9};
  CHECK(layout->bytes == bytes);
  uint64_t at = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, entry] = json->members()[i + 1];
    CHECK(name == tensors[i].name);
    CHECK(entry.Find("dtype")->str() == DTypeName(tensors[i].dtype));
    CHECK(entry.Find("shape")->items().size() == tensors[i].shape.size());
    CHECK(entry.Find("data_offsets")->items()[0].AsUnsigned() == at);
    CHECK(layout->offsets[i] == head.size() + at);
    at += bytes[i];
    CHECK(entry.Find("data_offsets")->items()[1].AsUnsigned() == at);
  }
  CHECK(layout->file_bytes == head.size() + at);
}

TEST_CASE("no tensors are a file too") {
  const auto layout = LayOutSafetensors({}, {});
  REQUIRE(layout.ok());
  CHECK(layout->file_bytes == layout->head.size());
  CHECK(layout->head.substr(8) == "{\"__metadata__\":{\"format\":\"pt\"}}");
}

TEST_CASE("what a header may not hold is refused with the tensor's name") {
  struct Case {
    std::vector<StoredTensor> tensors;
    ErrorCode code;
    const char* tensor;
  };
  const std::string nul("a\0b", 3);
  const std::vector<Case> cases = {
      {{{"x", DType::kF32, {1}}, {"x", DType::kF16, {1}}}, ErrorCode::kDuplicateKey, "x"},
      {{{"", DType::kF32, {1}}}, ErrorCode::kInvalidName, ""},
      {{{"__metadata__", DType::kF32, {1}}}, ErrorCode::kInvalidName, "__metadata__"},
      {{{std::string(limits::kTensorNameBytes + 1, 'n'), DType::kF32, {1}}},
       ErrorCode::kInvalidName,
       nullptr},
      {{{"neg", DType::kF32, {-1}}}, ErrorCode::kOverflow, "neg"},
      {{{"big", DType::kU8, {int64_t{1} << 40, int64_t{1} << 40}}}, ErrorCode::kOverflow, "big"},
      {{{"bits", DType::kF64, {int64_t{1} << 60}}}, ErrorCode::kOverflow, "bits"},
      {{{"nibble", DType::kF4, {3}}}, ErrorCode::kInvalidTensor, "nibble"},
      {{{nul, DType::kF32, {1}}}, ErrorCode::kInvalidName, nullptr},
  };
  for (const Case& c : cases) {
    const auto layout = LayOutSafetensors(c.tensors, {});
    REQUIRE(!layout.ok());
    CHECK(layout.error().code == c.code);
    if (c.tensor != nullptr) CHECK(layout.error().tensor == c.tensor);
  }
  // A sum of sizes that fit one by one.
  std::vector<StoredTensor> many;
  for (int i = 0; i < 9; ++i) {
    many.push_back({std::string(1, static_cast<char>('a' + i)), DType::kU8, {int64_t{1} << 61}});
  }
  const auto layout = LayOutSafetensors(many, {});
  REQUIRE(!layout.ok());
  CHECK(layout.error().code == ErrorCode::kOverflow);
  const auto large = LayOutSafetensors({}, {{"k", std::string(100'000'000, 'v')}});
  REQUIRE(!large.ok());
  CHECK(large.error().code == ErrorCode::kHeaderTooLarge);
}

}  // namespace
}  // namespace pennyweight
