#include "lib/written_ranges.h"

#include <algorithm>
#include <string>
#include <tuple>

#include "lib/parallel.h"

namespace pennyweight {
namespace {

// Bytes read back at a time: many small writes share one read, large ones are hashed piecewise.
constexpr uint64_t kWindowBytes = 1u << 20;
constexpr uint64_t kPieceBytes = 16u << 20;

Error Differs(const WrittenRange& range) {
  return Error(ErrorCode::kVerifyFailed,
               "what was read back differs from what was written, within " +
                   std::to_string(range.bytes * range.lines) + " bytes")
      .Hint("write to another disk: this one does not keep what it is given")
      .At(range.offset);
}

// Whether writes, in order of their offsets, fill [begin, end) without a gap.
struct Piece {
  uint64_t offset;
  uint64_t bytes;
};

Status Fills(const std::vector<Piece>& pieces, uint64_t begin, uint64_t end) {
  uint64_t at = begin;
  for (const Piece& piece : pieces) {
    if (piece.offset < at) {
      return Error(ErrorCode::kVerifyFailed, "bytes were written twice").At(piece.offset);
    }
    if (piece.offset > at && at < end) break;
    at = piece.offset + piece.bytes;
  }
  if (at < end) {
    return Error(ErrorCode::kVerifyFailed, "bytes were never written").At(at);
  }
  if (at > end) {
    return Error(ErrorCode::kVerifyFailed, "a write reaches over a tensor's border").At(end);
  }
  return OkStatus();
}

}  // namespace

WrittenRange WrittenRanges::Record(uint64_t offset, const void* data, uint64_t bytes) {
  return RecordLines(offset, bytes, 1, data, bytes);
}

WrittenRange WrittenRanges::RecordLines(uint64_t offset, uint64_t stride, uint64_t lines,
                                        const void* data, uint64_t bytes) {
  const WrittenRange range{offset, bytes, HashBytes(data, lines * bytes), lines, stride};
  if (bytes > 0) Add({range, /*restored=*/false});
  return range;
}

void WrittenRanges::Restore(const WrittenRange& range) {
  if (range.bytes > 0) Add({range, /*restored=*/true});
}

void WrittenRanges::Add(const Range& range) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!ranges_.empty() && range.offset <= ranges_.back().offset) sorted_ = false;
  ranges_.push_back(range);
}

const std::vector<WrittenRanges::Range>& WrittenRanges::Sorted() const {
  if (sorted_) return ranges_;
  // Of the same range, what this run wrote comes first.
  const auto key = [](const Range& r) {
    return std::tuple(r.offset, r.bytes, r.lines, r.restored);
  };
  std::sort(ranges_.begin(), ranges_.end(),
            [&](const Range& a, const Range& b) { return key(a) < key(b); });
  const auto repeats = [](const Range& a, const Range& b) {
    return b.restored && a.offset == b.offset && a.bytes == b.bytes && a.lines == b.lines;
  };
  ranges_.erase(std::unique(ranges_.begin(), ranges_.end(), repeats), ranges_.end());
  sorted_ = true;
  return ranges_;
}

Status WrittenRanges::Covered(uint64_t begin, uint64_t end) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto& ranges = Sorted();
  auto it = std::lower_bound(ranges.begin(), ranges.end(), begin,
                             [](const Range& r, uint64_t at) { return r.offset < at; });
  // A write that began earlier may reach into the range.
  if (it != ranges.begin() && begin < end) {
    const Range& before = *(it - 1);
    if (before.end() > begin) {
      return Error(ErrorCode::kVerifyFailed, "a write reaches over a tensor's border").At(begin);
    }
  }
  std::vector<Piece> pieces;
  bool in_order = true;
  for (; it != ranges.end() && it->offset < end; ++it) {
    in_order = in_order && it->lines == 1;
    for (uint64_t line = 0; line < it->lines; ++line) {
      pieces.push_back({it->offset + line * it->stride, it->bytes});
    }
  }
  if (!in_order) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
  }
  return Fills(pieces, begin, end);
}

Status WrittenRanges::Verify(const RangeReader& read) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::vector<Range>& ranges = Sorted();
  // Pieces of whole ranges, each of about as many bytes: one task reads one.
  std::vector<size_t> cuts = {0};
  uint64_t bytes = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    bytes += ranges[i].bytes * ranges[i].lines;
    if (bytes < kPieceBytes && i + 1 < ranges.size()) continue;
    cuts.push_back(i + 1);
    bytes = 0;
  }
  Context context;
  context.threads = ThreadLimit::Active();
  return ParallelTry(context, static_cast<int64_t>(cuts.size()) - 1, [&](int64_t piece) {
    const auto p = static_cast<size_t>(piece);
    return VerifyPiece(std::span(ranges).subspan(cuts[p], cuts[p + 1] - cuts[p]), read);
  });
}

Status WrittenRanges::VerifyPiece(std::span<const Range> ranges, const RangeReader& read) {
  std::vector<uint8_t> window(kWindowBytes);
  uint64_t window_begin = 0;
  uint64_t window_bytes = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    if (range.lines > 1) {
      PW_TRY(VerifyLines(range, read));
      continue;
    }
    Hasher hasher;
    uint64_t at = range.offset;
    const uint64_t end = range.offset + range.bytes;
    while (at < end) {
      if (at < window_begin || at >= window_begin + window_bytes) {
        // Reads on through the ranges that follow without a gap, and never past them: what lies
        // behind the last write need not exist.
        uint64_t stop = end;
        for (size_t j = i + 1; j < ranges.size() && stop - at < kWindowBytes; ++j) {
          if (ranges[j].offset > stop || ranges[j].lines > 1) break;
          stop = std::max(stop, ranges[j].offset + ranges[j].bytes);
        }
        window_begin = at;
        window_bytes = std::min(kWindowBytes, stop - at);
        PW_TRY(read(window_begin, window.data(), window_bytes));
      }
      const uint64_t n = std::min(end, window_begin + window_bytes) - at;
      hasher.Update(window.data() + (at - window_begin), n);
      at += n;
    }
    if (hasher.Digest() != range.hash) return Differs(range);
  }
  return OkStatus();
}

Status WrittenRanges::VerifyLines(const Range& range, const RangeReader& read) {
  // A line is a few rows of a tile: short.
  std::vector<uint8_t> line(range.bytes);
  Hasher hasher;
  for (uint64_t i = 0; i < range.lines; ++i) {
    PW_TRY(read(range.offset + i * range.stride, line.data(), range.bytes));
    hasher.Update(line.data(), range.bytes);
  }
  return hasher.Digest() == range.hash ? OkStatus() : Status(Differs(range));
}

Status WrittenRanges::VerifyFile(const ReadFile& file) const {
  Status status = Verify(
      [&](uint64_t offset, void* to, uint64_t bytes) { return file.ReadAt(offset, to, bytes); });
  if (status.ok()) return status;
  return std::move(status).TakeError().InFile(file.path());
}

}  // namespace pennyweight
