#include "quant/encode_scaled.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "lib/checked.h"
#include "lib/dtype.h"
#include "lib/nvfp4.h"
#include "lib/parallel.h"
#include "quant/codec_scaled.h"
#include "quant/element_kernels.h"
#include "quant/element_search.h"
#include "quant/fit_block.h"
#include "quant/method_checks.h"

namespace pennyweight {
namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr uint32_t kInfinity = 0x7f800000;
constexpr int64_t kMxGroup = 32;
constexpr int64_t kMxBytes = 17;
constexpr float kMostE4M3 = 448;
constexpr float kMostE2M1 = 6;

bool IsMxfp4(const Encoding& encoding) { return encoding == Encoding::Block(BlockType::kMXFP4); }

bool IsNvfp4(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kScaled && encoding.scaled.element == DType::kF4;
}

bool IsFp8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

// Columns that share a scale.
int64_t WidthOf(const ScaledSpec& spec, int64_t cols) {
  return spec.block_cols == 0 ? cols : spec.block_cols;
}

// A positive scale as stored; 1 when it is too small for the dtype, and then all codes are zero.
float StoredOrOne(DType dtype, float scale, bool* dead) {
  const float stored = RoundStored(dtype, scale);
  *dead = !(stored > 0);
  return *dead ? 1.0f : stored;
}

// One job's inputs.
struct Rows {
  const float* w;
  int64_t count;
  int64_t cols;
  std::span<const float> importance;
  ScaleSearch search;

  std::span<const float> ImportanceAt(int64_t col, int64_t n) const {
    return importance.empty()
               ? importance
               : importance.subspan(static_cast<size_t>(col), static_cast<size_t>(n));
  }
};

// Largest magnitudes of the groups of rows [row, row + count), the maximum over the rows.
Status Magnitudes(const Rows& in, int64_t row, int64_t count, int64_t width,
                  std::vector<uint32_t>* most) {
  const int64_t groups = CeilDiv(in.cols, width);
  most->assign(static_cast<size_t>(groups), 0);
  std::vector<uint32_t> bits(most->size());
  for (int64_t r = row; r < row + count; ++r) {
    GroupMagnitudes(in.w + r * in.cols, in.cols, width, bits.data());
    for (size_t g = 0; g < bits.size(); ++g) (*most)[g] = std::max((*most)[g], bits[g]);
    if (*std::max_element(bits.begin(), bits.end()) >= kInfinity) {
      return CheckFiniteRow(in.w + r * in.cols, in.cols, r);
    }
  }
  return OkStatus();
}

// The block of rows [row, row + count), columns [col, col + width), side by side.
float SearchBlockScale(const Rows& in, ElementSet set, DType dtype, int64_t row, int64_t count,
                       int64_t col, int64_t width, float start) {
  std::vector<float> x, h;
  for (int64_t r = row; r < row + count; ++r) {
    const float* from = in.w + r * in.cols + col;
    x.insert(x.end(), from, from + width);
    const auto weights = in.ImportanceAt(col, width);
    h.insert(h.end(), weights.begin(), weights.end());
  }
  FitBlock block(static_cast<int64_t>(x.size()));
  block.Load(x, h);
  const float unit = block.unit();
  return SearchElementScale(set, block, dtype, start / unit) * unit;
}

void StoreScales(DType dtype, const std::vector<float>& scales, int64_t row, EncodedTensor* out) {
  const size_t bytes = scales.size() * static_cast<size_t>(DTypeBits(dtype)) / 8;
  EncodeFromFloat(dtype, scales.data(), out->scales.data() + static_cast<size_t>(row) * bytes,
                  scales.size());
}

// Codes and scales of rows [row, row + count), which share their scales.
void EncodeFp8Rows(const Rows& in, int64_t row, int64_t count, const std::vector<float>& scales,
                   const std::vector<char>& dead, EncodedTensor* out) {
  const ScaledSpec& spec = out->encoding.scaled;
  const int64_t width = WidthOf(spec, in.cols);
  for (int64_t r = row; r < row + count; ++r) {
    uint8_t* codes = out->data.data() + r * in.cols;
    EncodeGroups(SetOf(spec.element), in.w + r * in.cols, in.cols, width, scales.data(), codes);
    for (size_t g = 0; g < dead.size(); ++g) {
      if (dead[g] == 0) continue;
      const int64_t begin = static_cast<int64_t>(g) * width;
      std::fill(codes + begin, codes + std::min(in.cols, begin + width), uint8_t{0});
    }
    StoreScales(spec.scale_dtype, scales, r, out);
  }
}

// Rows [row, row + count) of one block of rows.
Status EncodeFp8Block(const Rows& in, int64_t row, int64_t count, EncodedTensor* out) {
  const ScaledSpec& spec = out->encoding.scaled;
  const ElementSet set = SetOf(spec.element);
  const int64_t width = WidthOf(spec, in.cols);
  std::vector<uint32_t> most;
  PW_TRY(Magnitudes(in, row, count, width, &most));
  std::vector<float> scales(most.size());
  std::vector<char> dead(most.size());
  for (size_t g = 0; g < most.size(); ++g) {
    bool zero = false;
    const float start = std::bit_cast<float>(most[g]) / LargestElement(set);
    scales[g] = StoredOrOne(spec.scale_dtype, start, &zero);
    dead[g] = zero ? 1 : 0;
    if (zero || in.search == ScaleSearch::kMinMax) continue;
    const int64_t col = static_cast<int64_t>(g) * width;
    scales[g] = SearchBlockScale(in, set, spec.scale_dtype, row, count, col,
                                 std::min(width, in.cols - col), scales[g]);
  }
  EncodeFp8Rows(in, row, count, scales, dead, out);
  return OkStatus();
}

// The E4M3 bytes of NVFP4's scales, not 0: a group whose scale is too small for the format takes
// the smallest.
void NvScaleBytes(const float* scales, int64_t n, uint8_t* bytes) {
  constexpr float kOne = 1;
  EncodeGroups(ElementSet::kE4M3, scales, n, n, &kOne, bytes);
  for (int64_t i = 0; i < n; ++i) bytes[i] = std::max<uint8_t>(bytes[i], 1);
}

// The values of bytes 0 to 126 (448).
const std::array<float, 127>& E4M3Values() {
  static const std::array<float, 127> kValues = [] {
    std::array<float, 127> values;
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = SmallFloatValue(DType::kF8E4M3, static_cast<uint8_t>(i));
    }
    return values;
  }();
  return kValues;
}

// The byte of least error among the neighbours of `start`; scales are divided by `divisor`.
uint8_t SearchNvScale(const FitBlock& block, uint8_t start, float divisor) {
  constexpr int kLast = 0x7e;
  const auto& values = E4M3Values();
  uint8_t best = start;
  float least = 0;
  for (const int step : {0, -1, 1, -2, 2, -3}) {
    const int byte = start + step;
    if (byte < 1 || byte > kLast) continue;
    const float scale = values[static_cast<size_t>(byte)] / divisor;
    const float error = SumElementErrors(ElementSet::kE2M1, block.kernel(), scale / block.unit());
    if (step != 0 && !(error < least)) continue;
    least = error;
    best = static_cast<uint8_t>(byte);
  }
  return best;
}

Status EncodeNvRow(const Rows& in, int64_t row, float divisor, EncodedTensor* out) {
  const int64_t groups = in.cols / kNvfp4Group;
  const float* w = in.w + row * in.cols;
  std::vector<uint32_t> most;
  PW_TRY(Magnitudes(in, row, 1, kNvfp4Group, &most));
  std::vector<float> scales(most.size());
  for (size_t g = 0; g < most.size(); ++g) {
    scales[g] = std::bit_cast<float>(most[g]) / kMostE2M1 * divisor;
  }
  uint8_t* bytes = out->scales.data() + row * groups;
  NvScaleBytes(scales.data(), groups, bytes);
  FitBlock block(kNvfp4Group);
  const auto& values = E4M3Values();
  for (int64_t g = 0; g < groups; ++g) {
    if (in.search == ScaleSearch::kSearch && most[static_cast<size_t>(g)] != 0) {
      block.Load({w + g * kNvfp4Group, static_cast<size_t>(kNvfp4Group)},
                 in.ImportanceAt(g * kNvfp4Group, kNvfp4Group));
      bytes[g] = SearchNvScale(block, bytes[g], divisor);
    }
    scales[static_cast<size_t>(g)] = values[bytes[g]] / divisor;
  }
  std::vector<uint8_t> codes(static_cast<size_t>(in.cols));
  EncodeGroups(ElementSet::kE2M1, w, in.cols, kNvfp4Group, scales.data(), codes.data());
  PackHalves(codes.data(), in.cols, out->data.data() + row * in.cols / 2);
  return OkStatus();
}

// 2^exponent for a biased exponent; 2^-127 is the one subnormal.
float PowerOf(int exponent) {
  return exponent == 0 ? 0x1p-127f : std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23);
}

Status EncodeMxRow(const Rows& in, int64_t row, EncodedTensor* out) {
  const int64_t groups = in.cols / kMxGroup;
  const float* w = in.w + row * in.cols;
  std::vector<uint32_t> most;
  PW_TRY(Magnitudes(in, row, 1, kMxGroup, &most));
  std::vector<float> scales(most.size());
  std::vector<uint8_t> exponents(most.size());
  std::optional<FitBlock> block;
  if (in.search == ScaleSearch::kSearch) block.emplace(kMxGroup);
  for (size_t g = 0; g < most.size(); ++g) {
    // The largest power of two below the magnitude, over that of the largest element (4).
    const int start = std::max(0, static_cast<int>(most[g] >> 23) - 2);
    int best = start;
    if (in.search == ScaleSearch::kSearch && most[g] != 0) {
      const int64_t col = static_cast<int64_t>(g) * kMxGroup;
      block->Load({w + col, static_cast<size_t>(kMxGroup)}, in.ImportanceAt(col, kMxGroup));
      float least = 0;
      for (const int exponent : {start, start + 1, start - 1}) {
        if (exponent < 0) continue;
        const float error =
            SumElementErrors(ElementSet::kE2M1, block->kernel(), PowerOf(exponent) / block->unit());
        if (exponent != start && !(error < least)) continue;
        least = error;
        best = exponent;
      }
    }
    exponents[g] = static_cast<uint8_t>(best);
    scales[g] = PowerOf(best);
  }
  std::vector<uint8_t> codes(static_cast<size_t>(in.cols));
  EncodePowerGroups(w, in.cols, kMxGroup, scales.data(), codes.data());
  uint8_t* to = out->data.data() + row * groups * kMxBytes;
  for (int64_t g = 0; g < groups; ++g, to += kMxBytes) {
    const uint8_t* from = codes.data() + g * kMxGroup;
    to[0] = exponents[static_cast<size_t>(g)];
    // In words, in which eight codes move at once: none reaches beyond its own byte.
    for (int j = 0; j < 16; j += 8) {
      uint64_t low, high;
      std::memcpy(&low, from + j, 8);
      std::memcpy(&high, from + j + 16, 8);
      low |= high << 4;
      std::memcpy(to + 1 + j, &low, 8);
    }
  }
  return OkStatus();
}

// Largest magnitude of some rows.
Result<float> LargestOf(const Context& context, const Rows& in) {
  const int64_t tasks = CeilDiv(in.count, kRowsPerTask);
  std::vector<uint32_t> most(static_cast<size_t>(tasks));
  const auto look = [&](int64_t task) -> Status {
    const int64_t row = task * kRowsPerTask;
    std::vector<uint32_t> bits;
    PW_TRY(Magnitudes(in, row, std::min(kRowsPerTask, in.count - row), in.cols, &bits));
    most[static_cast<size_t>(task)] = bits[0];
    return OkStatus();
  };
  PW_TRY(ParallelTry(context, tasks, look));
  return most.empty() ? 0.0f : std::bit_cast<float>(*std::max_element(most.begin(), most.end()));
}

// Adds to `errors` what each scale costs the rows; in the order of the rows.
void AddErrors(const Context& context, const Rows& in, ElementSet set,
               const std::vector<float>& scales, std::vector<double>* errors) {
  std::vector<double> each(static_cast<size_t>(in.count) * scales.size());
  ParallelFor(context, in.count, [&](int64_t r) {
    FitBlock block(in.cols);
    block.Load({in.w + r * in.cols, static_cast<size_t>(in.cols)}, in.importance);
    const double unit = static_cast<double>(block.unit()) * block.unit();
    for (size_t s = 0; s < scales.size(); ++s) {
      each[static_cast<size_t>(r) * scales.size() + s] =
          unit * SumElementErrors(set, block.kernel(), scales[s] / block.unit());
    }
  });
  for (size_t i = 0; i < each.size(); ++i) (*errors)[i % scales.size()] += each[i];
}

}  // namespace

bool CanEncodeScaled(const Encoding& encoding, int64_t cols) {
  if (cols <= 0) return false;
  if (IsMxfp4(encoding)) return cols % kMxGroup == 0;
  if (encoding.kind != Encoding::Kind::kScaled) return false;
  const ScaledSpec& spec = encoding.scaled;
  if (spec.absmax || spec.block_rows < 0 || spec.block_cols < 0) return false;
  if (IsNvfp4(encoding)) return encoding == Nvfp4Encoding() && cols % kNvfp4Group == 0;
  return IsFp8(spec.element) && IsFloatDType(spec.scale_dtype) && !spec.divided &&
         (spec.block_rows > 0 || spec.block_cols == 0);
}

int64_t SharedRows(const Encoding& encoding) {
  if (encoding.kind != Encoding::Kind::kScaled) return 1;
  return std::max<int64_t>(1, encoding.scaled.block_rows);
}

bool HasTensorScale(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kScaled &&
         (encoding.scaled.divided || encoding.scaled.block_rows == 0);
}

Result<float> FindTensorScale(const Context& context, const Encoding& encoding, int64_t cols,
                              std::span<const float> importance, ScaleSearch search,
                              const EachTile& each_tile) {
  float most = 0;
  const auto look = [&](const float* w, int64_t rows) -> Status {
    PW_ASSIGN(const float largest, LargestOf(context, {w, rows, cols, importance, search}));
    most = std::max(most, largest);
    return OkStatus();
  };
  PW_TRY(each_tile(look));
  if (IsNvfp4(encoding)) {
    // The largest scale becomes the largest E4M3. A divisor has to be finite.
    const float divisor = kMostE4M3 * kMostE2M1 / most;
    return most == 0 || !std::isfinite(divisor) ? 1.0f : divisor;
  }
  const ElementSet set = SetOf(encoding.scaled.element);
  const DType dtype = encoding.scaled.scale_dtype;
  bool dead = false;
  const float start = StoredOrOne(dtype, most / LargestElement(set), &dead);
  if (dead || search == ScaleSearch::kMinMax) return start;
  std::vector<float> scales;
  for (const float factor : ScaleFactors(set)) scales.push_back(RoundStored(dtype, start * factor));
  std::vector<double> errors(scales.size());
  const auto weigh = [&](const float* w, int64_t rows) -> Status {
    AddErrors(context, {w, rows, cols, importance, search}, set, scales, &errors);
    return OkStatus();
  };
  PW_TRY(each_tile(weigh));

  return scales[static_cast<size_t>(std::min_element(errors.begin(), errors.end()) -
                                    errors.begin())];
}

Status EncodeScaled(const Context& context, const Encoding& encoding, float tensor_scale,
                    const float* w, int64_t rows, int64_t cols, std::span<const float> importance,
                    ScaleSearch search, EncodedTensor* out) {
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  const Rows in{w, rows, cols, importance, search};
  const bool nv = IsNvfp4(encoding), mx = IsMxfp4(encoding);
  const bool whole = !nv && HasTensorScale(encoding);
  if (nv) out->divisor = tensor_scale;
  const int64_t shared = SharedRows(encoding);
  const int64_t step = shared == 1 ? kRowsPerTask : shared;
  return ParallelTry(context, CeilDiv(rows, step), [&](int64_t task) -> Status {
    const int64_t begin = task * step;
    const int64_t end = std::min(rows, begin + step);
    if (shared > 1) return EncodeFp8Block(in, begin, end - begin, out);
    for (int64_t r = begin; r < end; ++r) {
      if (nv) {
        PW_TRY(EncodeNvRow(in, r, tensor_scale, out));
      } else if (mx) {
        PW_TRY(EncodeMxRow(in, r, out));
      } else if (whole) {
        std::vector<uint32_t> most;
        PW_TRY(Magnitudes(in, r, 1, cols, &most));
        EncodeFp8Rows(in, r, 1, {tensor_scale}, {}, out);
      } else {
        PW_TRY(EncodeFp8Block(in, r, 1, out));
      }
    }
    return OkStatus();
  });
}

}  // namespace pennyweight
