// Writes small well-formed inputs for every fuzzer: make_seeds FOLDER puts them into
// FOLDER/<fuzzer>/. The corpora in testdata/fuzz/ grew from these (scripts/fuzz.sh --merge).
#include <fmt/format.h>
#include <zstd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "formats/statistics_layout.h"
#include "lib/file.h"
#include "lib/journal.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/model_files.h"
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

class Seeds {
 public:
  explicit Seeds(std::string folder) : folder_(std::move(folder)) {}

  void Add(const std::string& fuzzer, const std::string& bytes) {
    const std::string folder = folder_ + "/" + fuzzer;
    std::filesystem::create_directories(folder);
    std::ofstream(fmt::format("{}/seed-{:02}", folder, ++count_), std::ios::binary) << bytes;
  }

 private:
  std::string folder_;
  int count_ = 0;
};

void AddSafetensors(Seeds* seeds) {
  const std::string bytes = "0123456789abcdef";
  seeds->Add("safetensors", test::SafetensorsBytes("{}"));
  seeds->Add("safetensors", test::SafetensorsFile({{"a", "F32", {2, 2}, bytes},
                                                   {"b.weight", "BF16", {3}, "ghijkl"}}));
  seeds->Add("safetensors", test::SafetensorsFile({{"x", "F4", {4, 2}, "1234"},
                                                   {"y", "F6_E2M3", {4}, "123"},
                                                   {"z", "I64", {}, "12345678"},
                                                   {"empty", "U8", {3, 0}, ""}}));
  seeds->Add("safetensors",
             test::SafetensorsBytes(R"(  {"a\u0062":{"dtype":"U8","shape":[1,2],)"
                                    R"("data_offsets":[0,2],"extra":{"k":[1,-2.5e3,null,true]}}} )",
                                    "xy"));
}

// Weights in parts, of every layout that tensors alone tell.
void AddQuantized(Seeds* seeds) {
  const auto bytes = [](size_t n) {
    std::string text(n, '\0');
    for (size_t i = 0; i < n; ++i) text[i] = static_cast<char>(i * 37 + 11);
    return text;
  };
  std::string groups(128, '\0');
  seeds->Add("safetensors", test::SafetensorsFile({{"p.qweight", "I32", {4, 8}, bytes(128)},
                                                   {"p.qzeros", "I32", {1, 1}, "wwww"},
                                                   {"p.scales", "F16", {1, 8}, bytes(16)},
                                                   {"p.g_idx", "I32", {32}, groups}}));
  seeds->Add("safetensors", test::SafetensorsFile({{"p.qweight", "I32", {32, 1}, bytes(128)},
                                                   {"p.qzeros", "I32", {1, 1}, "abcd"},
                                                   {"p.scales", "F16", {1, 8}, bytes(16)}}));
  seeds->Add("safetensors", test::SafetensorsFile({{"p.weight", "F8_E4M3", {3, 4}, bytes(12)},
                                                   {"p.weight_scale_inv", "F32", {1, 1}, "abcd"}}));
  seeds->Add("safetensors", test::SafetensorsFile({{"p.weight", "I8", {3, 4}, bytes(12)},
                                                   {"p.SCB", "F32", {3}, bytes(12)}}));
  seeds->Add("safetensors",
             test::SafetensorsFile({{"e.gate_up_proj_blocks", "U8", {1, 2, 1, 16}, bytes(32)},
                                    {"e.gate_up_proj_scales", "U8", {1, 2, 1}, "zy"}}));
  const std::string state =
      R"({"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[8,8]})";
  seeds->Add("safetensors", test::SafetensorsFile({{"p.weight", "U8", {32, 1}, bytes(32)},
                                                   {"p.weight.absmax", "F32", {1}, "abcd"},
                                                   {"p.weight.quant_map", "F32", {16}, bytes(64)},
                                                   {"p.weight.quant_state.bitsandbytes__nf4",
                                                    "U8",
                                                    {static_cast<int64_t>(state.size())},
                                                    state}}));
}

void AddIndex(Seeds* seeds) {
  seeds->Add("index", R"({"metadata":{"total_size":8},"weight_map":{)"
                      R"("a":"model-00001-of-00002.safetensors",)"
                      R"("b":"model-00001-of-00002.safetensors",)"
                      R"("c":"model-00002-of-00002.safetensors"}})");
  seeds->Add("index", R"({"weight_map":{"c":"model-00002-of-00002.safetensors"}})");
  seeds->Add("index", R"({"weight_map":{"c":"link.safetensors","d":"../x","e":"/etc/passwd"}})");
}

// Every kind of file with activation statistics.
void AddStatistics(Seeds* seeds) {
  GgufBytes imatrix;
  imatrix.Start(4, 3).Text("general.type", "imatrix").U32("imatrix.chunk_size", 512);
  imatrix.ArrayStart("imatrix.datasets", 8, 1).Str("a.txt");
  imatrix.Tensor("blk.0.attn_q.weight.in_sum2", {8}, 0, 0);
  imatrix.Tensor("blk.0.attn_q.weight.counts", {1}, 0, 32);
  imatrix.Tensor("blk.0.ffn_up_exps.weight.in_sum2", {4, 3}, 0, 64);
  imatrix.Tensor("blk.0.ffn_up_exps.weight.counts", {1, 3}, 0, 128).Align();
  for (int i = 0; i < 40; ++i) imatrix.Put<float>(static_cast<float>(i % 7));
  seeds->Add("statistics", imatrix.text);

  GgufBytes legacy;
  legacy.Put<int32_t>(1).Put<int32_t>(19).Raw("blk.0.attn_q.weight");
  legacy.Put<int32_t>(2).Put<int32_t>(3).Put(1.5f).Put(2.0f).Put(0.0f);
  legacy.Put<int32_t>(7).Put<int32_t>(5).Raw("a.txt");
  seeds->Add("statistics", legacy.text);

  // Two channels: sums, then a Hessian of three numbers in planes of bytes, one zstd frame.
  GgufBytes own;
  own.Put(2.0).Put(3.0).Put(-1.0).Put(0.5).Put(1.0).Put(1.5).Put(0.9f).Put(1.2f);
  const std::string sums = own.text;
  const std::string triangle = GgufBytes().Put(2.0f).Put(-0.5f).Put(3.0f).text;
  std::string planes;
  for (size_t b = 0; b < 4; ++b) {
    for (size_t i = 0; i < 3; ++i) planes += triangle[4 * i + b];
  }
  std::string frame(ZSTD_compressBound(planes.size()), '\0');
  frame.resize(ZSTD_compress(frame.data(), frame.size(), planes.data(), planes.size(), 1));
  const std::string directory = fmt::format(
      R"({{"model":"","window":4,"windows":2,"texts":[{{"name":"t","hash":"","tokens":8}}],)"
      R"("inputs":[{{"weights":["q","k"],"width":2,"tokens":8,"moments":true,)"
      R"("sums":{{"offset":48,"hash":"{}"}},)"
      R"("hessian":{{"offset":{},"hash":"{}","blocks":[{}]}}}}]}})",
      HashText(HashBytes(sums.data(), sums.size())), 48 + sums.size(),
      HashText(HashBytes(triangle.data(), triangle.size())), frame.size());
  GgufBytes file;
  file.Raw(std::string_view("PWSTATS\0", 8)).Put<uint32_t>(1).Put<uint32_t>(0);
  file.Put<uint64_t>(48 + sums.size() + frame.size()).Put<uint64_t>(directory.size());
  const Hash128 hash = HashBytes(directory.data(), directory.size());
  file.Put(hash[0]).Put(hash[1]).Raw(sums).Raw(frame).Raw(directory);
  seeds->Add("statistics", file.text);
}

// The records that a stopped run leaves, and one of no known kind.
void AddJournal(Seeds* seeds) {
  const std::string folder = std::filesystem::temp_directory_path().string() + "/pw_seeds";
  std::filesystem::create_directories(folder);
  const std::string output = folder + "/out";
  Json recipe = Json::Object();
  recipe.Set("command", Json::String("convert"));
  {
    auto journal = Journal::Open(output, recipe, Journal::Mode::kReplace);
    if (!journal.ok()) return;
    const auto file = (*journal)->AddFile(BesideOutput(output, "partial"));
    if (!file.ok() || !(*journal)->RecordRange(*file, {32, 64, {1, 2}}).ok() ||
        !(*journal)->RecordUnit({1, 2, 3}, "result").ok()) {
      return;
    }
  }
  const auto text = ReadWholeFile(BesideOutput(output, "journal"), 1 << 20);
  if (text.ok()) seeds->Add("journal", *text);
  std::filesystem::remove_all(folder);
}

std::string GgufModel() {
  GgufBytes bytes;
  bytes.Start(2, 16)
      .Text("general.architecture", "llama")
      .U32("general.alignment", 32)
      .U32("llama.block_count", 1)
      .U32("llama.context_length", 32)
      .U32("llama.embedding_length", 32)
      .U32("llama.feed_forward_length", 64)
      .U32("llama.attention.head_count", 2)
      .F32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .F32("llama.rope.freq_base", 10000.0f)
      .Text("tokenizer.ggml.model", "llama")
      .ArrayStart("tokenizer.ggml.tokens", 8, 4)
      .Str("<unk>")
      .Str("<s>")
      .Str("</s>")
      .Str("a")
      .ArrayStart("tokenizer.ggml.scores", 6, 4);
  for (int i = 0; i < 4; ++i) bytes.Put<float>(static_cast<float>(-i));
  bytes.ArrayStart("tokenizer.ggml.token_type", 5, 4);
  for (const int32_t type : {2, 3, 3, 1}) bytes.Put<int32_t>(type);
  bytes.U32("tokenizer.ggml.bos_token_id", 1).Bool("tokenizer.ggml.add_bos_token", 1);
  bytes.ArrayStart("general.tags", 8, 0);
  bytes.Tensor("token_embd.weight", {32, 4}, 8, 0).Tensor("blk.0.attn_q.weight", {32, 32}, 2, 160);
  return bytes.Align().Data(136).Align().Data(576).text;
}

// A vocabulary of byte-level BPE, and nothing else.
std::string GgufByteBpe() {
  GgufBytes bytes;
  bytes.Start(0, 6).Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", "llama-bpe");
  bytes.ArrayStart("tokenizer.ggml.tokens", 8, 4).Str("a").Str("b").Str("ab").Str("<|end|>");
  bytes.ArrayStart("tokenizer.ggml.token_type", 5, 4);
  for (const int32_t type : {1, 1, 1, 3}) bytes.Put<int32_t>(type);
  bytes.ArrayStart("tokenizer.ggml.merges", 8, 1).Str("a b");
  return bytes.U32("tokenizer.ggml.bos_token_id", 3).text;
}

void AddGguf(Seeds* seeds) {
  seeds->Add("gguf", GgufModel());
  seeds->Add("gguf", GgufByteBpe());
  seeds->Add("gguf", GgufBytes().Start(0, 0).text);
  seeds->Add("gguf", GgufBytes().Start(1, 0, 2).Tensor("t", {3, 5}, 0, 0).Align().Data(60).text);
  GgufBytes values;
  values.Start(0, 13);
  for (const uint32_t type : {0, 1, 7}) {
    values.Str(fmt::format("k{}", type)).Put<uint32_t>(type).Put<uint8_t>(1);
  }
  for (const uint32_t type : {2, 3}) {
    values.Str(fmt::format("k{}", type)).Put<uint32_t>(type).Put<uint16_t>(7);
  }
  for (const uint32_t type : {4, 5, 6}) {
    values.Str(fmt::format("k{}", type)).Put<uint32_t>(type).Put<uint32_t>(7);
  }
  for (const uint32_t type : {10, 11, 12}) {
    values.Str(fmt::format("k{}", type)).Put<uint32_t>(type).Put<uint64_t>(7);
  }
  values.Text("text", "\xff\n").ArrayStart("flags", 7, 2).Put<uint8_t>(0).Put<uint8_t>(1);
  seeds->Add("gguf", values.text);
}

void AddZip(Seeds* seeds) {
  test::ZipOptions narrow;
  narrow.zip64 = false;
  const std::vector<test::ZipFile> files = {
      {.name = "m/data.pkl", .data = "12345"},
      {.name = "m/b", .data = "xyz", .wide_descriptor = true},
      {.name = "m/c", .data = "", .align = false},
      {.name = "m/d", .data = "4567", .flags = 0, .align = false}};
  seeds->Add("zip", test::ZipBytes(files));
  seeds->Add("zip", test::ZipBytes(files, narrow));
  seeds->Add("zip", test::ZipBytes({}));
}

// A state dict with what checkpoints have: views, a parameter, an optimizer, attributes.
std::string Checkpoint(bool legacy) {
  const std::string storage = PklStorage("FloatStorage", "0", 6, legacy);
  const std::string half = PklStorage("HalfStorage", "1", 4, legacy);
  const std::string dict = PklGlobal("collections", "OrderedDict") + ")R(" + PklString("w") +
                           PklTensor(storage, 0, {2, 3}, {3, 1}) + PklString("t") +
                           PklTensor(storage, 1, {2, 2}, {1, 2}) + PklString("p") +
                           PklCall(PklGlobal("torch._utils", "_rebuild_parameter"),
                                   {PklTensor(half, 0, {4}, {1}), "\x88", "N"}) +
                           "u}" + PklString("_metadata") + "}sb";
  return PklDict({PklString("state_dict"), dict, PklString("optimizer"),
                  PklDict({PklString("lr"), "G?\xb9\x99\x99\x99\x99\x99\x9a"}), PklString("args"),
                  PklCall(PklGlobal("argparse", "Namespace"), {}) + "}b"});
}

void AddPytorch(Seeds* seeds) {
  const std::string f32(24, '\x3e');
  const std::string f16(8, '\x3c');
  seeds->Add("pytorch", test::TorchZip(Checkpoint(false), {{"0", f32}, {"1", f16}}));
  seeds->Add("pytorch", test::TorchLegacy(Checkpoint(true), {{"0", 6, f32}, {"1", 4, f16}}));
  const std::string one = PklDict(
      {PklString("w"), PklTensor(PklStorage("BFloat16Storage", "k", 2, true), 0, {2}, {1})});
  seeds->Add("pytorch", test::TorchLegacy(one, {{"k", 2, "1234"}}, false));
  seeds->Add("pickle", test::Pkl(Checkpoint(false)));
  seeds->Add("pickle", test::Pkl(Checkpoint(true)));
  // Protocol 4: frame, memo, short strings, STACK_GLOBAL, sets.
  const std::string body =
      "}\x94(\x8c\x01"
      "a\x94\x8c\x0b"
      "collections\x94\x8c\x0bOrderedDict\x94\x93\x94)\x81\x94\x8c\x01"
      "b\x94\x8f\x94(K\x01M\x02\x03J\x04\x05\x06\x07\x90\x8c\x01"
      "c\x94(K\x01\x91\x94h\x00\x85\x86\x87N\x88\x89\x30\x30\x30u.";
  seeds->Add("pickle", "\x80\x04\x95" + test::LittleEndian(uint64_t{body.size()}) + body);
  // Protocol 0: lines.
  seeds->Add("pickle",
             "(dp0\nS'a\\x41\\n'\np1\nI12\nsV\\u0041b\np2\nL34L\nsI01\nF1.5\ns(lp3\ng1\na2.");
}

void AddConfig(Seeds* seeds) {
  const std::string data = std::string(PENNYWEIGHT_SOURCE_DIR) + "/testdata/pd-llama-4M/";
  seeds->Add("config", "c" + test::ReadAll(data + "config.json"));
  seeds->Add("config", "s" + test::ReadAll(data + "tokenizer.model").substr(0, 2000));
  seeds->Add("config",
             R"(j{"a":[1,-2,3.5e-7,18446744073709551615,"\u00e9\ud83d\ude00\n",{}],"b":null,)"
             R"("c":true,"d":{"e":false}})");
  seeds->Add("config",
             R"(t{"version":"1.0","added_tokens":[{"id":1,"content":"<s>","special":true}],)"
             R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
             R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,)"
             R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":)"
             R"({"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]},"model":)"
             R"({"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":)"
             R"({"<unk>":0,"<s>":1,"</s>":2,"a":3,"b":4,"ab":5},"merges":[["a","b"]]}})");
  seeds->Add("config",
             R"(t{"added_tokens":[{"id":3,"content":"<|end|>","special":true,"lstrip":true,)"
             R"("rstrip":true,"single_word":true,"normalized":true}],"normalizer":{"type":"NFC"},)"
             R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":)"
             R"({"Regex":"\\p{N}"},"behavior":"Isolated","invert":false},{"type":"ByteLevel",)"
             R"("add_prefix_space":false}]},"post_processor":{"type":"Sequence","processors":[]},)"
             R"("model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"ab":2},)"
             R"("merges":["a b",["a","b"]]}})");
  seeds->Add("config",
             "e The  <tool> word I'll\r\n 1234 e\xCC\x81! \xE1\x84\x80\xE1\x85\xA1 \xFF<|bos|>");
}

}  // namespace
}  // namespace pennyweight

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  pennyweight::Seeds seeds(argv[1]);
  pennyweight::AddSafetensors(&seeds);
  pennyweight::AddQuantized(&seeds);
  pennyweight::AddIndex(&seeds);
  pennyweight::AddJournal(&seeds);
  pennyweight::AddStatistics(&seeds);
  pennyweight::AddGguf(&seeds);
  pennyweight::AddZip(&seeds);
  pennyweight::AddPytorch(&seeds);
  pennyweight::AddConfig(&seeds);
  return 0;
}
