// Hostile and odd files by the numbers of the list they come from (G generic, S safetensors, Z zip,
// P pickle, U GGUF): what is not in the tests of the single readers. `why` is said where the answer
// is a decision.
#include <doctest/doctest.h>

#include <functional>

#include "formats/detect.h"
#include "formats/gguf_reader.h"
#include "formats/pytorch_reader.h"
#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/pytorch_builder.h"

namespace pennyweight {
namespace {

using std::literals::operator""s;
using test::PklCall;
using test::PklDict;
using test::PklGlobal;
using test::PklInteger;
using test::PklStorage;
using test::PklString;
using test::PklTensor;
using test::PklTuple;
using test::SafetensorsBytes;
using test::ScratchFolder;
using test::TorchEntries;
using test::TorchZip;
using test::ZipBytes;

struct Case {
  const char* id;
  const char* name;  // of the file
  std::string bytes;
  const char* code;       // of the error; "" when the file is read
  const char* note = "";  // KEY=VALUE that must be in the metadata
  const char* why = "";   // where another answer would have been possible
};

// As the program opens a file: by its content.
Result<Model> Open(const std::string& path) {
  PW_ASSIGN(const FileFormat format, DetectFormat(path));
  if (format == FileFormat::kGguf) return OpenGguf(path);
  if (format == FileFormat::kPytorch) return OpenPytorch(path);
  return OpenSafetensors(path);
}

void CheckAll(const std::vector<Case>& cases) {
  const ScratchFolder folder;
  for (const Case& c : cases) {
    const std::string id = c.id;
    CAPTURE(id);
    const std::string path = folder.Write(c.name, c.bytes);
    const auto model = Open(path);
    const std::string said = model.ok() ? "" : ErrorCodeName(model.error().code);
    if (!model.ok()) CAPTURE(model.error().ToString());
    CHECK(said == c.code);
    if (!model.ok()) {
      CHECK(model.error().file == path);
      CHECK_FALSE(model.error().message.empty());
      continue;
    }
    const std::string_view note = c.note;
    if (!note.empty()) {
      const auto& metadata = model->source->metadata();
      const auto found = metadata.find(std::string(note.substr(0, note.find('='))));
      REQUIRE(found != metadata.end());
      CHECK(found->second.find(note.substr(note.find('=') + 1)) != std::string::npos);
    }
    // What was accepted can be read, or says why not.
    for (size_t i = 0; i < model->source->tensors().size(); ++i) {
      EncodedTensor rows;
      const TensorInfo& info = model->source->tensors()[i];
      CHECK(model->source->ReadRows(i, 0, info.rows(), &rows).ok());
    }
  }
}

const std::string kFour = "\x01\x02\x03\x04";

std::string Safetensors() { return test::SafetensorsFile({{"a", "U8", {4}, kFour}}); }
std::string Gguf() { return GgufBytes().Start(1, 0).Tensor("t", {8}, 0, 0).Align().Data(32).text; }
std::string Tensor(const std::string& key = "0") {
  return PklTensor(PklStorage("ByteStorage", key, 4), 0, {4}, {1});
}
std::string Dict() { return PklDict({PklString("w"), Tensor()}); }
std::string Torch() { return TorchZip(Dict(), {{"0", kFour}}); }

// A checkpoint with the tensor "w" and one more value.
std::string Beside(const std::string& value) {
  return TorchZip(PklDict({PklString("model"), Dict(), PklString("x"), value}), {{"0", kFour}});
}

// A checkpoint with one more entry in its archive.
std::string With(const test::ZipFile& entry) {
  auto entries = TorchEntries(Dict(), {{"0", kFour}});
  entries.push_back(entry);
  return ZipBytes(entries);
}

TEST_CASE("generic: files are what they hold, whatever they are called") {
  CheckAll({
      {"G1", "x.gguf", "", "truncated"},
      {"G4", "x.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "lfs_pointer"},
      {"G5", "x.pt", "\n<!DOCTYPE html><html>", "unknown_format"},
      {"G5 upper case", "x.gguf", "<HTML><BODY>404</BODY></HTML>", "unknown_format"},
      {"G8 GGUF in safetensors", "x.safetensors", Gguf(), "", "",
       "the content decides, and every table says the format"},
      {"G8 GGUF in pt", "x.pt", Gguf(), ""},
      {"G8 safetensors in gguf", "x.gguf", Safetensors(), ""},
      {"G8 safetensors in bin", "x.bin", Safetensors(), ""},
      {"G8 PyTorch in safetensors", "x.safetensors", Torch(), ""},
      {"G8 PyTorch in gguf", "x.gguf", Torch(), ""},
      {"G9 7z", "x.bin", "7z\xBC\xAF\x27\x1C"s + std::string(64, '\1'), "unknown_format"},
      {"G9 gzip", "x.bin", "\x1F\x8B\x08"s + std::string(64, '\1'), "unknown_format"},
      {"G9 xz", "x.bin",
       "\xFD"
       "7zXZ\0"s +
           std::string(64, '\1'),
       "unknown_format"},
      {"G9 zstd", "x.bin", "\x28\xB5\x2F\xFD"s + std::string(64, '\1'), "unknown_format"},
  });
}

TEST_CASE("safetensors: white space in front of the header is read, and noted") {
  const ScratchFolder folder;
  const std::string entry = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  for (const char* front : {"", "  \n"}) {
    const auto source = SafetensorsSource::Open(
        {folder.Write("x.safetensors", SafetensorsBytes(front + entry, kFour))});
    REQUIRE_MESSAGE(source.ok(), source.error().ToString());
    CHECK((*source)->notes().size() == (front[0] == ' ' ? 1 : 0));
  }
}

TEST_CASE("safetensors") {
  const std::string zip = ZipBytes({{.name = "a/data.pkl", .data = "x"}});
  CheckAll({
      {"S20 escaped metadata", "x", SafetensorsBytes(R"({"__metadata__":{"a":"1","\u0061":"2"}})"),
       "duplicate_key"},
      {"S21 escaped", "x", SafetensorsBytes(R"({"__metadata__":{},"__metadata_\u005f":{}})"),
       "duplicate_key"},
      {"S26 no numbers", "x",
       SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[null,0]}})"),
       "invalid_header"},
      {"S28 in metadata", "x",
       SafetensorsBytes("{\"__metadata__\":{\"a\":" + std::string(100'000, '[') + "}}"), "limit"},
      {"S42 zip", "x", Safetensors() + zip, "incomplete_buffer"},
      {"Z24", "x.pt", Safetensors() + Torch(), "incomplete_buffer"},
  });
}

TEST_CASE("zip archives of checkpoints") {
  const auto packed_pickle = [](const std::string& name) {
    auto entries = TorchEntries(Dict(), {{"0", kFour}});
    entries[0] = test::Deflated(name, entries[0].data);
    return entries;
  };
  auto short_pickle = packed_pickle("archive/data.pkl");
  short_pickle[0].packed.resize(short_pickle[0].packed.size() - 1);
  auto wrong_crc = packed_pickle("archive/data.pkl");
  wrong_crc[0].crc_change = 1;
  auto bomb = TorchEntries(Dict(), {{"0", kFour}});
  bomb[0] = test::Deflated("archive/data.pkl", std::string(100'000'000, 'N'));
  auto announced = packed_pickle("archive/data.pkl");
  announced[0].data += "x";  // one byte more than the packed data hold
  test::ZipOptions commented;
  commented.comment = std::string(65'535, 'c');
  const std::string script = PklTuple({PklString("constants")});
  CheckAll({
      {"Z5 deflated pickle", "x.pt", ZipBytes(packed_pickle("archive/data.pkl")), ""},
      {"Z5 packed data cut", "x.pt", ZipBytes(short_pickle), "invalid_archive"},
      {"Z5 another size", "x.pt", ZipBytes(announced), "invalid_archive"},
      {"Z13 deflated", "x.pt", ZipBytes(wrong_crc), "checksum"},
      {"Z6", "x.pt", ZipBytes(bomb), "limit"},
      {"Z16", "x.pt", With({.name = "archive/data/99", .data = "1234"}), "", "unused_records=1"},
      {"Z17", "x.pt", With({.name = "archive/byteorder", .data = "middle"}), "invalid_header"},
      {"Z17 deflated", "x.pt", With(test::Deflated("archive/byteorder", "little")), ""},
      {"Z19", "x.pt", With({.name = "archive/constants.pkl", .data = test::Pkl(script)}), "",
       "torchscript=not read"},
      {"Z26", "x.pt", With({.name = "archive/.storage_alignment", .data = "abc"}), "",
       "storage_alignment=not a number", "nothing depends on it: noted, not refused"},
      {"Z10 comment of 64 KiB", "x.pt", ZipBytes(TorchEntries(Dict(), {{"0", kFour}}), commented),
       "incomplete_buffer", "", "a comment is where a second archive hides: never needed, refused"},
  });
  // The same alignment as a number is no note.
  const ScratchFolder folder;
  const auto model =
      Open(folder.Write("x.pt", With({.name = "archive/.storage_alignment", .data = "64"})));
  REQUIRE(model.ok());
  CHECK(model->source->metadata().count("storage_alignment") == 0);
}

TEST_CASE("pickles of checkpoints") {
  const std::string keyed = PklDict({PklInteger(7), Tensor()});
  // P2: the pieces of the name from the memo.
  const std::string memoised = PklString("system") + "q\1" + "0" + PklString("os") + "q\2" + "0" +
                               "h\2h\1\x93" + PklTuple({PklString("true")}) + "R";
  const std::string from_type = PklCall(PklGlobal("torch._tensor", "_rebuild_from_type_v2"),
                                        {PklGlobal("os", "system"), PklGlobal("torch", "Tensor"),
                                         PklTuple({PklString("true")}), "}"});
  const std::string nested = PklCall(PklGlobal("torch.storage", "_load_from_bytes"),
                                     {"B" + test::LittleEndian(uint32_t{4}) + "evil"});
  CheckAll({
      {"P2", "x.pt", Beside(memoised), "", "not_called=os.system",
       "what would run is named; how bad it is, verify says"},
      {"P41", "x.pt", Beside(PklCall(PklGlobal("asyncio.unix_events", "_Popen"), {})), "",
       "not_called=asyncio.unix_events._Popen"},
      {"P43", "x.pt",
       Beside(PklCall(
           PklGlobal("builtins", "getattr"),
           {PklCall(PklGlobal("builtins", "__import__"), {PklString("os")}), PklString("system")})),
       "", "not_called=builtins.__import__"},
      {"P36", "x.pt", TorchZip(PklDict({PklString("w"), from_type}), {}), "unsupported", "",
       "it stands where a tensor should: not a tensor that is read here"},
      {"P37", "x.pt", Beside(nested), "", "not_called=torch.storage._load_from_bytes"},
      {"P39", "x.pt", TorchZip(keyed, {{"0", kFour}}), "", "",
       "the number becomes the name, which every table shows: no note"},
      {"P40", "x.pt",
       Beside(PklCall(PklGlobal("argparse", "Namespace"), {}) + PklDict({PklString("lr"), "N"}) +
              "b"),
       "", "not_called=argparse.Namespace"},
      {"P29 EXT2", "x.pt", Beside("\x83\x01\x01"), "invalid_pickle"},
      {"P29 EXT4", "x.pt", Beside("\x84\x01\x01\x01\x01"), "invalid_pickle"},
      {"P44 a name of 513 bytes", "x.pt", Beside(PklGlobal("m", std::string(513, 'n'))),
       "invalid_pickle"},
  });
}

TEST_CASE("GGUF metadata that contradict themselves leave the tensors readable") {
  const auto with = [](const std::function<void(GgufBytes&)>& keys, uint64_t count) {
    GgufBytes bytes;
    bytes.Start(1, count);
    keys(bytes);
    return bytes.Tensor("t", {8}, 0, 0).Align().Data(32).text;
  };
  const ScratchFolder folder;
  // U37: what cannot be used is an error of the vocabulary, not of the file.
  const auto lengths = Open(
      folder.Write("x.gguf", with(
                                 [](GgufBytes& b) {
                                   b.Text("tokenizer.ggml.model", "llama");
                                   b.ArrayStart("tokenizer.ggml.tokens", 8, 2).Str("a").Str("b");
                                   b.ArrayStart("tokenizer.ggml.scores", 6, 1).Put<float>(0);
                                 },
                                 3)));
  REQUIRE_MESSAGE(lengths.ok(), lengths.error().ToString());
  REQUIRE(lengths->vocabulary_error);
  CHECK(lengths->vocabulary_error->code == ErrorCode::kTokenizer);
  // U38.
  const auto layers = Open(folder.Write("x.gguf", with(
                                                      [](GgufBytes& b) {
                                                        b.Text("general.architecture", "llama");
                                                        b.U32("llama.block_count", 1'000'000'000);
                                                      },
                                                      2)));
  REQUIRE_MESSAGE(layers.ok(), layers.error().ToString());
  REQUIRE(layers->config_error);
  CHECK(layers->config_error->code == ErrorCode::kConfigInvalid);
  // A number for each of very many layers.
  const auto list = Open(folder.Write("x.gguf", with(
                                                    [](GgufBytes& b) {
                                                      b.Text("general.architecture", "llama");
                                                      b.ArrayStart("llama.block_count", 0, 5000);
                                                      b.Data(5000);
                                                    },
                                                    2)));
  REQUIRE_MESSAGE(list.ok(), list.error().ToString());
  REQUIRE(list->config_error);
  CHECK(list->config_error->code == ErrorCode::kConfigInvalid);
}

TEST_CASE("GGUF: a note for each of many oddities does not fill the report") {
  GgufBytes bytes;
  bytes.Start(0, 1000);
  for (int i = 0; i < 1000; ++i) bytes.Bool(fmt::format("k{}", i), 2);
  const ScratchFolder folder;
  const auto file = GgufFile::Open(folder.Write("x.gguf", bytes.text));
  REQUIRE_MESSAGE(file.ok(), file.error().ToString());
  CHECK(file->notes().size() < 50);
  CHECK(file->notes().size() > 10);
}

}  // namespace
}  // namespace pennyweight
