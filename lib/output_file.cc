#include "lib/output_file.h"

namespace pennyweight {

Result<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path, uint64_t bytes,
                                                       bool force, Journal* journal) {
  std::unique_ptr<OutputFile> file(new OutputFile());
  file->bytes_ = bytes;
  file->journal_ = journal;
  if (journal == nullptr) {
    PW_ASSIGN(file->file_, AtomicFile::Create(path, bytes, force));
    return file;
  }
  const std::string temp = BesideOutput(path, "partial");
  PW_ASSIGN(file->file_, AtomicFile::CreateAt(path, temp, bytes, force, journal->resumed()));
  PW_ASSIGN(file->number_, journal->AddFile(temp));
  for (const WrittenRange& range : journal->RangesOf(temp)) file->written_.Restore(range);
  return file;
}

std::unique_ptr<OutputFile> OutputFile::Measure(uint64_t bytes) {
  std::unique_ptr<OutputFile> file(new OutputFile());
  file->bytes_ = bytes;
  return file;
}

Status OutputFile::Write(uint64_t offset, const void* from, uint64_t bytes) {
  if (bytes == 0 || file_ == nullptr) return OkStatus();
  PW_TRY(file_->WriteAt(offset, from, bytes));
  const WrittenRange range = written_.Record(offset, from, bytes);
  return journal_ == nullptr ? OkStatus() : journal_->RecordRange(number_, range);
}

Status OutputFile::WriteLines(uint64_t offset, uint64_t stride, uint64_t lines, const void* from,
                              uint64_t bytes) {
  // Lines without a gap are one piece.
  if (lines <= 1 || stride == bytes) return Write(offset, from, lines * bytes);
  if (bytes == 0 || file_ == nullptr) return OkStatus();
  const auto* const data = static_cast<const uint8_t*>(from);
  for (uint64_t line = 0; line < lines; ++line) {
    PW_TRY(file_->WriteAt(offset + line * stride, data + line * bytes, bytes));
  }
  const WrittenRange range = written_.RecordLines(offset, stride, lines, from, bytes);
  return journal_ == nullptr ? OkStatus() : journal_->RecordRange(number_, range);
}

Status OutputFile::Commit() {
  if (file_ != nullptr) return file_->Commit();
  return Error(ErrorCode::kUsage, "only sizes were asked for: there is nothing to commit");
}

Status OutputFile::Seal() {
  if (file_ == nullptr) return OkStatus();
  PW_TRY(file_->Seal());
  PW_ASSIGN(const ReadFile reopened, ReadFile::Open(file_->temp_path()));
  if (reopened.size() != bytes_) {
    return Error(ErrorCode::kVerifyFailed, "the file on the disk has another size")
        .InFile(reopened.path());
  }
  return written_.VerifyFile(reopened);
}

}  // namespace pennyweight
