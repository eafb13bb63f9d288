#include "calib/scaled_tensor.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "calib/matrix_job.h"
#include "lib/checked.h"
#include "lib/tensor_sink.h"
#include "quant/codec.h"
#include "quant/encode_scaled.h"

namespace pennyweight {

int64_t AlignTileRows(int64_t rows, const Encoding& encoding, int64_t cols) {
  int64_t unit = std::lcm(TensorSink::kTileRows, SharedRows(encoding));
  if (encoding.kind == Encoding::Kind::kCodebook) {
    const int64_t block = encoding.codebook.block;
    unit = std::lcm(unit, block / std::gcd(block, std::max<int64_t>(1, cols)));
  }
  return CeilDiv(rows, unit) * unit;
}

Result<std::optional<float>> ReadTensorScale(const Context& context, const TensorSource& source,
                                             size_t index, const Encoding& encoding,
                                             std::span<const float> importance,
                                             ScaleSearch search) {
  if (!HasTensorScale(encoding)) return std::optional<float>();
  const TensorInfo& info = source.tensors()[index];
  const int64_t rows = info.rows(), cols = info.cols(), step = TileRows(cols);
  std::vector<float> w;
  const auto each_tile = [&](const RowVisitor& visit) -> Status {
    for (int64_t row = 0; row < rows; row += step) {
      if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      const int64_t count = std::min(step, rows - row);
      w.resize(static_cast<size_t>(count * cols));
      PW_TRY(ReadFloatRows(source, index, row, count, w.data()));
      PW_TRY(visit(w.data(), count));
    }
    return OkStatus();
  };
  Result<float> scale = FindTensorScale(context, encoding, cols, importance, search, each_tile);
  if (scale.ok()) return std::optional<float>(*scale);
  return std::move(scale).TakeError().InTensor(info.name).InFile(info.file);
}

}  // namespace pennyweight
