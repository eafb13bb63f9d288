#include "formats/mxfp4_reader.h"

#include <fmt/format.h>

namespace pennyweight {
namespace {

constexpr int64_t kGroup = 32;  // values that share an exponent
constexpr int64_t kGroupBytes = 16;

// One group: the exponent, then byte j with value j in its low half and value j + 16 in its high.
void PutBlock(uint8_t exponent, const uint8_t* pairs, uint8_t* block) {
  block[0] = exponent;
  for (int j = 0; j < kGroupBytes; ++j) {
    const int low = pairs[j / 2] >> (j % 2 * 4) & 15;
    const int high = pairs[8 + j / 2] >> (j % 2 * 4) & 15;
    block[1 + j] = static_cast<uint8_t>(low | high << 4);
  }
}

// Rows of the parts per row of the weight: gpt-oss stores a group of codes as a row of its own.
class Mxfp4Tensor : public PackedTensor {
 public:
  Mxfp4Tensor(int64_t codes, int64_t exponents, bool group_is_row)
      : codes_(codes), exponents_(exponents), group_is_row_(group_is_row) {}

  Status Read(const TensorSource& source, int64_t row, int64_t count,
              EncodedTensor* out) const override {
    const int64_t groups = out->cols / kGroup;
    const int64_t per_row = group_is_row_ ? groups : 1;
    EncodedTensor codes, exponents;
    PW_TRY(source.ReadRows(static_cast<size_t>(codes_), row * per_row, count * per_row, &codes));
    PW_TRY(source.ReadRows(static_cast<size_t>(exponents_), row, count, &exponents));
    out->data.resize(static_cast<size_t>(count * groups * (1 + kGroupBytes)));
    for (int64_t i = 0; i < count * groups; ++i) {
      PutBlock(exponents.data[static_cast<size_t>(i)], codes.data.data() + i * kGroupBytes,
               out->data.data() + i * (1 + kGroupBytes));
    }
    return OkStatus();
  }

 private:
  int64_t codes_;
  int64_t exponents_;
  bool group_is_row_;
};

}  // namespace

bool LooksLikeGptOss(const PartsIndex& index) {
  for (size_t i = 0; i < index.size(); ++i) {
    const TensorInfo& info = index.Info(static_cast<int64_t>(i));
    const auto name = WithoutSuffix(info.name, "_blocks");
    if (!name || info.encoding.dtype != DType::kU8 || info.shape.size() != 4) continue;
    const int64_t scales = index.Find(*name + "_scales");
    if (scales != PartsIndex::kNone && index.Info(scales).shape.size() == 3) return true;
  }
  return false;
}

Status FindGptOss(const PartsIndex& index, Packing* packing) {
  for (size_t i = 0; i < index.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto name = WithoutSuffix(index.Info(at).name, "_blocks");
    if (!name) continue;
    PW_ASSIGN(const int64_t scales, index.Require(*name + "_scales", at));
    PW_TRY(index.CheckForm(at, DType::kU8, 4));
    PW_TRY(index.CheckForm(scales, DType::kU8, 3));
    const Shape& blocks = index.Info(at).shape;
    PW_TRY(index.CheckShape(at, {blocks[0], blocks[1], blocks[2], kGroupBytes},
                            "32 values of 4 bits are 16 bytes"));
    PW_TRY(index.CheckShape(scales, {blocks[0], blocks[1], blocks[2]},
                            fmt::format("one for each group of {}", index.Info(at).name)));
    TensorInfo info;
    info.name = *name;
    info.shape = {blocks[0], blocks[1], blocks[2] * kGroup};
    info.encoding = Encoding::Block(BlockType::kMXFP4);
    info.transposed = true;
    PW_TRY(packing->Add(index, std::move(info), at, {at, scales},
                        std::make_unique<Mxfp4Tensor>(at, scales, true)));
  }
  return OkStatus();
}

Status AddMxfp4Linear(const PartsIndex& index, const std::string& prefix, int64_t packed,
                      int64_t scale, Packing* packing) {
  PW_TRY(index.CheckForm(packed, DType::kU8, 2));
  const Shape& codes = index.Info(packed).shape;
  if (codes[1] % kGroupBytes != 0) {
    return index.Wrong(packed, "its rows are no whole groups of 32 values");
  }
  PW_TRY(index.CheckShape(scale, {codes[0], codes[1] / kGroupBytes},
                          fmt::format("one for each group of {}", index.Info(packed).name)));
  TensorInfo info;
  info.name = prefix + ".weight";
  info.shape = {codes[0], codes[1] * 2};
  info.encoding = Encoding::Block(BlockType::kMXFP4);
  return packing->Add(index, std::move(info), packed, {packed, scale},
                      std::make_unique<Mxfp4Tensor>(packed, scale, false));
}

}  // namespace pennyweight
