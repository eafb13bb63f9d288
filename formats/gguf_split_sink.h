// The tensors and metadata of a GGUF model as its files have them, in another number of files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/gguf_output.h"
#include "formats/gguf_reader.h"
#include "formats/sinks.h"

namespace pennyweight {

// Takes the tensors of OpenStored, in its order. All files are built under temporary names and
// renamed after the last check, the first one last: it is the one that clients are given.
class GgufSplitSink : public TensorSink {
 public:
  // Files options.path-0000i-of-0000N.gguf, as gguf-split of llama.cpp makes them: the first one
  // has all metadata, each has split.no, split.count and split.tensors.count, and is closed before
  // it passes shard_bytes of padded tensors; a tensor larger than that has one of its own.
  // Precondition: options.model is of OpenStored, from GGUF files.
  static Result<std::unique_ptr<GgufSplitSink>> Split(const SinkOptions& options);
  // The one file options.path, without split.*.
  static Result<std::unique_ptr<GgufSplitSink>> Join(const SinkOptions& options);

  // Errors also: kOutputIsInput, kOutputExists; kLimit for more files than may be open at once.
  Status Begin(const std::vector<OutputTensor>& tensors) override;
  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override;
  Status Seal() override;
  Status Commit() override;
  void Keep() override;
  std::string OutputName(size_t index) const override { return tensors_[index].name; }
  uint64_t OutputBytes(size_t index) const override;
  uint64_t TotalBytes() const override;

  // After Begin: the files, in their order.
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  struct Place {
    size_t file = 0;
    size_t tensor = 0;  // in the file's header
  };

  GgufSplitSink(SinkOptions options, bool split) : options_(std::move(options)), split_(split) {}
  static Result<std::unique_ptr<GgufSplitSink>> Make(const SinkOptions& options, bool split);
  Status AddTensors(std::vector<GgufHeader>* headers);
  void AddKeys(size_t number, size_t count, GgufHeader* header) const;
  GgufHeader NewHeader(size_t number) const;
  Status CheckPath(const std::string& path) const;

  SinkOptions options_;
  bool split_;
  std::vector<GgufFile> inputs_;
  std::vector<OutputTensor> tensors_;
  std::vector<Place> places_;
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<GgufOutput>> files_;
};

}  // namespace pennyweight
