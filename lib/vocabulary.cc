#include "lib/vocabulary.h"

#include <algorithm>

namespace pennyweight {

void DropRepeatedMerges(bool keep_last, std::vector<Merge>* merges) {
  const auto pair_of = [&](uint32_t i) {
    const Merge& merge = (*merges)[i];
    return static_cast<uint64_t>(static_cast<uint32_t>(merge.left)) << 32 |
           static_cast<uint32_t>(merge.right);
  };
  std::vector<uint32_t> order(merges->size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::sort(order, [&](uint32_t a, uint32_t b) {
    const uint64_t left = pair_of(a), right = pair_of(b);
    return left != right ? left < right : a < b;
  });
  std::vector<bool> drop(order.size(), false);
  for (size_t k = 1; k < order.size(); ++k) {
    if (pair_of(order[k - 1]) == pair_of(order[k])) drop[order[keep_last ? k - 1 : k]] = true;
  }
  size_t kept = 0;
  for (size_t i = 0; i < merges->size(); ++i) {
    if (!drop[i]) (*merges)[kept++] = (*merges)[i];
  }
  merges->resize(kept);
}

}  // namespace pennyweight
