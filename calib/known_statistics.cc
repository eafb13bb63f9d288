#include "calib/known_statistics.h"

#include <utility>

namespace pennyweight {

KnownStatistics::KnownStatistics(const TensorSource& source, const Statistics& statistics,
                                 AddHessian add_hessian)
    : statistics_(statistics), add_hessian_(std::move(add_hessian)) {
  const auto index = IndexByWeight(statistics);
  for (const TensorInfo& info : source.tensors()) {
    const auto it = index.find(info.name);
    input_of_.push_back(it == index.end() ? -1 : static_cast<int64_t>(it->second));
  }
  for (const InputSums& input : statistics.inputs) {
    importance_.push_back(ImportanceOf(input).value_or(std::vector<float>()));
  }
}

std::span<const float> KnownStatistics::Importance(size_t tensor) const {
  if (input_of_[tensor] < 0) return {};
  return importance_[static_cast<size_t>(input_of_[tensor])];
}

std::string_view KnownStatistics::WhyUnweighted(size_t tensor) const {
  const int64_t input = input_of_[tensor];
  if (input < 0) return "no entry in the statistics: unweighted";
  if (!importance_[static_cast<size_t>(input)].empty()) return "";
  return statistics_.inputs[static_cast<size_t>(input)].tokens == 0
             ? "its input saw no token: unweighted"
             : "its input was always zero: unweighted";
}

}  // namespace pennyweight
