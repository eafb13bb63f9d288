// Grids that work on one row at a time, as a BlockGrid.
#include <algorithm>
#include <cstring>
#include <vector>

#include "quant/row_grids.h"

namespace pennyweight {
namespace {

class RowGridLanes final : public BlockGrid {
 public:
  RowGridLanes(const Encoding& encoding, std::vector<std::unique_ptr<RowGrid>> rows, int64_t bytes)
      : BlockGrid(rows[0]->block(), rows[0]->sub_block(), 1, bytes),
        encoding_(encoding),
        rows_(std::move(rows)),
        row_(static_cast<size_t>(block())) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (size_t l = 0; l < rows_.size(); ++l) {
      rows_[l]->BeginBlock(Row(w, l, block()), {h, static_cast<size_t>(block())}, search);
    }
  }

  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    for (size_t l = 0; l < rows_.size(); ++l) {
      rows_[l]->BeginSubBlock(s, Row(w, l, sub_block()), {h, static_cast<size_t>(sub_block())});
    }
  }

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (size_t l = 0; l < rows_.size(); ++l) decoded[l] = rows_[l]->Round(i, w[l]);
  }

  void Pack(uint8_t* out) const override {
    for (const auto& row : rows_) {
      EncodedTensor one = EncodedTensor::Allocate(encoding_, 1, block());
      row->Pack(&one, 0, 0);
      uint8_t* at = out;
      const auto append = [&](const void* from, size_t bytes) {
        std::memcpy(at, from, bytes);
        at += bytes;
      };
      append(one.data.data(), one.data.size());
      append(one.codes.data(), one.codes.size());
      append(one.scales.data(), one.scales.size());
      append(one.zeros.data(), one.zeros.size());
      out += packed_bytes();
    }
  }

 private:
  std::span<const float> Row(const float* w, size_t lane, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      row_[static_cast<size_t>(i)] = w[static_cast<size_t>(i * kLanes) + lane];
    }
    return {row_.data(), static_cast<size_t>(n)};
  }

  Encoding encoding_;
  std::vector<std::unique_ptr<RowGrid>> rows_;
  std::vector<float> row_;
};

std::unique_ptr<RowGrid> MakeRowGrid(const Encoding& encoding, int64_t cols) {
  if (encoding.kind == Encoding::Kind::kInteger) return MakeIntegerRowGrid(encoding.integer, cols);
  switch (encoding.block) {
    case BlockType::kQ4_0:
    case BlockType::kQ4_1:
    case BlockType::kQ5_0:
    case BlockType::kQ5_1:
    case BlockType::kQ8_0:
      return MakeLegacyRowGrid(encoding.block);
    default:
      return nullptr;
  }
}

}  // namespace

std::unique_ptr<BlockGrid> MakeRowGridLanes(const Encoding& encoding, int64_t cols) {
  std::vector<std::unique_ptr<RowGrid>> rows;
  for (int64_t l = 0; l < kLanes; ++l) {
    rows.push_back(MakeRowGrid(encoding, cols));
    if (rows.back() == nullptr) return nullptr;
  }
  const int64_t width = rows[0]->block();
  int64_t bytes = 0;
  Encoding one = encoding;
  if (encoding.kind == Encoding::Kind::kBlock) {
    bytes = TraitsOf(encoding.block).bytes;
  } else {
    one.integer.group_size = 0;
    bytes = width + DTypeBits(one.integer.scale_dtype) / 8 + (one.integer.symmetric ? 0 : 1);
  }
  return std::make_unique<RowGridLanes>(one, std::move(rows), bytes);
}

}  // namespace pennyweight
