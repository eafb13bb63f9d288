#include "quant/non_finite.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "quant/codec.h"

namespace pennyweight {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomValues(size_t count) {
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> values(count);
  for (float& v : values) v = normal(rng);
  return values;
}

// Tensors in memory, read as files are.
class MemorySource : public TensorSource {
 public:
  void Add(std::string name, const EncodedTensor& data) {
    TensorInfo info;
    info.name = std::move(name);
    info.encoding = data.encoding;
    info.shape = {data.rows, data.cols};
    tensors_.push_back(info);
    data_.push_back(data);
  }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    const EncodedTensor& all = data_[index];
    const size_t row_bytes = all.data.size() / static_cast<size_t>(all.rows);
    *out = EncodedTensor::Allocate(all.encoding, count, all.cols);
    std::memcpy(out->data.data(), all.data.data() + static_cast<size_t>(row) * row_bytes,
                static_cast<size_t>(count) * row_bytes);
    return OkStatus();
  }
  std::string_view format() const override { return "memory"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<EncodedTensor> data_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

TEST_CASE("every NaN and infinity is replaced and counted, nothing else") {
  std::vector<float> w = RandomValues(999);
  w[3] = std::numeric_limits<float>::max();
  w[4] = std::numeric_limits<float>::denorm_min();
  const std::vector<float> before = w;
  CHECK(ReplaceNonFinite(w.data(), 999) == 0);
  CHECK(w == before);
  w[0] = kNan;
  w[500] = kInf;
  w[998] = -kInf;
  CHECK(ReplaceNonFinite(w.data(), 999) == 3);
  for (size_t i = 0; i < w.size(); ++i) {
    CHECK(w[i] == (i == 0 || i == 500 || i == 998 ? 0.0f : before[i]));
  }
}

TEST_CASE("an error tells the place in the tensor, not in the tile") {
  std::vector<float> w = RandomValues(4 * 10);
  w[2 * 10 + 7] = -kInf;
  const Error error =
      LocateNonFinite(Error(ErrorCode::kNonFinite, "somewhere"), w.data(), 4, 10, 1000);
  CHECK(error.message == "infinity at element 10027 (row 1002, column 7)");
  CHECK(error.hint.find("--allow-nan") != std::string::npos);
  w[5] = kNan;
  CHECK(LocateNonFinite(Error(ErrorCode::kNonFinite, ""), w.data(), 4, 10, 0).message ==
        "NaN at element 5 (row 0, column 5)");
  CHECK(LocateNonFinite(Error(ErrorCode::kIo, "disk"), w.data(), 4, 10, 0).message == "disk");
}

TEST_CASE("a finite source: marked tensors without, others with NaN; read twice, counted once") {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    CAPTURE(DTypeName(dtype));
    std::vector<float> w = RandomValues(8 * 33);
    for (float& v : w) v = RoundThrough(dtype, v);
    w[2 * 33 + 1] = kNan;
    w[2 * 33 + 2] = kInf;
    w[7 * 33] = -kInf;
    EncodedTensor tile;
    CastTile(Encoding::Plain(dtype), w.data(), 8, 33, &tile);
    auto memory = std::make_unique<MemorySource>();
    memory->Add("marked", tile);
    memory->Add("plain", tile);
    const FiniteSource source(std::move(memory), {1, 0});
    std::vector<float> got(8 * 33);
    for (int i = 0; i < 2; ++i) {
      REQUIRE(ReadFloatRows(source, 0, 0, 3, got.data()).ok());
      REQUIRE(ReadFloatRows(source, 0, 2, 6, got.data() + 2 * 33).ok());
    }
    for (size_t i = 0; i < w.size(); ++i) CHECK(got[i] == (std::isfinite(w[i]) ? w[i] : 0.0f));
    CHECK(source.replaced(0) == 3);
    REQUIRE(ReadFloatRows(source, 1, 0, 8, got.data()).ok());
    CHECK(std::isnan(got[2 * 33 + 1]));
    CHECK(got[7 * 33] == -kInf);
    CHECK(source.replaced(1) == 0);
  }
}

TEST_CASE("blocks with a scale that is NaN read as zeros, listed as f32") {
  EncodedTensor blocks = EncodedTensor::Allocate(Encoding::Block(BlockType::kQ8_0), 2, 64);
  std::mt19937 rng(std::random_device{}());
  for (uint8_t& byte : blocks.data) byte = static_cast<uint8_t>(rng() % 120 + 1);
  for (size_t block = 0; block < 4; ++block) {
    const uint16_t scale = block == 2 ? 0x7e00 : 0x2c00;  // NaN, 0.0625
    std::memcpy(blocks.data.data() + block * 34, &scale, 2);
  }
  std::vector<float> want(128);
  DecodeRows(blocks, 0, 2, want.data());
  auto memory = std::make_unique<MemorySource>();
  memory->Add("marked", blocks);
  const FiniteSource source(std::move(memory), {1});
  CHECK(source.tensors()[0].encoding == Encoding::Plain(DType::kF32));
  std::vector<float> got(128);
  REQUIRE(ReadFloatRows(source, 0, 0, 2, got.data()).ok());
  for (size_t i = 0; i < 128; ++i) CHECK(got[i] == (i >= 64 && i < 96 ? 0.0f : want[i]));
  CHECK(source.replaced(0) == 32);
}

}  // namespace
}  // namespace pennyweight
