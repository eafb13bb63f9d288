#include "calib/unit_result.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "calib/hidden_checkpoint.h"

namespace pennyweight {
namespace {

TEST_CASE("a tile's result comes back from the journal to the last bit") {
  TileResult tile;
  tile.error.sum_sq = 0.1;
  tile.error.sum_sq_hat = std::nan("");
  tile.error.sum_dot = -3;
  tile.error.sum_sq_error = 1e-300;
  tile.error.max_abs_error = INFINITY;
  tile.error.count = 12345678901;
  tile.seconds = 2.5;
  const std::string bytes = PackTile(tile);
  TileResult read;
  REQUIRE(UnpackTile(bytes, &read));
  CHECK(PackTile(read) == bytes);
  CHECK(read.error.count == tile.error.count);
  CHECK(read.error.sum_sq_error == tile.error.sum_sq_error);
  CHECK_FALSE(UnpackTile(bytes.substr(1), &read));
  CHECK_FALSE(UnpackTile(bytes + "x", &read));
}

TEST_CASE("rows of a report come back from the journal, and a torn one changes nothing") {
  std::vector<TensorReport> reports(4);
  reports[1].method = "gptq";
  reports[1].fallback = "because";
  reports[1].tokens = 77;
  reports[1].weight_rel_mse = 0.25;
  reports[1].damp = 0.01;
  reports[3].method = "copy";
  reports[3].seconds = 9;
  TensorsResult result;
  result.tensors = {1, 3};
  result.sums.output_error = 5;
  result.sums.weight.sum_sq = 6;
  result.layer.emplace();
  result.layer->layer = 2;
  result.layer->hidden_rel_error = 0.5;
  result.layer->candidates = {{"rtn", 0.75}, {"awq+gptq", std::nullopt}};
  result.layer->chosen = "awq+gptq";
  result.folds = "{\"version\": 1}";
  const std::string bytes = PackTensors(result, reports);

  std::vector<TensorReport> restored(4);
  restored[1].name = "kept";
  TensorsResult read;
  REQUIRE(UnpackTensors(bytes, &read, &restored));
  CHECK(read.tensors == result.tensors);
  CHECK(read.sums.output_error == 5);
  REQUIRE(read.layer.has_value());
  CHECK(read.layer->layer == 2);
  CHECK(read.layer->hidden_rel_error == 0.5);
  CHECK_FALSE(read.layer->hidden_cosine.has_value());
  REQUIRE(read.layer->candidates.size() == 2);
  CHECK(read.layer->candidates[0].name == "rtn");
  CHECK(read.layer->candidates[0].hidden_rel_error == 0.75);
  CHECK_FALSE(read.layer->candidates[1].hidden_rel_error.has_value());
  CHECK(read.layer->chosen == "awq+gptq");
  CHECK(read.folds == result.folds);
  CHECK(restored[1].name == "kept");
  CHECK(restored[1].fallback == "because");
  CHECK(restored[1].tokens == 77);
  CHECK(PackTensors(read, restored) == bytes);

  std::vector<TensorReport> untouched(4);
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    TensorsResult none;
    if (UnpackTensors(std::string_view(bytes).substr(0, cut), &none, &untouched)) {
      // Cut between two rows: the first alone.
      CHECK(none.tensors.size() < 2);
      untouched = std::vector<TensorReport>(4);
    }
    CHECK(untouched[3].method.empty());
  }
  // A tensor that the model does not have.
  std::vector<TensorReport> fewer(2);
  CHECK_FALSE(UnpackTensors(bytes, &read, &fewer));
}

TEST_CASE("hidden states come back from their file, unless a bit, the layer or a size differs") {
  const std::string path = (std::filesystem::temp_directory_path() /
                            ("pw_hidden_" + std::to_string(std::random_device{}())))
                               .string();
  std::mt19937 rng(5);
  std::vector<float> values(3000 * 513);
  for (float& v : values) v = static_cast<float>(rng()) * 1e-9f;
  auto big = HiddenStore::Create(3000, 513, "");
  auto small = HiddenStore::Create(7, 513, "");
  REQUIRE(big->Write(0, 3000, values.data()).ok());
  REQUIRE(small->Write(0, 7, values.data() + 99).ok());
  const HiddenStore* const from[] = {&*big, &*small};
  REQUIRE(SaveHidden(path, 4, from).ok());

  auto big2 = HiddenStore::Create(3000, 513, "");
  auto small2 = HiddenStore::Create(7, 513, "");
  HiddenStore* const to[] = {&*big2, &*small2};
  CHECK(LoadHidden(path, 4, to).value());
  std::vector<float> read(values.size());
  REQUIRE(big2->Read(0, 3000, read.data()).ok());
  CHECK(read == values);
  CHECK_FALSE(LoadHidden(path, 5, to).value());
  HiddenStore* const swapped[] = {&*small2, &*big2};
  CHECK_FALSE(LoadHidden(path, 4, swapped).value());
  {
    std::FILE* file = std::fopen(path.c_str(), "r+b");
    std::fseek(file, 100000, SEEK_SET);
    std::fputc('x', file);
    std::fputc('y', file);
    std::fclose(file);
  }
  CHECK_FALSE(LoadHidden(path, 4, to).value());
  std::filesystem::remove(path);
  CHECK_FALSE(LoadHidden(path, 4, to).value());
}

}  // namespace
}  // namespace pennyweight
