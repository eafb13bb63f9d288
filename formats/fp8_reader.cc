#include "formats/fp8_reader.h"

#include <fmt/format.h>

#include <cstring>

#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// Where the scales of a row stand: rows of the weight are grouped in matrices of `rows` (experts),
// each with `scale_rows` rows of scales for blocks of `block_rows` rows.
struct ScalePlace {
  int64_t scale = PartsIndex::kNone;
  int64_t rows = 1;
  int64_t scale_rows = 1;
  int64_t block_rows = 1;
  bool flat = false;  // the scales of all rows are one vector
  bool one = false;   // one scale for everything

  int64_t RowOf(int64_t row) const {
    return one ? 0 : row / rows * scale_rows + row % rows / block_rows;
  }
};

class Fp8Tensor : public PackedTensor {
 public:
  Fp8Tensor(int64_t elements, const ScalePlace& place) : elements_(elements), place_(place) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    const Encoding encoding = out->encoding;
    EncodedTensor elements;
    PW_TRY(source.ReadRows(static_cast<size_t>(elements_), row, count, &elements));
    out->data = std::move(elements.data);
    const int64_t first = place_.RowOf(row);
    const int64_t stored = place_.RowOf(row + count - 1) - first + 1;
    EncodedTensor scales;
    const auto part = static_cast<size_t>(place_.scale);
    if (place_.flat) {
      PW_TRY(source.ReadColumns(part, 0, 1, first, stored, &scales));
    } else {
      PW_TRY(source.ReadRows(part, first, stored, &scales));
    }
    const size_t bytes = static_cast<size_t>(encoding.scaled.Groups(out->cols)) *
                         static_cast<size_t>(DTypeBits(encoding.scaled.scale_dtype) / 8);
    out->scales.resize(static_cast<size_t>(count) * bytes);
    for (int64_t r = 0; r < count; ++r) {
      const auto from = static_cast<size_t>(place_.RowOf(row + r) - first);
      std::memcpy(out->scales.data() + static_cast<size_t>(r) * bytes,
                  scales.data.data() + from * bytes, bytes);
    }
    return OkStatus();
  }

 private:
  int64_t elements_;
  ScalePlace place_;
};

bool IsScale(DType dtype) {
  return IsFloatDType(dtype) || dtype == DType::kF8E8M0 || dtype == DType::kU8;
}

// Which of the forms the scales have; fills place and the blocks of `spec`.
Status PlaceScales(const PartsIndex& index, int64_t elements, const Fp8Config& config,
                   ScalePlace* place, ScaledSpec* spec) {
  const Shape& shape = index.Info(elements).shape;
  const Shape& scale = index.Info(place->scale).shape;
  const int64_t rows = shape[shape.size() - 2];
  const int64_t cols = shape.back();
  place->rows = rows;
  const auto with = [&](int64_t r, int64_t c) {
    Shape expected = shape;
    expected[expected.size() - 2] = r;
    expected.back() = c;
    return expected;
  };
  const auto blocks = [&](int64_t r, int64_t c) {
    spec->block_rows = place->block_rows = r;
    spec->block_cols = c;
    place->scale_rows = CeilDiv(rows, r);
    return OkStatus();
  };
  if (ElementCount(scale) == 1) {
    place->one = true;
    return OkStatus();
  }
  if (scale == with(CeilDiv(rows, config.block_rows), CeilDiv(cols, config.block_cols))) {
    return blocks(config.block_rows, config.block_cols);
  }
  place->flat = shape.size() == 2 && scale == Shape{rows};
  if (place->flat || scale == with(rows, 1)) return blocks(1, 0);
  // One number for each matrix of a stack.
  if (scale == with(1, 1)) return blocks(rows, 0);
  if (cols % 32 == 0 && scale == with(rows, cols / 32)) return blocks(1, 32);
  return index.Wrong(
      place->scale,
      fmt::format(
          "{} is no form of scales for {}: one number, {}, or {} for blocks of {}x{}",
          ShapeToString(scale), ShapeToString(shape), ShapeToString(with(rows, 1)),
          ShapeToString(with(CeilDiv(rows, config.block_rows), CeilDiv(cols, config.block_cols))),
          config.block_rows, config.block_cols));
}

// The scales of tensor `elements`, or kNone.
Result<int64_t> FindScale(const PartsIndex& index, int64_t elements) {
  const std::string& name = index.Info(elements).name;
  const int64_t inverse = index.Find(name + "_scale_inv");
  const int64_t plain = index.Find(name + "_scale");
  if (inverse == PartsIndex::kNone || plain == PartsIndex::kNone) {
    return inverse == PartsIndex::kNone ? plain : inverse;
  }
  return Error(ErrorCode::kDuplicateKey, "the weight has two tensors of scales")
      .Hint("remove the one that does not belong to it")
      .InFile(index.Info(plain).file)
      .InTensor(name);
}

Status AddFp8(const PartsIndex& index, int64_t elements, const Fp8Config& config,
              Packing* packing) {
  const TensorInfo& stored = index.Info(elements);
  ScalePlace place;
  PW_ASSIGN(place.scale, FindScale(index, elements));
  if (place.scale == PartsIndex::kNone) {
    if (!config.required) return OkStatus();
    return Error(ErrorCode::kTensorMissing,
                 fmt::format("the 8-bit floats of {} need it, or {}_scale_inv", stored.name,
                             stored.name))
        .Hint("download the checkpoint again, with all of its files")
        .InFile(stored.file)
        .InTensor(stored.name + "_scale");
  }
  PW_TRY(index.CheckForm(elements, stored.encoding.dtype, stored.shape.size()));
  const DType dtype = index.Info(place.scale).encoding.dtype;
  if (!IsScale(dtype)) {
    return index.Wrong(place.scale,
                       fmt::format("must be F32, F16, BF16 or F8_E8M0, not {}", DTypeName(dtype)));
  }
  ScaledSpec spec{.element = stored.encoding.dtype};
  // Bytes are exponents: safetensors files of older writers have no name for that type.
  spec.scale_dtype = dtype == DType::kU8 ? DType::kF8E8M0 : dtype;
  PW_TRY(PlaceScales(index, elements, config, &place, &spec));
  TensorInfo info;
  info.name = stored.name;
  info.shape = stored.shape;
  info.encoding = Encoding::Scaled(spec);
  return packing->Add(index, std::move(info), elements, {elements, place.scale},
                      std::make_unique<Fp8Tensor>(elements, place));
}

}  // namespace

Result<Fp8Config> ParseFp8Config(const JsonFields& fields) {
  Fp8Config config;
  config.required = true;
  const Json* size = fields.Value("weight_block_size");
  if (size == nullptr) return config;
  if (!size->is_array() || size->items().size() != 2) {
    return fields.Invalid("weight_block_size", "must be two numbers: rows and columns");
  }
  const auto rows = size->items()[0].AsInteger();
  const auto cols = size->items()[1].AsInteger();
  const auto fits = [](const std::optional<int64_t>& n) {
    return n && *n >= 1 && *n <= limits::kDimension;
  };
  if (!fits(rows) || !fits(cols)) {
    return fields.Invalid("weight_block_size", "must be two numbers above 0");
  }
  config.block_rows = *rows;
  config.block_cols = *cols;
  return config;
}

Status FindFp8(const PartsIndex& index, const Fp8Config& config, Packing* packing) {
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const TensorInfo& info = index.Info(at);
    const Encoding& encoding = info.encoding;
    const bool fp8 =
        encoding == Encoding::Plain(DType::kF8E4M3) || encoding == Encoding::Plain(DType::kF8E5M2);
    // 8-bit floats may be scales themselves.
    if (!fp8 || info.shape.size() < 2 || info.name.ends_with("_scale") || packing->Claimed(at)) {
      continue;
    }
    PW_TRY(AddFp8(index, at, config, packing));
  }
  return OkStatus();
}

void DropActivationScales(const PartsIndex& index, Packing* packing) {
  const auto found = [&](const std::string& module) {
    for (const char* suffix : {".weight", ".weight_packed"}) {
      const int64_t part = index.Find(module + suffix);
      if (part != PartsIndex::kNone && packing->Claimed(part)) return true;
    }
    return false;
  };
  struct Ending {
    const char* suffix;
    const char* linear;  // of the module, whose weight has to be quantized
  };
  constexpr Ending kEndings[] = {
      {".input_scale", ""},
      {".input_zero_point", ""},
      {".input_global_scale", ""},
      {".input_scale_ub", ""},
      {".activation_scale", ""},
      // Of the cached keys and values.
      {".k_scale", ".k_proj"},
      {".v_scale", ".v_proj"},
  };
  int64_t count = 0;
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    for (const Ending& ending : kEndings) {
      const auto module = WithoutSuffix(index.Info(at).name, ending.suffix);
      if (!module || packing->Claimed(at) || !found(*module + ending.linear)) continue;
      packing->Drop(at);
      ++count;
    }
  }
  if (count == 0) return;
  packing->Note(
      fmt::format("{} scales of activations are left out: they say nothing of weights", count));
}

}  // namespace pennyweight
