#include "formats/statistics_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "lib/limits.h"

namespace pennyweight {
namespace {

Error InEntry(ErrorCode code, std::string message, const ImatrixEntry& entry) {
  return Error(code, std::move(message))
      .Hint("make the file anew with `pennyweight calibrate`")
      .InTensor(entry.name);
}

Status CheckEntry(const ImatrixEntry& entry) {
  if (entry.name.empty() || entry.name.size() > limits::kTensorNameBytes) {
    return InEntry(ErrorCode::kInvalidName, "the name of an entry is empty or too long", entry);
  }
  if (std::any_of(entry.name.begin(), entry.name.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; })) {
    return Error(ErrorCode::kInvalidName, "the name of an entry has control characters");
  }
  if (entry.counts.empty() || entry.sums.empty() || entry.sums.size() % entry.counts.size() != 0) {
    return InEntry(ErrorCode::kInvalidTensor,
                   fmt::format("{} sums do not divide among {} counts", entry.sums.size(),
                               entry.counts.size()),
                   entry);
  }
  for (const std::vector<float>* values : {&entry.sums, &entry.counts}) {
    for (const float v : *values) {
      if (!std::isfinite(v)) {
        return InEntry(ErrorCode::kNonFinite, "a sum or count is NaN or infinite", entry);
      }
      if (v < 0) {
        return InEntry(ErrorCode::kInvalidTensor, "a sum or count is negative", entry);
      }
    }
  }
  return OkStatus();
}

Status AddMatrix(std::string name, const float* sums, int64_t width, float count,
                 Allowance* allowance, Statistics* statistics) {
  const uint64_t bytes = static_cast<uint64_t>(width) * sizeof(double) + sizeof(InputSums) +
                         sizeof(std::string) + name.size();
  if (!allowance->Take(bytes)) return Allowance::Exceeded("the statistics");
  InputSums input;
  input.weights.push_back(std::move(name));
  input.width = width;
  // Counts are whole; those of more than 2^24 tokens were rounded when they were written.
  input.tokens = static_cast<int64_t>(std::llround(std::min(count, 0x1p60f)));
  input.sum_sq.assign(sums, sums + width);
  statistics->inputs.push_back(std::move(input));
  return OkStatus();
}

// What is to be stacked: the sums of one expert.
struct Part {
  int64_t expert = 0;  // 0 for a matrix that stands alone
  const InputSums* sums = nullptr;
};

Result<ImatrixEntry> Stack(const std::string& name, const std::vector<Part>& parts,
                           int64_t experts) {
  const int64_t width = parts.front().sums->width;
  ImatrixEntry entry;
  entry.name = name;
  entry.sums.resize(static_cast<size_t>(experts * width));
  entry.counts.resize(static_cast<size_t>(experts));
  for (const Part& part : parts) {
    if (part.sums->width != width) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("experts of {} and {} channels do not make one entry", width,
                               part.sums->width))
          .InTensor(name);
    }
    float* to = entry.sums.data() + part.expert * width;
    for (int64_t i = 0; i < width; ++i) {
      to[i] = static_cast<float>(part.sums->sum_sq[static_cast<size_t>(i)]);
    }
    entry.counts[static_cast<size_t>(part.expert)] = static_cast<float>(part.sums->tokens);
  }
  return entry;
}

}  // namespace

Result<std::vector<ImatrixEntry>> ToImatrixEntries(const Statistics& statistics,
                                                   const StatisticsNames& names) {
  struct Group {
    std::vector<Part> parts;
    int64_t experts = 1;
  };
  std::map<std::string, Group> groups;
  for (const InputSums& input : statistics.inputs) {
    for (const std::string& weight : input.weights) {
      const TensorPlace place =
          names.family == nullptr ? TensorPlace() : PlaceOfHf(*names.family, weight);
      if (place.rule == nullptr) {
        groups[weight].parts.push_back({0, &input});
        continue;
      }
      Group& group = groups[NameFor(place.rule->gguf, place.layer)];
      const bool stacked = IsExpertRule(*place.rule) && place.expert >= 0;
      const int64_t expert = stacked ? place.expert : 0;
      group.parts.push_back({expert, &input});
      group.experts = std::max({group.experts, expert + 1, stacked ? names.experts : 1});
    }
  }
  std::vector<ImatrixEntry> entries;
  for (const auto& [name, group] : groups) {
    PW_ASSIGN(ImatrixEntry entry, Stack(name, group.parts, group.experts));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Status AddImatrixEntry(const ImatrixEntry& entry, const StatisticsNames& names,
                       Allowance* allowance, Statistics* statistics) {
  PW_TRY(CheckEntry(entry));
  const auto values = static_cast<int64_t>(entry.sums.size());
  const TensorPlace place =
      names.family == nullptr ? TensorPlace() : PlaceOfGguf(*names.family, entry.name);
  if (place.rule == nullptr || !IsExpertRule(*place.rule) || names.experts <= 0) {
    const std::string name =
        place.rule == nullptr ? entry.name : NameFor(place.rule->hf, place.layer);
    return AddMatrix(name, entry.sums.data(), values, entry.counts[0], allowance, statistics);
  }
  const auto counts = static_cast<int64_t>(entry.counts.size());
  if ((counts != 1 && counts != names.experts) || values % names.experts != 0) {
    return InEntry(
        ErrorCode::kInvalidTensor,
        fmt::format("{} sums and {} counts are not of {} experts", values, counts, names.experts),
        entry);
  }
  const int64_t width = values / names.experts;
  for (int64_t e = 0; e < names.experts; ++e) {
    const float count = entry.counts[static_cast<size_t>(counts == 1 ? 0 : e)];
    PW_TRY(AddMatrix(NameFor(place.rule->hf, place.layer, e), entry.sums.data() + e * width, width,
                     count, allowance, statistics));
  }
  return OkStatus();
}

}  // namespace pennyweight
