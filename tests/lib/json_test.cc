#include "lib/json.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "lib/file.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

Json Parsed(std::string_view text) {
  Result<Json> result = Json::Parse(text);
  CAPTURE(text);
  REQUIRE(result.ok());
  return std::move(result).value();
}

TEST_CASE("every kind of value") {
  const Json json = Parsed(
      " {\"z\": [1, -2, 3.5, true, false, null, \"s\"], \"a\": {\"k\": {}}, \"e\": [] }\r\n\t");
  REQUIRE(json.is_object());
  REQUIRE(json.members().size() == 3);
  CHECK(json.members()[0].first == "z");  // the order of the text
  CHECK(json.members()[1].first == "a");
  const std::vector<Json>& items = json.Find("z")->items();
  REQUIRE(items.size() == 7);
  CHECK(items[0].kind() == Json::Kind::kUnsigned);
  CHECK(items[0].AsUnsigned() == 1);
  CHECK(items[1].kind() == Json::Kind::kInteger);
  CHECK(items[1].AsInteger() == -2);
  CHECK_FALSE(items[1].AsUnsigned().has_value());
  CHECK(items[1].AsDouble() == -2.0);
  CHECK(items[2].AsDouble() == 3.5);
  CHECK(items[3].AsBool() == true);
  CHECK(items[4].AsBool() == false);
  CHECK(items[5].is_null());
  CHECK(items[6].AsString() == "s");
  CHECK(json.Find("a")->Find("k")->members().empty());
  CHECK(json.Find("e")->items().empty());
  CHECK(json.Find("missing") == nullptr);
  CHECK(items[0].Find("a") == nullptr);
  // Nothing is converted between kinds.
  CHECK_FALSE(items[0].AsBool().has_value());
  CHECK_FALSE(items[0].AsString().has_value());
  CHECK_FALSE(items[6].AsDouble().has_value());
  CHECK_FALSE(items[5].AsInteger().has_value());
  CHECK(Parsed("7").AsUnsigned() == 7);
  CHECK(Parsed("\"\"").str().empty());
}

TEST_CASE("integers are exact") {
  CHECK(Parsed("18446744073709551615").AsUnsigned() == 18446744073709551615ull);
  CHECK_FALSE(Parsed("18446744073709551615").AsInteger().has_value());
  CHECK(Parsed("9223372036854775807").AsInteger() == std::numeric_limits<int64_t>::max());
  CHECK(Parsed("-9223372036854775808").AsInteger() == std::numeric_limits<int64_t>::min());
  CHECK(Parsed("9007199254740993").AsUnsigned() == 9007199254740993ull);  // no double
  // What does not fit, or is written as a fraction, is a number but no integer.
  for (const char* text : {"18446744073709551616", "-9223372036854775809", "1.0", "1e3", "-0.0"}) {
    CAPTURE(text);
    CHECK_FALSE(Parsed(text).AsUnsigned().has_value());
    CHECK_FALSE(Parsed(text).AsInteger().has_value());
    CHECK(Parsed(text).AsDouble().has_value());
  }
}

TEST_CASE("strings") {
  CHECK(Parsed(R"("a\"\\\/\b\f\n\r\tA\u00e9\u20ac\ud83d\ude00")").str() ==
        "a\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(Parsed("\"\\u0000x\"").str() == std::string("\0x", 2));
  CHECK(Parsed("\"\xf0\x9f\x98\x80\x7f\"").str() == "\xf0\x9f\x98\x80\x7f");
}

TEST_CASE("what is not JSON is refused with its place") {
  struct Case {
    std::string text;
    ErrorCode code;
    int64_t offset;  // -1: not checked
  };
  const std::string deep(limits::kJsonDepth + 1, '[');
  const Case cases[] = {
      {"", ErrorCode::kInvalidHeader, 0},
      {"   ", ErrorCode::kInvalidHeader, -1},
      {"{", ErrorCode::kInvalidHeader, -1},
      {"{\"a\":1,}", ErrorCode::kInvalidHeader, 7},
      {"[1,]", ErrorCode::kInvalidHeader, 3},
      {"[1 2]", ErrorCode::kInvalidHeader, 3},
      {"{\"a\" 1}", ErrorCode::kInvalidHeader, 5},
      {"{a:1}", ErrorCode::kInvalidHeader, 1},
      {"{'a':1}", ErrorCode::kInvalidHeader, 1},
      {"[1] [2]", ErrorCode::kInvalidHeader, 4},
      {"[1]x", ErrorCode::kInvalidHeader, 3},
      {"// c\n1", ErrorCode::kInvalidHeader, -1},
      {"[01]", ErrorCode::kInvalidHeader, 2},
      {"[+1]", ErrorCode::kInvalidHeader, 1},
      {"[.5]", ErrorCode::kInvalidHeader, 1},
      {"[1.]", ErrorCode::kInvalidHeader, -1},
      {"[0x10]", ErrorCode::kInvalidHeader, -1},
      {"[NaN]", ErrorCode::kInvalidHeader, -1},
      {"[Infinity]", ErrorCode::kInvalidHeader, -1},
      {"[1e999]", ErrorCode::kInvalidHeader, -1},
      {"[tru]", ErrorCode::kInvalidHeader, -1},
      {"\"a", ErrorCode::kInvalidHeader, -1},
      {"\"a\nb\"", ErrorCode::kInvalidHeader, 2},
      {"\"\\x\"", ErrorCode::kInvalidHeader, 2},
      {"\"\\u12g4\"", ErrorCode::kInvalidHeader, -1},
      {"\"\\ud800\"", ErrorCode::kInvalidHeader, -1},  // lone surrogates
      {"\"\\udc00\\ud800\"", ErrorCode::kInvalidHeader, -1},
      {"\"\xff\"", ErrorCode::kInvalidHeader, 1},               // UTF-8: no such byte,
      {"\"\xc0\x80\"", ErrorCode::kInvalidHeader, 1},           // overlong,
      {"\"\xed\xa0\x80\"", ErrorCode::kInvalidHeader, -1},      // surrogate,
      {"\"\xf4\x90\x80\x80\"", ErrorCode::kInvalidHeader, -1},  // beyond U+10FFFF,
      {"\"\xe2\x82\"", ErrorCode::kInvalidHeader, -1},          // cut
      {std::string("{}\0trailing", 11), ErrorCode::kInvalidHeader, 2},
      {std::string("[1,\0]", 5), ErrorCode::kInvalidHeader, 3},
      {"{\"a\":1,\"a\":1}", ErrorCode::kDuplicateKey, -1},
      {"{\"a\":1,\"\\u0061\":2}", ErrorCode::kDuplicateKey, -1},
      {"{\"x\":{\"b\":1,\"c\":2,\"b\":3}}", ErrorCode::kDuplicateKey, -1},
      {"{\"\":1,\"\":2}", ErrorCode::kDuplicateKey, -1},
      {deep, ErrorCode::kLimit, -1},
      {std::string(1 << 20, '['), ErrorCode::kLimit, -1},
  };
  for (const Case& test : cases) {
    const std::string shown = test.text.substr(0, 40);
    CAPTURE(shown);
    const Result<Json> result = Json::Parse(test.text);
    REQUIRE_FALSE(result.ok());
    CHECK(std::string(ErrorCodeName(result.error().code)) == ErrorCodeName(test.code));
    if (test.offset >= 0) CHECK(result.error().offset == test.offset);
    CHECK(result.error().message.size() > 10);
    CHECK(result.error().message.size() < 400);
    CHECK(result.error().message.find("json.exception") == std::string::npos);
  }
}

TEST_CASE("the deepest nesting that is allowed parses") {
  const auto depth = static_cast<size_t>(limits::kJsonDepth);
  const std::string text = std::string(depth, '[') + std::string(depth, ']');
  CHECK(Parsed(text).Dump() == text);
}

// Keys and values as ParseMembers hands them out, joined; the error's code when it fails.
std::string Members(const std::string& text, std::string_view inside) {
  std::string out;
  const Status status =
      Json::ParseMembers(text, inside, [&](const std::string& key, const Json& value) -> Status {
        out += key + "=" + value.Dump() + ";";
        if (key == "stop") return Error(ErrorCode::kIo, "stopped");
        return OkStatus();
      });
  return status.ok() ? out : ErrorCodeName(status.error().code);
}

TEST_CASE("members are handed out one by one") {
  CHECK(Members(R"({"a":1,"b":{"c":[2,{"d":null}]},"":"x"})", "") ==
        R"(a=1;b={"c":[2,{"d":null}]};="x";)");
  CHECK(Members("{}", "").empty());
  // Repeated keys are the caller's.
  CHECK(Members(R"({"a":1,"a":2})", "") == "a=1;a=2;");
  CHECK(Members(R"({"a":{"b":1,"b":2}})", "") == "duplicate_key");
  CHECK(Members(R"({"a":1,"stop":2,"b":3})", "") == "io");
  for (const char* no_object : {"[]", "1", "null", "\"a\"", R"([{"a":1}])"}) {
    CHECK(Members(no_object, "") == "invalid_header");
  }
  CHECK(Members(R"({"a":1)", "") == "invalid_header");
  CHECK(Members(R"({"a":1}x)", "") == "invalid_header");
}

TEST_CASE("members of an object inside of another") {
  CHECK(Members(R"({"x":{"m":{"z":0}},"m":{"a":1,"b":{"m":2}},"y":[{"m":{"q":1}}]})", "m") ==
        R"(a=1;b={"m":2};)");
  CHECK(Members(R"({"m":{}})", "m").empty());
  CHECK(Members(R"({"m":{"a":1},"m":{"b":2}})", "m") == "duplicate_key");
  CHECK(Members(R"({"x":1,"x":2,"m":{}})", "m") == "duplicate_key");
  for (const char* none : {"{}", R"({"m":1})", R"({"m":[{}]})", R"({"x":{"m":{}}})", "[]"}) {
    CHECK(Members(none, "m") == "invalid_header");
  }
}

TEST_CASE("what a tree may take is bounded by its text; long tokens are refused") {
  // Five million values of two bytes each would be a tree of 200 MB; fifty thousand are none.
  for (const size_t values : {size_t{50'000}, size_t{10'000'000}}) {
    std::string text = "[0";
    for (size_t i = 1; i < values; ++i) text += ",0";
    const Result<Json> json = Json::Parse(text + "]");
    CHECK(json.ok() == (values == 50'000));
    if (!json.ok()) CHECK(json.error().code == ErrorCode::kLimit);
  }
  const std::string longest(limits::kJsonTokenBytes - 2, 'x');
  CHECK(Json::Parse("\"" + longest + "\"").ok());
  CHECK(Json::Parse("\"" + longest + "x\"").error().code == ErrorCode::kLimit);
  // Quotes behind backslashes do not end a string.
  std::string escaped;
  while (escaped.size() < limits::kJsonTokenBytes) escaped += "\\\"";
  CHECK(Json::Parse("\"" + escaped + "\"").error().code == ErrorCode::kLimit);
  CHECK(Json::Parse(std::string(limits::kJsonTokenBytes + 1, '1')).error().code ==
        ErrorCode::kLimit);
}

TEST_CASE("equal keys in different objects are no duplicates") {
  CHECK(Json::Parse(R"([{"a":1},{"a":{"a":1}}])").ok());
}

TEST_CASE("a large object is checked for duplicates, and quickly") {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i)
    text += "\"key" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  const std::string good = text + "\"last\":0}";
  const Json json = Parsed(good);
  CHECK(json.members().size() == 200001);
  CHECK(json.members()[777].second.AsUnsigned() == 777);
  CHECK(json.Dump() == good);
  const Result<Json> bad = Json::Parse(text + "\"key\\u0031234\":0}");
  REQUIRE_FALSE(bad.ok());
  CHECK(bad.error().code == ErrorCode::kDuplicateKey);
  CHECK(bad.error().message.find("key1234") != std::string::npos);
}

TEST_CASE("text comes back as it was") {
  for (const char* text :
       {"{}", "[]", "null", "true", "-5", "18446744073709551615", "0.1", "-1.5e-300", "1e+22",
        "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f/\x7f\xc3\xa9\"",
        "{\"b\":[1,[2,{\"a\":null}]],\"a\":\"\\u0000\"}"}) {
    CHECK(Parsed(text).Dump() == text);
  }
  CHECK(Parsed("[1,{\"a\":[],\"b\":{}}]").Dump(2) ==
        "[\n  1,\n  {\n    \"a\": [],\n    \"b\": {}\n  }\n]");
  CHECK(Parsed("{\"a\":[1,2]}").Dump(0) == "{\n\"a\": [\n1,\n2\n]\n}");
}

TEST_CASE("doubles survive writing and reading bit by bit") {
  std::mt19937_64 random(99);
  int wrong = 0;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bits = random();
    double value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    const Result<Json> back = Json::Parse(Json::Double(value).Dump());
    const std::optional<double> read = back.ok() ? back->AsDouble() : std::nullopt;
    wrong += !read || std::memcmp(&*read, &value, sizeof(value)) != 0 ||
             back->kind() != Json::Kind::kDouble;
  }
  CHECK(wrong == 0);
  CHECK(Json::Double(1).Dump() == "1.0");
  CHECK(Json::Double(0.1).Dump() == "0.1");
  CHECK(Json::Double(-0.0).Dump() == "-0.0");
  CHECK(Json::Double(std::nan("")).Dump() == "null");
  CHECK(Json::Double(HUGE_VAL).is_null());
}

TEST_CASE("strings that are no UTF-8 are written as something readable") {
  const Json json = Json::String(
      "a\xff"
      "b\xe2\x82"
      "c\xed\xa0\x80");
  CHECK(json.Dump() ==
        "\"a\xef\xbf\xbd"
        "b\xef\xbf\xbd\xef\xbf\xbd"
        "c\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
  CHECK(Json::Parse(json.Dump()).ok());
}

TEST_CASE("building keeps order, replaces, and does not change copies") {
  Json json = Json::Object();
  json.Set("b", Json::Integer(-1)).Set("a", Json::Array().Push(Json::Bool(true)));
  const Json copy = json;
  json.Set("b", Json::Unsigned(2)).Set("c", Json::String("x"));
  CHECK(json.Dump() == R"({"b":2,"a":[true],"c":"x"})");
  CHECK(copy.Dump() == R"({"b":-1,"a":[true]})");
  Json list = *copy.Find("a");
  list.Push(Json());
  CHECK(list.Dump() == "[true,null]");
  CHECK(copy.Find("a")->Dump() == "[true]");
  CHECK(Json::Integer(5).AsUnsigned() == 5);
  CHECK(Json::Unsigned(5).AsInteger() == 5);
}

TEST_CASE("files") {
  CHECK(Json::ParseFile("/nonexistent/x.json").error().code == ErrorCode::kNotFound);
  const std::string path = "json_test_" + std::to_string(std::random_device{}()) + ".tmp";
  std::ofstream(path) << "{\"a\": tru}";
  const Result<Json> bad = Json::ParseFile(path);
  std::remove(path.c_str());
  REQUIRE_FALSE(bad.ok());
  CHECK(bad.error().file == path);
  CHECK(bad.error().offset >= 6);
}

TEST_CASE("real tokenizers, written and read again") {
  const std::string shared = std::string(PENNYWEIGHT_SOURCE_DIR) + "/../shared/";
  int read = 0;
  for (const char* name : {"tokenizers/llama3/tokenizer.json", "tokenizers/qwen3/tokenizer.json",
                           "models/pd-llama-4M/tokenizer.json", "models/pd-llama-4M/config.json"}) {
    const std::string path = shared + name;
    if (!PathExists(path)) {
      MESSAGE("SKIPPED: not found: ", path);
      continue;
    }
    ++read;
    CAPTURE(path);
    const Result<Json> first = Json::ParseFile(path);
    REQUIRE(first.ok());
    const std::string text = first->Dump();
    const Result<Json> second = Json::Parse(text);
    REQUIRE(second.ok());
    CHECK(second->Dump() == text);
  }
  if (read > 0) CHECK(read >= 2);
}

}  // namespace
}  // namespace pennyweight
