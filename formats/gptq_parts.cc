#include "formats/gptq_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "lib/checked.h"

namespace pennyweight {

Result<GptqParts> FindGptqParts(const PartsIndex& index, const std::string& prefix,
                                int64_t qweight) {
  GptqParts parts;
  parts.qweight = qweight;
  PW_ASSIGN(parts.qzeros, index.Require(prefix + ".qzeros", qweight));
  PW_ASSIGN(parts.scales, index.Require(prefix + ".scales", qweight));
  parts.g_idx = index.Find(prefix + ".g_idx");
  return parts;
}

Status CheckGptqForms(const PartsIndex& index, const GptqParts& parts) {
  PW_TRY(index.CheckForm(parts.qweight, DType::kI32, 2));
  PW_TRY(index.CheckForm(parts.qzeros, DType::kI32, 2));
  PW_TRY(index.CheckFloat(parts.scales, 2));
  const int64_t groups = index.Info(parts.scales).shape[0];
  return index.CheckShape(parts.qzeros, {groups, index.Info(parts.qzeros).cols()},
                          "there is one row for each row of scales");
}

Result<int64_t> GroupSize(const PartsIndex& index, const GptqParts& parts, int64_t cols,
                          const GptqConfig& config) {
  const int64_t groups = index.Info(parts.scales).shape[0];
  const int64_t stated = config.group_size.value_or(0);
  const bool rest = stated > 0 && cols % stated != 0 && groups == CeilDiv(cols, stated);
  if (rest && groups > 1) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("rows of {} do not divide into groups of {}", cols, stated))
        .Hint("give the model as it was before it was quantized")
        .InFile(index.Info(parts.scales).file)
        .InTensor(index.Info(parts.scales).name);
  }
  if (cols % groups != 0) {
    return index.Wrong(parts.scales,
                       fmt::format("{} groups do not divide rows of {}", groups, cols));
  }
  const int64_t size = groups == 1 ? 0 : cols / groups;
  // A group as long as the row, or longer, is the row.
  const bool agrees = !config.group_size || size == stated || (size == 0 && stated >= cols);
  if (agrees || config.mixed) return size;
  return index.Wrong(
      parts.scales, fmt::format("{} groups in rows of {}, but quantization_config has groups of {}",
                                groups, cols, stated == 0 ? cols : stated));
}

Result<std::vector<int32_t>> ReadColumnGroups(const PartsIndex& index, int64_t g_idx, int64_t cols,
                                              int64_t groups) {
  PW_TRY(index.CheckForm(g_idx, DType::kI32, 1));
  PW_TRY(index.CheckShape(g_idx, {cols}, "one group for each input"));
  PW_ASSIGN(const std::vector<uint8_t> bytes, index.ReadAll(g_idx));
  std::vector<int32_t> list(static_cast<size_t>(cols));
  std::memcpy(list.data(), bytes.data(), bytes.size());
  // compressed-tensors leaves -1 everywhere when the order is plain.
  if (std::all_of(list.begin(), list.end(), [](int32_t g) { return g == -1; })) {
    return std::vector<int32_t>();
  }
  bool plain = true;
  for (int64_t k = 0; k < cols; ++k) {
    const int32_t group = list[static_cast<size_t>(k)];
    if (group < 0 || group >= groups) {
      return index.Wrong(g_idx,
                         fmt::format("column {} is in group {}, of {} groups", k, group, groups));
    }
    plain = plain && group == k / (cols / groups);
  }
  if (plain) list.clear();
  return list;
}

Status ReadGroupScales(const TensorSource& source, const GptqParts& parts, int64_t row,
                       int64_t count, EncodedTensor* out) {
  const int64_t groups = out->encoding.integer.Groups(out->cols);
  const int64_t bytes = DTypeBits(out->encoding.integer.scale_dtype) / 8;
  EncodedTensor stored;
  PW_TRY(source.ReadColumns(static_cast<size_t>(parts.scales), 0, groups, row, count, &stored));
  out->scales.resize(static_cast<size_t>(count * groups * bytes));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < count; ++n) {
      std::memcpy(out->scales.data() + (n * groups + g) * bytes,
                  stored.data.data() + (g * count + n) * bytes, static_cast<size_t>(bytes));
    }
  }
  return OkStatus();
}

bool AnyLinear(const PartsIndex& index,
               const std::function<bool(int64_t packed, int64_t outputs)>& fits) {
  for (size_t i = 0; i < index.size(); ++i) {
    const TensorInfo& info = index.Info(static_cast<int64_t>(i));
    const auto prefix = WithoutSuffix(info.name, ".qweight");
    if (!prefix || info.shape.size() != 2) continue;
    const int64_t scales = index.Find(*prefix + ".scales");
    if (scales == PartsIndex::kNone || index.Info(scales).shape.size() != 2) continue;
    if (fits(info.shape[1], index.Info(scales).shape[1])) return true;
  }
  return false;
}

}  // namespace pennyweight
