#include "formats/gguf_split_sink.h"

#include <fmt/format.h>

#include "formats/shard_writer.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {

Result<std::unique_ptr<GgufSplitSink>> GgufSplitSink::Make(const SinkOptions& options, bool split) {
  std::unique_ptr<GgufSplitSink> sink(new GgufSplitSink(options, split));
  PW_ASSIGN(sink->inputs_, OpenGgufFiles(options.model->path));
  return sink;
}

Result<std::unique_ptr<GgufSplitSink>> GgufSplitSink::Split(const SinkOptions& options) {
  return Make(options, true);
}

Result<std::unique_ptr<GgufSplitSink>> GgufSplitSink::Join(const SinkOptions& options) {
  return Make(options, false);
}

// The alignment is a key of the metadata, and so the first file's alone.
GgufHeader GgufSplitSink::NewHeader(size_t number) const {
  GgufHeader header;
  if (number == 0) header.SetAlignment(inputs_.front().alignment());
  return header;
}

void GgufSplitSink::AddKeys(size_t number, size_t count, GgufHeader* header) const {
  if (number == 0) {
    for (const GgufEntry& entry : inputs_.front().entries()) {
      if (!entry.key.starts_with("split.")) header->AddCopy(inputs_.front(), entry);
    }
  }
  if (!split_) return;
  header->AddU16("split.no", static_cast<uint16_t>(number));
  // In the order of gguf-split: its shards of the same size are the same bytes.
  header->AddI32("split.tensors.count", static_cast<int32_t>(tensors_.size()));
  header->AddU16("split.count", static_cast<uint16_t>(count));
}

// Tensors in their order, a new header when the last one is full.
Status GgufSplitSink::AddTensors(std::vector<GgufHeader>* headers) {
  headers->push_back(NewHeader(0));
  uint64_t filled = 0;
  for (const OutputTensor& tensor : tensors_) {
    TensorInfo info;
    info.shape = tensor.shape;
    const uint64_t row_bytes = tensor.encoding.RowBytes(info.cols()).value_or(0);
    const auto bytes = CheckedMul(row_bytes, static_cast<uint64_t>(info.rows()));
    const auto padded = bytes ? CheckedAlign(*bytes, kGgufDefaultAlignment) : std::nullopt;
    const auto sum = padded ? CheckedAdd(filled, *padded) : std::nullopt;
    if (!sum) {
      return Error(ErrorCode::kOverflow, "the sizes do not fit 64 bits").InTensor(tensor.name);
    }
    const bool full = split_ && *sum > options_.shard_bytes;
    if (full && !headers->back().tensors().empty()) {
      headers->push_back(NewHeader(headers->size()));
      filled = 0;
    }
    filled += *padded;
    Status status = headers->back().AddTensor(tensor.name, tensor.encoding, tensor.shape);
    if (!status.ok()) return std::move(status).TakeError().InTensor(tensor.name);
    places_.push_back({headers->size() - 1, headers->back().tensors().size() - 1});
  }
  return OkStatus();
}

Status GgufSplitSink::CheckPath(const std::string& path) const {
  for (const std::string& input : options_.model->source->files()) {
    if (!SameFile(input, path)) continue;
    return Error(ErrorCode::kOutputIsInput, "the output is one of the inputs")
        .Hint("give -o another name")
        .InFile(path);
  }
  if (!options_.force && PathExists(path)) {
    return Error(ErrorCode::kOutputExists, "the output exists")
        .Hint("give -o another name, or --force to replace it")
        .InFile(path);
  }
  return OkStatus();
}

Status GgufSplitSink::Begin(const std::vector<OutputTensor>& tensors) {
  tensors_ = tensors;
  std::vector<GgufHeader> headers;
  PW_TRY(AddTensors(&headers));
  if (headers.size() > limits::kGgufSplits) {
    return Error(ErrorCode::kLimit, fmt::format("this would be {} files, the limit is {}",
                                                headers.size(), limits::kGgufSplits))
        .Hint("give a larger --shard-size");
  }
  PW_TRY(CheckShardCount(headers.size()));
  for (size_t i = 0; i < headers.size(); ++i) {
    paths_.push_back(split_ ? options_.path + GgufSplitSuffix(i, headers.size()) : options_.path);
    PW_TRY(CheckPath(paths_.back()));
  }
  for (size_t i = 0; i < headers.size(); ++i) {
    AddKeys(i, headers.size(), &headers[i]);
    PW_ASSIGN(auto file, GgufOutput::Create(paths_[i], std::move(headers[i]), options_.force,
                                            options_.journal));
    files_.push_back(std::move(file));
  }
  return OkStatus();
}

Status GgufSplitSink::Write(size_t index, int64_t row, const EncodedTensor& tile) {
  PW_TRY(CheckTile(tensors_[index], row, tile));
  if (tile.rows == 0) return OkStatus();
  const uint64_t row_bytes = tile.data.size() / static_cast<uint64_t>(tile.rows);
  const Place& place = places_[index];
  return files_[place.file]->Write(place.tensor, static_cast<uint64_t>(row) * row_bytes,
                                   tile.data.data(), tile.data.size());
}

Status GgufSplitSink::Seal() {
  for (const auto& file : files_) PW_TRY(file->Seal());
  return OkStatus();
}

Status GgufSplitSink::Commit() {
  for (auto file = files_.rbegin(); file != files_.rend(); ++file) PW_TRY((*file)->Commit());
  return OkStatus();
}

void GgufSplitSink::Keep() {
  for (const auto& file : files_) file->Keep();
}

uint64_t GgufSplitSink::OutputBytes(size_t index) const {
  const Place& place = places_[index];
  return files_[place.file]->header().tensors()[place.tensor].bytes;
}

uint64_t GgufSplitSink::TotalBytes() const {
  uint64_t total = 0;
  for (const auto& file : files_) total += file->header().file_bytes();
  return total;
}

}  // namespace pennyweight
