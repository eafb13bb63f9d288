#include "formats/pytorch_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>
#include <utility>

#include "formats/detect.h"
#include "formats/readers.h"
#include "formats/shard_index.h"
#include "formats/strided_rows.h"

namespace pennyweight {
namespace {

// Words of a dtype that a big-endian writer turns around: C64 is two floats.
uint64_t WordBytes(DType dtype) {
  return dtype == DType::kC64 ? 4 : static_cast<uint64_t>(DTypeBits(dtype)) / 8;
}

void SwapWords(uint64_t word, std::vector<uint8_t>* data) {
  if (word < 2) return;
  for (size_t i = 0; i + word <= data->size(); i += word) {
    std::reverse(data->begin() + static_cast<std::ptrdiff_t>(i),
                 data->begin() + static_cast<std::ptrdiff_t>(i + word));
  }
}

}  // namespace

Result<std::unique_ptr<PytorchSource>> PytorchSource::Open(const std::vector<std::string>& paths,
                                                           std::string_view key) {
  std::unique_ptr<PytorchSource> source(new PytorchSource);
  for (const std::string& path : paths) PW_TRY(source->Add(path, key));
  PW_TRY(RequireUniqueNames(source->tensors_));
  return source;
}

Status PytorchSource::Add(const std::string& path, std::string_view key) {
  PW_ASSIGN(ReadFile file, ReadFile::Open(path));
  PW_ASSIGN(const FileFormat format, DetectFormat(path));
  if (format != FileFormat::kPytorch) {
    return Error(ErrorCode::kUnknownFormat,
                 fmt::format("this is a {} file, not a PyTorch checkpoint", FormatName(format)))
        .Hint("give the file itself as the input")
        .InFile(path);
  }
  Result<TorchFile> read = ReadTorchFile(file, key);
  if (!read.ok()) return std::move(read).TakeError().InFile(path);
  std::vector<Check*> checks(read->checkpoint.storages.size(), nullptr);
  for (size_t i = 0; i < read->records.size(); ++i) {
    checks_.push_back(std::make_unique<Check>());
    checks_.back()->record = read->records[i];
    checks[i] = checks_.back().get();
  }
  std::vector<TensorInfo> infos;
  std::vector<View> views;
  for (TorchTensor& tensor : read->checkpoint.tensors) {
    const uint64_t element = static_cast<uint64_t>(DTypeBits(tensor.dtype)) / 8;
    TensorInfo info;
    info.name = tensor.name;
    info.stored_name = tensor.name;
    info.encoding = Encoding::Plain(tensor.dtype);
    info.shape = tensor.shape;
    // The view was checked against its storage, and the storage against the file.
    info.bytes = static_cast<uint64_t>(ElementCount(tensor.shape).value_or(0)) * element;
    info.file = path;
    info.offset = read->checkpoint.storages[tensor.storage].offset;
    if (info.bytes > 0) info.offset += tensor.offset * element;
    View view;
    view.file = files_.size();
    view.check = checks[tensor.storage];
    view.contiguous = IsContiguous(tensor.shape, tensor.strides);
    view.strides = std::move(tensor.strides);
    view.swap = read->big_endian ? WordBytes(tensor.dtype) : 1;
    infos.push_back(std::move(info));
    views.push_back(std::move(view));
  }
  std::vector<size_t> order(infos.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tie(infos[a].offset, infos[a].name) < std::tie(infos[b].offset, infos[b].name);
  });
  for (const size_t i : order) {
    tensors_.push_back(std::move(infos[i]));
    views_.push_back(std::move(views[i]));
  }
  if (!read->malicious.empty()) {
    const std::string names = fmt::format("{}", fmt::join(read->malicious, ", "));
    read->checkpoint.notes["malicious"] = names;
    if (!danger_) {
      danger_ = Error(ErrorCode::kMaliciousPickle,
                      fmt::format("the pickle names {}: loading it in Python would be an attack "
                                  "(nothing was called here)",
                                  names))
                    .Hint("see `pennyweight verify`; get the model from a source that you trust")
                    .InFile(path);
    }
  }
  for (auto& [note, text] : read->checkpoint.notes) {
    const auto [place, fresh] = metadata_.emplace(note, text);
    if (!fresh && place->second != text) metadata_[BaseName(path) + ": " + note] = text;
  }
  files_.push_back(std::move(file));
  paths_.push_back(path);
  return OkStatus();
}

Status PytorchSource::CheckStorage(const View& view) const {
  if (view.check == nullptr) return OkStatus();
  Check& check = *view.check;
  const std::lock_guard<std::mutex> lock(check.mutex);
  if (!check.done) {
    Status status = CheckZipEntry(files_[view.file], check.record);
    if (!status.ok()) check.error = std::move(status).TakeError();
    check.done = true;
  }
  if (check.error) return Error(*check.error);
  return OkStatus();
}

Status PytorchSource::ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const {
  const TensorInfo& info = tensors_[index];
  const View& view = views_[index];
  const ReadFile& file = files_[view.file];
  const uint64_t element = static_cast<uint64_t>(DTypeBits(info.encoding.dtype)) / 8;
  // Products fit: the whole tensor's size was checked, and the range is inside of it.
  const uint64_t row_bytes = static_cast<uint64_t>(info.cols()) * element;
  out->encoding = info.encoding;
  out->rows = count;
  out->cols = info.cols();
  out->codes.clear();
  out->scales.clear();
  out->zeros.clear();
  out->data.resize(static_cast<uint64_t>(count) * row_bytes);
  if (out->data.empty()) return OkStatus();
  Status status = CheckStorage(view);
  if (status.ok() && view.contiguous) {
    status = file.ReadAt(info.offset + static_cast<uint64_t>(row) * row_bytes, out->data.data(),
                         out->data.size());
  } else if (status.ok()) {
    status = ReadStridedRows(file, info.offset, element, info.shape, view.strides, row, count,
                             out->data.data());
  }
  if (!status.ok()) return std::move(status).TakeError().InFile(info.file).InTensor(info.name);
  SwapWords(view.swap, &out->data);
  return OkStatus();
}

Result<Model> OpenPytorch(const std::string& path, std::string_view key) {
  PW_ASSIGN(auto source, PytorchSource::Open({path}, key));
  Model model;
  model.path = path;
  model.danger = source->danger();
  model.source = std::move(source);
  return model;
}

}  // namespace pennyweight
