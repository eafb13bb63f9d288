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

std::unique_ptr<RowGrid> MakeRowGrid(const Encoding& encoding) {
  switch (encoding.block) {
    case BlockType::kQ2_K:
    case BlockType::kQ4_K:
    case BlockType::kQ5_K:
      return MakeAffineKRowGrid(encoding.block);
    case BlockType::kQ3_K:
    case BlockType::kQ6_K:
      return MakeSymmetricKRowGrid(encoding.block);
    default:
      return nullptr;
  }
}

}  // namespace

std::unique_ptr<BlockGrid> MakeRowGridLanes(const Encoding& encoding) {
  std::vector<std::unique_ptr<RowGrid>> rows;
  for (int64_t l = 0; l < kLanes; ++l) {
    rows.push_back(MakeRowGrid(encoding));
    if (rows.back() == nullptr) return nullptr;
  }
  const int64_t bytes = TraitsOf(encoding.block).bytes;
  return std::make_unique<RowGridLanes>(encoding, std::move(rows), bytes);
}

}  // namespace pennyweight
