// A file of activation statistics: our own, or an importance matrix of either kind; and the
// Hessians of our own.
#include <cstring>

#include "formats/statistics_file.h"
#include "formats/statistics_layout.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

namespace pennyweight::fuzz {
namespace {

// A directory is read only when it has its hash; nobody finds that by chance.
void FixHash(std::string* bytes) {
  StatisticsHeader header;
  if (bytes->size() < sizeof(header)) return;
  std::memcpy(&header, bytes->data(), sizeof(header));
  if (std::memcmp(header.magic, kStatisticsMagic, sizeof(header.magic)) != 0) return;
  if (header.directory_offset > bytes->size()) return;
  // Mutations change the length, too.
  header.directory_bytes = bytes->size() - header.directory_offset;
  header.directory_hash =
      HashBytes(bytes->data() + header.directory_offset, header.directory_bytes);
  std::memcpy(bytes->data(), &header, sizeof(header));
}

void ReadStatistics(const std::string& bytes) {
  static InputFile input;
  const std::string& path =
      input.Write(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const AllocationCap cap(bytes.size());
  const auto file = StatisticsFile::Open(path, {FindFamily("mixtral"), 3}, 512);
  if (!file.ok()) return;
  const Statistics& statistics = file->statistics();
  for (size_t i = 0; i < statistics.inputs.size(); ++i) {
    const InputSums& sums = statistics.inputs[i];
    Require(!sums.weights.empty() && sums.width > 0 && sums.tokens >= 0,
            "an input is of something");
    Require(sums.sum_sq.size() == static_cast<size_t>(sums.width), "sums are of all channels");
    if (const auto importance = ImportanceOf(sums)) {
      for (const float v : *importance) Require(v > 0, "every channel has some weight");
    }
    // The matrix is the caller's memory.
    if (!file->HasHessian(i) || sums.width > 256) continue;
    std::vector<float> h(static_cast<size_t>(sums.width * sums.width));
    (void)file->AddHessian(i, h.data()).ok();
  }
}

}  // namespace
}  // namespace pennyweight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  pennyweight::fuzz::FixHash(&bytes);
  pennyweight::fuzz::ReadStatistics(bytes);
  return 0;
}
