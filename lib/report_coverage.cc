#include <algorithm>
#include <map>
#include <utility>

#include "lib/report.h"

namespace pennyweight {

std::vector<ExpertCoverage> CoverageOf(const Report& report) {
  std::map<std::pair<int64_t, int64_t>, int64_t> least;
  for (const TensorReport& t : report.tensors) {
    if (!t.layer || !t.expert || !t.tokens) continue;
    const auto [row, added] = least.try_emplace({*t.layer, *t.expert}, *t.tokens);
    if (!added) row->second = std::min(row->second, *t.tokens);
  }
  std::vector<ExpertCoverage> rows;
  for (const auto& [place, tokens] : least) rows.push_back({place.first, place.second, tokens});
  return rows;
}

}  // namespace pennyweight
