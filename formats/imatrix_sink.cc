// Both kinds of importance matrix, written.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "formats/gguf_output.h"
#include "formats/imatrix_gguf.h"
#include "formats/imatrix_legacy.h"
#include "lib/output_file.h"

namespace pennyweight {
namespace {

template <class T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));  // little-endian hosts only
}

Status AppendEntry(const ImatrixEntry& entry, int64_t window, std::string* out) {
  const float most = *std::max_element(entry.counts.begin(), entry.counts.end());
  // Upwards, so that a few tokens are no 0.
  const double calls = std::ceil(static_cast<double>(most) / static_cast<double>(window));
  constexpr double kMost = std::numeric_limits<int32_t>::max();
  if (calls > kMost || static_cast<double>(entry.sums.size()) > kMost) {
    return Error(ErrorCode::kOverflow, "an entry is too large for the legacy format")
        .Hint("--to imatrix")
        .InTensor(entry.name);
  }
  Append(out, static_cast<int32_t>(entry.name.size()));
  *out += entry.name;
  Append(out, static_cast<int32_t>(calls));
  Append(out, static_cast<int32_t>(entry.sums.size()));
  const size_t width = entry.sums.size() / entry.counts.size();
  for (size_t i = 0; i < entry.sums.size(); ++i) {
    const double count = entry.counts[i / width];
    const double mean = count > 0 ? entry.sums[i] / count : 1.0;
    Append(out, static_cast<float>(mean * calls));
  }
  return OkStatus();
}

}  // namespace

Status WriteImatrixGguf(const std::string& path, bool force, const Statistics& statistics,
                        const StatisticsNames& names) {
  PW_ASSIGN(const std::vector<ImatrixEntry> entries, ToImatrixEntries(statistics, names));
  GgufHeader header;
  header.AddString("general.type", "imatrix");
  std::vector<std::string_view> texts;
  for (const StatisticsText& text : statistics.texts) texts.push_back(text.name);
  header.AddStrings(kImatrixDatasets, texts);
  header.AddU32(kImatrixChunkCount, static_cast<uint32_t>(statistics.windows));
  header.AddU32(kImatrixChunkSize, static_cast<uint32_t>(statistics.window));
  const Encoding f32 = Encoding::Plain(DType::kF32);
  for (const ImatrixEntry& entry : entries) {
    const auto matrices = static_cast<int64_t>(entry.counts.size());
    const int64_t width = static_cast<int64_t>(entry.sums.size()) / matrices;
    const Shape sums = matrices == 1 ? Shape{width} : Shape{matrices, width};
    const Shape counts = matrices == 1 ? Shape{1} : Shape{matrices, 1};
    PW_TRY(header.AddTensor(entry.name + std::string(kImatrixSums), f32, sums));
    PW_TRY(header.AddTensor(entry.name + std::string(kImatrixCounts), f32, counts));
  }
  PW_ASSIGN(const std::unique_ptr<GgufOutput> output,
            GgufOutput::Create(path, std::move(header), force, nullptr));
  for (size_t i = 0; i < entries.size(); ++i) {
    const ImatrixEntry& entry = entries[i];
    PW_TRY(output->Write(2 * i, 0, entry.sums.data(), entry.sums.size() * sizeof(float)));
    PW_TRY(output->Write(2 * i + 1, 0, entry.counts.data(), entry.counts.size() * sizeof(float)));
  }
  PW_TRY(output->Seal());
  return output->Commit();
}

Status WriteImatrixLegacy(const std::string& path, bool force, const Statistics& statistics,
                          const StatisticsNames& names) {
  PW_ASSIGN(const std::vector<ImatrixEntry> entries, ToImatrixEntries(statistics, names));
  std::string bytes;
  int32_t count = 0;
  for (const ImatrixEntry& entry : entries) {
    if (std::ranges::all_of(entry.counts, [](float c) { return c == 0; })) continue;
    PW_TRY(AppendEntry(entry, statistics.window, &bytes));
    ++count;
  }
  Append(&bytes, static_cast<int32_t>(statistics.windows));
  const std::string text = statistics.texts.empty() ? "" : statistics.texts.back().name;
  Append(&bytes, static_cast<int32_t>(text.size()));
  bytes += text;
  PW_ASSIGN(const std::unique_ptr<OutputFile> file,
            OutputFile::Create(path, sizeof(count) + bytes.size(), force, nullptr));
  PW_TRY(file->Write(0, &count, sizeof(count)));
  PW_TRY(file->Write(sizeof(count), bytes.data(), bytes.size()));
  PW_TRY(file->Seal());
  return file->Commit();
}

}  // namespace pennyweight
