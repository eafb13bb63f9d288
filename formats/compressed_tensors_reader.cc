#include "formats/compressed_tensors_reader.h"

#include <fmt/format.h>

#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/json_fields.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kPackedSuffix = ".weight_packed";
constexpr int64_t kNone = -1;

// One of config_groups: what its linears must look like.
struct GroupRule {
  std::string name;
  int bits = 4;
  int64_t group_size = 0;  // 0: one scale per row
  bool symmetric = true;

  std::string ToString() const {
    return fmt::format("{} ({} bits, {}, {})", name, bits,
                       group_size == 0 ? "channel" : fmt::format("groups of {}", group_size),
                       symmetric ? "symmetric" : "asymmetric");
  }
};

// Indices into the parts' source.
struct Parts {
  int64_t packed = kNone;
  int64_t scale = kNone;
  int64_t zero_point = kNone;
  int64_t shape = kNone;
};

int64_t PackedCols(int64_t cols, int bits) { return CeilDiv(cols * bits, 32); }

class CompressedTensorsSource : public TensorSource {
 public:
  CompressedTensorsSource(std::unique_ptr<TensorSource> inner, std::vector<TensorInfo> tensors,
                          std::vector<Parts> parts)
      : inner_(std::move(inner)), tensors_(std::move(tensors)), parts_(std::move(parts)) {}

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override;
  std::string_view format() const override { return "compressed-tensors"; }
  const std::map<std::string, std::string>& metadata() const override { return inner_->metadata(); }
  const std::vector<std::string>& files() const override { return inner_->files(); }

 private:
  Status ReadCodes(const Parts& parts, int64_t row, int64_t count, EncodedTensor* out) const;
  Status ReadZeros(const Parts& parts, int64_t row, int64_t count, EncodedTensor* out) const;

  std::unique_ptr<TensorSource> inner_;
  std::vector<TensorInfo> tensors_;
  std::vector<Parts> parts_;  // by tensor; a plain one has only `packed`: its own index
};

// Value `i` of a stream of b-bit values, low bits first, as a signed code. b is 4 or 8, so that a
// byte of the little-endian words holds whole values.
int8_t CodeAt(const uint8_t* bytes, int64_t i, int bits) {
  if (bits == 8) return static_cast<int8_t>(static_cast<int>(bytes[i]) - 128);
  const int byte = bytes[i / 2];
  return static_cast<int8_t>((i % 2 == 0 ? byte & 15 : byte >> 4) - 8);
}

Status CompressedTensorsSource::ReadCodes(const Parts& parts, int64_t row, int64_t count,
                                          EncodedTensor* out) const {
  EncodedTensor words;
  PW_TRY(inner_->ReadRows(static_cast<size_t>(parts.packed), row, count, &words));
  const int bits = out->encoding.integer.bits;
  out->codes.resize(static_cast<size_t>(count * out->cols));
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* from = words.data.data() + r * words.cols * 4;
    int8_t* to = out->codes.data() + r * out->cols;
    for (int64_t c = 0; c < out->cols; ++c) to[c] = CodeAt(from, c, bits);
  }
  return OkStatus();
}

Status CompressedTensorsSource::ReadZeros(const Parts& parts, int64_t row, int64_t count,
                                          EncodedTensor* out) const {
  if (parts.zero_point == kNone || count == 0) return OkStatus();
  const int bits = out->encoding.integer.bits;
  const int64_t per_word = 32 / bits;
  const int64_t first_word = row / per_word;
  const int64_t end_word = CeilDiv(row + count, per_word);
  EncodedTensor words;
  PW_TRY(inner_->ReadRows(static_cast<size_t>(parts.zero_point), first_word, end_word - first_word,
                          &words));
  const int64_t groups = words.cols;
  out->zeros.resize(static_cast<size_t>(count * groups));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t word = (row + r) / per_word - first_word;
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* from = words.data.data() + (word * groups + g) * 4;
      out->zeros[static_cast<size_t>(r * groups + g)] = CodeAt(from, (row + r) % per_word, bits);
    }
  }
  return OkStatus();
}

Status CompressedTensorsSource::ReadRows(size_t index, int64_t row, int64_t count,
                                         EncodedTensor* out) const {
  const TensorInfo& info = tensors_[index];
  const Parts& parts = parts_[index];
  if (info.encoding.kind == Encoding::Kind::kPlain) {
    return inner_->ReadRows(static_cast<size_t>(parts.packed), row, count, out);
  }
  EncodedTensor scales;
  PW_TRY(inner_->ReadRows(static_cast<size_t>(parts.scale), row, count, &scales));
  out->encoding = info.encoding;
  out->rows = count;
  out->cols = info.cols();
  out->data.clear();
  out->scales = std::move(scales.data);
  out->zeros.clear();
  PW_TRY(ReadCodes(parts, row, count, out));
  return ReadZeros(parts, row, count, out);
}

Result<GroupRule> ParseGroup(const std::string& name, const JsonFields& group) {
  GroupRule rule;
  rule.name = name;
  PW_ASSIGN(const std::optional<std::string> format, group.GetString("format"));
  if (format && *format != "pack-quantized") {
    return group.Unsupported("format", fmt::format("\"{:.40}\" is not read here", *format));
  }
  PW_ASSIGN(const std::optional<JsonFields> weights, group.GetObject("weights"));
  if (!weights) return group.Missing("weights");
  PW_ASSIGN(const int64_t bits, weights->RequireInteger("num_bits", 1, 32));
  PW_ASSIGN(const std::optional<std::string> type, weights->GetString("type"));
  if ((bits != 4 && bits != 8) || type.value_or("int") != "int") {
    return weights->Unsupported("num_bits",
                                fmt::format("{:.40} of {} bits is not read here; int of 4 or 8 is",
                                            type.value_or("int"), bits));
  }
  rule.bits = static_cast<int>(bits);
  PW_ASSIGN(const std::optional<bool> symmetric, weights->GetBool("symmetric"));
  rule.symmetric = symmetric.value_or(true);  // QuantizationArgs' default
  PW_ASSIGN(const std::optional<int64_t> size,
            weights->GetInteger("group_size", -1, limits::kDimension));
  PW_ASSIGN(const std::optional<std::string> strategy, weights->GetString("strategy"));
  const bool grouped = size && *size > 0;
  if (strategy.value_or(grouped ? "group" : "channel") == "group") {
    if (!size) return weights->Missing("group_size");
    rule.group_size = grouped ? *size : 0;
  } else if (strategy && *strategy != "channel") {
    return weights->Unsupported("strategy", fmt::format("\"{:.40}\" is not read here", *strategy));
  }
  return rule;
}

// The quantization_config's groups. Everything that would change the meaning of the weights and is
// not read here is refused by name.
Result<std::vector<GroupRule>> ParseGroups(const JsonFields& fields) {
  PW_ASSIGN(const std::string format, fields.RequireString("format"));
  if (format != "pack-quantized" && format != "mixed-precision") {
    return fields.Unsupported(
        "format", fmt::format("\"{:.40}\" is not read here; pack-quantized is", format));
  }
  PW_ASSIGN(const std::optional<JsonFields> sparsity, fields.GetObject("sparsity_config"));
  if (sparsity) {
    PW_ASSIGN(const std::optional<std::string> kind, sparsity->GetString("format"));
    if (kind && *kind != "dense") return sparsity->Unsupported("format", "sparse weights");
  }
  PW_ASSIGN(const std::optional<JsonFields> transform, fields.GetObject("transform_config"));
  if (transform && transform->Has("config_groups") &&
      !(transform->Value("config_groups")->is_object() &&
        transform->Value("config_groups")->members().empty())) {
    return fields.Unsupported("transform_config", "rotated weights are not read here");
  }
  const Json* groups = fields.Value("config_groups");
  if (groups == nullptr) return fields.Missing("config_groups");
  if (!groups->is_object() || groups->members().empty()) {
    return fields.Invalid("config_groups", "must be an object with at least one group");
  }
  std::vector<GroupRule> rules;
  for (const auto& [name, group] : groups->members()) {
    if (!group.is_object()) return fields.Invalid("config_groups", "must hold objects");
    const JsonFields inner(group, fields.file(),
                           fmt::format("quantization_config.config_groups.{:.40}.", name));
    PW_ASSIGN(GroupRule rule, ParseGroup(name, inner));
    rules.push_back(std::move(rule));
  }
  return rules;
}

// The tensors of one linear, and what they and the config say of it.
class LinearParts {
 public:
  LinearParts(const TensorSource& source, const Parts& parts, std::string prefix)
      : source_(source), parts_(parts), prefix_(std::move(prefix)) {}

  // P.weight as it is listed.
  Result<TensorInfo> Describe(const std::vector<GroupRule>& rules) const;

 private:
  const TensorInfo& Info(int64_t index) const {
    return source_.tensors()[static_cast<size_t>(index)];
  }
  // An error about one of the parts.
  Error Wrong(int64_t part, std::string rule) const {
    const TensorInfo& info = Info(part);
    return Error(ErrorCode::kInvalidTensor, std::move(rule))
        .InFile(info.file)
        .InTensor(info.name)
        .At(info.offset);
  }
  Status CheckDTypes() const;
  Result<Shape> ReadShape() const;
  // Why a rule does not fit the shapes; empty when it does.
  std::string Mismatch(const GroupRule& rule, const Shape& shape) const;

  const TensorSource& source_;
  const Parts& parts_;
  std::string prefix_;
};

Status LinearParts::CheckDTypes() const {
  for (const auto& [index, suffix] :
       {std::pair(parts_.scale, ".weight_scale"), std::pair(parts_.shape, ".weight_shape")}) {
    if (index != kNone) continue;
    return Error(ErrorCode::kTensorMissing, fmt::format("{}.weight_packed needs it", prefix_))
        .InFile(Info(parts_.packed).file)
        .InTensor(prefix_ + suffix);
  }
  const auto check = [&](int64_t part, DType dtype, size_t rank) -> Status {
    const TensorInfo& info = Info(part);
    if (info.encoding.dtype == dtype && info.shape.size() == rank) return OkStatus();
    return Wrong(part,
                 fmt::format("must be {} with {} dimensions, not {} {}", DTypeName(dtype), rank,
                             DTypeName(info.encoding.dtype), ShapeToString(info.shape)));
  };
  PW_TRY(check(parts_.packed, DType::kI32, 2));
  PW_TRY(check(parts_.shape, DType::kI64, 1));
  if (parts_.zero_point != kNone) PW_TRY(check(parts_.zero_point, DType::kI32, 2));
  const DType scale = Info(parts_.scale).encoding.dtype;
  if (!IsFloatDType(scale)) {
    return Wrong(parts_.scale, fmt::format("must be F16, BF16 or F32, not {}", DTypeName(scale)));
  }
  return check(parts_.scale, scale, 2);
}

Result<Shape> LinearParts::ReadShape() const {
  if (Info(parts_.shape).shape != Shape{2}) return Wrong(parts_.shape, "must hold two numbers");
  EncodedTensor raw;
  PW_TRY(source_.ReadRows(static_cast<size_t>(parts_.shape), 0, 1, &raw));
  Shape shape(2);
  std::memcpy(shape.data(), raw.data.data(), 2 * sizeof(int64_t));
  const Shape& packed = Info(parts_.packed).shape;
  // A word holds at most 8 values, so that a believable width is backed by the file.
  if (packed[0] < 1 || shape[0] != packed[0] || shape[1] < 1 || shape[1] > packed[1] * 8) {
    return Wrong(parts_.shape, fmt::format("says {}, but weight_packed is {}", ShapeToString(shape),
                                           ShapeToString(packed)));
  }
  return shape;
}

std::string LinearParts::Mismatch(const GroupRule& rule, const Shape& shape) const {
  const int64_t rows = shape[0];
  const int64_t cols = shape[1];
  const auto differs = [&](int64_t part, const Shape& expected) {
    if (Info(part).shape == expected) return std::string();
    return fmt::format("{} is {}, expected {}", Info(part).name, ShapeToString(Info(part).shape),
                       ShapeToString(expected));
  };
  const int64_t groups = rule.group_size == 0 ? 1 : CeilDiv(cols, rule.group_size);
  std::string why = differs(parts_.packed, {rows, PackedCols(cols, rule.bits)});
  if (why.empty()) why = differs(parts_.scale, {rows, groups});
  if (!why.empty()) return why;
  if (rule.symmetric != (parts_.zero_point == kNone)) {
    return rule.symmetric ? "there is a weight_zero_point" : "there is no weight_zero_point";
  }
  if (rule.symmetric) return "";
  return differs(parts_.zero_point, {PackedCols(rows, rule.bits), groups});
}

Result<TensorInfo> LinearParts::Describe(const std::vector<GroupRule>& rules) const {
  PW_TRY(CheckDTypes());
  PW_ASSIGN(const Shape shape, ReadShape());
  std::string reasons;
  for (const GroupRule& rule : rules) {
    const std::string why = Mismatch(rule, shape);
    if (!why.empty()) {
      reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", rule.ToString(), why);
      continue;
    }
    if (rule.group_size != 0 && shape[1] % rule.group_size != 0) {
      return Error(ErrorCode::kUnsupported,
                   fmt::format("rows of {} do not divide into groups of {}", shape[1],
                               rule.group_size))
          .InFile(Info(parts_.packed).file)
          .InTensor(prefix_ + ".weight");
    }
    const TensorInfo& packed = Info(parts_.packed);
    TensorInfo info = packed;
    info.name = prefix_ + ".weight";
    info.shape = shape;
    info.bytes = packed.bytes + Info(parts_.scale).bytes + Info(parts_.shape).bytes;
    if (parts_.zero_point != kNone) info.bytes += Info(parts_.zero_point).bytes;
    info.encoding = Encoding::Integer({.bits = rule.bits,
                                       .group_size = rule.group_size,
                                       .symmetric = rule.symmetric,
                                       .scale_dtype = Info(parts_.scale).encoding.dtype});
    return info;
  }
  return Wrong(parts_.packed,
               fmt::format("no group of quantization_config agrees with the parts of this {} "
                           "linear: {}",
                           ShapeToString(shape), reasons));
}

using NameIndex = std::unordered_map<std::string_view, int64_t>;

int64_t Lookup(const NameIndex& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? kNone : found->second;
}

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() > suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// What the wrapped source will list.
struct Listing {
  std::vector<TensorInfo> tensors;
  std::vector<Parts> parts;
};

Result<Listing> ListLinears(const TensorSource& source, const std::vector<GroupRule>& rules) {
  const std::vector<TensorInfo>& stored = source.tensors();
  NameIndex names;
  for (size_t i = 0; i < stored.size(); ++i) names.emplace(stored[i].name, static_cast<int64_t>(i));
  std::vector<bool> is_part(stored.size(), false);
  std::unordered_map<int64_t, std::pair<TensorInfo, Parts>> linears;  // by index of weight_packed
  for (size_t i = 0; i < stored.size(); ++i) {
    if (!EndsWith(stored[i].name, kPackedSuffix)) continue;
    const std::string prefix =
        stored[i].name.substr(0, stored[i].name.size() - kPackedSuffix.size());
    if (Lookup(names, prefix + ".weight_g_idx") != kNone) {
      return Error(ErrorCode::kUnsupported, "columns in activation order are not read here")
          .InFile(stored[i].file)
          .InTensor(prefix + ".weight_g_idx");
    }
    if (Lookup(names, prefix + ".weight") != kNone) {
      return Error(ErrorCode::kDuplicateKey, "the weight is there twice, plain and packed")
          .InFile(stored[i].file)
          .InTensor(prefix + ".weight");
    }
    Parts parts;
    parts.packed = static_cast<int64_t>(i);
    parts.scale = Lookup(names, prefix + ".weight_scale");
    parts.zero_point = Lookup(names, prefix + ".weight_zero_point");
    parts.shape = Lookup(names, prefix + ".weight_shape");
    PW_ASSIGN(TensorInfo info, LinearParts(source, parts, prefix).Describe(rules));
    for (const int64_t part : {parts.packed, parts.scale, parts.zero_point, parts.shape}) {
      if (part != kNone) is_part[static_cast<size_t>(part)] = true;
    }
    linears.emplace(parts.packed, std::pair(std::move(info), parts));
  }
  Listing listing;
  for (size_t i = 0; i < stored.size(); ++i) {
    const auto linear = linears.find(static_cast<int64_t>(i));
    if (linear != linears.end()) {
      listing.tensors.push_back(std::move(linear->second.first));
      listing.parts.push_back(linear->second.second);
    } else if (!is_part[i]) {
      listing.tensors.push_back(stored[i]);
      listing.parts.push_back({.packed = static_cast<int64_t>(i)});
    }
  }
  return listing;
}

}  // namespace

const Json* QuantizationConfig(const Json& json) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* value = json.Find(key);
    if (value != nullptr && value->is_object()) return value;
  }
  return nullptr;
}

bool IsCompressedTensors(const Json& json) {
  const Json* config = QuantizationConfig(json);
  if (config == nullptr) return false;
  const Json* method = config->Find("quant_method");
  return method != nullptr && method->is_string() && method->str() == "compressed-tensors";
}

Result<std::unique_ptr<TensorSource>> WrapCompressedTensors(const Json& json,
                                                            const std::string& config_file,
                                                            std::unique_ptr<TensorSource>* parts) {
  const Json* quantization = QuantizationConfig(json);
  if (quantization == nullptr) {
    return JsonFields(json, config_file).Missing("quantization_config");
  }
  const JsonFields fields(*quantization, config_file, "quantization_config.");
  PW_ASSIGN(const std::vector<GroupRule> rules, ParseGroups(fields));
  PW_ASSIGN(Listing listing, ListLinears(**parts, rules));
  return std::unique_ptr<TensorSource>(std::make_unique<CompressedTensorsSource>(
      std::move(*parts), std::move(listing.tensors), std::move(listing.parts)));
}

}  // namespace pennyweight
