// Statistics that a file brought, as the quantizing of a model asks for them: by tensor.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lib/result.h"
#include "lib/statistics.h"
#include "lib/tensor_source.h"

namespace pennyweight {

class KnownStatistics {
 public:
  // Adds the Hessian of an input of the statistics to the upper triangle of h[width, width].
  using AddHessian = std::function<Status(size_t input, float* h)>;

  // `statistics` outlives this; their widths are those of the source. `add_hessian` may be null.
  KnownStatistics(const TensorSource& source, const Statistics& statistics, AddHessian add_hessian);

  const Statistics& statistics() const { return statistics_; }
  // The input that a tensor of the source reads; -1: not known.
  int64_t InputOf(size_t tensor) const { return input_of_[tensor]; }
  // Of a tensor's columns; empty where nothing is known, and all count alike.
  std::span<const float> Importance(size_t tensor) const;
  // Why Importance is empty, for a report; "" where it is not.
  std::string_view WhyUnweighted(size_t tensor) const;
  bool has_hessians() const { return add_hessian_ != nullptr; }
  Status Hessian(size_t input, float* h) const { return add_hessian_(input, h); }

 private:
  const Statistics& statistics_;
  AddHessian add_hessian_;
  std::vector<int64_t> input_of_;
  std::vector<std::vector<float>> importance_;  // by input
};

}  // namespace pennyweight
