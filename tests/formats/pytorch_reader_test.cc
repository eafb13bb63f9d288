#include "formats/pytorch_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "lib/dtype.h"
#include "tests/formats/pytorch_builder.h"

namespace pennyweight {
namespace {

using test::PklCall;
using test::PklDict;
using test::PklGlobal;
using test::PklInteger;
using test::PklStorage;
using test::PklString;
using test::PklTensor;
using test::PklTuple;
using test::ScratchFolder;
using test::TorchLegacy;
using test::TorchZip;

using Opened = Result<std::unique_ptr<PytorchSource>>;

Opened OpenBytes(const ScratchFolder& folder, const std::string& bytes) {
  return PytorchSource::Open({folder.Write("x.pt", bytes)});
}

std::vector<uint8_t> AllRows(const TensorSource& source, size_t index) {
  EncodedTensor rows;
  const Status status = source.ReadRows(index, 0, source.tensors()[index].rows(), &rows);
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  return rows.data;
}

std::vector<uint8_t> Named(const TensorSource& source, std::string_view name) {
  const int64_t index = source.Find(name);
  REQUIRE_MESSAGE(index >= 0, name);
  return AllRows(source, static_cast<size_t>(index));
}

std::string Floats(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return test::BytesOf(values);
}

// A contiguous float tensor [4] on a storage of its own.
std::string Vector4(const std::string& key) {
  return PklTensor(PklStorage("FloatStorage", key, 4), 0, {4}, {1});
}

std::vector<std::string> Names(const TensorSource& source) {
  std::vector<std::string> names;
  for (const TensorInfo& info : source.tensors()) names.push_back(info.name);
  return names;
}

TEST_CASE("both containers list tensors with name, type, shape and place") {
  const ScratchFolder folder;
  const std::string data = Floats(6);
  const std::string tensor = PklTensor(PklStorage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1});
  const std::string old = PklTensor(PklStorage("FloatStorage", "77", 6, true), 0, {2, 3}, {3, 1});
  for (const std::string& bytes :
       {TorchZip(PklDict({PklString("w"), tensor}), {{"0", data}}),
        TorchLegacy(PklDict({PklString("w"), old}), {{"77", 6, data}})}) {
    const auto source = OpenBytes(folder, bytes);
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    REQUIRE((*source)->tensors().size() == 1);
    const TensorInfo& info = (*source)->tensors()[0];
    CHECK(info.name == "w");
    CHECK(info.stored_name == "w");
    CHECK(info.encoding == Encoding::Plain(DType::kF32));
    CHECK(info.shape == Shape{2, 3});
    CHECK(info.bytes == 24);
    CHECK(info.file == folder.Path("x.pt"));
    CHECK(bytes.substr(info.offset, 24) == data);
    CHECK((*source)->format() == "pytorch");
    EncodedTensor row;
    REQUIRE((*source)->ReadRows(0, 1, 1, &row).ok());
    CHECK(std::string(row.data.begin(), row.data.end()) == data.substr(12));
    CHECK(row.rows == 1);
    CHECK(row.cols == 3);
  }
}

TEST_CASE("views of any strides are gathered, whole and in tiles") {
  const ScratchFolder folder;
  std::mt19937 random{std::random_device{}()};
  for (int round = 0; round < 60; ++round) {
    // A random view: a permuted slice of a contiguous tensor, with steps.
    // One round has gaps between the columns that are larger than what is read over; of two
    // dimensions, or the storage would take gigabytes.
    const int64_t far = round % 10 == 0 ? 9000 : 1;
    const size_t rank = far > 1 ? 2 : 1 + random() % 4;
    Shape shape(rank), strides(rank);
    int64_t step = 1 + static_cast<int64_t>(random() % 3);
    std::vector<size_t> order(rank);
    for (size_t i = 0; i < rank; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      shape[i] = 1 + static_cast<int64_t>(random() % 9);
      strides[i] = random() % 8 == 0 ? 0 : step;
      step *= shape[i] + static_cast<int64_t>(random() % 2);
      if (i == order[0]) step *= far;
    }
    const int64_t offset = static_cast<int64_t>(random() % 5);
    const int64_t elements = offset + step * 9 + 1;
    std::vector<uint16_t> values(static_cast<size_t>(elements));
    for (uint16_t& v : values) v = static_cast<uint16_t>(random());
    const auto source = OpenBytes(
        folder,
        TorchZip(PklDict({PklString("w"), PklTensor(PklStorage("HalfStorage", "0", elements),
                                                    offset, shape, strides)}),
                 {{"0", test::BytesOf(values)}}));
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    const TensorInfo& info = (*source)->tensors()[0];
    std::vector<uint16_t> expected;
    for (int64_t i = 0; i < info.elements(); ++i) {
      int64_t rest = i, at = offset;
      for (size_t d = rank; d-- > 0; rest /= shape[d]) at += rest % shape[d] * strides[d];
      expected.push_back(values[static_cast<size_t>(at)]);
    }
    const std::string wanted = test::BytesOf(expected);
    const std::vector<uint8_t> all = AllRows(**source, 0);
    CAPTURE(ShapeToString(shape));
    CAPTURE(ShapeToString(strides));
    CHECK(std::string(all.begin(), all.end()) == wanted);
    const int64_t row = static_cast<int64_t>(random() % static_cast<size_t>(info.rows()));
    const int64_t count =
        1 + static_cast<int64_t>(random() % static_cast<size_t>(info.rows() - row));
    EncodedTensor tile;
    REQUIRE((*source)->ReadRows(0, row, count, &tile).ok());
    const size_t row_bytes = static_cast<size_t>(info.cols()) * 2;
    CHECK(std::string(tile.data.begin(), tile.data.end()) ==
          wanted.substr(static_cast<size_t>(row) * row_bytes,
                        static_cast<size_t>(count) * row_bytes));
  }
}

TEST_CASE("the state dict is found where training programs put it") {
  const ScratchFolder folder;
  const test::Storages two = {{"0", Floats(4)}, {"1", Floats(4)}};
  const auto names = [&](const std::string& value) {
    const auto source = OpenBytes(folder, TorchZip(value, two));
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    return Names(**source);
  };
  const std::string a = Vector4("0"), b = Vector4("1");
  const std::string dict = PklDict({PklString("a"), a});
  const std::string moments =
      PklDict({PklString("state"), PklDict({PklInteger(0), PklDict({PklString("exp_avg"), b})})});
  using List = std::vector<std::string>;
  CHECK(names(dict) == List{"a"});
  for (const char* key : {"state_dict", "model_state_dict", "model", "module", "net"}) {
    CAPTURE(key);
    CHECK(names(PklDict({PklString("epoch"), PklInteger(3), PklString(key), dict,
                         PklString("optimizer"), moments})) == List{"a"});
  }
  CHECK(names(PklDict({PklString("model"), PklDict({PklString("state_dict"), dict})})) ==
        List{"a"});
  // Under no usual name: the largest outside of the optimizer; what is left out is said.
  CHECK(names(PklDict({PklString("optimizer"), PklDict({PklString("x"), b}), PklString("G"),
                       dict})) == List{"a"});
  const auto source = OpenBytes(
      folder, TorchZip(PklDict({PklString("model"), dict, PklString("optimizer"), moments}), two));
  CHECK((*source)->metadata().at("state_dict") == "model");
  CHECK((*source)->metadata().at("not_read") == "optimizer");
  // Nested dicts are flattened; integers as keys become text; what is no tensor is passed over.
  CHECK(names(PklDict({PklString("model"),
                       PklDict({PklString("b"), PklDict({PklInteger(7), b, PklString("n"), "N"}),
                                PklString("a"), a})})) == List{"a", "b.7"});
  // The tensor itself is named "model".
  CHECK(names(PklDict({PklString("model"), a})) == List{"model"});
  // Parameters, subclasses, and ties.
  const std::string parameter =
      PklCall(PklGlobal("torch._utils", "_rebuild_parameter"), {a, "\x88", "}"});
  const std::string subclass =
      PklCall(PklGlobal("torch._tensor", "_rebuild_from_type_v2"),
              {PklGlobal("torch._utils", "_rebuild_tensor_v2"), PklGlobal("my", "Tensor"),
               PklTuple({PklStorage("FloatStorage", "1", 4), PklInteger(0), test::PklIntegers({4}),
                         test::PklIntegers({1}), "\x89", "}"}),
               "N"});
  CHECK(names(PklDict({PklString("p"), parameter, PklString("s"), subclass, PklString("tied"),
                       a})) == List{"p", "tied", "s"});
  // P35. Python 2: byte strings, OrderedDict of pairs, _rebuild_tensor with four arguments.
  const std::string py2 = PklCall(PklGlobal("torch._utils", "_rebuild_tensor"),
                                  {PklStorage("FloatStorage", "0", 4), PklInteger(0),
                                   test::PklIntegers({2, 2}), test::PklIntegers({2, 1})});
  CHECK(names("ccollections\nOrderedDict\n](](U\x01w" + py2 + "ee\x85R") == List{"w"});
}

TEST_CASE("modules that were saved whole give the state dict that they would") {
  const ScratchFolder folder;
  const auto module = [](const std::string& name, const std::string& parameters,
                         const std::string& buffers, const std::string& modules) {
    return PklGlobal("torch.nn.modules." + name, "X") + ")\x81" +
           PklDict({PklString("training"), "\x88", PklString("_parameters"), parameters,
                    PklString("_buffers"), buffers, PklString("_non_persistent_buffers_set"),
                    PklCall(PklGlobal("__builtin__", "set"), {"](" + PklString("hidden") + "e"}),
                    PklString("_modules"), modules}) +
           "b";
  };
  const std::string inner =
      module("linear", PklDict({PklString("weight"), Vector4("0"), PklString("bias"), "N"}),
             PklDict({PklString("mean"), Vector4("1"), PklString("hidden"), Vector4("2")}), "}");
  const std::string whole = module("container", "}", "}", PklDict({PklString("model"), inner}));
  const test::Storages storages = {{"0", Floats(4)}, {"1", Floats(4)}, {"2", Floats(4)}};
  const std::vector<std::string> expected = {"model.weight", "model.mean"};
  for (const std::string& value : {whole, PklDict({PklString("model"), whole})}) {
    const auto source = OpenBytes(folder, TorchZip(value, storages));
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    CHECK(Names(**source) == expected);
  }
}

TEST_CASE("big-endian files are turned around") {
  const ScratchFolder folder;
  const std::vector<uint16_t> values = {0x0102, 0x0304};
  std::string swapped = test::BytesOf(values);
  std::swap(swapped[0], swapped[1]);
  std::swap(swapped[2], swapped[3]);
  auto entries = test::TorchEntries(
      PklDict({PklString("w"), PklTensor(PklStorage("ShortStorage", "0", 2), 0, {2}, {1})}),
      {{"0", swapped}});
  entries.push_back({.name = "archive/byteorder", .data = "big"});
  const std::string legacy = TorchLegacy(
      PklDict({PklString("w"), PklTensor(PklStorage("ShortStorage", "5", 2, true), 0, {2}, {1})}),
      {{"5", 2, swapped}}, /*little_endian=*/false);
  for (const std::string& bytes : {test::ZipBytes(entries), legacy}) {
    const auto source = OpenBytes(folder, bytes);
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    const auto rows = AllRows(**source, 0);
    CHECK(std::string(rows.begin(), rows.end()) == test::BytesOf(values));
  }
  entries.back().data = "middle";
  CHECK(OpenBytes(folder, test::ZipBytes(entries)).error().code == ErrorCode::kInvalidHeader);
}

TEST_CASE("a wrong checksum is met at the first read, also from many threads") {
  const ScratchFolder folder;
  auto entries =
      test::TorchEntries(PklDict({PklString("a"), Vector4("0"), PklString("b"), Vector4("1")}),
                         {{"0", Floats(4)}, {"1", Floats(4)}});
  entries[2].crc_change = 1;
  const auto source = OpenBytes(folder, test::ZipBytes(entries));
  REQUIRE(source.ok());
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (size_t t = 0; t < right.size(); ++t) {
    threads.emplace_back([&, t] {
      EncodedTensor rows;
      const bool good = (*source)->ReadRows(0, 0, 1, &rows).ok();
      const Status bad = (*source)->ReadRows(1, 0, 1, &rows);
      right[t] = good && !bad.ok() && bad.error().code == ErrorCode::kChecksum &&
                 bad.error().tensor == "b";
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == std::vector<int>(4, 1));
  // The pickle's own is compared at once.
  entries[2].crc_change = 0;
  entries[0].crc_change = 1;
  CHECK(OpenBytes(folder, test::ZipBytes(entries)).error().code == ErrorCode::kChecksum);
}

TEST_CASE("what is beside the tensors is noted") {
  const ScratchFolder folder;
  const std::string array = PklCall(PklGlobal("numpy.core.multiarray", "_reconstruct"), {"N"});
  const auto source =
      OpenBytes(folder, TorchZip(PklDict({PklString("a"), Vector4("0"), PklString("array"), array}),
                                 {{"0", Floats(4)}, {"99", Floats(2)}}));
  REQUIRE_MESSAGE(source.ok(), source.error().ToString());
  CHECK((*source)->metadata() ==
        std::map<std::string, std::string>{{"not_called", "numpy.core.multiarray._reconstruct"},
                                           {"not_tensors", "array"},
                                           {"unused_records", "1"}});
}

TEST_CASE("empty and scalar tensors") {
  const ScratchFolder folder;
  const auto source = OpenBytes(
      folder, TorchZip(PklDict({PklString("scalar"),
                                PklTensor(PklStorage("FloatStorage", "0", 4), 3, {}, {}),
                                PklString("empty"),
                                PklTensor(PklStorage("FloatStorage", "1", 0), 0, {0, 4}, {4, 1})}),
                       {{"0", Floats(4)}, {"1", ""}}));
  REQUIRE_MESSAGE(source.ok(), source.error().ToString());
  CHECK(Named(**source, "empty").empty());
  const auto bytes = Named(**source, "scalar");
  CHECK(std::string(bytes.begin(), bytes.end()) == Floats(4).substr(12));
}

}  // namespace
}  // namespace pennyweight
