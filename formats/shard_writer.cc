#include "formats/shard_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "lib/checked.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

std::string ShardName(size_t i, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, count);
  return name;
}

// Numbers of the parts that go into each shard.
Result<std::vector<std::vector<size_t>>> ChooseShards(const std::vector<TensorPart>& parts,
                                                      uint64_t shard_bytes) {
  std::vector<std::vector<size_t>> shards(1);
  uint64_t filled = 0;
  for (size_t i = 0; i < parts.size();) {
    size_t end = i;
    uint64_t bytes = 0;
    while (end < parts.size() && parts[end].owner == parts[i].owner) {
      PW_ASSIGN(const uint64_t part, StoredBytes(parts[end].stored));
      const auto sum = CheckedAdd(bytes, part);
      if (!sum) return Error(ErrorCode::kOverflow, "the tensor's size does not fit 64 bits");
      bytes = *sum;
      ++end;
    }
    const auto sum = CheckedAdd(filled, bytes);
    if (!shards.back().empty() && (!sum || *sum > shard_bytes)) {
      shards.emplace_back();
      filled = bytes;
    } else {
      filled += bytes;
    }
    for (; i < end; ++i) shards.back().push_back(i);
  }
  return shards;
}

}  // namespace

Status CheckShardCount(size_t count) {
  constexpr uint64_t kOtherFiles = 64;  // inputs, standard streams, reports
  const long open_files = sysconf(_SC_OPEN_MAX);
  uint64_t most = limits::kShards;
  if (open_files > 0) most = std::min(most, static_cast<uint64_t>(open_files));
  if (count == 1 || count + kOtherFiles <= most) return OkStatus();
  return Error(ErrorCode::kLimit, "this would be " + std::to_string(count) + " shards; at most " +
                                      std::to_string(most) + " files may be open at once")
      .Hint("give a larger --shard-size");
}

Status ShardWriter::AddFile(const std::string& path, const std::string& name, bool force,
                            const std::vector<size_t>& members,
                            const std::map<std::string, std::string>& metadata, Journal* journal) {
  // Wide elements first, as other writers do: with no holes allowed, that keeps every tensor
  // aligned to its own elements. Otherwise the order is the declared one.
  std::vector<size_t> order = members;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return DTypeBits(parts_[a].stored.dtype) > DTypeBits(parts_[b].stored.dtype);
  });
  std::vector<StoredTensor> stored;
  for (const size_t part : order) {
    places_[part] = Place{files_.size(), stored.size()};
    stored.push_back(parts_[part].stored);
  }
  File file;
  file.name = name;
  PW_ASSIGN(file.layout, LayOutSafetensors(stored, metadata));
  if (measure_) {
    file.file = OutputFile::Measure(file.layout.file_bytes);
  } else {
    PW_ASSIGN(file.file, OutputFile::Create(path, file.layout.file_bytes, force, journal));
  }
  files_.push_back(std::move(file));
  return OkStatus();
}

Result<std::unique_ptr<ShardWriter>> ShardWriter::OneFile(
    const std::string& path, bool force, const std::vector<TensorPart>& parts,
    const std::map<std::string, std::string>& metadata, Journal* journal, bool measure) {
  std::unique_ptr<ShardWriter> writer(new ShardWriter());
  writer->measure_ = measure;
  writer->parts_ = parts;
  writer->places_.resize(parts.size());
  std::vector<size_t> all(parts.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  PW_TRY(writer->AddFile(path, BaseName(path), force, all, metadata, journal));
  return writer;
}

Result<std::unique_ptr<ShardWriter>> ShardWriter::InDirectory(
    const std::string& directory, uint64_t shard_bytes, const std::vector<TensorPart>& parts,
    const std::map<std::string, std::string>& metadata, Journal* journal, bool measure) {
  std::unique_ptr<ShardWriter> writer(new ShardWriter());
  writer->measure_ = measure;
  writer->parts_ = parts;
  writer->places_.resize(parts.size());
  PW_ASSIGN(const auto shards, ChooseShards(parts, shard_bytes));
  PW_TRY(CheckShardCount(shards.size()));
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = ShardName(i, shards.size());
    // A run that was killed between here and the folder's renaming has left it under its name.
    const bool force = journal != nullptr && journal->resumed();
    PW_TRY(writer->AddFile(JoinPath(directory, name), name, force, shards[i], metadata, journal));
  }
  return writer;
}

Status ShardWriter::Write(size_t part, uint64_t offset, const void* from, uint64_t bytes) {
  return WriteLines(part, offset, bytes, 1, from, bytes);
}

Status ShardWriter::WriteLines(size_t part, uint64_t offset, uint64_t stride, uint64_t lines,
                               const void* from, uint64_t bytes) {
  if (lines == 0) return OkStatus();
  const Place place = places_[part];
  const File& file = files_[place.file];
  const auto before_last = CheckedMul(lines - 1, stride);
  const auto size = before_last ? CheckedAdd(*before_last, bytes) : std::nullopt;
  const auto end = size ? CheckedAdd(offset, *size) : std::nullopt;
  if (!end || *end > file.layout.bytes[place.index]) {
    return Error(ErrorCode::kInvalidOffset, "a write beyond the end of the tensor")
        .InTensor(parts_[part].stored.name);
  }
  return file.file->WriteLines(file.layout.offsets[place.index] + offset, stride, lines, from,
                               bytes);
}

Status ShardWriter::Seal() {
  for (size_t part = 0; part < parts_.size(); ++part) {
    const Place place = places_[part];
    const File& file = files_[place.file];
    const uint64_t begin = file.layout.offsets[place.index];
    Status status = file.file->Covered(begin, begin + file.layout.bytes[place.index]);
    if (!status.ok()) {
      return std::move(status).TakeError().InFile(file.name).InTensor(parts_[part].stored.name);
    }
  }
  for (const File& file : files_) {
    // Last, so that a file that is cut off is no safetensors file.
    PW_TRY(file.file->Write(0, file.layout.head.data(), file.layout.head.size()));
    PW_TRY(file.file->Seal());
  }
  return OkStatus();
}

Status ShardWriter::Commit() {
  for (const File& file : files_) PW_TRY(file.file->Commit());
  return OkStatus();
}

void ShardWriter::Keep() {
  for (const File& file : files_) file.file->Keep();
}

uint64_t ShardWriter::PartBytes(size_t part) const {
  const Place place = places_[part];
  return files_[place.file].layout.bytes[place.index];
}

uint64_t ShardWriter::TotalBytes() const {
  uint64_t total = 0;
  for (const File& file : files_) total += file.layout.file_bytes;
  return total;
}

std::string ShardWriter::TempPath() const {
  return files_.size() == 1 ? files_[0].file->temp_path() : std::string();
}

std::string ShardWriter::Index() const {
  if (files_.size() == 1) return {};
  uint64_t total = 0;
  std::string map;  // by hand, for the reason given in safetensors_writer.cc
  for (size_t part = 0; part < parts_.size(); ++part) {
    total += PartBytes(part);
    map += (part == 0 ? "\n    " : ",\n    ") + Json::String(parts_[part].stored.name).Dump() +
           ": " + Json::String(files_[places_[part].file].name).Dump();
  }
  return "{\n  \"metadata\": {\n    \"total_size\": " + std::to_string(total) +
         "\n  },\n  \"weight_map\": {" + map + "\n  }\n}\n";
}

namespace {

// Why the arrays of a tile are not those of its encoding; nullptr when they are.
const char* WrongArrays(const EncodedTensor& tile) {
  const auto rows = static_cast<uint64_t>(tile.rows);
  const auto cols = static_cast<uint64_t>(tile.cols);
  const auto holds = [](uint64_t bytes, uint64_t count, DType dtype) {
    return bytes == count * static_cast<uint64_t>(DTypeBits(dtype)) / 8;
  };
  switch (tile.encoding.kind) {
    case Encoding::Kind::kInteger: {
      const IntegerSpec& spec = tile.encoding.integer;
      const uint64_t groups = rows * static_cast<uint64_t>(spec.Groups(tile.cols));
      if (tile.codes.size() != rows * cols) return "another number of codes";
      if (!holds(tile.scales.size(), groups, spec.scale_dtype)) return "another number of scales";
      return tile.zeros.size() == (spec.symmetric ? 0 : groups) ? nullptr
                                                                : "another number of zero points";
    }
    case Encoding::Kind::kScaled: {
      const ScaledSpec& spec = tile.encoding.scaled;
      const uint64_t groups = rows * static_cast<uint64_t>(spec.Groups(tile.cols));
      if (!holds(tile.data.size(), rows * cols, spec.element)) return "another number of bytes";
      return holds(tile.scales.size(), groups, spec.scale_dtype) ? nullptr
                                                                 : "another number of scales";
    }
    case Encoding::Kind::kCodebook: {
      const CodebookSpec& spec = tile.encoding.codebook;
      const auto blocks = static_cast<uint64_t>(CeilDiv(tile.rows * tile.cols, spec.block));
      if (tile.first != 0) return "it does not begin with a block";
      if (tile.codes.size() != rows * cols) return "another number of codes";
      if (tile.levels.size() != 16) return "another number of levels";
      return tile.scales.size() == blocks * (spec.nested_block == 0 ? 4 : 1)
                 ? nullptr
                 : "another number of scales";
    }
    case Encoding::Kind::kPlain:
    case Encoding::Kind::kBlock:
      break;
  }
  const auto row_bytes = tile.encoding.RowBytes(tile.cols);
  return row_bytes && tile.data.size() == rows * *row_bytes ? nullptr : "another number of bytes";
}

}  // namespace

Status CheckTile(const OutputTensor& tensor, int64_t row, const EncodedTensor& tile) {
  const auto wrong = [&](const char* what) -> Status {
    return Error(ErrorCode::kInvalidTensor, std::string("a tile of rows does not fit: ") + what)
        .InTensor(tensor.name);
  };
  const TensorInfo info{.name = tensor.name,
                        .stored_name = {},
                        .encoding = tensor.encoding,
                        .shape = tensor.shape,
                        .file = {}};
  if (!(tile.encoding == tensor.encoding)) return wrong("another encoding");
  if (tile.cols != info.cols()) return wrong("another number of columns");
  if (row < 0 || tile.rows < 0 || row > info.rows() || tile.rows > info.rows() - row) {
    return wrong("rows outside the tensor");
  }
  if (row % TensorSink::kTileRows != 0) return wrong("its first row is no multiple of 32");
  if (tile.rows % TensorSink::kTileRows != 0 && row + tile.rows != info.rows()) {
    return wrong("its number of rows is no multiple of 32");
  }
  const char* arrays = WrongArrays(tile);
  return arrays == nullptr ? OkStatus() : wrong(arrays);
}

}  // namespace pennyweight
