// Where encoded tensors go. A layout in formats/ turns them into the bytes of a file or folder.
#pragma once

#include <string>
#include <vector>

#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

// One tensor as it is announced to a sink: canonical (Hugging Face) name, row order and shape.
struct OutputTensor {
  std::string name;
  Encoding encoding;
  Shape shape;
};

// The life of an output: Begin, any number of Writes, Seal, Commit. Nothing stands under the final
// name before Commit; a sink destroyed before that leaves nothing behind, unless Keep was called.
class TensorSink {
 public:
  // Tiles begin at multiples of this many rows, and only the last one of a tensor may have another
  // count: some layouts pack down the columns.
  static constexpr int64_t kTileRows = 32;

  virtual ~TensorSink() = default;

  // Every tensor and its size, so that the header precedes the data and free space is checked
  // before work begins. Errors: kUnsupported (the layout cannot hold an encoding), kNoSpace, kIo.
  virtual Status Begin(const std::vector<OutputTensor>& tensors) = 0;

  // Rows [row, row + tile.rows) of tensor `index`. Thread-safe; each row exactly once, any order.
  virtual Status Write(size_t index, int64_t row, const EncodedTensor& tile) = 0;

  // Syncs, reads every byte back and compares its hash with what was handed over.
  // Errors: kVerifyFailed, kIo; also when a row was never written.
  virtual Status Seal() = 0;

  // Renames into place. Only after a successful Seal.
  virtual Status Commit() = 0;

  // What was written stays under its temporary name, for a later run to go on with (lib/journal.h).
  virtual void Keep() {}

  // After Begin: the name of tensor `index` in the output, and its bytes with all its parts.
  virtual std::string OutputName(size_t index) const = 0;
  virtual uint64_t OutputBytes(size_t index) const = 0;
  // After Seal: bytes of all files written.
  virtual uint64_t TotalBytes() const = 0;
};

}  // namespace pennyweight
