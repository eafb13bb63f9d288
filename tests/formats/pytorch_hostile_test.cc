// PyTorch checkpoints that lie, and those that are not read (formats/pytorch_*.cc).
#include <doctest/doctest.h>

#include "formats/detect.h"
#include "formats/pytorch_reader.h"
#include "formats/readers.h"
#include "tests/formats/pytorch_builder.h"

namespace pennyweight {
namespace {

using std::literals::operator""s;
using test::PklCall;
using test::PklDict;
using test::PklGlobal;
using test::PklInteger;
using test::PklIntegers;
using test::PklStorage;
using test::PklString;
using test::PklTensor;
using test::PklTuple;
using test::ScratchFolder;
using test::TorchLegacy;
using test::TorchZip;

struct Case {
  const char* id;
  std::string bytes;
  ErrorCode code;
  const char* says = "";
};

void CheckAll(const std::vector<Case>& cases) {
  const ScratchFolder folder;
  for (const Case& hostile : cases) {
    CAPTURE(hostile.id);
    const std::string path = folder.Write("x.bin", hostile.bytes);
    const auto source = PytorchSource::Open({path});
    REQUIRE_FALSE(source.ok());
    CAPTURE(source.error().ToString());
    CHECK(std::string(ErrorCodeName(source.error().code)) == ErrorCodeName(hostile.code));
    CHECK(source.error().message.find(hostile.says) != std::string::npos);
    CHECK(source.error().file == path);
  }
}

const std::string kData(16, '\1');

// A zip checkpoint {"w": value} with the storage "0" of four floats.
std::string With(const std::string& value) {
  return TorchZip(PklDict({PklString("w"), value}), {{"0", kData}});
}
std::string Storage() { return PklStorage("FloatStorage", "0", 4); }
std::string View(int64_t offset, const std::vector<int64_t>& shape,
                 const std::vector<int64_t>& strides) {
  return With(PklTensor(Storage(), offset, shape, strides));
}
std::string Rebuild(const std::string& function, const std::vector<std::string>& arguments) {
  return With(PklCall(PklGlobal("torch._utils", function), arguments));
}

TEST_CASE("views that leave their storage are refused") {
  const int64_t big = INT64_MAX;
  CheckAll({
      {"P22", View(0, {-1}, {1}), ErrorCode::kInvalidTensor, "negative"},
      {"P23", View(0, {4}, {-1}), ErrorCode::kInvalidTensor, "negative"},
      {"offset", View(-1, {4}, {1}), ErrorCode::kInvalidTensor, "negative"},
      {"P24", View(1, {4}, {1}), ErrorCode::kInvalidTensor, "past its storage"},
      {"P24 stride", View(0, {2, 2}, {3, 1}), ErrorCode::kInvalidTensor, "past its storage"},
      {"P25 offset", View(big, {4}, {1}), ErrorCode::kInvalidTensor, "past its storage"},
      {"P25 stride", View(0, {3, 1}, {big, 1}), ErrorCode::kInvalidTensor, "past its storage"},
      {"P25 wraps", View(0, {5, 5}, {1LL << 62, 1LL << 62}), ErrorCode::kInvalidTensor,
       "past its storage"},
      {"P26", View(0, {1000000000000}, {0}), ErrorCode::kLimit, "expanded"},
      {"elements", View(0, {1LL << 40, 1LL << 40}, {0, 0}), ErrorCode::kOverflow},
      {"bytes", View(0, {1LL << 62}, {0}), ErrorCode::kOverflow},
      {"rank", View(0, std::vector<int64_t>(17, 1), std::vector<int64_t>(17, 1)), ErrorCode::kLimit,
       "dimensions"},
      {"strides missing", View(0, {2, 2}, {1}), ErrorCode::kInvalidTensor, "strides"},
  });
}

TEST_CASE("calls with wrong arguments are refused") {
  const std::string four = PklIntegers({4}), one = PklIntegers({1});
  const auto bad = ErrorCode::kInvalidPickle;
  CheckAll({
      {"P21", Rebuild("_rebuild_tensor_v2", {}), bad, "arguments"},
      {"too many", Rebuild("_rebuild_tensor", {Storage(), "K\0"s, four, one, "N"}), bad},
      {"no storage", Rebuild("_rebuild_tensor", {PklString("0"), "K\0"s, four, one}), bad},
      {"text as offset", Rebuild("_rebuild_tensor", {Storage(), PklString("0"), four, one}), bad},
      {"text as shape", Rebuild("_rebuild_tensor", {Storage(), "K\0"s, PklString("4"), one}), bad},
      {"texts in a shape",
       Rebuild("_rebuild_tensor", {Storage(), "K\0"s, PklTuple({PklString("4")}), one}), bad},
      {"a big integer in a shape",
       Rebuild("_rebuild_tensor",
               {Storage(), "K\0"s, PklTuple({"\x8a\x09" + std::string(9, '\x7f')}), one}),
       bad},
      {"parameter of nothing", Rebuild("_rebuild_parameter", {}), bad},
      {"parameter of a string", Rebuild("_rebuild_parameter", {PklString("x"), "\x88", "}"}), bad},
      {"P19", With(PklTensor(Storage(), 0, {4}, {1}) + "(K\1K\2u"), bad, "into a tensor"},
  });
}

TEST_CASE("storages that lie are refused") {
  const std::string two =
      PklDict({PklString("a"), PklTensor(Storage(), 0, {4}, {1}), PklString("b"),
               PklTensor(PklStorage("HalfStorage", "0", 4), 0, {4}, {1})});
  const auto pid = [](const std::string& value) {
    return With(PklTensor(value + "Q", 0, {4}, {1}));
  };
  const auto numel = [](int64_t n) {
    return With(PklTensor(PklStorage("FloatStorage", "0", n), 0, {4}, {1}));
  };
  const std::string good = PklDict({PklString("w"), PklTensor(Storage(), 0, {4}, {1})});
  const auto bad = ErrorCode::kInvalidPickle;
  CheckAll({
      {"Z14 smaller", TorchZip(good, {{"0", "123"}}), ErrorCode::kInvalidTensor, "has 3 bytes"},
      {"Z14 larger", TorchZip(good, {{"0", kData + "x"}}), ErrorCode::kInvalidTensor},
      {"Z15", TorchZip(good, {{"1", kData}}), ErrorCode::kInvalidTensor, "not in the archive"},
      {"P27", TorchZip(two, {{"0", kData}}), ErrorCode::kInvalidTensor, "HalfStorage"},
      {"P28 text", pid(PklString("storage")), bad},
      {"P28 module", pid(PklTuple({PklString("module"), PklGlobal("a", "b")})), bad},
      {"P28 -1", numel(-1), ErrorCode::kOverflow},
      {"P28 2^62", numel(1LL << 62), ErrorCode::kOverflow},
      {"numel beyond the record", numel(1LL << 40), ErrorCode::kInvalidTensor},
      {"unknown type", With(PklTensor(PklStorage("NewStorage", "0", 4), 0, {4}, {1})),
       ErrorCode::kUnknownDtype, "NewStorage"},
      {"key in a path",
       TorchZip(PklDict({PklString("w"),
                         PklTensor(PklStorage("FloatStorage", "../data.pkl", 4), 0, {4}, {1})}),
                {{"0", kData}}),
       ErrorCode::kInvalidTensor, "not in the archive"},
  });
}

TEST_CASE("archives that are no checkpoint, or a strange one, are refused") {
  auto behind = test::TorchEntries(PklDict({PklString("w"), PklTensor(Storage(), 0, {4}, {1})}),
                                   {{"0", kData}});
  auto two_folders = behind;
  two_folders.back().name = "other/version";
  auto packed = behind;
  packed[1].method = 8;
  behind[0].data += test::Pkl(PklCall(PklGlobal("os", "system"), {PklString("true")}));
  CheckAll({
      {"P30", test::ZipBytes(behind), ErrorCode::kInvalidPickle, "follow"},
      {"Z18", test::ZipBytes(two_folders), ErrorCode::kUnknownFormat, "more than one folder"},
      {"npz", test::ZipBytes({{.name = "a.npy", .data = "x"}}), ErrorCode::kUnknownFormat,
       "not a PyTorch checkpoint"},
      {"no data.pkl", test::ZipBytes({{.name = "a/b", .data = "x"}}), ErrorCode::kUnknownFormat,
       "data.pkl"},
      {"TorchScript 1.0", test::ZipBytes({{.name = "a/model.json", .data = "{}"}}),
       ErrorCode::kUnknownFormat, "TorchScript"},
  });
  // A storage that is compressed is refused when it is read.
  const ScratchFolder folder;
  const auto source = PytorchSource::Open({folder.Write("x.pt", test::ZipBytes(packed))});
  REQUIRE(source.ok());
  EncodedTensor rows;
  CHECK((*source)->ReadRows(0, 0, 1, &rows).error().code == ErrorCode::kUnsupported);
}

TEST_CASE("legacy files that lie are refused") {
  const std::string value =
      PklDict({PklString("w"), PklTensor(PklStorage("FloatStorage", "7", 4, true), 0, {4}, {1})});
  const std::string good = TorchLegacy(value, {{"7", 4, kData}});
  const std::string evil =
      test::Pkl(PklCall(PklGlobal("builtins", "eval"), {PklString("0x1950a86a20f9469cfc6c")}));
  CheckAll({
      {"P32", TorchLegacy(value, {{"7", 4, kData}}, true, evil), ErrorCode::kUnknownFormat,
       "none that torch.save wrote"},
      {"P33", TorchLegacy(value, {{"7", 3, kData}}), ErrorCode::kInvalidTensor, "has 3 elements"},
      {"P33 negative", TorchLegacy(value, {{"7", -1, kData}}), ErrorCode::kInvalidTensor},
      {"P34", good.substr(0, good.size() - 1), ErrorCode::kTruncated},
      {"in the count", good.substr(0, good.size() - 20), ErrorCode::kTruncated},
      {"bytes behind", good + "x", ErrorCode::kIncompleteBuffer},
      {"a storage more", TorchLegacy(value, {{"7", 4, kData}, {"8", 4, kData}}),
       ErrorCode::kInvalidTensor},
      {"twice", TorchLegacy(value, {{"7", 4, kData}, {"7", 4, kData}}), ErrorCode::kInvalidTensor},
      {"none", TorchLegacy(value, {}), ErrorCode::kInvalidTensor},
      {"bare pickle", test::Pkl(PklDict({PklString("a"), PklInteger(1)})),
       ErrorCode::kUnknownFormat},
      {"magic alone", test::kTorchMagic, ErrorCode::kTruncated},
      {"a hidden pickle between",
       test::kTorchMagic + test::Pkl(PklCall(PklGlobal("os", "system"), {})),
       ErrorCode::kInvalidHeader},
  });
  const ScratchFolder folder;
  for (size_t n = 0; n < good.size(); ++n) {
    CAPTURE(n);
    CHECK_FALSE(PytorchSource::Open({folder.Write("x.bin", good.substr(0, n))}).ok());
  }
}

TEST_CASE("tensors that are not read are named with their kind") {
  const std::string dense = PklTensor(Storage(), 0, {4}, {1});
  const std::string v3 = "_rebuild_tensor_v3";
  const auto with_v3 = [&](const std::string& dtype) {
    return Rebuild(v3, {PklStorage("UntypedStorage", "0", 16), "K\0"s, PklIntegers({4}),
                        PklIntegers({1}), "\x89", "}", PklGlobal("torch", dtype)});
  };
  const auto no = ErrorCode::kUnsupported;
  CheckAll({
      {"quantized", Rebuild("_rebuild_qtensor", {}), no, "quantized"},
      {"sparse", Rebuild("_rebuild_sparse_tensor", {dense}), no, "sparse"},
      {"meta", Rebuild("_rebuild_meta_tensor_no_storage", {}), no, "without data"},
      {"future", Rebuild("_rebuild_tensor_v9", {}), no, "_rebuild_tensor_v9"},
      {"complex128",
       TorchZip(PklDict({PklString("w"),
                         PklTensor(PklStorage("ComplexDoubleStorage", "0", 1), 0, {1}, {1})}),
                {{"0", kData}}),
       no, "ComplexDoubleStorage"},
      {"untyped storage in v2", With(PklTensor(PklStorage("UntypedStorage", "0", 16), 0, {4}, {1})),
       no, "UntypedStorage"},
      {"P42", With(PklTensor(Storage(), 0, {4}, {1}, {PklDict({PklString("neg"), "\x88"})})), no,
       "neg"},
      {"sub-byte", with_v3("float4_e2m1fn_x2"), no, "float4"},
  });
  const ScratchFolder folder;
  const auto good = PytorchSource::Open({folder.Write("x.pt", with_v3("uint32"))});
  REQUIRE_MESSAGE(good.ok(), good.error().ToString());
  CHECK((*good)->tensors()[0].encoding.dtype == DType::kU32);
  const auto past = PytorchSource::Open({folder.Write("x.pt", with_v3("uint64"))});
  CHECK(past.error().code == ErrorCode::kInvalidTensor);
}

TEST_CASE("checkpoints without a state dict say what they hold") {
  const std::string tensor = PklTensor(Storage(), 0, {4}, {1});
  std::string nested;
  for (int i = 0; i < 1000; ++i) nested += "}" + PklString("a");
  nested += tensor + std::string(1000, 's');
  CheckAll({
      {"nothing", TorchZip("}", {}), ErrorCode::kTensorMissing, "no tensor"},
      {"a number", TorchZip("K\1", {}), ErrorCode::kTensorMissing, "no tensor"},
      {"a list", TorchZip("](" + tensor + "e", {{"0", kData}}), ErrorCode::kTensorMissing,
       "no state dict"},
      {"a list in itself", TorchZip("]q\0h\0a"s, {}), ErrorCode::kTensorMissing},
      {"a dict in itself", TorchZip("}q\0"s + PklString("model") + "h\0s"s, {}),
       ErrorCode::kTensorMissing},
      {"P1", TorchZip(PklCall(PklGlobal("os", "system"), {PklString("true")}), {}),
       ErrorCode::kTensorMissing, "os.system"},
      {"P38", TorchZip(PklDict({PklString("w"), tensor, PklString("w"), tensor}), {{"0", kData}}),
       ErrorCode::kDuplicateKey},
      {"the same by a dot",
       TorchZip(
           PklDict({PklString("a.b"), tensor, PklString("a"), PklDict({PklString("b"), tensor})}),
           {{"0", kData}}),
       ErrorCode::kDuplicateKey},
      {"empty name", TorchZip(PklDict({PklString(""), tensor}), {{"0", kData}}),
       ErrorCode::kInvalidName},
      {"NUL", TorchZip(PklDict({PklString("a\0b"s), tensor}), {{"0", kData}}),
       ErrorCode::kInvalidName},
      {"long name", TorchZip(PklDict({PklString(std::string(2000, 'n')), tensor}), {{"0", kData}}),
       ErrorCode::kInvalidName},
      {"P9", TorchZip(nested, {{"0", kData}}), ErrorCode::kTensorMissing},
  });
}

TEST_CASE("dicts that hold each other many times end soon") {
  // Each level holds the one below three times: 3^40 paths, 40 dicts.
  std::string value = PklDict({PklString("t"), PklTensor(Storage(), 0, {4}, {1})});
  for (int level = 0; level < 40; ++level) {
    value += "q" + std::string(1, static_cast<char>(level)) + "0}(";
    for (const char* key : {"a", "b", "c"}) {
      value += PklString(key) + "h" + std::string(1, static_cast<char>(level));
    }
    value += "u";
  }
  const ScratchFolder folder;
  const auto found = PytorchSource::Open({folder.Write("x.pt", TorchZip(value, {{"0", kData}}))});
  REQUIRE_MESSAGE(found.ok(), found.error().ToString());  // the dict with the tensor, once
  CHECK((*found)->tensors().size() == 1);
  const auto all = PytorchSource::Open(
      {folder.Write("x.pt", TorchZip(PklDict({PklString("model"), value}), {{"0", kData}}))});
  REQUIRE_FALSE(all.ok());
  CHECK(all.error().code == ErrorCode::kLimit);
}

TEST_CASE("a key chooses the state dict, and a wrong one is answered with those there are") {
  const auto dict = [](const char* name) {
    return PklDict({PklString(name), PklTensor(Storage(), 0, {4}, {1})});
  };
  const std::string value =
      PklDict({PklString("model"), dict("w"), PklString("ema"),
               PklDict({PklString("inner"), dict("v"), PklString("n"), PklInteger(3)})});
  const ScratchFolder folder;
  const std::string path = folder.Write("x.pt", TorchZip(value, {{"0", kData}}));
  const auto name_by = [&](std::string_view key) {
    const auto source = PytorchSource::Open({path}, key);
    return source.ok() ? (*source)->tensors().at(0).name : source.error().hint;
  };
  CHECK(name_by("") == "w");
  CHECK(name_by("model") == "w");
  CHECK(name_by("ema.inner") == "v");
  CHECK(name_by("ema") == "inner.v");
  for (const char* wrong : {"emu", "ema.n", "ema.inner.v", "."}) {
    const auto source = PytorchSource::Open({path}, wrong);
    REQUIRE_FALSE(source.ok());
    CHECK(source.error().code == ErrorCode::kTensorMissing);
    CHECK(source.error().hint == "--key takes the place of a dict, as model, ema, ema.inner");
  }
}

TEST_CASE("what a checkpoint would run is data beside the weights") {
  const ScratchFolder folder;
  const std::string made = folder.Path("made");
  const std::string call = PklCall(PklGlobal("os", "system"), {PklString("touch " + made)});
  const std::string dict = PklDict({PklString("w"), PklTensor(Storage(), 0, {4}, {1})});
  const auto source = PytorchSource::Open(
      {folder.Write("x.pt", TorchZip(PklDict({PklString("args"), call, PklString("model"), dict}),
                                     {{"0", kData}}))});
  REQUIRE_MESSAGE(source.ok(), source.error().ToString());
  CHECK((*source)->metadata().at("not_called") == "os.system");
  EncodedTensor rows;
  CHECK((*source)->ReadRows(0, 0, 1, &rows).ok());
  CHECK_FALSE(std::filesystem::exists(made));
}

TEST_CASE("other files are named for what they are") {
  const std::string tar = std::string(257, 'a') + "ustar" + std::string(300, '\0');
  const auto unknown = ErrorCode::kUnknownFormat;
  CheckAll({
      {"G1", "", ErrorCode::kTruncated},
      {"G4", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ErrorCode::kLfsPointer,
       "git-lfs"},
      {"G5", "<!DOCTYPE html><html>", unknown, "HTML"},
      {"G8 safetensors", test::SafetensorsFile({{"a", "U8", {1}, "1"}}), unknown, "safetensors"},
      {"G8 GGUF", "GGUF" + std::string(100, '\0'), unknown, "GGUF"},
      {"G9 7z", "7z\xBC\xAF\x27\x1C" + std::string(100, '\0'), unknown, "compressed"},
      {"tar", tar, unknown, "tar"},
      {"preview", "PYTORCH1" + std::string(100, '\0'), unknown, "preview"},
      {"text", "hello, world, this is text", unknown, "neither"},
  });
}

TEST_CASE("every flipped byte of a checkpoint is survived, and no read leaves the file") {
  const ScratchFolder folder;
  const std::string value = PklDict({PklString("w"), PklTensor(Storage(), 0, {2, 2}, {1, 2})});
  const std::string legacy = PklDict(
      {PklString("w"), PklTensor(PklStorage("FloatStorage", "7", 4, true), 0, {2, 2}, {1, 2})});
  for (const std::string& bytes :
       {TorchZip(value, {{"0", kData}}), TorchLegacy(legacy, {{"7", 4, kData}})}) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (const char flip : {'\x01', '\xFF'}) {
        std::string changed = bytes;
        changed[i] = static_cast<char>(changed[i] ^ flip);
        const auto source = PytorchSource::Open({folder.Write("x.pt", changed)});
        if (!source.ok()) continue;
        for (size_t t = 0; t < (*source)->tensors().size(); ++t) {
          EncodedTensor rows;
          const Status read = (*source)->ReadRows(t, 0, (*source)->tensors()[t].rows(), &rows);
          if (!read.ok()) CHECK(read.error().code == ErrorCode::kChecksum);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pennyweight
