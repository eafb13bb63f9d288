// MakeCompressedTensorsSink: the layouts of compressed-tensors. For P.weight [N, K] with G groups
// of columns that share a scale:
//   pack-quantized (integers of b bits)
//     P.weight_packed      I32 [N, ceil(K b / 32)]  row n: a dense stream of code + 2^(b-1), low
//     bits
//                          first; what is left of the last word is zero
//     P.weight_scale       [N, G] of the scales' dtype
//     P.weight_zero_point  I32 [ceil(N b / 32), G]  column g: zero + 2^(b-1), packed down the rows;
//                          only when asymmetric
//     P.weight_shape       I64 [2] = {N, K}
//   float-quantized (fp8_e4m3)
//     P.weight F8_E4M3 [N, K], P.weight_scale [1], [N, 1] or [ceil(N / rows), ceil(K / cols)]
//   nvfp4-pack-quantized
//     P.weight_packed U8 [N, K / 2], the even column in the low half; P.weight_scale F8_E4M3
//     [N, K / 16]; P.weight_global_scale F32 [1], by which scales are divided
//   mxfp4-pack-quantized
//     P.weight_packed as above; P.weight_scale U8 [N, K / 32], exponents with a bias of 127
// Plain tensors are as they are. Source: compressed_tensors/compressors
// (github.com/vllm-project/compressed-tensors).
#include <array>
#include <cmath>
#include <utility>

#include "formats/bit_stream.h"
#include "formats/compressed_tensors_config.h"
#include "formats/parts_sink.h"
#include "formats/sinks.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kMxGroup = 32;  // columns of an MXFP4 block, in 1 + 16 bytes
constexpr int64_t kMxBytes = 16;

// Places of the parts in the list that Parts gives.
constexpr size_t kCodes = 0;
constexpr size_t kScale = 1;
constexpr size_t kGlobalScale = 2;  // nvfp4
constexpr size_t kZeroPoint = 2;    // asymmetric integers

std::vector<StoredTensor> Parts(const Model&, const OutputTensor& tensor) {
  const int64_t n = tensor.shape[0];
  const int64_t k = tensor.shape[1];
  std::vector<StoredTensor> parts;
  const auto add = [&](const char* suffix, DType dtype, Shape shape) {
    parts.push_back({tensor.name + suffix, dtype, std::move(shape)});
  };
  if (tensor.encoding.kind == Encoding::Kind::kBlock) {
    add("_packed", DType::kU8, {n, k / 2});
    add("_scale", DType::kU8, {n, k / kMxGroup});
    return parts;
  }
  if (tensor.encoding.kind == Encoding::Kind::kScaled) {
    const ScaledSpec& spec = tensor.encoding.scaled;
    if (spec.element == DType::kF4) {
      add("_packed", DType::kU8, {n, k / 2});
      add("_scale", spec.scale_dtype, {n, spec.Groups(k)});
      add("_global_scale", DType::kF32, {1});
      return parts;
    }
    add("", spec.element, {n, k});
    if (spec.block_rows == 0) {
      add("_scale", spec.scale_dtype, {1});
    } else {
      add("_scale", spec.scale_dtype, {CeilDiv(n, spec.block_rows), spec.Groups(k)});
    }
    return parts;
  }
  const IntegerSpec& spec = tensor.encoding.integer;
  add("_packed", DType::kI32, {n, CeilDiv(k * spec.bits, 32)});
  add("_scale", spec.scale_dtype, {n, spec.Groups(k)});
  if (!spec.symmetric) {
    add("_zero_point", DType::kI32, {CeilDiv(n * spec.bits, 32), spec.Groups(k)});
  }
  add("_shape", DType::kI64, {2});
  return parts;
}

Status PutShape(const Model&, const OutputTensor& tensor, const PutPart& put) {
  if (tensor.encoding.kind != Encoding::Kind::kInteger) return OkStatus();
  std::array<uint8_t, 16> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto dimension = static_cast<uint64_t>(tensor.shape[i / 8]);
    bytes[i] = static_cast<uint8_t>(dimension >> (8 * (i % 8)));
  }
  const size_t part = tensor.encoding.integer.symmetric ? kZeroPoint : kZeroPoint + 1;
  return put(part, 0, bytes.data(), bytes.size());
}

// A code outside its bits would spill into its neighbour.
bool AllFit(const std::vector<int8_t>& values, int bits) {
  const int low = -(1 << (bits - 1));
  for (const int8_t v : values) {
    if (v < low || v >= -low) return false;
  }
  return true;
}

// [rows, cols] codes to [rows, words] little-endian words.
std::vector<uint8_t> PackRows(const EncodedTensor& tile, int bits) {
  const int half = 1 << (bits - 1);
  const int64_t row_bytes = CeilDiv(tile.cols * bits, 32) * kWordBytes;
  std::vector<uint8_t> packed(static_cast<size_t>(tile.rows * row_bytes));
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int8_t* codes = tile.codes.data() + r * tile.cols;
    PackStream(packed.data() + r * row_bytes, kWordBytes, bits, tile.cols,
               [&](int64_t c) { return static_cast<uint32_t>(codes[c] + half); });
  }
  return packed;
}

// [rows, groups] zero points to [word rows, groups]: each column is a stream of its own. A tile
// begins at a multiple of 32 rows, which fill whole words.
std::vector<uint8_t> PackZeros(const EncodedTensor& tile, int bits, int64_t groups) {
  const int half = 1 << (bits - 1);
  const int64_t word_rows = CeilDiv(tile.rows * bits, 32);
  std::vector<uint8_t> packed(static_cast<size_t>(word_rows * groups * kWordBytes));
  for (int64_t g = 0; g < groups; ++g) {
    const int8_t* zeros = tile.zeros.data() + g;
    PackStream(packed.data() + g * kWordBytes, groups * kWordBytes, bits, tile.rows,
               [&](int64_t r) { return static_cast<uint32_t>(zeros[r * groups] + half); });
  }
  return packed;
}

// What a tile puts into the rows of one part.
Status PutRowsOf(size_t part, int64_t row, int64_t rows, const std::vector<uint8_t>& bytes,
                 const PutPart& put) {
  const uint64_t row_bytes = bytes.size() / static_cast<uint64_t>(rows);
  return put(part, static_cast<uint64_t>(row) * row_bytes, bytes.data(), bytes.size());
}

Status WriteInteger(int64_t row, const EncodedTensor& tile, const PutPart& put) {
  const IntegerSpec& spec = tile.encoding.integer;
  if (!AllFit(tile.codes, spec.bits) || !AllFit(tile.zeros, spec.bits)) {
    return Error(ErrorCode::kInvalidTensor, "a code or zero point does not fit its bits");
  }
  PW_TRY(PutRowsOf(kCodes, row, tile.rows, PackRows(tile, spec.bits), put));
  PW_TRY(PutRowsOf(kScale, row, tile.rows, tile.scales, put));
  if (spec.symmetric) return OkStatus();
  const int64_t groups = spec.Groups(tile.cols);
  const std::vector<uint8_t> zeros = PackZeros(tile, spec.bits, groups);
  const auto at = static_cast<uint64_t>(row * spec.bits / 32 * groups * kWordBytes);
  return put(kZeroPoint, at, zeros.data(), zeros.size());
}

Status WriteScaled(int64_t row, const EncodedTensor& tile, const PutPart& put) {
  const ScaledSpec& spec = tile.encoding.scaled;
  PW_TRY(PutRowsOf(kCodes, row, tile.rows, tile.data, put));
  PW_TRY(PutBlockScales(row, tile, spec.block_rows, kScale, put));
  if (!spec.divided) return OkStatus();
  if (!std::isfinite(tile.divisor) || tile.divisor == 0) {
    return Error(ErrorCode::kInvalidTensor, "scales cannot be divided by this number");
  }
  return row == 0 ? put(kGlobalScale, 0, &tile.divisor, sizeof(float)) : OkStatus();
}

// Blocks of {exponent, values j and j + 16 in byte j} to pairs of neighbours and exponents.
Status WriteMxfp4(int64_t row, const EncodedTensor& tile, const PutPart& put) {
  const int64_t blocks = tile.rows * tile.cols / kMxGroup;
  std::vector<uint8_t> pairs(static_cast<size_t>(blocks * kMxBytes));
  std::vector<uint8_t> exponents(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) {
    const uint8_t* block = tile.data.data() + b * (1 + kMxBytes);
    exponents[static_cast<size_t>(b)] = block[0];
    uint8_t* to = pairs.data() + b * kMxBytes;
    for (int64_t j = 0; j < kMxBytes; ++j) {
      const int shift = j < 8 ? 0 : 4;
      const uint8_t* from = block + 1 + j % 8 * 2;
      to[j] = static_cast<uint8_t>((from[0] >> shift & 15) | (from[1] >> shift & 15) << 4);
    }
  }
  PW_TRY(PutRowsOf(kCodes, row, tile.rows, pairs, put));
  return PutRowsOf(kScale, row, tile.rows, exponents, put);
}

Status WriteTile(const OutputTensor&, int64_t row, const EncodedTensor& tile, const PutPart& put) {
  switch (tile.encoding.kind) {
    case Encoding::Kind::kBlock:
      return WriteMxfp4(row, tile, put);
    case Encoding::Kind::kScaled:
      return WriteScaled(row, tile, put);
    default:
      return WriteInteger(row, tile, put);
  }
}

Result<Json> Config(const Model& model, const std::vector<OutputTensor>& tensors) {
  return CompressedTensorsConfig(model, tensors);
}

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeCompressedTensorsSink(const SinkOptions& options) {
  return MakePartsSink(options, {CheckCompressedTensors, Parts, PutShape, WriteTile, Config});
}

}  // namespace pennyweight
