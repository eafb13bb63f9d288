// One GGUF file being written: its layout is known before any data, which then come in any order.
// The header is written last: a file that is cut off is no GGUF file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "formats/gguf_writer.h"
#include "lib/output_file.h"
#include "lib/result.h"

namespace pennyweight {

class GgufOutput {
 public:
  // Finishes `header` and reserves the file's bytes. `journal` may be null. With `measure` no file
  // is made (SinkOptions::measure). Errors: those of GgufHeader::Finish and OutputFile::Create.
  static Result<std::unique_ptr<GgufOutput>> Create(const std::string& path, GgufHeader header,
                                                    bool force, Journal* journal,
                                                    bool measure = false);

  // Finished: tensors() have absolute offsets.
  const GgufHeader& header() const { return header_; }

  // Before Seal: as GgufHeader::FillRoom.
  bool FillRoom(std::string_view text) { return header_.FillRoom(text); }

  // Bytes [offset, offset + bytes) of tensor `tensor` of the header. Thread-safe.
  Status Write(size_t tensor, uint64_t offset, const void* from, uint64_t bytes);

  // Syncs, checks that every byte of every tensor was written once, reads all of it back, and opens
  // the file with the ordinary reader. Errors: kVerifyFailed with the tensor, kIo.
  Status Seal();

  // Renames into place. Only after a successful Seal.
  Status Commit();
  // The temporary file stays for a later run.
  void Keep() { file_->Keep(); }

 private:
  GgufOutput(std::string path, GgufHeader header)
      : path_(std::move(path)), header_(std::move(header)) {}
  Status CheckList() const;
  Error WithTensor(Error error) const;

  std::string path_;
  GgufHeader header_;
  std::unique_ptr<OutputFile> file_;
  bool measure_ = false;
  bool sealed_ = false;
};

}  // namespace pennyweight
