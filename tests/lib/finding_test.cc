#include "lib/finding.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "lib/json.h"

namespace pennyweight {
namespace {

Findings Some() {
  Findings findings;
  findings.tensors_checked = 7;
  findings.list.push_back({.rule = "VAL-NAN",
                           .message = "3 values, \"odd\"\nones",
                           .file = "dir/a model.safetensors",
                           .tensor = "w\x1b[2J",
                           .offset = 4096,
                           .bytes = 64});
  findings.list.push_back({.rule = "DUP-CONTENT", .message = "same", .file = "/abs/x.gguf"});
  return findings;
}

TEST_CASE("every rule has an id of its kind, words, and is found by its id") {
  std::set<std::string_view> ids;
  for (const Rule& rule : Rules()) {
    CHECK(ids.insert(rule.id).second);
    CHECK(&RuleOf(rule.id) == &rule);
    CHECK(rule.id.find('-') != std::string_view::npos);
    CHECK(rule.id.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") ==
          std::string_view::npos);
    CHECK(rule.help.size() > 10);
  }
  CHECK(ids.size() > 40);
}

TEST_CASE("notes alone are fine unless they are to count") {
  Findings findings;
  CHECK(findings.Ok(true));
  findings.list.push_back({.rule = "DUP-CONTENT", .message = "same"});
  CHECK(findings.Ok(false));
  CHECK_FALSE(findings.Ok(true));
  findings.list.push_back({.rule = "VAL-INF", .message = "inf"});
  CHECK_FALSE(findings.Ok(false));
  CHECK(findings.Count(Severity::kNote) == 1);
  CHECK(findings.Count(Severity::kWarning) == 1);
  CHECK(findings.Count(Severity::kError) == 0);
}

TEST_CASE("JSON has the keys of the contract, null where one does not apply") {
  const Result<Json> parsed = Json::Parse(FindingsToJson(Some(), false));
  REQUIRE(parsed.ok());
  CHECK(parsed->Find("ok")->AsBool() == false);
  CHECK(parsed->Find("tensors_checked")->AsUnsigned() == 7);
  const std::vector<Json>& rows = parsed->Find("findings")->items();
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].Find("rule")->str() == "VAL-NAN");
  CHECK(rows[0].Find("severity")->str() == "error");
  CHECK(rows[0].Find("offset")->AsInteger() == 4096);
  CHECK(rows[0].Find("tensor")->str() == "w\x1b[2J");
  CHECK(rows[1].Find("severity")->str() == "note");
  CHECK(rows[1].Find("offset")->is_null());
  CHECK(rows[1].Find("tensor")->is_null());
}

TEST_CASE("CSV quotes what has commas, quotes or lines in it") {
  const std::string csv = FindingsToCsv(Some());
  CHECK(csv.find("rule,severity,file,tensor,offset,message\r\n") == 0);
  CHECK(csv.find("4096,\"3 values, \"\"odd\"\"\nones\"\r\n") != std::string::npos);
  CHECK(csv.find("DUP-CONTENT,note,/abs/x.gguf,,,same\r\n") != std::string::npos);
}

TEST_CASE("SARIF has what code scanning asks for") {
  const Error error = Error(ErrorCode::kTruncated, "cut").InFile("b.bin").At(5);
  const Result<Json> log = Json::Parse(FindingsToSarif(Some(), &error, "1.2.3"));
  REQUIRE(log.ok());
  CHECK(log->Find("version")->str() == "2.1.0");
  CHECK(log->Find("$schema")->str().find("sarif-schema-2.1.0.json") != std::string::npos);
  const Json& run = log->Find("runs")->items()[0];
  const Json& driver = *run.Find("tool")->Find("driver");
  CHECK(driver.Find("name")->str() == "pennyweight");
  CHECK(driver.Find("version")->str() == "1.2.3");
  CHECK(driver.Find("rules")->items().size() == Rules().size());
  const std::vector<Json>& results = run.Find("results")->items();
  REQUIRE(results.size() == 2);
  for (const Json& result : results) {
    const auto index = static_cast<size_t>(*result.Find("ruleIndex")->AsUnsigned());
    CHECK(driver.Find("rules")->items()[index].Find("id")->str() == result.Find("ruleId")->str());
    CHECK(result.Find("message")->Find("text")->is_string());
  }
  CHECK(results[0].Find("level")->str() == "error");
  const Json& place = *results[0].Find("locations")->items()[0].Find("physicalLocation");
  CHECK(place.Find("artifactLocation")->Find("uri")->str() == "dir/a%20model.safetensors");
  CHECK(place.Find("region")->Find("byteOffset")->AsInteger() == 4096);
  CHECK(place.Find("region")->Find("byteLength")->AsInteger() == 64);
  CHECK(place.Find("region")->Find("startLine")->AsInteger() == 1);
  const Json& other = *results[1].Find("locations")->items()[0].Find("physicalLocation");
  CHECK(other.Find("artifactLocation")->Find("uri")->str() == "file:///abs/x.gguf");
  CHECK(other.Find("region")->Find("byteOffset") == nullptr);
  const Json& invocation = run.Find("invocations")->items()[0];
  CHECK(invocation.Find("executionSuccessful")->AsBool() == false);
  CHECK(invocation.Find("toolExecutionNotifications")
            ->items()[0]
            .Find("message")
            ->Find("text")
            ->str() == "truncated: cut");
  const Result<Json> fine = Json::Parse(FindingsToSarif({}, nullptr, "1"));
  REQUIRE(fine.ok());
  CHECK(fine->Find("runs")
            ->items()[0]
            .Find("invocations")
            ->items()[0]
            .Find("executionSuccessful")
            ->AsBool() == true);
}

TEST_CASE("names cannot steer a terminal") {
  CHECK(SafeText("plain \xc3\xa9") == "plain \xc3\xa9");
  CHECK(SafeText("a\x1b[31m\n\x7f") == "a\\x1b[31m\\x0a\\x7f");
  CHECK(SafeText("\xff\xc3") == "\\xff\\xc3");
  CHECK(SafeText("\xc2\x9b"
                 "31m") == "\\xc2\\x9b31m");
}

}  // namespace
}  // namespace pennyweight
