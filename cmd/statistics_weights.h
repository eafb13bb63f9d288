// --imatrix of `quantize`: files of statistics as weights of the rounding.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calib/known_statistics.h"
#include "cmd/console.h"
#include "cmd/statistics_input.h"
#include "lib/model.h"
#include "lib/result.h"
#include "quant/mix.h"

namespace pennyweight {

class StatisticsWeights {
 public:
  // Null without files. `by_hessians`: gptq is to work by them, so that each file must have them.
  // Errors: those of OpenStatistics, kUsage naming the file that has none, and what to do.
  static Result<std::unique_ptr<StatisticsWeights>> Open(const std::vector<std::string>& paths,
                                                         const Model& model, bool by_hessians);

  const KnownStatistics& known() const { return *known_; }
  // Of all that an output depends on.
  std::string Hash() const;

  // Tells which matrices that are to be quantized are rounded without weights, and which entries
  // are of no use. The number of decoder matrices among them: a head may go without, since
  // llama.cpp's files have no entry for it.
  size_t NoteUse(const Model& model, std::span<const Choice> choices, Console* console) const;

 private:
  StatisticsWeights() = default;
  // Adds the Hessian of an input of `merged` from every file that has it.
  Status AddHessian(size_t input, float* h) const;

  StatisticsInput input_;
  std::unique_ptr<KnownStatistics> known_;
};

}  // namespace pennyweight
