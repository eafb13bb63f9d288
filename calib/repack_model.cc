#include "calib/repack_model.h"

#include <algorithm>

#include "calib/matrix_job.h"
#include "lib/parallel.h"
#include "quant/repack.h"

namespace pennyweight {
namespace {

Result<bool> IsExact(const Context& context, const TensorSource& source, size_t index,
                     BlockType to) {
  const TensorInfo& info = source.tensors()[index];
  const int64_t step = TileRows(info.cols());
  EncodedTensor stored, packed;
  for (int64_t row = 0; row < info.rows(); row += step) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    PW_TRY(source.ReadRows(index, row, std::min(step, info.rows() - row), &stored));
    if (!RepackRows(stored, to, &packed)) return false;
  }
  return true;
}

}  // namespace

Status CheckRepacks(const Context& context, const Model& model, DType otherwise,
                    std::vector<Choice>* choices) {
  const auto& tensors = model.source->tensors();
  std::vector<size_t> list;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Encoding& to = (*choices)[i].encoding;
    if (to.kind == Encoding::Kind::kBlock && !(to == tensors[i].encoding)) list.push_back(i);
  }
  return ParallelTry(context, static_cast<int64_t>(list.size()), [&](int64_t at) -> Status {
    const size_t i = list[static_cast<size_t>(at)];
    Choice& choice = (*choices)[i];
    PW_ASSIGN(const bool exact, IsExact(context, *model.source, i, choice.encoding.block));
    if (exact) return OkStatus();
    choice.fallback = "a scale or minimum of " + choice.encoding.Name() +
                      " would have to be rounded to f16: decoded";
    choice.encoding = Encoding::Plain(otherwise);
    return OkStatus();
  });
}

}  // namespace pennyweight
