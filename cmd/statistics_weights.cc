#include "cmd/statistics_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "calib/quantize_model.h"
#include "lib/hash.h"

namespace pennyweight {
namespace {

constexpr size_t kNamed = 16;  // matrices that a note lists

std::string Names(const std::vector<std::string>& names) {
  const size_t count = std::min(kNamed, names.size());
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + count, ", "));
  if (names.size() > count) text += fmt::format(", and {} more", names.size() - count);
  return text;
}

}  // namespace

Result<std::unique_ptr<StatisticsWeights>> StatisticsWeights::Open(
    const std::vector<std::string>& paths, const Model& model, bool by_hessians) {
  constexpr int64_t kLegacyWindow = 512;  // llama.cpp's default; matters for the sum of two files
  if (paths.empty()) return std::unique_ptr<StatisticsWeights>();
  std::unique_ptr<StatisticsWeights> weights(new StatisticsWeights());
  PW_ASSIGN(weights->input_, OpenStatistics(paths, model, kLegacyWindow));
  for (const StatisticsFile& file : weights->input_.files) {
    if (!by_hessians || file.HasHessians()) continue;
    return Error(ErrorCode::kUsage, "gptq needs Hessians, and the file has none")
        .Hint(
            "make it with `pennyweight calibrate MODEL -o FILE --hessians`, or give --calib TEXT, "
            "or --method rtn")
        .InFile(file.path());
  }
  KnownStatistics::AddHessian add;
  if (by_hessians) {
    StatisticsWeights* const self = weights.get();
    add = [self](size_t input, float* h) { return self->AddHessian(input, h); };
  }
  weights->known_ =
      std::make_unique<KnownStatistics>(*model.source, weights->input_.merged, std::move(add));
  return weights;
}

Status StatisticsWeights::AddHessian(size_t input, float* h) const {
  const std::string& name = input_.merged.inputs[input].weights.front();
  for (const StatisticsFile& file : input_.files) {
    const std::vector<InputSums>& inputs = file.statistics().inputs;
    const auto it = std::ranges::find_if(inputs, [&](const InputSums& each) {
      return std::ranges::find(each.weights, name) != each.weights.end();
    });
    if (it == inputs.end()) continue;
    PW_TRY(file.AddHessian(static_cast<size_t>(it - inputs.begin()), h));
  }
  return OkStatus();
}

std::string StatisticsWeights::Hash() const {
  Hasher hasher;
  for (const InputSums& input : input_.merged.inputs) {
    for (const std::string& name : input.weights) hasher.Update(name.c_str(), name.size() + 1);
    hasher.Update(&input.tokens, sizeof(input.tokens));
    hasher.Update(input.sum_sq.data(), input.sum_sq.size() * sizeof(double));
  }
  const Hash128 hash = hasher.Digest();
  return fmt::format("{:016x}{:016x}", hash[0], hash[1]);
}

size_t StatisticsWeights::NoteUse(const Model& model, std::span<const Choice> choices,
                                  Console* console) const {
  const auto& tensors = model.source->tensors();
  std::map<std::string_view, std::vector<std::string>> unweighted;  // by reason
  size_t missing = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Role role = DescribeTensor(model, tensors[i]).role;
    const std::string_view why = known_->WhyUnweighted(i);
    if (!choices[i].quantize || role == Role::kEmbedding || why.empty()) continue;
    unweighted[why].push_back(tensors[i].name);
    if (role != Role::kHead) ++missing;
  }
  for (const auto& [why, names] : unweighted) {
    console->Note(fmt::format("warning: {}: {}", why, Names(names)));
  }
  if (!input_.unknown.empty()) {
    console->Note(fmt::format("note: entries of matrices that the model does not have: {}",
                              Names(input_.unknown)));
  }
  return missing;
}

}  // namespace pennyweight
