#include "lib/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/hash.h"

namespace pennyweight {
namespace {

void DropMoments(InputSums* sums) {
  sums->sum.clear();
  sums->sum_abs.clear();
  sums->max_abs.clear();
}

void AddAll(const std::vector<double>& from, std::vector<double>* into) {
  for (size_t i = 0; i < into->size(); ++i) (*into)[i] += from[i];
}

Status AddInput(const InputSums& from, InputSums* into) {
  if (from.width != into->width) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("statistics of {} channels cannot be added to those of {}", from.width,
                             into->width))
        .Hint("merge statistics of one model only")
        .InTensor(into->weights.front());
  }
  into->tokens += from.tokens;
  AddAll(from.sum_sq, &into->sum_sq);
  if (!from.HasMoments() || !into->HasMoments()) {
    DropMoments(into);
    return OkStatus();
  }
  AddAll(from.sum, &into->sum);
  AddAll(from.sum_abs, &into->sum_abs);
  for (size_t i = 0; i < into->max_abs.size(); ++i) {
    into->max_abs[i] = std::max(into->max_abs[i], from.max_abs[i]);
  }
  return OkStatus();
}

// Whether every input of one has its like in the other, or none at all.
bool GroupsAgree(const Statistics& a, const Statistics& b) {
  const auto index = IndexByWeight(b);
  for (const InputSums& input : a.inputs) {
    const auto first = index.find(input.weights.front());
    for (const std::string& name : input.weights) {
      const auto it = index.find(name);
      if ((it == index.end()) != (first == index.end())) return false;
      if (it == index.end()) continue;
      if (it->second != first->second) return false;
      if (b.inputs[it->second].weights.size() != input.weights.size()) return false;
    }
  }
  return true;
}

}  // namespace

std::string ModelFingerprint(const TensorSource& source) {
  std::vector<std::string> lines;
  for (const TensorInfo& info : source.tensors()) {
    if (info.shape.size() < 2) continue;  // norms are stored in many ways, and say little
    std::string line = info.name;
    for (const int64_t dim : info.shape) line += fmt::format(" {}", dim);
    lines.push_back(std::move(line));
  }
  std::sort(lines.begin(), lines.end());
  Hasher hasher;
  for (const std::string& line : lines) {
    hasher.Update(line.data(), line.size());
    hasher.Update("\n", 1);
  }
  const Hash128 hash = hasher.Digest();
  return fmt::format("{:016x}{:016x}", hash[0], hash[1]);
}

std::unordered_map<std::string, size_t> IndexByWeight(const Statistics& statistics) {
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < statistics.inputs.size(); ++i) {
    for (const std::string& name : statistics.inputs[i].weights) index.emplace(name, i);
  }
  return index;
}

void PartByWeight(Statistics* statistics) {
  std::vector<InputSums> parted;
  for (InputSums& input : statistics->inputs) {
    const std::vector<std::string> names = std::move(input.weights);
    for (size_t i = 0; i < names.size(); ++i) {
      InputSums one = i + 1 < names.size() ? input : std::move(input);
      one.weights = {names[i]};
      parted.push_back(std::move(one));
    }
  }
  statistics->inputs = std::move(parted);
}

Status AddStatistics(Statistics from, Statistics* into) {
  if (!from.model.empty() && !into->model.empty() && from.model != into->model) {
    return Error(ErrorCode::kConfigInvalid,
                 "the statistics are of another model: its tensors have other names or shapes")
        .Hint("merge statistics of one model only");
  }
  if (into->model.empty()) into->model = from.model;
  if (!GroupsAgree(from, *into) || !GroupsAgree(*into, from)) {
    PartByWeight(&from);
    PartByWeight(into);
  }
  const auto index = IndexByWeight(*into);
  for (InputSums& input : from.inputs) {
    const auto it = index.find(input.weights.front());
    if (it == index.end()) {
      into->inputs.push_back(std::move(input));
    } else {
      PW_TRY(AddInput(input, &into->inputs[it->second]));
    }
  }
  into->windows += from.windows;
  into->texts.insert(into->texts.end(), from.texts.begin(), from.texts.end());
  return OkStatus();
}

std::optional<std::vector<float>> ImportanceOf(const InputSums& sums) {
  if (sums.tokens <= 0) return std::nullopt;
  double total = 0;
  for (const double v : sums.sum_sq) total += v;
  const auto tokens = static_cast<double>(sums.tokens);
  const double mean = total / tokens / static_cast<double>(std::max<int64_t>(1, sums.width));
  if (!(mean > 0) || !std::isfinite(mean)) return std::nullopt;
  // Divided by the mean: methods depend on the ratios only, and huge or tiny sums stay in range.
  std::vector<float> importance(sums.sum_sq.size());
  for (size_t i = 0; i < importance.size(); ++i) {
    const double relative = sums.sum_sq[i] / tokens / mean;
    importance[i] = static_cast<float>(std::max(relative, kLeastImportance));
  }
  return importance;
}

}  // namespace pennyweight
