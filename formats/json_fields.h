// Typed access to the keys of a configuration file. Errors name the key, with its path inside the
// file, and the file. A key whose value is null counts as absent, as it does in Python.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lib/json.h"
#include "lib/result.h"

namespace pennyweight {

// Parses the JSON object in a configuration file. Errors: those of reading it; kConfigInvalid when
// it is not JSON or not an object.
Result<Json> ReadConfigObject(const std::string& path);

// A view of one object; keeps a reference to it. Missing keys: kConfigMissing from Require*,
// nullopt from Get*. A value of the wrong kind or out of range: kConfigInvalid from both.
class JsonFields {
 public:
  // `prefix` is put before every key in messages: "rope_scaling.".
  JsonFields(const Json& object, std::string file, std::string prefix = "")
      : object_(&object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  const std::string& file() const { return file_; }
  bool Has(std::string_view key) const { return Value(key) != nullptr; }
  // There with any value, null too: what tells "none" from "the default".
  bool Stands(std::string_view key) const { return object_->Find(key) != nullptr; }
  // nullptr when absent or null.
  const Json* Value(std::string_view key) const;

  // Integers in [min, max].
  Result<int64_t> RequireInteger(std::string_view key, int64_t min, int64_t max) const;
  Result<std::optional<int64_t>> GetInteger(std::string_view key, int64_t min, int64_t max) const;
  // Finite numbers above zero: every real number of a model configuration is one.
  Result<double> RequirePositive(std::string_view key) const;
  Result<std::optional<double>> GetPositive(std::string_view key) const;
  Result<std::optional<bool>> GetBool(std::string_view key) const;
  Result<std::string> RequireString(std::string_view key) const;
  Result<std::optional<std::string>> GetString(std::string_view key) const;
  // The fields of an object under `key`; nullopt when absent.
  Result<std::optional<JsonFields>> GetObject(std::string_view key) const;

  Error Missing(std::string_view key) const;
  // `rule` finishes the sentence: "key "x" must be an integer".
  Error Invalid(std::string_view key, std::string_view rule) const;
  Error Unsupported(std::string_view key, std::string_view what) const;

 private:
  const Json* object_;
  std::string file_;
  std::string prefix_;
};

}  // namespace pennyweight
