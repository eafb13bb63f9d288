#include "lib/tensor.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

namespace pennyweight {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST_CASE("elements of a shape, or none when they cannot be counted") {
  CHECK(ElementCount({}) == 1);  // a scalar
  CHECK(ElementCount({7}) == 7);
  CHECK(ElementCount({3, 5, 7}) == 105);
  CHECK(ElementCount({3, 0, 7}) == 0);
  CHECK(ElementCount({kMax}) == kMax);
  CHECK(ElementCount({int64_t{1} << 31, int64_t{1} << 31}) == int64_t{1} << 62);
  CHECK_FALSE(ElementCount({int64_t{1} << 32, int64_t{1} << 32}).has_value());  // wraps to 0
  CHECK_FALSE(ElementCount({int64_t{1} << 32, int64_t{1} << 31}).has_value());  // 2^63
  CHECK_FALSE(ElementCount({2, kMax}).has_value());
  CHECK_FALSE(ElementCount({3, -1}).has_value());
  CHECK_FALSE(ElementCount({0, -1}).has_value());
  // A zero behind (or before) an overflow does not excuse it: rows() multiplies these.
  CHECK_FALSE(ElementCount({int64_t{1} << 62, 4, 0}).has_value());
  CHECK_FALSE(ElementCount({0, int64_t{1} << 62, 4}).has_value());
}

TEST_CASE("shapes in words") {
  CHECK(ShapeToString({}) == "[]");
  CHECK(ShapeToString({4096, 11008}) == "[4096, 11008]");
  CHECK(ShapeToString({-1, kMax}) == "[-1, 9223372036854775807]");
}

TEST_CASE("a tensor is a matrix whose rows are its last dimension") {
  TensorInfo info;
  CHECK(info.rows() == 1);
  CHECK(info.cols() == 1);
  info.shape = {5};
  CHECK(info.rows() == 1);
  CHECK(info.cols() == 5);
  info.shape = {4, 3, 7};
  CHECK(info.rows() == 12);
  CHECK(info.cols() == 7);
  CHECK(info.elements() == 84);
}

TEST_CASE("tiles are sized for their encoding and begin as zeros") {
  const EncodedTensor plain = EncodedTensor::Allocate(Encoding::Plain(DType::kBF16), 3, 10);
  CHECK(plain.rows == 3);
  CHECK(plain.cols == 10);
  CHECK(plain.data.size() == 60);
  CHECK(std::all_of(plain.data.begin(), plain.data.end(), [](uint8_t b) { return b == 0; }));
  CHECK(plain.codes.empty());

  const EncodedTensor block = EncodedTensor::Allocate(Encoding::Block(BlockType::kQ6_K), 2, 512);
  CHECK(block.data.size() == 2 * 2 * 210);
  CHECK(block.encoding == Encoding::Block(BlockType::kQ6_K));

  const EncodedTensor symmetric =
      EncodedTensor::Allocate(Encoding::Integer({4, 32, true, DType::kF16}), 3, 96);
  CHECK(symmetric.data.empty());
  CHECK(symmetric.codes.size() == 288);
  CHECK(symmetric.scales.size() == 3 * 3 * 2);
  CHECK(symmetric.zeros.empty());

  const EncodedTensor channel =
      EncodedTensor::Allocate(Encoding::Integer({8, 0, false, DType::kF32}), 3, 172);
  CHECK(channel.codes.size() == 3 * 172);
  CHECK(channel.scales.size() == 3 * 4);
  CHECK(channel.zeros.size() == 3);

  CHECK(EncodedTensor::Allocate(Encoding::Plain(DType::kF32), 0, 64).data.empty());
}

TEST_CASE("a tile that is used again is sized as a new one, and Reset is empty of the old") {
  IntegerSpec integer;
  integer.group_size = 32;
  integer.symmetric = false;
  IntegerSpec ordered = integer;
  ordered.act_order = ordered.symmetric = true;
  const Encoding kinds[] = {Encoding::Plain(DType::kF16), Encoding::Block(BlockType::kQ4_K),
                            Encoding::Integer(integer), Encoding::Integer(ordered),
                            Encoding::Plain(DType::kF32)};
  const auto fill = [](EncodedTensor* tile) {
    std::fill(tile->data.begin(), tile->data.end(), uint8_t{7});
    std::fill(tile->codes.begin(), tile->codes.end(), int8_t{7});
    std::fill(tile->scales.begin(), tile->scales.end(), uint8_t{7});
    std::fill(tile->zeros.begin(), tile->zeros.end(), int8_t{7});
    tile->divisor = 2;
    tile->first = 3;
  };
  for (const Encoding& from : kinds) {
    for (const Encoding& to : kinds) {
      const EncodedTensor want = EncodedTensor::Allocate(to, 3, 256);
      EncodedTensor again = EncodedTensor::Allocate(from, 5, 512), sized = again;
      fill(&again);
      fill(&sized);
      again.Reset(to, 3, 256);
      sized.Resize(to, 3, 256);
      CHECK(again.encoding == to);
      CHECK(again.rows == 3);
      CHECK(again.cols == 256);
      CHECK(again.divisor == 1);
      CHECK(again.first == 0);
      CHECK(again.data == want.data);
      CHECK(again.codes == want.codes);
      CHECK(again.scales == want.scales);
      CHECK(again.zeros == want.zeros);
      CHECK(again.group_of_column.size() == want.group_of_column.size());
      CHECK(sized.data.size() == want.data.size());
      CHECK(sized.codes.size() == want.codes.size());
      CHECK(sized.scales.size() == want.scales.size());
      CHECK(sized.zeros.size() == want.zeros.size());
      CHECK(sized.group_of_column.size() == want.group_of_column.size());
    }
  }
}

}  // namespace
}  // namespace pennyweight
