#include "cmd/verify_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "lib/checked.h"
#include "lib/file.h"
#include "lib/parallel.h"
#include "quant/tensor_scan.h"

namespace pennyweight {
namespace {

constexpr uint64_t kTileBytes = 1 << 20;
constexpr int64_t kMostInTask = 256;        // tensors
constexpr uint64_t kDuplicateBytes = 4096;  // smaller tensors are the same by chance
constexpr int64_t kUpcastElements = 256;    // fewer values are round by chance

struct Checked {
  TensorScan scan;
  std::optional<Error> checksum;
};

// Reads the whole tensor once, in rows of at most `most` bytes. The tile is scratch.
Status ScanTensor(const TensorSource& source, size_t index, uint64_t most, EncodedTensor* tile,
                  Checked* out) {
  const TensorInfo& info = source.tensors()[index];
  TensorScanner scanner(info);
  const bool empty = std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end();
  if (!empty) {
    const int64_t rows = info.rows();
    const uint64_t row_bytes = std::max<uint64_t>(info.bytes / static_cast<uint64_t>(rows), 1);
    if (row_bytes > most) {
      return Error(ErrorCode::kMemory,
                   fmt::format("a row of it has {} bytes, the memory limit allows {}", row_bytes,
                               most))
          .Hint("use a larger --memory, or -j 1")
          .InFile(info.file)
          .InTensor(info.name);
    }
    int64_t step = static_cast<int64_t>(std::max<uint64_t>(kTileBytes / row_bytes, 1));
    // Rows of sub-byte types end inside of a byte; eight of them do not.
    if (DTypeBits(info.encoding.dtype) < 8) step = (step + 7) / 8 * 8;
    for (int64_t row = 0; row < rows; row += step) {
      PW_TRY(source.ReadRows(index, row, std::min(step, rows - row), tile));
      scanner.Add(*tile);
    }
  }
  out->scan = scanner.Finish();
  return OkStatus();
}

Status ScanAll(const Context& context, const TensorSource& source, std::vector<Checked>* out) {
  const int64_t count = static_cast<int64_t>(out->size());
  const int64_t in_task = std::clamp<int64_t>(count / 256, 1, kMostInTask);
  const uint64_t most = context.memory_limit / static_cast<uint64_t>(std::max(context.threads, 1));
  std::mutex mutex;
  int64_t done = 0;
  if (context.progress != nullptr) context.progress->Phase("tensors", count);
  return ParallelTry(context, CeilDiv(count, in_task), [&](int64_t task) -> Status {
    EncodedTensor tile;
    const int64_t end = std::min(count, (task + 1) * in_task);
    for (int64_t i = task * in_task; i < end; ++i) {
      if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped before it was done");
      const size_t index = static_cast<size_t>(i);
      Status status = ScanTensor(source, index, most, &tile, &(*out)[index]);
      if (status.ok()) continue;
      if (status.error().code != ErrorCode::kChecksum) return status;
      (*out)[index].checksum = std::move(status).TakeError();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    done += end - task * in_task;
    if (context.progress != nullptr) context.progress->Advance(done);
    return OkStatus();
  });
}

// "[3, 17]": where an element stands.
std::string PlaceOf(int64_t element, const Shape& shape) {
  if (shape.empty()) return "[]";
  Shape place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    place[i] = element % shape[i];
    element /= shape[i];
  }
  return ShapeToString(place);
}

class Reporter {
 public:
  Reporter(const Model& model, std::vector<Finding>* findings)
      : exact_(model.source->format() == "safetensors"), findings_(findings) {}

  void Report(const TensorInfo& info, const Checked& checked) {
    info_ = &info;
    if (checked.checksum) {
      Finding finding = FindingOf("ZIP-CRC", *checked.checksum);
      if (finding.tensor.empty()) finding.tensor = info.name;
      if (finding.file.empty()) finding.file = info.file;
      findings_->push_back(std::move(finding));
      return;
    }
    const TensorScan& scan = checked.scan;
    if (info.encoding.kind == Encoding::Kind::kPlain) {
      ReportPlain(scan);
    } else {
      ReportQuantized(scan);
    }
  }

 private:
  void Add(std::string_view rule, std::string message, uint64_t inside = 0) {
    findings_->push_back({.rule = rule,
                          .message = std::move(message),
                          .file = info_->file,
                          .tensor = info_->name,
                          .offset = static_cast<int64_t>(info_->offset + inside),
                          .bytes = static_cast<int64_t>(info_->bytes - inside)});
  }

  void ReportPlain(const TensorScan& scan) {
    const DType dtype = info_->encoding.dtype;
    const SpecialValues special = SpecialValuesOf(dtype);
    const auto sighting = [&](std::string_view rule, const char* what, const Sightings& seen) {
      if (seen.count == 0) return;
      const int64_t element = dtype == DType::kC64 ? seen.first / 2 : seen.first;
      Add(rule,
          fmt::format("{} of {} values {} {}, the first at {}", seen.count, info_->elements(),
                      seen.count == 1 ? "is" : "are", what, PlaceOf(element, info_->shape)),
          exact_ ? static_cast<uint64_t>(seen.first) * special.bytes : 0);
    };
    sighting("VAL-NAN", "NaN", scan.nan);
    sighting("VAL-INF", "infinite", scan.inf);
    const bool floats = special.least != 0;
    const bool matrix = info_->shape.size() >= 2 && info_->elements() > 1;
    if (floats && matrix && scan.zero) {
      Add("VAL-ZERO", "all values are zero");
    } else if (floats && matrix && scan.constant) {
      Add("VAL-CONSTANT", "all values are the same number");
    }
    // Vectors (norms, biases) are kept in 32 bits by design.
    if (scan.constant || !matrix || info_->elements() < kUpcastElements) return;
    if (scan.fits_bf16) {
      Add("VAL-UPCAST-BF16", "the low 16 bits of all values are zero: store it as bf16");
    } else if (scan.fits_f16) {
      Add("VAL-UPCAST-F16", "all values are f16 ones: store it as f16");
    }
  }

  void ReportQuantized(const TensorScan& scan) {
    const bool blocks = info_->encoding.kind == Encoding::Kind::kBlock;
    const char* unit = blocks ? "block" : "group";
    const uint64_t bytes =
        blocks ? static_cast<uint64_t>(TraitsOf(info_->encoding.block).bytes) : 0;
    const auto sighting = [&](std::string_view rule, const char* what, const Sightings& seen) {
      if (seen.count == 0) return;
      Add(rule,
          fmt::format("{} {}{} {}, the first is {} {}", seen.count, unit,
                      seen.count == 1 ? "" : "s", what, unit, seen.first),
          exact_ ? static_cast<uint64_t>(seen.first) * bytes : 0);
    };
    sighting("QNT-SCALE-NONFINITE", "with a scale that is NaN or infinite", scan.bad_scales);
    sighting("QNT-SCALE-NEGATIVE", "with a negative scale", scan.negative_scales);
    sighting("QNT-LOST-CODES", "with codes under the scale 0", scan.lost_codes);
    if (scan.zero) Add("VAL-ZERO", "all scales are zero");
  }

  const bool exact_;  // rows stand in the file as they are listed
  std::vector<Finding>* findings_;
  const TensorInfo* info_ = nullptr;
};

}  // namespace

Result<TensorCheck> CheckTensors(const Context& context, const Model& model) {
  const std::vector<TensorInfo>& infos = model.source->tensors();
  std::vector<Checked> checked(infos.size());
  PW_TRY(ScanAll(context, *model.source, &checked));
  TensorCheck out;
  Reporter reporter(model, &out.findings);
  std::map<std::tuple<Hash128, std::string, Shape>, size_t> contents;
  for (size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& info = infos[i];
    const TensorScan& scan = checked[i].scan;
    reporter.Report(info, checked[i]);
    out.tensors.push_back({info.name, info.encoding.Name(), info.shape, BaseName(info.file),
                           info.offset, info.bytes, HexOf(scan.hash)});
    if (checked[i].checksum || info.bytes < kDuplicateBytes || scan.zero || scan.constant) continue;
    const auto [first, fresh] =
        contents.try_emplace({scan.hash, info.encoding.Name(), info.shape}, i);
    const TensorInfo& other = infos[first->second];
    // Tensors of one storage are tied, and stored once.
    if (fresh || (other.file == info.file && other.offset == info.offset)) continue;
    out.findings.push_back(
        {.rule = "DUP-CONTENT",
         .message = fmt::format("it has the same bytes as \"{}\"", SafeText(other.name)),
         .file = info.file,
         .tensor = info.name,
         .offset = static_cast<int64_t>(info.offset),
         .bytes = static_cast<int64_t>(info.bytes)});
  }
  return out;
}

}  // namespace pennyweight
