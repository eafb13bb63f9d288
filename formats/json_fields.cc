#include "formats/json_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "lib/file.h"

namespace pennyweight {

Result<Json> ReadConfigObject(const std::string& path) {
  Result<Json> json = Json::ParseFile(path);
  if (!json.ok()) {
    Error error = std::move(json).TakeError();
    if (error.code == ErrorCode::kInvalidHeader) error.code = ErrorCode::kConfigInvalid;
    return std::move(error).InFile(path);
  }
  if (!json->is_object()) {
    return Error(ErrorCode::kConfigInvalid, "must be a JSON object").InFile(path);
  }
  return json;
}

const Json* JsonFields::Value(std::string_view key) const {
  const Json* value = object_->Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Error JsonFields::Missing(std::string_view key) const {
  return Error(ErrorCode::kConfigMissing, fmt::format("key \"{}{}\" is missing", prefix_, key))
      .Hint("download the file again, or add the key by hand from the model's description")
      .InFile(file_);
}

Error JsonFields::Invalid(std::string_view key, std::string_view rule) const {
  return Error(ErrorCode::kConfigInvalid, fmt::format("key \"{}{}\" {}", prefix_, key, rule))
      .InFile(file_);
}

Error JsonFields::Unsupported(std::string_view key, std::string_view what) const {
  return Error(ErrorCode::kUnsupported, fmt::format("key \"{}{}\": {}", prefix_, key, what))
      .InFile(file_);
}

Result<std::optional<int64_t>> JsonFields::GetInteger(std::string_view key, int64_t min,
                                                      int64_t max) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> number = value->AsInteger();
  if (!number || *number < min || *number > max) {
    return Invalid(
        key, fmt::format("must be an integer from {} to {}, not {:.40}", min, max, value->Dump()));
  }
  return number;
}

Result<int64_t> JsonFields::RequireInteger(std::string_view key, int64_t min, int64_t max) const {
  PW_ASSIGN(const std::optional<int64_t> number, GetInteger(key, min, max));
  if (!number) return Missing(key);
  return *number;
}

Result<std::optional<double>> JsonFields::GetPositive(std::string_view key) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<double>();
  const std::optional<double> number = value->AsDouble();
  if (!number || !std::isfinite(*number) || *number <= 0) {
    return Invalid(key, fmt::format("must be a number above 0, not {:.40}", value->Dump()));
  }
  return number;
}

Result<double> JsonFields::RequirePositive(std::string_view key) const {
  PW_ASSIGN(const std::optional<double> number, GetPositive(key));
  if (!number) return Missing(key);
  return *number;
}

Result<std::optional<bool>> JsonFields::GetBool(std::string_view key) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<bool>();
  const std::optional<bool> truth = value->AsBool();
  if (!truth) {
    return Invalid(key, fmt::format("must be true or false, not {:.40}", value->Dump()));
  }
  return truth;
}

Result<std::optional<std::string>> JsonFields::GetString(std::string_view key) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) {
    return Invalid(key, fmt::format("must be a string, not {:.40}", value->Dump()));
  }
  return std::optional<std::string>(value->str());
}

Result<std::string> JsonFields::RequireString(std::string_view key) const {
  PW_ASSIGN(std::optional<std::string> text, GetString(key));
  if (!text) return Missing(key);
  return *std::move(text);
}

Result<std::optional<JsonFields>> JsonFields::GetObject(std::string_view key) const {
  const Json* value = Value(key);
  if (value == nullptr) return std::optional<JsonFields>();
  if (!value->is_object()) {
    return Invalid(key, fmt::format("must be an object, not {:.40}", value->Dump()));
  }
  return std::optional<JsonFields>(JsonFields(*value, file_, fmt::format("{}{}.", prefix_, key)));
}

}  // namespace pennyweight
