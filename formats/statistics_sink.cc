#include <zstd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "formats/statistics_file.h"
#include "formats/statistics_layout.h"
#include "lib/hash.h"
#include "lib/json.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

constexpr int kCompression = 1;  // zstd: what a higher level gains on such numbers is under 2 %

// Rows of the triangle behind each other.
void PackBlock(const HessianBlock& block, int64_t width, const float* h, float* packed) {
  for (int64_t row = block.row; row < block.row + block.rows; ++row) {
    packed = std::copy(h + row * width + row, h + (row + 1) * width, packed);
  }
}

// Numbers as four planes of bytes: exponents lie together, and repeat.
void ToPlanes(const float* values, size_t count, uint8_t* planes) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values);
  for (size_t i = 0; i < count; ++i) {
    for (size_t b = 0; b < sizeof(float); ++b) planes[b * count + i] = bytes[i * sizeof(float) + b];
  }
}

}  // namespace

struct StatisticsWriter::Directory {
  Json root = Json::Object();
  Json inputs = Json::Array();
  // Of the input that is being added.
  Json hessian;
};

StatisticsWriter::~StatisticsWriter() = default;

Result<std::unique_ptr<StatisticsWriter>> StatisticsWriter::Create(const std::string& path,
                                                                   bool force,
                                                                   const Statistics& about) {
  std::unique_ptr<StatisticsWriter> writer(new StatisticsWriter());
  PW_ASSIGN(writer->file_, AtomicFile::Create(path, sizeof(StatisticsHeader), force));
  writer->end_ = sizeof(StatisticsHeader);
  writer->directory_ = std::make_unique<Directory>();
  Json& root = writer->directory_->root;
  root.Set("model", Json::String(about.model));
  root.Set("window", Json::Integer(about.window));
  root.Set("windows", Json::Integer(about.windows));
  Json texts = Json::Array();
  for (const StatisticsText& text : about.texts) {
    Json row = Json::Object();
    row.Set("name", Json::String(text.name));
    row.Set("hash", Json::String(text.hash));
    row.Set("tokens", Json::Integer(text.tokens));
    texts.Push(std::move(row));
  }
  root.Set("texts", std::move(texts));
  return writer;
}

Status StatisticsWriter::Append(const void* from, uint64_t bytes) {
  PW_TRY(file_->WriteAt(end_, from, bytes));
  written_.Record(end_, from, bytes);
  end_ += bytes;
  return OkStatus();
}

Status StatisticsWriter::AppendHessian(const Context& context, int64_t width,
                                       const float* hessian) {
  const std::vector<HessianBlock> blocks = CutHessian(width);
  Json sizes = Json::Array();
  Hasher hasher;
  directory_->hessian = Json::Object();
  directory_->hessian.Set("offset", Json::Unsigned(end_));
  // A few blocks are compressed beside each other, and written in their order.
  constexpr size_t kBatch = 4;
  struct Work {
    std::vector<float> values;
    std::vector<uint8_t> planes, compressed;
  };
  std::array<Work, kBatch> batch;
  for (size_t first = 0; first < blocks.size(); first += kBatch) {
    const size_t count = std::min(kBatch, blocks.size() - first);
    ParallelFor(context, static_cast<int64_t>(count), [&](int64_t i) {
      Work& work = batch[static_cast<size_t>(i)];
      const HessianBlock& block = blocks[first + static_cast<size_t>(i)];
      work.values.resize(static_cast<size_t>(block.floats));
      PackBlock(block, width, hessian, work.values.data());
      work.planes.resize(work.values.size() * sizeof(float));
      ToPlanes(work.values.data(), work.values.size(), work.planes.data());
      work.compressed.resize(ZSTD_compressBound(work.planes.size()));
      const size_t size = ZSTD_compress(work.compressed.data(), work.compressed.size(),
                                        work.planes.data(), work.planes.size(), kCompression);
      work.compressed.resize(ZSTD_isError(size) != 0 ? 0 : size);
    });
    for (size_t i = 0; i < count; ++i) {
      const Work& work = batch[i];
      if (work.compressed.empty()) return Error(ErrorCode::kMemory, "no memory to compress with");
      hasher.Update(work.values.data(), work.values.size() * sizeof(float));
      sizes.Push(Json::Unsigned(work.compressed.size()));
      PW_TRY(Append(work.compressed.data(), work.compressed.size()));
    }
  }
  directory_->hessian.Set("hash", Json::String(HashText(hasher.Digest())));
  directory_->hessian.Set("blocks", std::move(sizes));
  return OkStatus();
}

Status StatisticsWriter::Add(const Context& context, const InputSums& sums, const float* hessian) {
  Json row = Json::Object();
  Json weights = Json::Array();
  for (const std::string& name : sums.weights) weights.Push(Json::String(name));
  row.Set("weights", std::move(weights));
  row.Set("width", Json::Integer(sums.width));
  row.Set("tokens", Json::Integer(sums.tokens));
  row.Set("moments", Json::Bool(sums.HasMoments()));
  Json place = Json::Object();
  place.Set("offset", Json::Unsigned(end_));
  Hasher hasher;
  const auto append = [&](const auto& values) -> Status {
    const uint64_t bytes = values.size() * sizeof(values[0]);
    if (bytes == 0) return OkStatus();
    hasher.Update(values.data(), bytes);
    return Append(values.data(), bytes);
  };
  PW_TRY(append(sums.sum_sq));
  PW_TRY(append(sums.sum));
  PW_TRY(append(sums.sum_abs));
  PW_TRY(append(sums.max_abs));
  place.Set("hash", Json::String(HashText(hasher.Digest())));
  row.Set("sums", std::move(place));
  directory_->hessian = Json();
  if (hessian != nullptr) PW_TRY(AppendHessian(context, sums.width, hessian));
  row.Set("hessian", std::move(directory_->hessian));
  directory_->inputs.Push(std::move(row));
  return OkStatus();
}

Status StatisticsWriter::Finish() {
  directory_->root.Set("inputs", std::move(directory_->inputs));
  const std::string text = directory_->root.Dump();
  StatisticsHeader header = {};
  std::copy(std::begin(kStatisticsMagic), std::end(kStatisticsMagic), header.magic);
  header.version = kStatisticsVersion;
  header.directory_offset = end_;
  header.directory_bytes = text.size();
  header.directory_hash = HashBytes(text.data(), text.size());
  PW_TRY(Append(text.data(), text.size()));
  // Last: a file that is cut off has none.
  PW_TRY(file_->WriteAt(0, &header, sizeof(header)));
  written_.Record(0, &header, sizeof(header));
  PW_TRY(file_->Seal());
  {
    PW_ASSIGN(const ReadFile file, ReadFile::Open(file_->temp_path()));
    PW_TRY(written_.VerifyFile(file));
  }
  PW_TRY(StatisticsFile::Open(file_->temp_path(), {}, 1));
  return file_->Commit();
}

}  // namespace pennyweight
