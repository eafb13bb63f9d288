#include "lib/json.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "lib/allowance.h"
#include "lib/file.h"
#include "lib/limits.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

// The string in quotes. Bytes that are no UTF-8 (a file name may hold them) become U+FFFD, so that
// what is written can always be read.
void AppendQuoted(std::string_view text, std::string* out) {
  *out += '"';
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = Utf8Length(text, i);
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += text[i];
    } else if (c >= 0x20 && length > 0) {
      out->append(text, i, length);
    } else if (length == 0) {
      *out += "\xef\xbf\xbd";
    } else if (const char* name = std::strchr("\bb\ff\nn\rr\tt", c); c != 0 && name != nullptr) {
      *out += '\\';
      *out += name[1];
    } else {
      *out += fmt::format("\\u{:04x}", c);
    }
    i += std::max<size_t>(length, 1);
  }
  *out += '"';
}

// The shortest digits that read back as the same double; always recognisable as one.
void AppendDouble(double value, std::string* out) {
  if (!std::isfinite(value)) {
    *out += "null";
    return;
  }
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  const std::string_view digits(buffer, static_cast<size_t>(end - buffer));
  *out += digits;
  if (digits.find_first_of(".e") == std::string_view::npos) *out += ".0";
}

void AppendNewline(int indent, int depth, std::string* out) {
  if (indent < 0) return;
  *out += '\n';
  out->append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
}

void AppendValue(const Json& value, int indent, int depth, std::string* out);

void AppendArray(const std::vector<Json>& items, int indent, int depth, std::string* out) {
  *out += '[';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) *out += ',';
    AppendNewline(indent, depth + 1, out);
    AppendValue(items[i], indent, depth + 1, out);
  }
  if (!items.empty()) AppendNewline(indent, depth, out);
  *out += ']';
}

void AppendObject(const std::vector<Json::Member>& members, int indent, int depth,
                  std::string* out) {
  *out += '{';
  for (size_t i = 0; i < members.size(); ++i) {
    if (i > 0) *out += ',';
    AppendNewline(indent, depth + 1, out);
    AppendQuoted(members[i].first, out);
    *out += indent < 0 ? ":" : ": ";
    AppendValue(members[i].second, indent, depth + 1, out);
  }
  if (!members.empty()) AppendNewline(indent, depth, out);
  *out += '}';
}

void AppendValue(const Json& value, int indent, int depth, std::string* out) {
  switch (value.kind()) {
    case Json::Kind::kNull:
      *out += "null";
      return;
    case Json::Kind::kBool:
      *out += *value.AsBool() ? "true" : "false";
      return;
    case Json::Kind::kUnsigned:
      *out += std::to_string(*value.AsUnsigned());
      return;
    case Json::Kind::kInteger:
      *out += std::to_string(*value.AsInteger());
      return;
    case Json::Kind::kDouble:
      AppendDouble(*value.AsDouble(), out);
      return;
    case Json::Kind::kString:
      AppendQuoted(value.str(), out);
      return;
    case Json::Kind::kArray:
      AppendArray(value.items(), indent, depth, out);
      return;
    case Json::Kind::kObject:
      AppendObject(value.members(), indent, depth, out);
      return;
  }
}

// A key that stands twice, or nullptr. Sorted by hash first, by text where hashes are equal: no
// choice of keys makes this quadratic.
const std::string* FindDuplicate(const std::vector<Json::Member>& members) {
  if (members.size() <= 8) {
    for (size_t i = 1; i < members.size(); ++i) {
      for (size_t k = 0; k < i; ++k) {
        if (members[i].first == members[k].first) return &members[i].first;
      }
    }
    return nullptr;
  }
  struct Entry {
    uint64_t hash;
    const std::string* key;
  };
  std::vector<Entry> entries;
  entries.reserve(members.size());
  for (const Json::Member& member : members) {
    entries.push_back({XXH3_64bits(member.first.data(), member.first.size()), &member.first});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.hash != b.hash ? a.hash < b.hash : *a.key < *b.key;
  });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].hash == entries[i - 1].hash && *entries[i].key == *entries[i - 1].key) {
      return entries[i].key;
    }
  }
  return nullptr;
}

// For a message: at most 80 bytes of a text that came from a file.
std::string Shortened(const std::string& text) {
  std::string quoted;
  AppendQuoted(std::string_view(text).substr(0, 80), &quoted);
  return text.size() <= 80 ? quoted : quoted + "...";
}

}  // namespace

// Receives nlohmann's parse events and builds the tree, or one tree per member of an object.
// Returning false stops the parser.
class JsonBuilder {
 public:
  explicit JsonBuilder(uint64_t text_bytes) : allowance_(text_bytes) {}
  JsonBuilder(uint64_t text_bytes, std::string_view inside, const Json::MemberFunction* member)
      : member_(member), inside_(inside), levels_(inside.empty() ? 1 : 2), allowance_(text_bytes) {}

  bool null() { return Add(Json()); }
  bool boolean(bool value) { return Add(Json::Bool(value)); }
  bool number_integer(int64_t value) { return Add(Json::Integer(value)); }
  bool number_unsigned(uint64_t value) { return Add(Json::Unsigned(value)); }
  // Integers beyond 64 bits come here too: they are numbers, but AsUnsigned refuses them.
  bool number_float(double value, const std::string&) { return Add(Json::Double(value)); }
  bool string(std::string& value) {
    return Charge(HeapBytes(value)) && Add(Json::String(std::move(value)));
  }
  bool binary(std::vector<uint8_t>&) { return false; }  // JSON text has none

  bool start_object(size_t) {
    if (!open_.empty() || !IsHandedOut()) return Open(Json::Object());
    ++outer_;
    found_ = outer_ == levels_;
    return true;
  }
  bool key(std::string& value) {
    if (open_.empty()) return OuterKey(std::move(value));
    if (!Charge(HeapBytes(value))) return false;
    auto& members = **std::get_if<Json::Members>(&open_.back()->value_);
    if (!Grow(members.size(), members.capacity(), sizeof(Json::Member))) return false;
    members.emplace_back(std::move(value), Json());
    return true;
  }
  bool end_object() {
    if (open_.empty()) {
      --outer_;
      return true;
    }
    const std::vector<Json::Member>& members = open_.back()->members();
    const uint64_t search = members.size() * kSearchBytes;
    if (!Charge(search)) return false;
    allowance_.Return(search);
    if (const std::string* key = FindDuplicate(members)) return Duplicate(*key);
    return Close();
  }
  bool start_array(size_t) { return Open(Json::Array()); }
  bool end_array() { return Close(); }

  // `position` counts the bytes that were read, the offending one included.
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& what) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    std::string_view reason = what.what();
    if (const size_t bracket = reason.find("] "); bracket != std::string_view::npos) {
      reason.remove_prefix(bracket + 2);
    }
    if (reason.starts_with("parse error at ")) {
      if (const size_t colon = reason.find(": "); colon != std::string_view::npos) {
        reason.remove_prefix(colon + 2);
      }
    }
    std::string message = "invalid JSON: ";
    // The parser quotes what it read last, which may be megabytes of a string.
    message += reason.substr(0, 200);
    error_ =
        Error(ErrorCode::kInvalidHeader, std::move(message)).At(position > 0 ? position - 1 : 0);
    return false;
  }

  Error TakeError() {
    if (error_) return std::move(*error_);
    return Error(ErrorCode::kInvalidHeader, "invalid JSON");
  }
  Json TakeRoot() { return std::move(root_); }
  // Whether the object whose members are handed out was there.
  bool found() const { return found_; }

 private:
  static constexpr uint64_t kSearchBytes = 16;     // FindDuplicate's, per member
  static constexpr uint64_t kContainerBytes = 64;  // a vector behind a shared pointer
  static constexpr size_t kOuterKeys = 1024;

  // Whether the object that begins now is the one whose members are handed out, or leads to it.
  bool IsHandedOut() const {
    return member_ != nullptr && outer_ < levels_ && (outer_ == 0 || key_ == inside_);
  }
  bool Duplicate(const std::string& key) {
    error_.emplace(ErrorCode::kDuplicateKey,
                   fmt::format("the key {} stands twice in one JSON object", Shortened(key)));
    return false;
  }
  // A key of an object that is not kept.
  bool OuterKey(std::string key) {
    key_ = std::move(key);
    if (outer_ == levels_) return true;
    if (!outer_keys_.insert(key_).second) return Duplicate(key_);
    return outer_keys_.size() <= kOuterKeys ||
           Fail(Error(ErrorCode::kLimit,
                      fmt::format("a JSON object has more than {} keys", kOuterKeys)));
  }
  bool Fail(Error error) {
    error_ = std::move(error);
    return false;
  }
  // Short texts stand inside of the string object.
  static uint64_t HeapBytes(const std::string& text) {
    return text.capacity() > 15 ? text.capacity() + 1 : 0;
  }
  bool Charge(uint64_t bytes) {
    if (!allowance_.Take(bytes)) return Fail(Allowance::Exceeded("the JSON text"));
    charged_ += bytes;
    return true;
  }
  // Before an element is added to a vector: what it takes when it has to grow, the old elements
  // included until they are copied.
  bool Grow(size_t size, size_t capacity, uint64_t bytes_each) {
    if (size < capacity) return true;
    if (!Charge(std::max<size_t>(1, 2 * capacity) * bytes_each)) return false;
    allowance_.Return(capacity * bytes_each);
    charged_ -= capacity * bytes_each;
    return true;
  }

  // Puts a value where the text has it; nullptr when there are too many.
  Json* Place(Json value) {
    if (++values_ > limits::kJsonValues) {
      Fail(Error(ErrorCode::kLimit,
                 fmt::format("the JSON text has more than {} values", limits::kJsonValues)));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (auto* items = std::get_if<Json::Items>(&parent.value_)) {
      if (!Grow((*items)->size(), (*items)->capacity(), sizeof(Json))) return nullptr;
      return &(*items)->emplace_back(std::move(value));
    }
    Json& slot = (*std::get_if<Json::Members>(&parent.value_))->back().second;
    slot = std::move(value);
    return &slot;
  }
  bool Add(Json value) {
    return Place(std::move(value)) != nullptr && (!open_.empty() || Deliver());
  }
  bool Open(Json value) {
    if (open_.size() + outer_ >= static_cast<size_t>(limits::kJsonDepth)) {
      return Fail(Error(ErrorCode::kLimit,
                        fmt::format("JSON is nested deeper than {} levels", limits::kJsonDepth)));
    }
    if (!Charge(kContainerBytes)) return false;
    Json* placed = Place(std::move(value));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    return true;
  }
  bool Close() {
    open_.pop_back();
    return !open_.empty() || Deliver();
  }
  // A tree is complete.
  bool Deliver() {
    if (member_ == nullptr) return true;
    if (outer_ == 0 || (outer_ < levels_ && key_ == inside_)) return true;  // found_ stays false
    Json value = std::exchange(root_, Json());
    if (outer_ == levels_) {
      Status status = (*member_)(std::move(key_), std::move(value));
      if (!status.ok()) return Fail(std::move(status).TakeError());
    }
    allowance_.Return(std::exchange(charged_, 0));
    return true;
  }

  Json root_;
  // The containers that are not closed yet. Stable: only the innermost one grows.
  std::vector<Json*> open_;
  // ParseMembers: how many objects are open whose members are not kept, and the last key in them.
  const Json::MemberFunction* member_ = nullptr;
  std::string_view inside_;
  size_t levels_ = 0;
  size_t outer_ = 0;
  bool found_ = false;
  std::string key_;
  std::set<std::string> outer_keys_;

  uint64_t values_ = 0;
  uint64_t charged_ = 0;  // for the tree that is being built
  Allowance allowance_;
  std::optional<Error> error_;
};

namespace {

// Whole trees are made of the files beside the weights only, and a large tokenizer.json written
// without spaces takes more than its own size allows: these bytes stand for the weights.
constexpr uint64_t kWeightsBytes = 48 << 20;

// What the parser itself would choke on: a NUL, which it takes for the end of the text, and tokens
// so long that its buffers would be larger than the tree.
Status CheckText(std::string_view text) {
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Error(ErrorCode::kInvalidHeader, "invalid JSON: a NUL byte").At(nul);
  }
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (text[i] == '"') {
      // To the quote that ends the string; a backslash takes the next byte along.
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\') ++i;
      }
      ++i;
    } else {
      i = std::min(text.find_first_of("\",:[]{} \t\r\n", i), text.size());
      i += i == begin ? 1 : 0;
    }
    if (i - begin > limits::kJsonTokenBytes) {
      return Error(ErrorCode::kLimit, fmt::format("a JSON string or number is longer than {} bytes",
                                                  limits::kJsonTokenBytes))
          .At(begin);
    }
  }
  return OkStatus();
}

}  // namespace

Result<Json> Json::Parse(std::string_view text) {
  PW_TRY(CheckText(text));
  JsonBuilder builder(text.size() + kWeightsBytes);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.TakeError();
  return builder.TakeRoot();
}

Status Json::ParseMembers(std::string_view text, std::string_view inside,
                          const MemberFunction& member) {
  PW_TRY(CheckText(text));
  JsonBuilder builder(text.size(), inside, &member);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) return builder.TakeError();
  if (builder.found()) return OkStatus();
  return Error(ErrorCode::kInvalidHeader, inside.empty()
                                              ? std::string("the JSON text is not an object")
                                              : fmt::format("\"{}\" must be an object", inside));
}

Result<Json> Json::ParseFile(const std::string& path) {
  PW_ASSIGN(const std::string text, ReadWholeFile(path, limits::kJsonFileBytes));
  Result<Json> parsed = Parse(text);
  if (!parsed.ok()) return std::move(parsed).TakeError().InFile(path);
  return parsed;
}

const Json* Json::Find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& member : members()) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

std::optional<bool> Json::AsBool() const {
  if (const bool* value = std::get_if<bool>(&value_)) return *value;
  return std::nullopt;
}

std::optional<uint64_t> Json::AsUnsigned() const {
  if (const uint64_t* value = std::get_if<uint64_t>(&value_)) return *value;
  if (const int64_t* value = std::get_if<int64_t>(&value_); value != nullptr && *value >= 0) {
    return static_cast<uint64_t>(*value);
  }
  return std::nullopt;
}

std::optional<int64_t> Json::AsInteger() const {
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return *value;
  if (const uint64_t* value = std::get_if<uint64_t>(&value_);
      value != nullptr && *value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return static_cast<int64_t>(*value);
  }
  return std::nullopt;
}

std::optional<double> Json::AsDouble() const {
  if (const double* value = std::get_if<double>(&value_)) return *value;
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return static_cast<double>(*value);
  if (const uint64_t* value = std::get_if<uint64_t>(&value_)) return static_cast<double>(*value);
  return std::nullopt;
}

std::optional<std::string> Json::AsString() const {
  if (const std::string* value = std::get_if<std::string>(&value_)) return *value;
  return std::nullopt;
}

std::string Json::Dump(int indent) const {
  std::string out;
  AppendValue(*this, indent, 0, &out);
  return out;
}

Json Json::Object() {
  Json json;
  json.value_ = std::make_shared<std::vector<Member>>();
  return json;
}

Json Json::Array() {
  Json json;
  json.value_ = std::make_shared<std::vector<Json>>();
  return json;
}

Json Json::String(std::string value) {
  Json json;
  json.value_ = std::move(value);
  return json;
}

Json Json::Bool(bool value) {
  Json json;
  json.value_ = value;
  return json;
}

Json Json::Integer(int64_t value) {
  Json json;
  json.value_ = value;
  return json;
}

Json Json::Unsigned(uint64_t value) {
  Json json;
  json.value_ = value;
  return json;
}

Json Json::Double(double value) {
  Json json;
  if (std::isfinite(value)) json.value_ = value;
  return json;
}

Json& Json::Set(std::string key, Json value) {
  Members& object = *std::get_if<Members>(&value_);
  if (object.use_count() > 1) object = std::make_shared<std::vector<Member>>(*object);
  for (Member& member : *object) {
    if (member.first == key) {
      member.second = std::move(value);
      return *this;
    }
  }
  object->emplace_back(std::move(key), std::move(value));
  return *this;
}

Json& Json::Push(Json value) {
  Items& array = *std::get_if<Items>(&value_);
  if (array.use_count() > 1) array = std::make_shared<std::vector<Json>>(*array);
  array->push_back(std::move(value));
  return *this;
}

}  // namespace pennyweight
