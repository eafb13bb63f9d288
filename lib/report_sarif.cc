// Findings as SARIF 2.1.0 (OASIS Standard, 2020), as code scanning services read it.
#include <fmt/format.h>

#include <algorithm>

#include "lib/finding.h"
#include "lib/json.h"

namespace pennyweight {
namespace {

constexpr const char* kSchema =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

Json Text(std::string_view text) {
  return std::move(Json::Object().Set("text", Json::String(std::string(text))));
}

// A path as a relative or absolute reference of RFC 3986: everything but unreserved characters and
// slashes escaped.
std::string Uri(const std::string& path) {
  std::string out;
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '/' || c == '-' || c == '.' || c == '_' || c == '~';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return path.empty() || path[0] != '/' ? out : "file://" + out;
}

Json RuleToJson(const Rule& rule) {
  Json row = Json::Object();
  row.Set("id", Json::String(std::string(rule.id)));
  row.Set("shortDescription", Text(rule.help));
  Json level = Json::Object();
  level.Set("level", Json::String(std::string(SeverityName(rule.severity))));
  row.Set("defaultConfiguration", std::move(level));
  return row;
}

Json Location(const std::string& file, int64_t offset, int64_t bytes, const std::string& tensor) {
  Json location = Json::Object();
  if (!file.empty()) {
    Json artifact = Json::Object();
    artifact.Set("uri", Json::String(Uri(file)));
    // A line as well: some services show nothing without one, and these files have none.
    Json region = Json::Object();
    region.Set("startLine", Json::Integer(1));
    if (offset >= 0) region.Set("byteOffset", Json::Integer(offset));
    if (offset >= 0 && bytes >= 0) region.Set("byteLength", Json::Integer(bytes));
    Json physical = Json::Object();
    physical.Set("artifactLocation", std::move(artifact));
    physical.Set("region", std::move(region));
    location.Set("physicalLocation", std::move(physical));
  }
  if (!tensor.empty()) {
    Json logical = Json::Object();
    logical.Set("name", Json::String(SafeText(tensor)));
    logical.Set("kind", Json::String("member"));
    location.Set("logicalLocations", std::move(Json::Array().Push(std::move(logical))));
  }
  return location;
}

Json ResultToJson(const Finding& finding) {
  const std::span<const Rule> rules = Rules();
  const auto index = &RuleOf(finding.rule) - rules.data();
  Json row = Json::Object();
  row.Set("ruleId", Json::String(std::string(finding.rule)));
  row.Set("ruleIndex", Json::Integer(index));
  row.Set("level", Json::String(std::string(SeverityName(finding.severity()))));
  row.Set("message", Text(finding.message));
  Json locations = Json::Array();
  if (!finding.file.empty() || !finding.tensor.empty()) {
    locations.Push(Location(finding.file, finding.offset, finding.bytes, finding.tensor));
  }
  row.Set("locations", std::move(locations));
  return row;
}

Json Invocation(const Error* error) {
  Json invocation = Json::Object();
  invocation.Set("executionSuccessful", Json::Bool(error == nullptr));
  if (error == nullptr) return invocation;
  Json notification = Json::Object();
  notification.Set("level", Json::String("error"));
  notification.Set(
      "message", Text(fmt::format("{}: {}", ErrorCodeName(error->code), SafeText(error->message))));
  Json locations = Json::Array();
  if (!error->file.empty() || !error->tensor.empty()) {
    locations.Push(Location(error->file, error->offset, -1, error->tensor));
  }
  notification.Set("locations", std::move(locations));
  Json list = Json::Array();
  list.Push(std::move(notification));
  invocation.Set("toolExecutionNotifications", std::move(list));
  return invocation;
}

}  // namespace

std::string FindingsToSarif(const Findings& findings, const Error* error,
                            std::string_view version) {
  Json rules = Json::Array();
  for (const Rule& rule : Rules()) rules.Push(RuleToJson(rule));
  Json driver = Json::Object();
  driver.Set("name", Json::String("pennyweight"));
  driver.Set("version", Json::String(std::string(version)));
  driver.Set("rules", std::move(rules));
  Json results = Json::Array();
  for (const Finding& finding : findings.list) results.Push(ResultToJson(finding));
  Json invocations = Json::Array();
  invocations.Push(Invocation(error));
  Json run = Json::Object();
  run.Set("tool", std::move(Json::Object().Set("driver", std::move(driver))));
  run.Set("invocations", std::move(invocations));
  run.Set("results", std::move(results));
  Json log = Json::Object();
  log.Set("$schema", Json::String(kSchema));
  log.Set("version", Json::String("2.1.0"));
  Json runs = Json::Array();
  runs.Push(std::move(run));
  log.Set("runs", std::move(runs));
  return log.Dump(2) + "\n";
}

}  // namespace pennyweight
