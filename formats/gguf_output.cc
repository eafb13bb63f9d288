#include "formats/gguf_output.h"

#include "lib/checked.h"

namespace pennyweight {

Result<std::unique_ptr<GgufOutput>> GgufOutput::Create(const std::string& path, GgufHeader header,
                                                       bool force, Journal* journal, bool measure) {
  PW_TRY(header.Finish());
  std::unique_ptr<GgufOutput> out(new GgufOutput(path, std::move(header)));
  out->measure_ = measure;
  if (measure) {
    out->file_ = OutputFile::Measure(out->header_.file_bytes());
    return out;
  }
  PW_ASSIGN(out->file_, OutputFile::Create(path, out->header_.file_bytes(), force, journal));
  return out;
}

Status GgufOutput::Write(size_t tensor, uint64_t offset, const void* from, uint64_t bytes) {
  const GgufTensor& to = header_.tensors()[tensor];
  const auto end = CheckedAdd(offset, bytes);
  if (!end || *end > to.bytes) {
    return Error(ErrorCode::kInvalidOffset, "a write beyond the end of the tensor")
        .InTensor(to.name);
  }
  return file_->Write(to.offset + offset, from, bytes);
}

Status GgufOutput::Seal() {
  for (const GgufTensor& tensor : header_.tensors()) {
    Status covered = file_->Covered(tensor.offset, tensor.offset + tensor.bytes);
    if (!covered.ok()) {
      return std::move(covered).TakeError().InFile(path_).InTensor(tensor.name);
    }
  }
  PW_TRY(file_->Write(0, header_.bytes().data(), header_.bytes().size()));
  Status same = file_->Seal();
  if (!same.ok()) return WithTensor(std::move(same).TakeError());
  if (measure_) return OkStatus();
  PW_TRY(CheckList());
  sealed_ = true;
  return OkStatus();
}

Status GgufOutput::Commit() {
  if (!sealed_) return Error(ErrorCode::kVerifyFailed, "the output was not checked");
  return file_->Commit();
}

// The ordinary reader must find what was announced.
Status GgufOutput::CheckList() const {
  PW_ASSIGN(const GgufFile file, GgufFile::Open(file_->temp_path()));
  const auto& wrote = header_.tensors();
  const auto& found = file.tensors();
  bool same = wrote.size() == found.size() && file.file().size() == header_.file_bytes();
  for (size_t i = 0; same && i < wrote.size(); ++i) {
    same = wrote[i].name == found[i].name && wrote[i].encoding == found[i].encoding &&
           wrote[i].shape == found[i].shape && wrote[i].offset == found[i].offset &&
           wrote[i].bytes == found[i].bytes;
  }
  if (same) return OkStatus();
  return Error(ErrorCode::kVerifyFailed, "the file lists other tensors than were written")
      .InFile(path_);
}

// Names the tensor at the offset of a verification error.
Error GgufOutput::WithTensor(Error error) const {
  for (const GgufTensor& tensor : header_.tensors()) {
    const auto at = static_cast<uint64_t>(error.offset);
    if (error.offset >= 0 && at >= tensor.offset && at - tensor.offset < tensor.bytes) {
      return std::move(error).InTensor(tensor.name);
    }
  }
  return error;
}

}  // namespace pennyweight
