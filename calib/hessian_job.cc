#include "calib/hessian_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "calib/input_statistics.h"

namespace pennyweight {
namespace {

// The factor, and working copies of the largest matrix.
Status CheckMemory(const Context& context, const HessianJob& job,
                   const std::vector<size_t>& tensors) {
  constexpr uint64_t kOverhead = 48ull << 20;  // the program, and tiles
  uint64_t largest = 0, square = 0;
  for (const size_t i : tensors) {
    const TensorInfo& info = job.source->tensors()[i];
    largest = std::max(largest, static_cast<uint64_t>(info.elements()));
    square = static_cast<uint64_t>(info.cols()) * static_cast<uint64_t>(info.cols());
  }
  const uint64_t bytes = (square + 2 * largest) * sizeof(float) + kOverhead;
  if (bytes <= context.memory_limit) return OkStatus();
  return Error(ErrorCode::kMemory,
               fmt::format("gptq of one matrix needs about {} MB, the limit is {} MB",
                           bytes / 1000000 + 1, context.memory_limit / 1000000))
      .Hint(fmt::format("--memory {}M, or --method rtn", bytes / 1000000 + 1))
      .InTensor(job.source->tensors()[tensors.front()].name);
}

// Damps and shrinks until the Hessian can be factored. False when it never can.
Result<bool> ReadFactor(const Context& context, const HessianJob& job, size_t input,
                        InputStatistics* statistics) {
  const InputSums& sums = job.known->statistics().inputs[input];
  FactorAttempt attempt;
  while (true) {
    std::vector<float> h(static_cast<size_t>(sums.width * sums.width));
    PW_TRY(job.known->Hessian(input, h.data()));
    statistics->SetHessian(sums.tokens, std::move(h));
    PW_ASSIGN(const bool ok, statistics->Factor(context, attempt.damp, attempt.shrink));
    if (ok) return true;
    const auto next = NextAttempt(attempt);
    if (!next) return false;
    attempt = *next;
  }
}

}  // namespace

Status QuantizeByHessian(const Context& context, const HessianJob& job, size_t input) {
  if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
  std::vector<size_t> tensors;
  for (size_t i = 0; i < job.source->tensors().size(); ++i) {
    const bool reads = job.known->InputOf(i) == static_cast<int64_t>(input);
    if (reads && job.choices[i].quantize) tensors.push_back(i);
  }
  const InputSums& sums = job.known->statistics().inputs[input];
  // Rounding without weights is what is left of an input that nothing is known of.
  if (tensors.empty() || job.known->Importance(tensors.front()).empty()) return OkStatus();
  PW_TRY(CheckMemory(context, job, tensors));
  InputStatistics statistics(sums.width, 0, false);
  PW_ASSIGN(const bool factored, ReadFactor(context, job, input, &statistics));
  InputPlan plan;
  for (const size_t i : tensors) {
    MatrixJob matrix;
    matrix.source = job.source;
    matrix.index = i;
    matrix.choice = &job.choices[i];
    matrix.method = Method::kGptq;
    matrix.effort = job.effort;
    matrix.statistics = &statistics;
    matrix.factored = factored;
    matrix.plan = &plan;
    matrix.keep_rtn = false;
    PW_ASSIGN(const MatrixResult result,
              QuantizeMatrix(context, matrix, &(*job.reports)[i], job.sums));
    PW_TRY(WriteTiles(result.chosen.tiles, i, job.sink));
    (*job.reports)[i].tokens = sums.tokens;
    (*job.done)[i] = 1;
  }
  return OkStatus();
}

}  // namespace pennyweight
