// Quantized checkpoints store a weight in several tensors (codes, scales, zero points, ...). Here
// those parts are found by name, checked, and listed as the one weight that they are. Each layout
// has a file of its own (formats/gptq_reader.h, ...).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// How one weight is put together from its parts. Thread-safe.
class PackedTensor {
 public:
  virtual ~PackedTensor() = default;
  // Rows [row, row + count) of the weight; encoding, rows and cols of `out` are set already.
  // Precondition: the range is inside the weight. Errors: those of reading `parts`.
  virtual Status Read(const TensorSource& parts, int64_t row, int64_t count,
                      EncodedTensor* out) const = 0;
};

// The stored tensors by name, and errors that name them.
class PartsIndex {
 public:
  static constexpr int64_t kNone = -1;

  explicit PartsIndex(const TensorSource& source);
  const TensorSource& source() const { return source_; }
  size_t size() const { return source_.tensors().size(); }

  int64_t Find(const std::string& name) const;  // kNone when absent
  const TensorInfo& Info(int64_t index) const {
    return source_.tensors()[static_cast<size_t>(index)];
  }

  // kTensorMissing when absent. `owner` is the part that needs it.
  Result<int64_t> Require(const std::string& name, int64_t owner) const;
  // kInvalidTensor, about one part.
  Error Wrong(int64_t part, std::string rule) const;
  // Errors: kInvalidTensor unless the part has this dtype and rank, and no dimension is 0.
  Status CheckForm(int64_t part, DType dtype, size_t rank) const;
  // The same with any of F32, F16 and BF16.
  Status CheckFloat(int64_t part, size_t rank) const;
  // kInvalidTensor unless the part's shape is this; `what` says why it has to be.
  Status CheckShape(int64_t part, const Shape& shape, const std::string& what) const;
  // All bytes of a part that is small beside the weight it belongs to.
  Result<std::vector<uint8_t>> ReadAll(int64_t part) const;

 private:
  const TensorSource& source_;
  std::unordered_map<std::string_view, int64_t> names_;
};

// What the layouts found.
class Packing {
 public:
  // Lists a weight in the place of its part `anchor`, which names file and offset; `parts` (the
  // anchor among them, kNone is skipped) are no longer listed. `info` has name, shape and encoding.
  // Errors: kDuplicateKey when another tensor has that name, or a part serves two weights.
  Status Add(const PartsIndex& index, TensorInfo info, int64_t anchor,
             const std::vector<int64_t>& parts, std::unique_ptr<PackedTensor> packed);
  // A part that no weight needs: it is not listed either.
  void Drop(int64_t part) { dropped_.emplace(part, true); }
  bool Claimed(int64_t part) const { return dropped_.contains(part); }
  bool empty() const { return weights_.empty(); }
  size_t weights() const { return weights_.size(); }
  void Note(std::string text) { notes_.push_back(std::move(text)); }
  const std::vector<std::string>& notes() const { return notes_; }

  // Takes over `*parts`. `format` names the layout for people.
  std::unique_ptr<TensorSource> Wrap(std::string format, std::unique_ptr<TensorSource>* parts);

 private:
  struct Weight {
    TensorInfo info;
    std::unique_ptr<PackedTensor> packed;
  };
  std::unordered_map<int64_t, Weight> weights_;  // by anchor
  std::unordered_map<int64_t, bool> dropped_;
  std::vector<std::string> notes_;
};

// `name` without `suffix`; nothing when it does not end so, or nothing would be left.
std::optional<std::string> WithoutSuffix(std::string_view name, std::string_view suffix);

}  // namespace pennyweight
