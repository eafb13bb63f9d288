// JSON, behind one file: strict reading of untrusted text (duplicate keys, depth, numbers), a small
// document tree, and an ordered writer. nlohmann-json is included in json.cc only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "lib/result.h"

namespace pennyweight {

// A parsed value. Objects keep the order of the text.
class Json {
 public:
  enum class Kind : uint8_t {
    kNull,
    kBool,
    kUnsigned,
    kInteger,
    kDouble,
    kString,
    kArray,
    kObject
  };
  using Member = std::pair<std::string, Json>;

  // Errors: kInvalidHeader with the byte offset (syntax, invalid UTF-8, lone surrogates),
  // kDuplicateKey (also when spelled with escapes), kLimit (depth beyond limits::kJsonDepth, more
  // than limits::kJsonValues values, a string or number beyond limits::kJsonTokenBytes, or a tree
  // that is far larger than its text: see lib/allowance.h).
  static Result<Json> Parse(std::string_view text);
  // Hands out the members of an object one by one, in order, and keeps none: for objects of very
  // many. It is the text's own object, or with `inside` the one that stands there under this key;
  // what stands beside it is checked and forgotten. An error of `member` ends the parse and is
  // returned. Repeated keys of the members are left to the caller. Errors: as Parse; kInvalidHeader
  // when there is no such object.
  using MemberFunction = std::function<Status(std::string key, Json value)>;
  static Status ParseMembers(std::string_view text, std::string_view inside,
                             const MemberFunction& member);
  static Result<Json> ParseFile(const std::string& path);  // at most limits::kJsonFileBytes

  Json() = default;
  Kind kind() const { return static_cast<Kind>(value_.index()); }
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_object() const { return kind() == Kind::kObject; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_string() const { return kind() == Kind::kString; }

  // nullptr when not an object or no such key. O(members); index large objects yourself.
  const Json* Find(std::string_view key) const;
  const std::vector<Member>& members() const { return **std::get_if<Members>(&value_); }  // kObject
  const std::vector<Json>& items() const { return **std::get_if<Items>(&value_); }        // kArray
  const std::string& str() const { return *std::get_if<std::string>(&value_); }           // kString

  // nullopt when the value is of another kind. Integers: exact, 1.0 is not one.
  std::optional<bool> AsBool() const;
  std::optional<uint64_t> AsUnsigned() const;
  std::optional<int64_t> AsInteger() const;
  std::optional<double> AsDouble() const;  // any number
  std::optional<std::string> AsString() const;
  // kString: its text, moved out.
  std::string TakeString() && { return std::move(*std::get_if<std::string>(&value_)); }

  // Compact text of this value again, as ordered.
  std::string Dump(int indent = -1) const;

  // Building, for the files this program writes.
  static Json Object();
  static Json Array();
  static Json String(std::string value);
  static Json Bool(bool value);
  static Json Integer(int64_t value);
  static Json Unsigned(uint64_t value);
  static Json Double(double value);        // non-finite becomes null
  Json& Set(std::string key, Json value);  // kObject: replaces or appends; returns *this
  Json& Push(Json value);                  // kArray

 private:
  friend class JsonBuilder;
  using Members = std::shared_ptr<std::vector<Member>>;
  using Items = std::shared_ptr<std::vector<Json>>;
  // One alternative per Kind, in its order: a value costs 40 bytes, so that a file of tiny values
  // cannot make a document many times its own size. Copies share members and items until changed.
  std::variant<std::monostate, bool, uint64_t, int64_t, double, std::string, Items, Members> value_;
};

}  // namespace pennyweight
