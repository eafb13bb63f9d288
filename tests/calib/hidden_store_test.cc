#include "calib/hidden_store.h"

#include <cstdlib>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

std::string TemporaryDirectory() {
  const char* dir = std::getenv("TMPDIR");
  return dir != nullptr ? dir : "/tmp";
}

TEST_CASE("hidden store: in memory and in a file, any order, what was written is read") {
  for (const std::string& dir : {std::string(), TemporaryDirectory()}) {
    CAPTURE(dir);
    auto store = HiddenStore::Create(50, 7, dir);
    REQUIRE(store.ok());
    CHECK(store->tokens() == 50);
    CHECK(store->width() == 7);
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<float> values(50 * 7);
    for (float& v : values) v = normal(random);
    for (const int64_t token : {40, 0, 20, 10, 30}) {
      REQUIRE(store->Write(token, 10, values.data() + token * 7).ok());
    }
    std::vector<float> all(values.size());
    REQUIRE(store->Read(0, 50, all.data()).ok());
    CHECK(all == values);
    std::vector<float> some(3 * 7);
    REQUIRE(store->Read(28, 3, some.data()).ok());
    CHECK(some == std::vector<float>(values.begin() + 28 * 7, values.begin() + 31 * 7));
    // Written again: the neighbours stay.
    const std::vector<float> row(7, 1.5f);
    REQUIRE(store->Write(29, 1, row.data()).ok());
    REQUIRE(store->Read(28, 3, some.data()).ok());
    CHECK(some[6] == values[28 * 7 + 6]);
    CHECK(some[7] == 1.5f);
    CHECK(some[13] == 1.5f);
    CHECK(some[14] == values[30 * 7]);
  }
}

TEST_CASE("hidden store: a scratch folder that does not exist") {
  const auto store = HiddenStore::Create(5, 7, TemporaryDirectory() + "/no/such/folder");
  CHECK(!store.ok());
}

}  // namespace
}  // namespace pennyweight
