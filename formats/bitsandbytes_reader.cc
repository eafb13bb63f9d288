#include "formats/bitsandbytes_reader.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "formats/json_fields.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr int64_t kLevels = 16;
constexpr int64_t kNestedLevels = 256;

// What the JSON of a quant_state says.
struct QuantState {
  CodebookSpec spec;
  Shape shape;
  float nested_offset = 0;
};

struct Parts {
  int64_t codes = PartsIndex::kNone;
  int64_t absmax = PartsIndex::kNone;
  int64_t levels = PartsIndex::kNone;
  int64_t nested_absmax = PartsIndex::kNone;
  int64_t nested_levels = PartsIndex::kNone;
  int64_t state = PartsIndex::kNone;
};

std::vector<float> FloatsOf(const std::vector<uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

class CodebookTensor : public PackedTensor {
 public:
  CodebookTensor(const Parts& parts, std::vector<float> levels, std::vector<float> nested_levels,
                 float nested_offset, int64_t element_bytes)
      : parts_(parts),
        levels_(std::move(levels)),
        nested_levels_(std::move(nested_levels)),
        nested_offset_(nested_offset),
        element_bytes_(element_bytes) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    const CodebookSpec& spec = out->encoding.codebook;
    const int64_t begin = row * out->cols;
    const int64_t end = begin + count * out->cols;
    PW_TRY(ReadCodes(source, begin, end, out));
    out->levels = levels_;
    out->first = begin % spec.block;
    const int64_t block = begin / spec.block;
    const int64_t blocks = CeilDiv(end, spec.block) - block;
    EncodedTensor absmax;
    PW_TRY(source.ReadColumns(static_cast<size_t>(parts_.absmax), 0, 1, block, blocks, &absmax));
    out->scales = std::move(absmax.data);
    if (spec.nested_block == 0) return OkStatus();
    out->nested.block = spec.nested_block;
    out->nested.levels = nested_levels_;
    out->nested.offset = nested_offset_;
    out->nested.first = block % spec.nested_block;
    const int64_t group = block / spec.nested_block;
    const int64_t groups = CeilDiv(block + blocks, spec.nested_block) - group;
    PW_TRY(source.ReadColumns(static_cast<size_t>(parts_.nested_absmax), 0, 1, group, groups,
                              &absmax));
    out->nested.absmax = FloatsOf(absmax.data);
    return OkStatus();
  }

 private:
  // Values [begin, end) of the flattened tensor; the high half of a byte comes first.
  Status ReadCodes(const TensorSource& source, int64_t begin, int64_t end,
                   EncodedTensor* out) const {
    const int64_t first = begin / 2 / element_bytes_;
    const int64_t stored = CeilDiv(CeilDiv(end, 2), element_bytes_) - first;
    EncodedTensor bytes;
    PW_TRY(source.ReadRows(static_cast<size_t>(parts_.codes), first, stored, &bytes));
    const int64_t skip = begin - first * element_bytes_ * 2;
    out->codes.resize(static_cast<size_t>(end - begin));
    for (int64_t i = 0; i < end - begin; ++i) {
      const int byte = bytes.data[static_cast<size_t>((skip + i) / 2)];
      out->codes[static_cast<size_t>(i)] =
          static_cast<int8_t>((skip + i) % 2 == 0 ? byte >> 4 : byte & 15);
    }
    return OkStatus();
  }

  Parts parts_;
  std::vector<float> levels_;
  std::vector<float> nested_levels_;
  float nested_offset_;
  int64_t element_bytes_;
};

class Int8Tensor : public PackedTensor {
 public:
  Int8Tensor(int64_t codes, int64_t absmax) : codes_(codes), absmax_(absmax) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    EncodedTensor part;
    PW_TRY(source.ReadRows(static_cast<size_t>(codes_), row, count, &part));
    out->data = std::move(part.data);
    PW_TRY(source.ReadColumns(static_cast<size_t>(absmax_), 0, 1, row, count, &part));
    out->scales = std::move(part.data);
    return OkStatus();
  }

 private:
  int64_t codes_;
  int64_t absmax_;
};

Result<Shape> ShapeOf(const JsonFields& fields) {
  const Json* value = fields.Value("shape");
  if (value == nullptr) return fields.Missing("shape");
  Shape shape;
  if (value->is_array() && value->items().size() <= limits::kTensorRank) {
    for (const Json& item : value->items()) shape.push_back(item.AsInteger().value_or(-1));
  }
  const std::optional<int64_t> count = ElementCount(shape);
  if (shape.empty() || !count || *count < 1) {
    return fields.Invalid("shape", "must be a list of numbers above 0");
  }
  return shape;
}

Result<QuantState> ParseState(const JsonFields& fields) {
  QuantState state;
  PW_ASSIGN(const std::string type, fields.RequireString("quant_type"));
  if (type != "nf4" && type != "fp4") {
    return fields.Unsupported("quant_type", fmt::format("\"{:.40}\" is not nf4 or fp4", type));
  }
  state.spec.book = type == "nf4" ? CodebookSpec::Book::kNf4 : CodebookSpec::Book::kFp4;
  PW_ASSIGN(state.spec.block, fields.RequireInteger("blocksize", 1, limits::kDimension));
  PW_ASSIGN(state.shape, ShapeOf(fields));
  PW_ASSIGN(const std::optional<int64_t> nested,
            fields.GetInteger("nested_blocksize", 1, limits::kDimension));
  if (!nested) return state;
  state.spec.nested_block = *nested;
  const Json* offset = fields.Value("nested_offset");
  const std::optional<double> number = offset == nullptr ? std::nullopt : offset->AsDouble();
  // The double is a float that Python printed, so that this rounding is exact; beyond the range of
  // floats it would be undefined.
  if (!number || !(*number >= -std::numeric_limits<float>::max() &&
                   *number <= std::numeric_limits<float>::max())) {
    return fields.Invalid("nested_offset", "must be a number");
  }
  state.nested_offset = static_cast<float>(*number);
  return state;
}

Result<QuantState> ReadState(const PartsIndex& index, int64_t part) {
  PW_TRY(index.CheckForm(part, DType::kU8, 1));
  if (index.Info(part).bytes > limits::kPickleLineBytes) {
    return index.Wrong(part, "a quant_state is a short JSON object");
  }
  PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(part));
  const Result<Json> json =
      Json::Parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!json.ok() || !json->is_object()) return index.Wrong(part, "must be a JSON object");
  Result<QuantState> state = ParseState(JsonFields(*json, index.Info(part).file));
  if (state.ok()) return state;
  Error error = std::move(state).TakeError();
  if (error.code != ErrorCode::kUnsupported) error.code = ErrorCode::kInvalidTensor;
  return std::move(error).InTensor(index.Info(part).name);
}

Result<std::vector<float>> ReadLevels(const PartsIndex& index, int64_t part, int64_t count) {
  PW_TRY(index.CheckForm(part, DType::kF32, 1));
  PW_TRY(index.CheckShape(part, {count}, "one level for each code"));
  PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(part));
  return FloatsOf(bytes);
}

// Every block of `elements` values has its own entry in `part`.
Status CheckBlocks(const PartsIndex& index, int64_t part, DType dtype, int64_t elements,
                   int64_t block) {
  PW_TRY(index.CheckForm(part, dtype, 1));
  return index.CheckShape(part, {CeilDiv(elements, block)},
                          fmt::format("one for each block of {} of {} values", block, elements));
}

Status AddCodebook(const PartsIndex& index, const std::string& name, int64_t state_part,
                   Packing* packing) {
  Parts parts;
  parts.state = state_part;
  PW_ASSIGN(const QuantState state, ReadState(index, state_part));
  PW_ASSIGN(parts.codes, index.Require(name, state_part));
  PW_ASSIGN(parts.absmax, index.Require(name + ".absmax", state_part));
  PW_ASSIGN(parts.levels, index.Require(name + ".quant_map", state_part));
  const TensorInfo& codes = index.Info(parts.codes);
  const int64_t values = *ElementCount(state.shape);
  const int64_t element_bytes = DTypeBits(codes.encoding.dtype) / 8;
  const int64_t rows = codes.shape.size() == 2 ? codes.shape[0] : 0;
  // A count that the file does not back is not worked with: it may be near the end of int64.
  const bool backed = element_bytes >= 1 && static_cast<uint64_t>(values) / 2 <= codes.bytes;
  if (!backed || rows != CeilDiv(CeilDiv(values, 2), element_bytes) || codes.shape[1] != 1) {
    return index.Wrong(parts.codes,
                       fmt::format("{} {} do not hold the {} values of 4 bits of its quant_state",
                                   DTypeName(codes.encoding.dtype), ShapeToString(codes.shape),
                                   ShapeToString(state.shape)));
  }
  const bool nested = state.spec.nested_block != 0;
  PW_TRY(CheckBlocks(index, parts.absmax, nested ? DType::kU8 : DType::kF32, values,
                     state.spec.block));
  PW_ASSIGN(std::vector<float> levels, ReadLevels(index, parts.levels, kLevels));
  std::vector<float> nested_levels;
  if (nested) {
    PW_ASSIGN(parts.nested_absmax, index.Require(name + ".nested_absmax", state_part));
    PW_ASSIGN(parts.nested_levels, index.Require(name + ".nested_quant_map", state_part));
    PW_TRY(CheckBlocks(index, parts.nested_absmax, DType::kF32, index.Info(parts.absmax).cols(),
                       state.spec.nested_block));
    PW_ASSIGN(nested_levels, ReadLevels(index, parts.nested_levels, kNestedLevels));
  }
  TensorInfo info;
  info.name = name;
  info.shape = state.shape;
  info.encoding = Encoding::Codebook(state.spec);
  return packing->Add(
      index, std::move(info), parts.codes,
      {parts.codes, parts.absmax, parts.levels, parts.nested_absmax, parts.nested_levels,
       parts.state},
      std::make_unique<CodebookTensor>(parts, std::move(levels), std::move(nested_levels),
                                       state.nested_offset, element_bytes));
}

Status AddInt8(const PartsIndex& index, const std::string& prefix, int64_t absmax,
               Packing* packing) {
  PW_ASSIGN(const int64_t codes, index.Require(prefix + ".weight", absmax));
  PW_TRY(index.CheckForm(codes, DType::kI8, 2));
  PW_TRY(index.CheckForm(absmax, DType::kF32, 1));
  PW_TRY(index.CheckShape(absmax, {index.Info(codes).shape[0]}, "one absmax for each row"));
  const int64_t format = index.Find(prefix + ".weight_format");
  if (format != PartsIndex::kNone) {
    PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(format));
    if (bytes.size() != 1 || bytes[0] != 0) {
      return Error(ErrorCode::kUnsupported, "the weight is not in the order of its rows")
          .Hint("save the model again with a current bitsandbytes, which writes rows")
          .InFile(index.Info(format).file)
          .InTensor(index.Info(format).name);
    }
  }
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = index.Info(codes).shape;
  info.encoding = Encoding::Scaled(
      {.element = DType::kI8, .block_rows = 1, .scale_dtype = DType::kF32, .absmax = true});
  return packing->Add(index, std::move(info), codes, {codes, absmax, format},
                      std::make_unique<Int8Tensor>(codes, absmax));
}

}  // namespace

Status FindBitsandbytes(const PartsIndex& index, Packing* packing) {
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const std::string& stored = index.Info(at).name;
    for (const char* suffix :
         {".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"}) {
      const auto name = WithoutSuffix(stored, suffix);
      if (name) PW_TRY(AddCodebook(index, *name, at, packing));
    }
    const auto prefix = WithoutSuffix(stored, ".SCB");
    if (prefix) PW_TRY(AddInt8(index, *prefix, at, packing));
  }
  return OkStatus();
}

}  // namespace pennyweight
