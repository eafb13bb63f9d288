#include "lib/panel_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/aligned_buffer.h"
#include "lib/checked.h"
#include "lib/file.h"
#include "lib/linalg_panels.h"
#include "lib/linalg_product.h"
#include "lib/parallel.h"

namespace pennyweight {

using linalg::Block;

namespace {

// Panels (i, j) with i <= j, column by column.
int64_t IndexOf(int64_t i, int64_t j) { return j * (j + 1) / 2 + i; }

// Rows of a panel that one task reads or changes.
constexpr int64_t kTaskRows = 64;

uint64_t PanelBytes(int64_t k, int64_t panel) {
  const auto side = static_cast<uint64_t>(std::min(k, panel));
  return side * side * sizeof(float);
}

// What all of the matrix takes: panels at the end are smaller.
uint64_t AllBytes(int64_t k, int64_t panel) {
  uint64_t elements = 0;
  for (int64_t begin = 0; begin < k; begin += panel) {
    const auto side = static_cast<uint64_t>(std::min(panel, k - begin));
    elements += side * (static_cast<uint64_t>(begin) + side);
  }
  return elements * sizeof(float);
}

uint64_t FewestBytes(int64_t k, int64_t panel) {
  return std::min(AllBytes(k, panel), linalg::Panels::kSlots * PanelBytes(k, panel));
}

}  // namespace

class PanelMatrix::Storage : public linalg::Panels {
 public:
  Storage(int64_t k, int64_t panel)
      : Panels(k, panel), panels_(static_cast<size_t>(IndexOf(0, count()))) {}

  Status Allocate(uint64_t memory, const std::string& scratch_dir) {
    const bool all = AllBytes(size(), panel()) <= memory;
    if (!all) {
      memory -= kSlots * PanelBytes(size(), panel());
      PW_ASSIGN(file_, ScratchFile::Create(scratch_dir));
    }
    for (int64_t j = 0; j < count(); ++j) {
      for (int64_t i = 0; i <= j; ++i) {
        Place& place = panels_[static_cast<size_t>(IndexOf(i, j))];
        const uint64_t bytes = Bytes(i, j);
        if (bytes <= memory) {
          memory -= bytes;
          place.resident = std::make_unique<AlignedBuffer<float>>(bytes / sizeof(float));
          memset(place.resident->data(), 0, bytes);
        } else {
          place.offset = scratch_bytes_;
          scratch_bytes_ += bytes;
        }
      }
    }
    return OkStatus();
  }

  uint64_t scratch_bytes() const { return scratch_bytes_; }

  void Clear() {
    for (int64_t j = 0; j < count(); ++j) {
      for (int64_t i = 0; i <= j; ++i) {
        Place& place = panels_[static_cast<size_t>(IndexOf(i, j))];
        if (place.resident) memset(place.resident->data(), 0, Bytes(i, j));
        place.written = false;
      }
    }
  }

  // Loads watch this; null when nobody waits.
  void Watch(const Context* context) { context_ = context; }

  Result<Block> Load(int64_t i, int64_t j, int slot) override {
    if (context_ != nullptr && context_->Cancelled()) {
      return Error(ErrorCode::kInterrupted, "stopped before it was done");
    }
    Place& place = panels_[static_cast<size_t>(IndexOf(i, j))];
    if (place.resident) return Block{place.resident->data(), Side(j)};
    std::unique_ptr<AlignedBuffer<float>>& buffer = slots_[slot];
    if (!buffer) {
      buffer = std::make_unique<AlignedBuffer<float>>(PanelBytes(size(), panel()) / sizeof(float));
    }
    if (place.written) {
      PW_TRY(Pieces(i, j, [&](uint64_t from, uint64_t bytes) {
        return file_->ReadAt(place.offset + from, reinterpret_cast<char*>(buffer->data()) + from,
                             bytes);
      }));
    } else {
      memset(buffer->data(), 0, Bytes(i, j));
    }
    return Block{buffer->data(), Side(j)};
  }

  Status Store(int64_t i, int64_t j, int slot) override {
    Place& place = panels_[static_cast<size_t>(IndexOf(i, j))];
    if (place.resident) return OkStatus();
    const char* buffer = reinterpret_cast<const char*>(slots_[slot]->data());
    PW_TRY(Pieces(i, j, [&](uint64_t from, uint64_t bytes) {
      return file_->WriteAt(place.offset + from, buffer + from, bytes);
    }));
    place.written = true;
    return OkStatus();
  }

  // Rows [row, row + rows) of columns [column, column + columns) of panel (i, j), without a slot.
  Status ReadPart(int64_t i, int64_t j, int64_t row, int64_t rows, int64_t column, int64_t columns,
                  float* to, int64_t stride) const {
    const Place& place = panels_[static_cast<size_t>(IndexOf(i, j))];
    const auto bytes = static_cast<size_t>(columns) * sizeof(float);
    for (int64_t r = 0; r < rows; ++r, to += stride) {
      const int64_t at = (row + r) * Side(j) + column;
      if (place.resident) {
        memcpy(to, place.resident->data() + at, bytes);
      } else if (place.written) {
        PW_TRY(file_->ReadAt(place.offset + static_cast<uint64_t>(at) * sizeof(float), to, bytes));
      } else {
        memset(to, 0, bytes);
      }
    }
    return OkStatus();
  }

 private:
  struct Place {
    std::unique_ptr<AlignedBuffer<float>> resident;
    uint64_t offset = 0;   // in the file, where it is not resident
    bool written = false;  // else it is zeros
  };

  uint64_t Bytes(int64_t i, int64_t j) const {
    return static_cast<uint64_t>(Side(i) * Side(j)) * sizeof(float);
  }

  // body(offset, bytes) for pieces of a panel, on all threads.
  template <class Body>
  Status Pieces(int64_t i, int64_t j, const Body& body) const {
    constexpr uint64_t kPiece = uint64_t{4} << 20;
    const uint64_t bytes = Bytes(i, j);
    const Context one;
    const Context& context = context_ == nullptr ? one : *context_;
    return ParallelTry(context, static_cast<int64_t>((bytes + kPiece - 1) / kPiece),
                       [&](int64_t piece) {
                         const uint64_t from = static_cast<uint64_t>(piece) * kPiece;
                         return body(from, std::min(kPiece, bytes - from));
                       });
  }

  std::vector<Place> panels_;
  std::unique_ptr<AlignedBuffer<float>> slots_[kSlots];
  std::unique_ptr<ScratchFile> file_;
  uint64_t scratch_bytes_ = 0;
  const Context* context_ = nullptr;
};

namespace {

// Cancels the storage's loads with this context while it lives.
template <class Storage>
class Watched {
 public:
  Watched(Storage& storage, const Context& context) : storage_(storage) { storage.Watch(&context); }
  ~Watched() { storage_.Watch(nullptr); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Storage& storage_;
};

// Rows of panel (i, j), in tasks.
template <class Body>
void ForRows(const Context& context, int64_t rows, const Body& body) {
  ParallelFor(context, CeilDiv(rows, kTaskRows), [&](int64_t task) {
    for (int64_t r = task * kTaskRows; r < std::min(rows, (task + 1) * kTaskRows); ++r) body(r);
  });
}

}  // namespace

PanelMatrix::PanelMatrix(std::unique_ptr<Storage> storage) : storage_(std::move(storage)) {}
PanelMatrix::PanelMatrix(PanelMatrix&&) noexcept = default;
PanelMatrix& PanelMatrix::operator=(PanelMatrix&&) noexcept = default;
PanelMatrix::~PanelMatrix() = default;

uint64_t PanelMatrix::FullBytes(int64_t k) { return AllBytes(k, linalg::kPanel); }
uint64_t PanelMatrix::LeastBytes(int64_t k) { return FewestBytes(k, linalg::kPanel); }

Result<PanelMatrix> PanelMatrix::Create(int64_t k, uint64_t memory,
                                        const std::string& scratch_dir) {
  return CreateInPanels(k, memory, scratch_dir, linalg::kPanel);
}

Result<PanelMatrix> PanelMatrix::CreateInPanels(int64_t k, uint64_t memory,
                                                const std::string& scratch_dir, int64_t panel) {
  if (memory < FewestBytes(k, panel)) {
    Error error(ErrorCode::kMemory,
                fmt::format("a matrix of {} x {} needs {} bytes to work in, and {} are allowed", k,
                            k, FewestBytes(k, panel), memory));
    error.hint = "raise --memory";
    return error;
  }
  auto storage = std::make_unique<Storage>(k, panel);
  PW_TRY(storage->Allocate(memory, scratch_dir));
  return PanelMatrix(std::move(storage));
}

int64_t PanelMatrix::size() const { return storage_->size(); }
uint64_t PanelMatrix::scratch_bytes() const { return storage_->scratch_bytes(); }

Status PanelMatrix::AddProduct(const Context& context, int64_t t, const float* x, int64_t x_stride,
                               Precision precision) {
  Storage& h = *storage_;
  const Watched watched(h, context);
  for (int64_t j = 0; j < h.count(); ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      PW_ASSIGN(const Block block, h.Load(i, j, 0));
      linalg::Product product;
      product.m = h.Side(i);
      product.n = h.Side(j);
      product.k = t;
      product.a.data = x + i * h.panel();
      product.b.data = x + j * h.panel();
      product.a.stride = product.b.stride = x_stride;
      product.a.transposed = product.b.transposed = true;
      product.c = block.data;
      product.c_stride = block.stride;
      product.update = linalg::Update::kAdd;
      product.upper = i == j;
      product.precision = precision;
      linalg::Multiply(context, product);
      PW_TRY(h.Store(i, j, 0));
    }
  }
  return OkStatus();
}

Status PanelMatrix::VisitRows(const Context& context, bool change,
                              const std::function<void(const Panel&, int64_t r)>& visit) {
  Storage& h = *storage_;
  const Watched watched(h, context);
  for (int64_t j = 0; j < h.count(); ++j) {
    for (int64_t i = 0; i <= j; ++i) {
      PW_ASSIGN(const Block block, h.Load(i, j, 0));
      const Panel panel{i * h.panel(), h.Side(i), j * h.panel(), h.Side(j), block.data};
      ForRows(context, panel.rows, [&](int64_t r) { visit(panel, r); });
      if (change) PW_TRY(h.Store(i, j, 0));
    }
  }
  return OkStatus();
}

Status PanelMatrix::ScaleAndAdd(const Context& context, float factor, float added) {
  return VisitRows(context, true, [&](const Panel& panel, int64_t r) {
    float* row = panel.data + r * panel.columns;
    for (int64_t c = 0; c < panel.columns; ++c) row[c] *= factor;
    if (panel.row == panel.column) row[r] += added;
  });
}

void PanelMatrix::Clear() { storage_->Clear(); }

Result<std::vector<float>> PanelMatrix::Diagonal() const {
  const Storage& h = *storage_;
  std::vector<float> diagonal(static_cast<size_t>(h.size()));
  for (int64_t r = 0; r < h.size(); ++r) {
    const int64_t i = r / h.panel(), at = r % h.panel();
    PW_TRY(h.ReadPart(i, i, at, 1, at, 1, &diagonal[static_cast<size_t>(r)], 1));
  }
  return diagonal;
}

Result<bool> PanelMatrix::Factor(const Context& context) {
  const Watched watched(*storage_, context);
  return linalg::FactorPanels(context, *storage_);
}

Status PanelMatrix::Solve(const Context& context, int64_t rows, float* b, int64_t b_stride) {
  const Watched watched(*storage_, context);
  return linalg::SolvePanels(context, *storage_, rows, {b, b_stride});
}

Status PanelMatrix::Read(const Context& context, int64_t row, int64_t rows, int64_t column,
                         int64_t columns, float* to, int64_t stride) const {
  const Storage& h = *storage_;
  const int64_t panel = h.panel();
  return ParallelTry(context, CeilDiv(rows, kTaskRows), [&](int64_t task) -> Status {
    const int64_t last_row = row + std::min(rows, (task + 1) * kTaskRows);
    for (int64_t r = row + task * kTaskRows; r < last_row; ++r) {
      float* out = to + (r - row) * stride;
      const int64_t below = std::clamp<int64_t>(r - column, 0, columns);
      std::fill_n(out, below, 0.0f);
      for (int64_t c = column + below; c < column + columns;) {
        const int64_t j = c / panel, end = std::min(column + columns, (j + 1) * panel);
        PW_TRY(
            h.ReadPart(r / panel, j, r % panel, 1, c % panel, end - c, out + (c - column), stride));
        c = end;
      }
    }
    return OkStatus();
  });
}

}  // namespace pennyweight
