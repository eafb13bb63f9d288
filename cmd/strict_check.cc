#include "cmd/strict_check.h"

#include <fmt/format.h>

#include <map>

namespace pennyweight {

std::vector<std::string> Shortfalls(const Report& report, std::span<const Choice> choices,
                                    int64_t min_tokens) {
  std::map<std::string, std::vector<const TensorReport*>> reasons;
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const TensorReport& t = report.tensors[i];
    if (t.tokens && *t.tokens < min_tokens) {
      reasons[fmt::format("calibrated on fewer than {} tokens", min_tokens)].push_back(&t);
    }
    // A tensor that is left alone by its nature did not fall back.
    const bool own = t.fallback && t.fallback != choices[i].fallback;
    if (t.fallback && (choices[i].degraded || own)) reasons[*t.fallback].push_back(&t);
  }
  std::vector<std::string> lines;
  for (const auto& [reason, tensors] : reasons) {
    std::string line = fmt::format("{}: {}", reason, tensors[0]->name);
    if (tensors.size() > 1) line += fmt::format(" and {} more", tensors.size() - 1);
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace pennyweight
