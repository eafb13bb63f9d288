#include "lib/fold_record.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "lib/base64.h"
#include "lib/json.h"
#include "tests/lib/plain_source.h"

namespace pennyweight {
namespace {

std::vector<float> Random(unsigned seed, size_t count, float mean = 0, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// Positive scales from 1/8 to 8; `octaves`: powers of 2^(1/16).
std::vector<float> Scales(unsigned seed, size_t count, bool octaves) {
  std::vector<float> scale = Random(seed, count);
  for (float& s : scale) {
    s = std::exp2(std::clamp(s, -3.0f, 3.0f));
    if (octaves) s = OctaveScale(NearestOctave(static_cast<double>(s)));
  }
  return scale;
}

PlainSource Model() {
  PlainSource source;
  source.Add("norm", {6}, Random(1, 6, 1, 0.1f));
  source.Add("v", {4, 6}, Random(2, 24));
  source.Add("v.bias", {4}, Random(3, 4));
  source.Add("o", {3, 8}, Random(4, 24));
  return source;
}

FoldRecord Record() {
  FoldRecord record;
  record.folds.push_back({Scales(5, 6, false), {"norm"}, {"v"}, 1, 1});
  record.folds.push_back({Scales(6, 4, true), {"v", "v.bias"}, {"o"}, 2, 2});
  return record;
}

std::vector<float> Read(const TensorSource& source, size_t index) {
  const TensorInfo& info = source.tensors()[index];
  std::vector<float> values(static_cast<size_t>(info.elements()));
  REQUIRE(ReadPlain(source, index, 0, info.rows(), values.data()).ok());
  return values;
}

TEST_CASE("scales of sixteenths of an octave: 255 numbers, each its own nearest") {
  for (int k = -127; k <= 127; ++k) {
    const double want = std::exp2(k / 16.0);
    CHECK(static_cast<double>(OctaveScale(k)) == doctest::Approx(want).epsilon(6e-8));
    CHECK(NearestOctave(static_cast<double>(OctaveScale(k))) == k);
  }
  CHECK(OctaveScale(16) == 2.0f);
  CHECK(OctaveScale(-32) == 0.25f);
  CHECK(NearestOctave(1e30) == 127);
  CHECK(NearestOctave(1e-30) == -127);
}

TEST_CASE("a record comes back from its text, exactly and in its short form") {
  const FoldRecord record = Record();
  const std::string text = FoldRecordToJson(record);
  const auto read = ParseFoldRecord(text + "   \n");
  REQUIRE(read.ok());
  CHECK(*read == record);
  const auto json = Json::Parse(text);
  REQUIRE(json.ok());
  const auto& folds = json->Find("folds")->items();
  CHECK(folds[0].Find("encoding")->str() == "f32");
  CHECK(folds[0].Find("scale")->str().size() == 32);  // 6 floats
  CHECK(folds[1].Find("encoding")->str() == "octave16");
  CHECK(folds[1].Find("scale")->str().size() == 8);  // 4 bytes
  CHECK(ParseFoldRecord(FoldRecordToJson({}))->empty());
}

TEST_CASE("folded, recorded, read, undone: the original weights to f32 rounding") {
  const PlainSource model = Model();
  const FoldRecord record = Record();
  FoldedSource folded(&model, ReadPlain);
  const auto folds = FoldsOf(record, model);
  REQUIRE(folds.ok());
  CHECK(folds->size() == 4);
  for (const auto& [index, fold] : *folds) folded.SetFold(index, fold);
  // Channel by channel: heads of 2 columns, each head of the scale for two heads of o.
  const std::vector<float> v = Read(model, 1), v_folded = Read(folded, 1);
  const std::vector<float> o = Read(model, 3), o_folded = Read(folded, 3);
  const auto& norm_scale = record.folds[0].scale;
  const auto& value_scale = record.folds[1].scale;
  for (size_t r = 0; r < 4; ++r) {
    for (size_t c = 0; c < 6; ++c) {
      CHECK(v_folded[r * 6 + c] ==
            doctest::Approx(v[r * 6 + c] * norm_scale[c] / value_scale[r]).epsilon(1e-6));
    }
  }
  const size_t channel[] = {0, 1, 0, 1, 2, 3, 2, 3};
  for (size_t i = 0; i < o.size(); ++i) {
    CHECK(o_folded[i] == doctest::Approx(o[i] * value_scale[channel[i % 8]]).epsilon(1e-6));
  }

  const auto read = ParseFoldRecord(FoldRecordToJson(record));
  REQUIRE(read.ok());
  const auto back = FoldsOf(*read, folded);
  REQUIRE(back.ok());
  FoldedSource undone(&folded, ReadPlain);
  for (const auto& [index, fold] : *back) undone.SetFold(index, Inverse(fold));
  for (size_t i = 0; i < model.tensors().size(); ++i) {
    const std::vector<float> want = Read(model, i), got = Read(undone, i), other = Read(folded, i);
    for (size_t j = 0; j < want.size(); ++j) {
      CHECK(got[j] == doctest::Approx(want[j]).epsilon(4e-7));
    }
    CHECK(other != want);
  }
}

TEST_CASE("a folded source lists f32, reads any rows and columns, and lets go") {
  const PlainSource model = Model();
  FoldedSource folded(&model, ReadPlain);
  CHECK(folded.FoldOf(1) == nullptr);
  folded.SetFold(1, {Scales(7, 4, false), Scales(8, 6, false)});
  REQUIRE(folded.FoldOf(1) != nullptr);
  CHECK(folded.tensors()[1].encoding == Encoding::Plain(DType::kF32));
  const std::vector<float> all = Read(folded, 1);
  for (int64_t row = 0; row < 4; ++row) {
    std::vector<float> one(6);
    REQUIRE(ReadPlain(folded, 1, row, 1, one.data()).ok());
    CHECK(std::equal(one.begin(), one.end(), all.begin() + row * 6));
  }
  EncodedTensor part;
  REQUIRE(folded.ReadColumns(1, 1, 2, 2, 3, &part).ok());
  std::vector<float> values(6);
  std::memcpy(values.data(), part.data.data(), part.data.size());
  CHECK(values[0] == all[8]);
  CHECK(values[5] == all[16]);
  folded.SetFold(1, {});
  CHECK(folded.FoldOf(1) == nullptr);
  CHECK(Read(folded, 1) == Read(model, 1));
}

// The record's text with one key of its first fold replaced.
std::string With(const std::string& key, Json value) {
  auto json = Json::Parse(FoldRecordToJson(Record()));
  REQUIRE(json.ok());
  Json fold = json->Find("folds")->items()[0];
  fold.Set(key, std::move(value));
  Json folds = Json::Array();
  folds.Push(std::move(fold));
  return json->Set("folds", std::move(folds)).Dump();
}

std::string Floats(std::vector<float> values) {
  return EncodeBase64({reinterpret_cast<const uint8_t*>(values.data()), values.size() * 4});
}

TEST_CASE("damaged records are refused, saying what is wrong") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::pair<std::string, std::string> cases[] = {
      {"", "damaged"},
      {"[]", "version"},
      {R"({"version":1})", "folds"},
      {R"({"version":2,"folds":[]})", "version 2"},
      {R"({"version":1,"folds":[7]})", "fold 0"},
      {With("scale", Json::String(Floats({1, 2, nan, 1, 1, 1}))), "scale 2"},
      {With("scale", Json::String(Floats({1, 2, 0, 1, 1, 1}))), "scale 2"},
      {With("scale", Json::String(Floats({1, 2, -1, 1, 1, 1}))), "scale 2"},
      {With("scale", Json::String(Floats({1, 2, inf, 1, 1, 1}))), "scale 2"},
      {With("scale", Json::String(Floats({1, 2, 1e-42f, 1, 1, 1}))), "scale 2"},
      {With("scale", Json::String("AAAAA===")), "base64"},
      {With("scale", Json::String("AAA=")), "ends inside a number"},
      {With("scale", Json::String("")), "no scales"},
      {With("scale", Json::Integer(1)), "texts"},
      {With("encoding", Json::String("f64")), "f64"},
      {With("divided", Json::String("norm")), "divided"},
      {With("multiplied", Json::Array().Push(Json::Integer(1))), "multiplied"},
      {With("repeat", Json::Integer(0)), "repeat"},
      {With("repeat", Json::Double(1.5)), "repeat"},
      {With("head_dim", Json::Integer(4)), "whole heads"},
      {With("head_dim", Json::Unsigned(1ull << 62)), "head_dim"},
  };
  for (const auto& [text, word] : cases) {
    CAPTURE(text);
    const auto record = ParseFoldRecord(text);
    REQUIRE_FALSE(record.ok());
    CHECK(record.error().code == ErrorCode::kInvalidHeader);
    CHECK(record.error().message.find(word) != std::string::npos);
  }
}

TEST_CASE("records that do not fit the tensors are refused by name") {
  const PlainSource model = Model();
  const auto refused = [&](RecordedFold fold, const std::string& tensor) {
    CAPTURE(tensor);
    const auto folds = FoldsOf({{std::move(fold)}}, model);
    REQUIRE_FALSE(folds.ok());
    CHECK(folds.error().code == ErrorCode::kInvalidHeader);
    CHECK(folds.error().tensor == tensor);
  };
  refused({Scales(1, 6, true), {"nosuch"}, {"v"}, 1, 1}, "nosuch");
  refused({Scales(1, 5, true), {"norm"}, {"v"}, 1, 1}, "norm");
  refused({Scales(1, 5, true), {}, {"v"}, 1, 1}, "v");
  refused({Scales(1, 6, true), {"v"}, {}, 1, 1}, "v");        // it has 4 rows
  refused({Scales(1, 6, true), {}, {"norm"}, 1, 1}, "norm");  // a vector has no columns
  refused({Scales(1, 4, true), {"v"}, {"o"}, 3, 2}, "o");     // 12 columns
  refused({Scales(1, 4, true), {}, {"o"}, int64_t{1} << 62, 2}, "o");
}

}  // namespace
}  // namespace pennyweight
