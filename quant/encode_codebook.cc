#include "quant/encode_codebook.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#include "lib/checked.h"
#include "lib/parallel.h"
#include "quant/element_kernels.h"
#include "quant/element_search.h"
#include "quant/method_checks.h"
#include "quant/fit_block.h"

namespace pennyweight {
namespace {

constexpr int64_t kBlocksPerTask = 1024;
constexpr uint32_t kInfinity = 0x7f800000;

// Searches for the absmax of blocks of `n` values.
class AbsmaxSearch {
 public:
  AbsmaxSearch(ElementSet set, int64_t n) : set_(set), n_(n), block_(n) {}

  // Of values [at, at + n) of the rows, with the importance of their columns.
  float Find(const float* w, int64_t at, int64_t cols, std::span<const float> importance,
             float start) {
    h_.clear();
    for (int64_t i = 0; !importance.empty() && i < n_; ++i) {
      h_.push_back(importance[static_cast<size_t>((at + i) % cols)]);
    }
    block_.Load({w + at, static_cast<size_t>(n_)}, h_);
    const float unit = block_.unit();
    return SearchElementScale(set_, block_, DType::kF32, start / unit) * unit;
  }

 private:
  ElementSet set_;
  int64_t n_;
  FitBlock block_;
  std::vector<float> h_;
};

}  // namespace

bool CanEncodeCodebook(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kCodebook && encoding.codebook.nested_block == 0 &&
         encoding.codebook.block > 0;
}

Status EncodeCodebook(const Context& context, const Encoding& encoding, const float* w,
                      int64_t rows, int64_t cols, std::span<const float> importance,
                      ScaleSearch search, EncodedTensor* out) {
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  const CodebookSpec& spec = encoding.codebook;
  const auto levels = LevelsOf(spec.book);
  out->levels.assign(levels.begin(), levels.end());
  const ElementSet set = SetOf(spec.book);
  const int64_t values = rows * cols;
  const int64_t step = kBlocksPerTask * spec.block;
  return ParallelTry(context, CeilDiv(values, step), [&](int64_t task) -> Status {
    const int64_t begin = task * step;
    const int64_t count = std::min(step, values - begin);
    const int64_t blocks = CeilDiv(count, spec.block);
    std::vector<uint32_t> most(static_cast<size_t>(blocks));
    GroupMagnitudes(w + begin, count, spec.block, most.data());
    std::vector<float> absmax(most.size()), divisors(most.size());
    AbsmaxSearch search_block(set, spec.block);
    for (int64_t b = 0; b < blocks; ++b) {
      const auto at = static_cast<size_t>(b);
      const int64_t first = begin + b * spec.block;
      const int64_t n = std::min(spec.block, values - first);
      if (most[at] >= kInfinity) {
        for (int64_t r = first / cols; r <= (first + n - 1) / cols; ++r) {
          PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
        }
      }
      absmax[at] = std::bit_cast<float>(most[at]);
      if (search == ScaleSearch::kSearch && most[at] != 0) {
        absmax[at] = n == spec.block
                         ? search_block.Find(w, first, cols, importance, absmax[at])
                         : AbsmaxSearch(set, n).Find(w, first, cols, importance, absmax[at]);
      }
      // A block of zeros has the absmax 0 and the code of the level 0.
      divisors[at] = most[at] == 0 ? 1.0f : absmax[at];
    }
    EncodeGroups(set, w + begin, count, spec.block, divisors.data(),
                 reinterpret_cast<uint8_t*>(out->codes.data() + begin));
    std::memcpy(out->scales.data() + begin / spec.block * 4, absmax.data(), absmax.size() * 4);
    return OkStatus();
  });
}

}  // namespace pennyweight
