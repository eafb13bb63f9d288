#include "formats/audit.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "formats/pickle_audit.h"
#include "formats/readers.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/model_files.h"
#include "tests/formats/pytorch_builder.h"

namespace pennyweight {
namespace {

using namespace test;

using Rules = std::multiset<std::string>;

Rules RulesOf(const std::vector<Finding>& findings) {
  Rules rules;
  for (const Finding& finding : findings) rules.emplace(finding.rule);
  return rules;
}

const std::string kTensor = PklTensor(PklStorage("FloatStorage", "0", 4), 0, {2, 2}, {2, 1});
const std::string kWeights = BytesOf(std::vector<float>{1.25f, -2.5f, 3.75f, 0.5f});
const std::string kAttack = PklCall(PklGlobal("os", "system"), {PklString("true")});

std::string Dict(const std::string& payload) {
  return PklDict({PklString("w"), kTensor, PklString("x"), payload});
}

Rules Audit(const std::string& bytes) {
  const ScratchFolder folder;
  return RulesOf(AuditFile(folder.Write("model.pt", bytes)));
}

TEST_CASE("checkpoints without foreign names have no findings") {
  CHECK(Audit(TorchZip(PklDict({PklString("w"), kTensor}), {{"0", kWeights}})).empty());
  const std::string legacy = PklTensor(PklStorage("FloatStorage", "0", 4, true), 0, {2, 2}, {2, 1});
  CHECK(Audit(TorchLegacy(PklDict({PklString("w"), legacy}), {{"0", 4, kWeights}})).empty());
  CHECK(Audit(SafetensorsFile({{"w", "F32", {2, 2}, kWeights}})).empty());
  CHECK(Audit("just some text\nof two lines\n").empty());
  CHECK(Audit("import os\nos\nos.system('x')\n").empty());
  CHECK(Audit("Git v2.36.2 Release Notes\n").empty());  // to a pickle machine a float
  CHECK(Audit("").empty());
}

TEST_CASE("grades become rules, and offsets are those of the opcodes in the file") {
  const std::string file = TorchZip(Dict(PklCall(PklGlobal("argparse", "Namespace"), {}) + "0" +
                                         PklCall(PklGlobal("acme", "F"), {}) + "0" + kAttack),
                                    {{"0", kWeights}});
  const ScratchFolder folder;
  const std::vector<Finding> findings = AuditFile(folder.Write("m.pt", file));
  CHECK(RulesOf(findings) ==
        Rules{"PKL-BENIGN-GLOBAL", "PKL-MALICIOUS-GLOBAL", "PKL-UNKNOWN-GLOBAL"});
  for (const Finding& finding : findings) {
    const char* text = finding.rule == "PKL-BENIGN-GLOBAL"    ? "cargparse\n"
                       : finding.rule == "PKL-UNKNOWN-GLOBAL" ? "cacme\n"
                                                              : "cos\n";
    CHECK(finding.offset == static_cast<int64_t>(file.find(text)));
    CHECK(finding.file == folder.Path("m.pt"));
  }
}

TEST_CASE("refused archives are looked into at every local header") {
  const std::string value = Dict(kAttack);
  const auto with = [&](auto change) {
    std::vector<ZipFile> files = TorchEntries(value, {{"0", kWeights}});
    change(files);
    return Audit(ZipBytes(files));
  };
  const auto only = [](const char* rule) { return Rules{rule, "PKL-MALICIOUS-GLOBAL"}; };
  CHECK(with([](auto& f) { f[0].flags |= 0x1; }) == only("ZIP-UNSUPPORTED"));
  CHECK(with([](auto& f) { f[0].flags |= 0x20; }) == only("ZIP-STRUCTURE"));
  CHECK(with([](auto& f) { f[0].local_name = "archive/data.txt"; }) == only("ZIP-STRUCTURE"));
  CHECK(with([](auto& f) { f.push_back(f[0]); }) == only("ZIP-DUPLICATE"));
  CHECK(with([](auto& f) { f[1].name = "../0"; }) == only("ZIP-NAME"));
  CHECK(with([](auto& f) { f[0].crc_change = 1; }) == only("ZIP-CRC"));
  CHECK(with([](auto& f) { f[2].before = "gap"; }) == only("ZIP-STRUCTURE"));
  CHECK(with([](auto& f) { f[0].data += Pkl(kAttack); }) == only("PKL-HIDDEN"));
  CHECK(with([](auto& f) { f.push_back({.name = "archive/code/x.py", .data = "x = 1\n"}); }) ==
        only("ZIP-CODE"));
  // A pickle that is no data.pkl, by its name and by its content.
  for (const char* name : {"archive/extra.pkl", "archive/extra"}) {
    std::vector<ZipFile> files =
        TorchEntries(PklDict({PklString("w"), kTensor}), {{"0", kWeights}});
    files.push_back({.name = name, .data = Pkl(kAttack)});
    CHECK(Audit(ZipBytes(files)) == Rules{"PKL-MALICIOUS-GLOBAL"});
  }
}

TEST_CASE("opcodes that are refused, and names behind them") {
  const auto zip = [](const std::string& value) {
    return Audit(TorchZip(value, {{"0", kWeights}}));
  };
  CHECK(zip("(" + PklString("x") + "ios\nsystem\n") == Rules{"PKL-MALICIOUS-GLOBAL", "PKL-OPCODE"});
  CHECK(zip("(" + PklGlobal("os", "system") + "o") == Rules{"PKL-MALICIOUS-GLOBAL", "PKL-OPCODE"});
  CHECK(zip("\x82\x01") == Rules{"PKL-OPCODE"});
  CHECK(zip("(" + PklGlobal("acme", "Cls") + "o0" + kAttack) ==
        Rules{"PKL-MALICIOUS-GLOBAL", "PKL-OPCODE", "PKL-UNKNOWN-GLOBAL"});
  // Behind the fault: a name in two strings of protocol 4.
  CHECK(zip("\x82\x01\x8c\x05posix\x94\x8c\x06system\x94\x93") ==
        Rules{"PKL-MALICIOUS-GLOBAL", "PKL-OPCODE"});
  CHECK(zip("h\x07") == Rules{"PKL-BROKEN"});
  CHECK(zip(kAttack + "0h\x07") == Rules{"PKL-BROKEN", "PKL-MALICIOUS-GLOBAL"});
}

TEST_CASE("pickles inside of pickles, as bytes and as the text that Python 2 wrote") {
  const std::string inner = kTorchMagic + Pkl(kAttack);
  const std::string bytes = "B" + LittleEndian(uint32_t(inner.size())) + inner;
  const std::string load = PklGlobal("torch.storage", "_load_from_bytes");
  CHECK(Audit(TorchZip(Dict(PklCall(load, {bytes})), {{"0", kWeights}})) ==
        Rules{"PKL-MALICIOUS-GLOBAL", "PKL-NESTED"});
  std::string utf8;
  for (const char c : inner) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) utf8 += static_cast<char>(0xC0 | byte >> 6);
    utf8 += static_cast<char>(byte >= 0x80 ? 0x80 | (byte & 0x3F) : byte);
  }
  const std::string encoded =
      PklCall(PklGlobal("_codecs", "encode"), {PklString(utf8), PklString("latin1")});
  CHECK(Audit(TorchZip(Dict(PklCall(load, {encoded})), {{"0", kWeights}})) ==
        Rules{"PKL-MALICIOUS-GLOBAL", "PKL-NESTED"});
  // An archive inside.
  const std::string archive = TorchZip(Dict(kAttack), {{"0", kWeights}});
  const std::string packed = "B" + LittleEndian(uint32_t(archive.size())) + archive;
  CHECK(Audit(TorchZip(Dict(PklCall(load, {packed})), {{"0", kWeights}})) ==
        Rules{"PKL-MALICIOUS-GLOBAL", "PKL-NESTED"});
}

TEST_CASE("bare pickles, computed magic numbers and archives of other kinds") {
  CHECK(Audit(Pkl(kAttack)) == Rules{"PKL-BARE", "PKL-MALICIOUS-GLOBAL"});
  CHECK(Audit(Pkl(PklInteger(7)) + Pkl(kAttack)) ==
        Rules{"PKL-BARE", "PKL-HIDDEN", "PKL-MALICIOUS-GLOBAL"});
  CHECK(Audit("cos\nsystem\n(S'true'\ntR.") == Rules{"PKL-BARE", "PKL-MALICIOUS-GLOBAL"});
  const std::string magic = Pkl(PklCall(PklGlobal("builtins", "eval"), {PklString("7")}));
  CHECK(Audit(TorchLegacy("}", {}, true, magic)).count("PKL-MALICIOUS-GLOBAL") == 1);
  CHECK(Audit(std::string("7z\xBC\xAF\x27\x1C\0\4", 8)) == Rules{"FILE-ARCHIVE"});
  CHECK(Audit("\x1f\x8b\x08_____________") == Rules{"FILE-ARCHIVE"});
}

TEST_CASE("archives that say what they are, and what is in them all the same") {
  const ScratchFolder folder;
  CHECK(AuditFile(folder.Write("logs.gz", "\x1f\x8b\x08_____________")).empty());
  ZipOptions options;
  options.comment = "a comment";
  const std::string other = ZipBytes({{.name = "a.txt", .data = "text"}}, options);
  CHECK(AuditFile(folder.Write("data.zip", other)).empty());
  CHECK(RulesOf(AuditFile(folder.Write("data.bin", other))) == Rules{"ZIP-STRUCTURE"});
  const std::string hiding = ZipBytes({{.name = "a.pkl", .data = Pkl(kAttack)}}, options);
  CHECK(RulesOf(AuditFile(folder.Write("data.zip", hiding))) == Rules{"PKL-MALICIOUS-GLOBAL"});
}

TEST_CASE("random damage never crashes, and an attack in front of it is still named") {
  std::string file =
      TorchZip(PklDict({PklString("x"), kAttack, PklString("w"), kTensor}), {{"0", kWeights}});
  const size_t attack = file.find("cos\nsystem\n");
  uint32_t state = 12345;
  for (int i = 0; i < 1000; ++i) {
    std::string damaged = file;
    for (int flips = 0; flips < 3; ++flips) {
      state = state * 1664525 + 1013904223;
      const size_t at = state % damaged.size();
      // The header of data.pkl and the attack itself stay.
      if (at <= attack + 12) continue;
      damaged[at] = static_cast<char>(state >> 24);
    }
    if (Audit(damaged).count("PKL-MALICIOUS-GLOBAL") == 0) FAIL_CHECK("round " << i);
  }
  for (size_t n = attack + 12; n < file.size(); n += 7) {
    CAPTURE(n);
    CHECK(Audit(file.substr(0, n)).count("PKL-MALICIOUS-GLOBAL") == 1);
  }
}

TEST_CASE("commands that write see the danger of a checkpoint") {
  const ScratchFolder folder;
  const std::string bad = folder.Write("bad.pt", TorchZip(Dict(kAttack), {{"0", kWeights}}));
  const Result<Model> model = OpenPytorch(bad);
  REQUIRE(model.ok());
  REQUIRE(model->danger.has_value());
  CHECK(model->danger->code == ErrorCode::kMaliciousPickle);
  CHECK(model->danger->message.find("os.system") != std::string::npos);
  CHECK(model->danger->file == bad);
  const std::string fine =
      folder.Write("fine.pt", TorchZip(PklDict({PklString("w"), kTensor}), {{"0", kWeights}}));
  const Result<Model> good = OpenPytorch(fine);
  REQUIRE(good.ok());
  CHECK_FALSE(good->danger.has_value());
  // In a folder, and in the first pickle of a legacy file, whose value is thrown away.
  folder.Write("pytorch_model.bin", TorchZip(Dict(kAttack), {{"0", kWeights}}));
  const Result<Model> hub = OpenHuggingFace(folder.path());
  REQUIRE(hub.ok());
  CHECK(hub->danger.has_value());
}

std::vector<Finding> AuditGgufBytes(const GgufBytes& bytes) {
  const ScratchFolder folder;
  return AuditGguf(folder.Write("m.gguf", bytes.text));
}

GgufBytes Vocabulary(uint64_t scores, uint32_t eos) {
  GgufBytes bytes;
  bytes.Start(0, 4).Text("general.architecture", "acme");
  bytes.ArrayStart("tokenizer.ggml.tokens", 8, 3).Str("a").Str("b").Str("c");
  bytes.ArrayStart("tokenizer.ggml.scores", 6, scores);
  for (uint64_t i = 0; i < scores; ++i) bytes.Put<float>(-1);
  return bytes.U32("tokenizer.ggml.eos_token_id", eos);
}

TEST_CASE("GGUF: tokenizer arrays and ids") {
  CHECK(AuditGgufBytes(Vocabulary(3, 2)).empty());
  CHECK(RulesOf(AuditGgufBytes(Vocabulary(2, 2))) == Rules{"GGUF-TOKEN-ARRAYS"});
  CHECK(RulesOf(AuditGgufBytes(Vocabulary(3, 3))) == Rules{"GGUF-TOKEN-ID"});
  CHECK(AuditGgufBytes(Vocabulary(3, 0xFFFFFFFF)).empty());
}

TEST_CASE("GGUF: block_count, layout and templates") {
  const auto model = [](uint32_t blocks, uint8_t flag, const char* chat, size_t tail) {
    GgufBytes bytes;
    bytes.Start(1, 4).Text("general.architecture", "acme").U32("acme.block_count", blocks);
    bytes.Bool("acme.flag", flag).Text("tokenizer.chat_template", chat);
    bytes.Tensor("blk.1.w.weight", {8}, 0, 0).Align().Data(32);
    return bytes.Data(tail);
  };
  CHECK(AuditGgufBytes(model(2, 1, "{{ messages }}", 0)).empty());
  CHECK(RulesOf(AuditGgufBytes(model(3, 1, "", 0))) == Rules{"GGUF-BLOCK-COUNT"});
  CHECK(RulesOf(AuditGgufBytes(model(2, 2, "", 0))) == Rules{"GGUF-LAYOUT"});
  CHECK(RulesOf(AuditGgufBytes(model(2, 1, "", 1000))) == Rules{"GGUF-LAYOUT"});
  CHECK(RulesOf(AuditGgufBytes(model(2, 1, "{{ x.__globals__ }}", 0))) == Rules{"TPL-CODE"});
}

TEST_CASE("chat templates") {  // U39
  const auto rules = [](std::string_view text) { return RulesOf(AuditTemplate(text, "t")); };
  // The forms that good templates have.
  CHECK(rules("{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% endfor %}")
            .empty());
  CHECK(rules("Text with __class__ and import os outside of code {{ bos_token }}").empty());
  CHECK(rules("{% for i in range(10) %}x{% endfor %}").empty());
  CHECK(rules("{{ ''.__class__.__mro__[1].__subclasses__() }}") == Rules{"TPL-CODE"});
  CHECK(rules("{{ cycler|attr('x') }}") == Rules{"TPL-CODE"});
  CHECK(rules("{% import 'x' as y %}") == Rules{"TPL-CODE"});
  CHECK(rules("{% for i in range(999999999) %}{% endfor %}") == Rules{"TPL-LOOP"});
  CHECK(rules("{% for i in range(0, 99999999999999999999) %}{% endfor %}") == Rules{"TPL-LOOP"});
  CHECK(rules("be\xE2\x80\xAEnign") == Rules{"TPL-HIDDEN-TEXT"});
  CHECK(rules("\xF3\xA0\x81\x81") == Rules{"TPL-HIDDEN-TEXT"});
  CHECK(rules("\xEF\xBB\xBF{{ x }}").empty());
  CHECK(rules("{% if 'invest' in message['content'] %}buy{% endif %}") == Rules{"TPL-CONDITION"});
  CHECK(rules("{% if 'content' in message %}{{ message.content }}{% endif %}").empty());
}

TEST_CASE("folders: index, shards, remote code") {
  const ScratchFolder folder;
  const std::string file = SafetensorsFile({{"w", "F32", {2, 2}, kWeights}});
  const auto index = [&](const char* size, const char* name) {
    folder.Write(name, file);
    folder.Write(
        "model.safetensors.index.json",
        fmt::format(R"({{"metadata":{{"total_size":{}}},"weight_map":{{"w":"{}"}}}})", size, name));
    return RulesOf(AuditHuggingFace(folder.path()));
  };
  CHECK(index("16", "model-00001-of-00001.safetensors").empty());
  CHECK(index("16.0", "model-00001-of-00001.safetensors").empty());
  CHECK(index("17", "model-00001-of-00001.safetensors") == Rules{"IDX-TOTAL-SIZE"});
  CHECK(index("16", "model-00001-of-00002.safetensors") == Rules{"IDX-SHARD-COUNT"});
  folder.Write("config.json", R"({"auto_map":{"AutoModel":"modeling.Net"}})");
  folder.Write("tokenizer_config.json",
               R"({"chat_template":[{"name":"a","template":"{{ x.__class__ }}"}]})");
  CHECK(RulesOf(AuditHuggingFace(folder.path())) ==
        Rules{"CFG-REMOTE-CODE", "IDX-SHARD-COUNT", "TPL-CODE"});
}

TEST_CASE("names and alignment of safetensors") {
  const ScratchFolder folder;
  const std::string path = folder.Write(
      "m.safetensors",
      SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("b\u001b[2J":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
                       R"("c":{"dtype":"U8","shape":[1],"data_offsets":[5,6]},)"
                       R"("d":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}})",
                       "1234567890"));
  const Result<Model> model = OpenSafetensors(path);
  REQUIRE(model.ok());
  // Five bytes apart, b and d cannot both be aligned.
  const Rules rules = RulesOf(AuditTensorList(*model));
  CHECK(rules.count("NAME-CONTROL") == 1);
  CHECK(rules.count("ST-MISALIGNED") >= 1);
}

}  // namespace
}  // namespace pennyweight
