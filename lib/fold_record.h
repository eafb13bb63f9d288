// What was folded into the tensors of a model, as its files keep it: so that its weights can be
// compared with the original's in the original's own numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/folded_source.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// One scale per channel, and the tensors that it went into; names are canonical (Hugging Face's).
struct RecordedFold {
  std::vector<float> scale;             // finite and positive
  std::vector<std::string> divided;     // vectors (norm, bias) by element, matrices by row
  std::vector<std::string> multiplied;  // matrices by column
  // Columns of `multiplied` in heads of head_dim channels, each head of the scale repeated for this
  // many heads in a row (grouped attention). 1: columns are channels.
  int64_t repeat = 1;
  int64_t head_dim = 1;

  bool operator==(const RecordedFold&) const = default;
};

// In the order in which they were applied; several may meet in one tensor.
struct FoldRecord {
  std::vector<RecordedFold> folds;

  bool empty() const { return folds.empty(); }
  bool operator==(const FoldRecord&) const = default;
};

// The key of GGUF files and of safetensors' metadata, and the name of the file in a folder.
inline constexpr std::string_view kFoldsKey = "pennyweight.folds";
inline constexpr std::string_view kFoldsFile = "pennyweight.folds.json";

// {"version": 1, "folds": [{"scale", "encoding", "divided", "multiplied", "repeat", "head_dim"}]};
// `scale` is base64 of "f32" (little-endian), or of "octave16": signed bytes k for 2^(k/16).
std::string FoldRecordToJson(const FoldRecord& record);
// Errors: kLimit (longer than limits::kFoldsBytes); kInvalidHeader, with what is wrong: no JSON,
// another version, a missing key, bytes that are no whole numbers, a scale that is NaN, infinite,
// zero or negative.
Result<FoldRecord> ParseFoldRecord(std::string_view text);

// What each tensor of `source` was multiplied by, all folds together: (index, fold), by index.
// Errors: kInvalidHeader naming the tensor: not in the source, or of another length than the scale.
Result<std::vector<std::pair<size_t, Fold>>> FoldsOf(const FoldRecord& record,
                                                     const TensorSource& source);

// 2^(k/16), exactly the same everywhere: what scales are rounded to, and what "octave16" holds.
float OctaveScale(int k);
// The k in [-127, 127] with OctaveScale(k) nearest to a positive finite value, in logarithms.
int NearestOctave(double value);

}  // namespace pennyweight
