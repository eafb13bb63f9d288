// No input may make a reader hold more than 64 MiB and four times its size. Inputs of tens of
// megabytes that say as much as they can with each byte; the fuzzers check the same on small ones.
#include <doctest/doctest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include "formats/pickle.h"
#include "formats/pytorch_pickle.h"
#include "formats/readers.h"
#include "formats/shard_index.h"
#include "formats/zip_reader.h"
#include "lib/json.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/pytorch_builder.h"

namespace {

// Bytes that are live, and the most that were since the last reset.
std::atomic<int64_t> live{0};
std::atomic<int64_t> most{0};

void* Count(void* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  const auto bytes = static_cast<int64_t>(malloc_usable_size(pointer));
  const int64_t now = live.fetch_add(bytes) + bytes;
  if (now > most.load()) most.store(now);
  return pointer;
}

void Release(void* pointer) {
  live.fetch_sub(static_cast<int64_t>(malloc_usable_size(pointer)));
  std::free(pointer);
}

}  // namespace

void* operator new(size_t bytes) { return Count(std::malloc(bytes)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  const auto step = static_cast<size_t>(alignment);
  return Count(std::aligned_alloc(step, (bytes + step - 1) / step * step));
}
void operator delete(void* pointer) noexcept { Release(pointer); }
void operator delete(void* pointer, size_t) noexcept { Release(pointer); }
void operator delete(void* pointer, std::align_val_t) noexcept { Release(pointer); }
void operator delete(void* pointer, size_t, std::align_val_t) noexcept { Release(pointer); }

namespace pennyweight {
namespace {

using std::literals::operator""s;

// What `read` holds at most beyond what there was before.
int64_t PeakOf(const std::function<void()>& read) {
  const int64_t before = live.load();
  most.store(before);
  read();
  return most.load() - before;
}

// `code`: of the error; empty when the input is read.
using Read = std::function<std::string(const std::string& path)>;

void Check(const std::string& id, const std::string& bytes, std::string_view name, const Read& read,
           std::string_view code) {
  CAPTURE(id);
  const test::ScratchFolder folder;
  const std::string path = folder.Write(std::string(name), bytes);
  std::string said;
  const int64_t peak = PeakOf([&] { said = read(path); });
  CHECK(said == code);
  const int64_t allowed = (int64_t{64} << 20) + 4 * static_cast<int64_t>(bytes.size());
  CHECK(peak <= allowed);
  CHECK(peak > 0);  // something was counted
}

template <class T>
std::string Code(const T& result) {
  return result.ok() ? "" : ErrorCodeName(result.error().code);
}

std::string Repeat(size_t n, const std::function<std::string(size_t)>& part) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += part(i);
  return out;
}

std::string ReadSafetensors(const std::string& path) { return Code(OpenSafetensors(path)); }
std::string ReadGguf(const std::string& path) { return Code(OpenGguf(path)); }

TEST_CASE("what is counted is what is allocated") {
  CHECK(PeakOf([] { CHECK(std::string(10'000'000, 'x').size() == 10'000'000); }) >= 10'000'000);
  CHECK(PeakOf([] {}) == 0);
}

TEST_CASE("safetensors headers") {
  const auto file = [](const std::string& header, const std::string& data = "") {
    return test::SafetensorsBytes("{" + header + "}", data);
  };
  const auto tensors = [&](size_t n, const std::string& entry) {
    return Repeat(
        n, [&](size_t i) { return fmt::format("{}\"t{}\":{}", i > 0 ? "," : "", i, entry); });
  };
  Check("S9: a million tensors on one range",
        file(tensors(1'000'000, R"({"dtype":"U8","shape":[16],"data_offsets":[0,16]})"),
             "0123456789abcdef"),
        "x.safetensors", ReadSafetensors, "invalid_offset");
  Check("500000 empty tensors of rank 16",
        file(tensors(500'000, R"({"dtype":"U8","shape":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],)"
                              R"("data_offsets":[0,0]})")),
        "x.safetensors", ReadSafetensors, "limit");
  Check("metadata of a million keys",
        file("\"__metadata__\":{" +
             Repeat(1'000'000,
                    [](size_t i) { return fmt::format("{}\"{}\":\"\"", i > 0 ? "," : "", i); }) +
             "}"),
        "x.safetensors", ReadSafetensors, "limit");
  Check("ten million numbers",
        file("\"a\":[0" + Repeat(10'000'000, [](size_t) { return ",0"; }) + "]"), "x.safetensors",
        ReadSafetensors, "limit");
  Check("five million empty lists",
        file("\"a\":[[]" + Repeat(5'000'000, [](size_t) { return ",[]"; }) + "]"), "x.safetensors",
        ReadSafetensors, "limit");
  Check("a name of 40 MB", file("\"" + std::string(40'000'000, 'n') + "\":1"), "x.safetensors",
        ReadSafetensors, "limit");
  Check("a string of 16 MB, many times",
        file("\"__metadata__\":{" +
             Repeat(4,
                    [](size_t i) {
                      return fmt::format("{}\"{}\":\"{}\"", i > 0 ? "," : "", i,
                                         std::string(16'000'000, 'm'));
                    }) +
             "}"),
        "x.safetensors", ReadSafetensors, "");
}

TEST_CASE("shard indexes") {
  const std::string map = Repeat(
      1'000'000, [](size_t i) { return fmt::format("{}\"{}\":\"s\"", i > 0 ? "," : "", i); });
  const Read read = [](const std::string& path) {
    return Code(FindWeightFiles(path.substr(0, path.rfind('/'))));
  };
  Check("a million tensors in one shard", "{\"weight_map\":{" + map + "}}",
        "model.safetensors.index.json", read, "limit");
  Check("as many beside the map", "{\"metadata\":{" + map + "},\"weight_map\":{}}",
        "model.safetensors.index.json", read, "limit");
}

TEST_CASE("pickles") {
  const Read parse = [](const std::string& path) -> std::string {
    const auto file = ReadFile::Open(path);
    const auto pickle = Pickle::Parse(*file, 0);
    if (!pickle.ok()) return Code(pickle);
    return Code(ReadTorchPickle(*pickle, false));
  };
  const auto times = [](size_t n, const std::string& part) {
    std::string out;
    out.reserve(n * part.size());
    for (size_t i = 0; i < n; ++i) out += part;
    return out;
  };
  const std::string key =
      "X" + test::LittleEndian(uint32_t{1000}) + std::string(1000, 'k') + "q\0"s;
  Check("lists of one value", "(" + times(5'000'000, "]Na") + "l.", "x", parse, "limit");
  Check("values of one byte", "(" + times(8'000'000, "N") + "l.", "x", parse, "limit");
  Check("empty dicts", "(" + times(8'000'000, "}") + "l.", "x", parse, "limit");
  Check("calls", "ca\nb\nq\0"s + times(3'000'000, "h\0)R"s) + ".", "x", parse, "limit");
  Check("references to one value", "Nq\0"s + "0(" + times(10'000'000, "h\0"s) + "t.", "x", parse,
        "tensor_missing");
  Check("copies of one value", "N" + times(20'000'000, "2") + ".", "x", parse, "invalid_pickle");
  Check("a memo with one far index",
        times(5'000'000, "N0") + "Nr" + test::LittleEndian(uint32_t{10'000'000}) + ".", "x", parse,
        "limit");
  Check("dicts under one long key", key + "0}(" + times(1'000'000, "h\0}"s) + "u.", "x", parse,
        "limit");
  Check("few dicts under one long key", key + "0}(" + times(100'000, "h\0}"s) + "u.", "x", parse,
        "tensor_missing");
  const std::string tensor =
      test::PklTensor(test::PklStorage("FloatStorage", "0", 1), 0, {1}, {1}) + "q\1"s;
  Check("a million names of one tensor",
        tensor + "0}(" +
            Repeat(1'000'000,
                   [](size_t i) { return "J" + test::LittleEndian(uint32_t(i)) + "h\1"s; }) +
            "u.",
        "x", parse, "limit");
  // Modules that share one large dict: of attributes, which is looked at once, or of parameters,
  // where the looks are counted.
  const std::string large = times(200'000, "K\1N");
  const auto modules = [&](const std::string& parameters, const std::string& attributes) {
    return "}q\2(" + test::PklString("_parameters") + parameters + test::PklString("_modules") +
           "}" + attributes + "u0" + "ca\nB\nq\3"s + "0}(" +
           Repeat(50'000,
                  [](size_t i) { return "J" + test::LittleEndian(uint32_t(i)) + "h\3)Rh\2b"; }) +
           "u.";
  };
  Check("modules with one dict of attributes", modules("}", large), "x", parse, "tensor_missing");
  Check("modules with one dict of parameters", modules("}(" + large + "u", ""), "x", parse,
        "limit");
}

TEST_CASE("zip directories") {
  std::vector<test::ZipFile> files;
  for (size_t i = 0; i < 200'000; ++i) {
    files.push_back({.name = fmt::format("{}", i), .data = "", .flags = 0, .align = false});
  }
  const std::string bytes = test::ZipBytes(files);
  files = {};
  Check(
      "200000 empty entries", bytes, "x.zip",
      [](const std::string& path) {
        const auto file = ReadFile::Open(path);
        return Code(ZipArchive::Open(*file));
      },
      "");
}

TEST_CASE("GGUF headers") {
  GgufBytes many;
  many.Start(500'000, 0);
  for (size_t i = 0; i < 500'000; ++i) many.Tensor(fmt::format("{}", i), {}, 24, 32 * i);
  many.Align().Data(32 * 500'000);
  Check("half a million scalars", many.text, "x.gguf", ReadGguf, "limit");
  GgufBytes names;
  names.Start(20'000, 0);
  for (size_t i = 0; i < 20'000; ++i) {
    names.Tensor(fmt::format("{:01000}", i), {}, 24, 32 * i);
  }
  names.Align().Data(32 * 20'000);
  Check("long names", names.text, "x.gguf", ReadGguf, "limit");
  // The list of tokens is refused, the file is not.
  GgufBytes tokens;
  tokens.Start(0, 4).Text("general.architecture", "llama").Text("tokenizer.ggml.model", "llama");
  tokens.ArrayStart("tokenizer.ggml.tokens", 8, 3'000'000);
  for (int i = 0; i < 3'000'000; ++i) tokens.Str("");
  tokens.ArrayStart("tokenizer.ggml.scores", 0, 3'000'000).Data(3'000'000);
  Check("three million empty tokens", tokens.text, "x.gguf", ReadGguf, "");
  GgufBytes array;
  array.Start(0, 2).Text("general.architecture", "llama");
  array.ArrayStart("llama.block_count", 0, 30'000'000).Data(30'000'000);
  Check("a number of layers for each of 30 million", array.text, "x.gguf", ReadGguf, "");
  GgufBytes control;
  control.Start(0, 1).Text("k", std::string(50'000'000, '\1'));
  Check("50 MB of control characters", control.text, "x.gguf", ReadGguf, "limit");
}

}  // namespace
}  // namespace pennyweight
