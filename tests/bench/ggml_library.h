// The reference's quantizers out of its own shared library (libggml-base.so), loaded at run time.
// Only the interface's facts are here: ggml_quantize_init(type) and
// ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix).
#pragma once

#include <cstdint>
#include <string>

#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

class GgmlLibrary {
 public:
  // Errors: kNotFound when the file is not such a library. It stays loaded.
  static Result<GgmlLibrary> Load(const std::string& path);

  // True when the reference encodes rows of `cols` columns in this type; and when it refuses to do
  // so without an importance.
  static bool Encodes(const BlockTraits& traits, int64_t cols);
  static bool NeedsImportance(const BlockTraits& traits);

  // Builds the reference's tables for a type, which is not part of encoding a matrix.
  void Prepare(const BlockTraits& traits) const;
  // w[rows, cols] into out's bytes, which must have that size already. `importance` [cols] or
  // nullptr. Precondition: Encodes, and an importance when it is needed.
  void Encode(const BlockTraits& traits, const float* w, int64_t rows, int64_t cols,
              const float* importance, EncodedTensor* out) const;

 private:
  using InitFunction = void (*)(int type);
  using ChunkFunction = size_t (*)(int type, const float* src, void* dst, int64_t start,
                                   int64_t rows, int64_t cols, const float* imatrix);
  InitFunction init_ = nullptr;
  ChunkFunction chunk_ = nullptr;
};

}  // namespace pennyweight
