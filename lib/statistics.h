// What running a model over a text tells of the inputs of its matrices: sums over tokens, channel
// by channel. In memory between the run, the files that keep it, and the methods that weigh by it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// Of one input x[tokens, width]; all matrices that read the very same rows are named together.
struct InputSums {
  std::vector<std::string> weights;  // Hugging Face's names, at least one
  int64_t width = 0;                 // channels: columns of those matrices
  int64_t tokens = 0;                // rows; an expert sees only those that were sent to it
  std::vector<double> sum_sq;        // [width]: sum of x^2
  // [width], or all three empty: an imatrix has only the squares.
  std::vector<double> sum;
  std::vector<double> sum_abs;
  std::vector<float> max_abs;

  bool HasMoments() const { return !sum.empty(); }
};

struct StatisticsText {
  std::string name;    // as the user named it
  std::string hash;    // XXH3-128 of the text, hexadecimal; empty when the file does not tell
  int64_t tokens = 0;  // that were run; 0 when the file does not tell
};

struct Statistics {
  std::string model;     // ModelFingerprint; empty when the file does not tell (imatrix)
  int64_t window = 512;  // tokens of a window
  int64_t windows = 0;   // that were run
  std::vector<StatisticsText> texts;
  std::vector<InputSums> inputs;
};

// XXH3-128 (hexadecimal) of the names and shapes of a model's matrices, in any container the same.
std::string ModelFingerprint(const TensorSource& source);

// The input of each matrix by name: an index into `inputs`.
std::unordered_map<std::string, size_t> IndexByWeight(const Statistics& statistics);

// Parts inputs that several matrices share: every one then has a copy of its own.
void PartByWeight(Statistics* statistics);

// Adds the sums, counts and maxima of `from`, matrix by matrix; what only one of them has stays as
// it is, and moments that one of them lacks are dropped. A single row of sums that stands for all
// experts is the reader's to spread. Errors: kInvalidTensor naming the matrix when widths differ,
// kConfigInvalid when both tell the model, and it is not the same one.
Status AddStatistics(Statistics from, Statistics* into);

// The mean of x^2 of each channel over their mean, as weights of a rounding error. A channel that
// is always zero keeps a trace (kLeastImportance of the mean), so that no block is without any
// weight. nullopt where nothing is known: no token was seen, or only zeros. All channels then count
// alike.
std::optional<std::vector<float>> ImportanceOf(const InputSums& sums);
inline constexpr double kLeastImportance = 1e-6;

}  // namespace pennyweight
