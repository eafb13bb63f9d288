#include "formats/statistics_file.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "formats/gguf_reader.h"
#include "formats/imatrix_gguf.h"
#include "formats/imatrix_legacy.h"
#include "lib/hash.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

const StatisticsNames kMixtral = {FindFamily("mixtral"), 3};
const StatisticsNames kLlama = {FindFamily("llama"), 0};

InputSums RandomSums(std::vector<std::string> weights, int64_t width, int64_t tokens,
                     unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.1, 9);
  InputSums sums;
  sums.weights = std::move(weights);
  sums.width = width;
  sums.tokens = tokens;
  for (int64_t i = 0; i < width; ++i) {
    sums.sum_sq.push_back(uniform(random));
    sums.sum.push_back(uniform(random) - 5);
    sums.sum_abs.push_back(uniform(random));
    sums.max_abs.push_back(static_cast<float>(uniform(random)));
  }
  return sums;
}

std::string Layer(std::string_view rest) { return "model.layers.0." + std::string(rest); }
std::string Expert(int64_t e, std::string_view rest) {
  return Layer("block_sparse_moe.experts." + std::to_string(e) + "." + std::string(rest));
}

Statistics Dense() {
  Statistics s;
  s.model = "0123";
  s.window = 128;
  s.windows = 3;
  s.texts = {{"a \"text\".txt", "ab", 300}, {"b", "", 0}};
  s.inputs = {
      RandomSums({Layer("self_attn.q_proj.weight"), Layer("self_attn.k_proj.weight")}, 24, 384, 1),
      RandomSums({Layer("mlp.down_proj.weight")}, 40, 384, 2)};
  return s;
}

// [width, width] whose upper triangle is random.
std::vector<float> RandomHessian(int64_t width, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> h(static_cast<size_t>(width * width));
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j) h[static_cast<size_t>(i * width + j)] = normal(random);
  }
  return h;
}

void WriteFile(const std::string& path, const Statistics& s, bool hessians) {
  auto writer = StatisticsWriter::Create(path, false, s);
  REQUIRE(writer.ok());
  for (size_t i = 0; i < s.inputs.size(); ++i) {
    const auto h = RandomHessian(s.inputs[i].width, static_cast<unsigned>(7 + i));
    REQUIRE((*writer)->Add({}, s.inputs[i], hessians ? h.data() : nullptr).ok());
  }
  REQUIRE((*writer)->Finish().ok());
}

TEST_CASE("statistics file: what was written is read, Hessians are added") {
  const test::ScratchFolder folder;
  const Statistics s = Dense();
  const std::string path = folder.path() + "/a.stats";
  WriteFile(path, s, true);
  const auto file = StatisticsFile::Open(path, kLlama, 512);
  REQUIRE_MESSAGE(file.ok(), file.error().ToString());
  CHECK(file->kind() == StatisticsFile::Kind::kStatistics);
  CHECK(file->HasHessians());
  const Statistics& got = file->statistics();
  CHECK(got.model == s.model);
  CHECK(got.window == s.window);
  CHECK(got.windows == s.windows);
  REQUIRE(got.texts.size() == 2);
  CHECK(got.texts[0].name == s.texts[0].name);
  CHECK(got.texts[0].tokens == 300);
  REQUIRE(got.inputs.size() == s.inputs.size());
  for (size_t i = 0; i < s.inputs.size(); ++i) {
    CHECK(got.inputs[i].weights == s.inputs[i].weights);
    CHECK(got.inputs[i].tokens == s.inputs[i].tokens);
    CHECK(got.inputs[i].sum_sq == s.inputs[i].sum_sq);
    CHECK(got.inputs[i].sum == s.inputs[i].sum);
    CHECK(got.inputs[i].sum_abs == s.inputs[i].sum_abs);
    CHECK(got.inputs[i].max_abs == s.inputs[i].max_abs);
    const auto want = RandomHessian(s.inputs[i].width, static_cast<unsigned>(7 + i));
    std::vector<float> h(want.size(), 1.5f);
    REQUIRE(file->AddHessian(i, h.data()).ok());
    const auto width = static_cast<size_t>(s.inputs[i].width);
    for (size_t at = 0; at < h.size(); ++at) {
      CHECK(h[at] == (at % width >= at / width ? want[at] + 1.5f : 1.5f));
    }
  }
}

TEST_CASE("statistics file: a Hessian of several blocks, the same bytes for any threads") {
  const int64_t width = 1700;
  REQUIRE(CutHessian(width).size() == 2);
  int64_t rows = 0, floats = 0;
  for (const HessianBlock& block : CutHessian(width)) {
    CHECK(block.row == rows);
    CHECK(block.floats <= kHessianBlockFloats);
    rows += block.rows;
    floats += block.floats;
  }
  CHECK(rows == width);
  CHECK(floats == width * (width + 1) / 2);

  const test::ScratchFolder folder;
  const auto h = RandomHessian(width, 3);
  const InputSums sums = RandomSums({"x"}, width, 9, 4);
  std::string first;
  for (const int threads : {1, 3}) {
    const std::string path = folder.path() + "/" + std::to_string(threads);
    auto writer = StatisticsWriter::Create(path, false, {});
    REQUIRE(writer.ok());
    Context context;
    context.threads = threads;
    REQUIRE((*writer)->Add(context, sums, h.data()).ok());
    REQUIRE((*writer)->Finish().ok());
    const auto bytes = ReadWholeFile(path, 1u << 30);
    REQUIRE(bytes.ok());
    if (first.empty()) first = *bytes;
    CHECK(*bytes == first);
    const auto file = StatisticsFile::Open(path, {}, 512);
    REQUIRE(file.ok());
    std::vector<float> got(h.size());
    REQUIRE(file->AddHessian(0, got.data()).ok());
    CHECK(got == h);
  }
}

// The directory of a file replaced, with a hash that fits.
std::string WithDirectory(const std::string& bytes, const std::string& from,
                          const std::string& to) {
  uint64_t offset = 0;
  std::memcpy(&offset, bytes.data() + 16, sizeof(offset));
  std::string directory = bytes.substr(offset);
  const size_t at = directory.find(from);
  REQUIRE(at != std::string::npos);
  directory.replace(at, from.size(), to);
  std::string out = bytes.substr(0, offset) + directory;
  const uint64_t size = directory.size();
  std::memcpy(out.data() + 24, &size, sizeof(size));
  const Hash128 hash = HashBytes(directory.data(), directory.size());
  std::memcpy(out.data() + 32, &hash, sizeof(hash));
  return out;
}

TEST_CASE("statistics file: every lie is an error") {
  const test::ScratchFolder folder;
  const std::string path = folder.path() + "/a.stats";
  WriteFile(path, Dense(), true);
  const std::string good = *ReadWholeFile(path, 1u << 30);
  const auto flipped = [&](size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x40);
    return bytes;
  };
  std::string nan = good;
  const double not_a_number = std::nan("");
  std::memcpy(nan.data() + 48, &not_a_number, sizeof(not_a_number));
  const struct {
    std::string what, bytes;
    ErrorCode code;
  } cases[] = {
      {"version", flipped(8), ErrorCode::kUnsupported},
      {"directory offset", flipped(16), ErrorCode::kIncompleteBuffer},
      {"directory hash", flipped(32), ErrorCode::kChecksum},
      {"a sum", flipped(50), ErrorCode::kChecksum},
      {"a NaN", nan, ErrorCode::kChecksum},
      {"cut off", good.substr(0, good.size() - 1), ErrorCode::kTruncated},
      {"a byte more", good + "x", ErrorCode::kIncompleteBuffer},
      {"no header", good.substr(0, 20), ErrorCode::kTruncated},
      {"width", WithDirectory(good, "\"width\":24", "\"width\":25"), ErrorCode::kChecksum},
      {"a huge width", WithDirectory(good, "\"width\":24", "\"width\":16000000"),
       ErrorCode::kTruncated},
      {"beyond any width", WithDirectory(good, "\"width\":24", "\"width\":1600000000"),
       ErrorCode::kInvalidHeader},
      {"tokens", WithDirectory(good, "\"tokens\":384", "\"tokens\":-84"),
       ErrorCode::kInvalidHeader},
      {"twice", WithDirectory(good, "self_attn.k_proj", "self_attn.q_proj"),
       ErrorCode::kDuplicateKey},
      {"no name", WithDirectory(good, "\"model.layers.0.mlp.down_proj.weight\"", "\"\""),
       ErrorCode::kInvalidName},
      {"overlap", WithDirectory(good, "\"offset\":48", "\"offset\":49"), ErrorCode::kChecksum},
      {"no key", WithDirectory(good, "\"windows\"", "\"wind\""), ErrorCode::kInvalidHeader},
      {"no text", WithDirectory(good, "\"model\":\"0123\"", "\"model\":0"),
       ErrorCode::kInvalidHeader},
      {"blocks", WithDirectory(good, "\"blocks\":[", "\"blocks\":[1,"), ErrorCode::kInvalidHeader},
      {"a hole", WithDirectory(good, "\"hessian\":{", "\"hessian\":null,\"x\":{"),
       ErrorCode::kInvalidOffset},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    const auto file = StatisticsFile::Open(folder.Write("bad", c.bytes), kLlama, 512);
    REQUIRE_FALSE(file.ok());
    CHECK(file.error().code == c.code);
    CHECK_FALSE(file.error().file.empty());
  }
  // Hessians are checked when they are read.
  const auto file =
      StatisticsFile::Open(folder.Write("bad", flipped(48 + 24 * 28 + 40)), kLlama, 512);
  REQUIRE(file.ok());
  std::vector<float> h(24 * 24);
  const Status status = file->AddHessian(0, h.data());
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kChecksum);
}

TEST_CASE("statistics file: an unfinished one does not get its name") {
  const test::ScratchFolder folder;
  const std::string path = folder.path() + "/a.stats";
  {
    auto writer = StatisticsWriter::Create(path, false, Dense());
    REQUIRE(writer.ok());
    REQUIRE((*writer)->Add({}, Dense().inputs[0], nullptr).ok());
  }
  CHECK_FALSE(PathExists(path));
}

TEST_CASE("imatrix: experts are stacked under GGUF's names, and come back") {
  Statistics s;
  s.window = 100;
  s.windows = 7;
  s.texts = {{"t.txt", "", 700}};
  s.inputs.push_back(RandomSums({Layer("self_attn.q_proj.weight")}, 6, 700, 1));
  // Expert 1 saw nothing, and expert 2 is not there at all.
  s.inputs.push_back(RandomSums({Expert(0, "w1.weight"), Expert(0, "w3.weight")}, 5, 450, 2));
  s.inputs.push_back(RandomSums({Expert(1, "w1.weight"), Expert(1, "w3.weight")}, 5, 0, 3));
  std::fill(s.inputs[2].sum_sq.begin(), s.inputs[2].sum_sq.end(), 0.0);

  const test::ScratchFolder folder;
  const std::string path = folder.path() + "/i.gguf";
  REQUIRE(WriteImatrixGguf(path, false, s, kMixtral).ok());
  const auto gguf = GgufFile::Open(path);
  REQUIRE(gguf.ok());
  CHECK(*gguf->AsString(*gguf->Find("general.type")) == "imatrix");
  CHECK(*gguf->AsInteger(*gguf->Find("imatrix.chunk_size")) == 100);
  CHECK(*gguf->AsInteger(*gguf->Find("imatrix.chunk_count")) == 7);
  CHECK(gguf->AsStrings(*gguf->Find("imatrix.datasets"))->front() == "t.txt");
  std::vector<std::string> names;
  for (const GgufTensor& tensor : gguf->tensors()) names.push_back(tensor.name);
  CHECK(names == std::vector<std::string>{
                     "blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts",
                     "blk.0.ffn_gate_exps.weight.in_sum2", "blk.0.ffn_gate_exps.weight.counts",
                     "blk.0.ffn_up_exps.weight.in_sum2", "blk.0.ffn_up_exps.weight.counts"});
  CHECK(gguf->FindTensor("blk.0.attn_q.weight.in_sum2")->shape == Shape{6});
  CHECK(gguf->FindTensor("blk.0.ffn_up_exps.weight.in_sum2")->shape == Shape{3, 5});
  CHECK(gguf->FindTensor("blk.0.ffn_up_exps.weight.counts")->shape == Shape{3, 1});

  const auto read = StatisticsFile::Open(path, kMixtral, 512);
  REQUIRE(read.ok());
  CHECK(read->kind() == StatisticsFile::Kind::kImatrix);
  CHECK(read->statistics().window == 100);
  const auto index = IndexByWeight(read->statistics());
  REQUIRE(index.size() == 7);
  const auto& inputs = read->statistics().inputs;
  const InputSums& w3 = inputs[index.at(Expert(0, "w3.weight"))];
  CHECK(w3.tokens == 450);
  for (size_t i = 0; i < 5; ++i) CHECK(w3.sum_sq[i] == doctest::Approx(s.inputs[1].sum_sq[i]));
  CHECK(inputs[index.at(Expert(1, "w1.weight"))].tokens == 0);
  CHECK(inputs[index.at(Expert(2, "w1.weight"))].tokens == 0);
  CHECK(inputs[index.at(Layer("self_attn.q_proj.weight"))].tokens == 700);

  // The legacy kind knows means only, and 1 for what saw nothing.
  const std::string legacy = folder.path() + "/i.dat";
  REQUIRE(WriteImatrixLegacy(legacy, false, s, kMixtral).ok());
  const auto old = StatisticsFile::Open(legacy, kMixtral, 100);
  REQUIRE_MESSAGE(old.ok(), old.error().ToString());
  CHECK(old->kind() == StatisticsFile::Kind::kImatrixLegacy);
  CHECK(old->statistics().windows == 7);
  CHECK(old->statistics().texts.front().name == "t.txt");
  const auto places = IndexByWeight(old->statistics());
  const auto mean = [&](const std::string& name, size_t i) {
    const InputSums& input = old->statistics().inputs[places.at(name)];
    return input.sum_sq[i] / static_cast<double>(input.tokens);
  };
  for (size_t i = 0; i < 5; ++i) {
    CHECK(mean(Expert(0, "w1.weight"), i) == doctest::Approx(s.inputs[1].sum_sq[i] / 450));
    CHECK(mean(Expert(1, "w1.weight"), i) == doctest::Approx(1.0));
    CHECK(mean(Layer("self_attn.q_proj.weight"), i) ==
          doctest::Approx(s.inputs[0].sum_sq[i] / 700));
  }
}

GgufBytes Imatrix(const std::vector<float>& sums, std::vector<int64_t> sum_dims,
                  const std::vector<float>& counts, std::vector<int64_t> count_dims,
                  const std::string& weight) {
  GgufBytes b;
  b.Start(2, 1).Text("general.type", "imatrix");
  b.Tensor(weight + ".in_sum2", sum_dims, 0, 0);
  b.Tensor(weight + ".counts", count_dims, 0, (sums.size() * 4 + 31) / 32 * 32);
  b.Align();
  for (const float v : sums) b.Put(v);
  b.Align();
  for (const float v : counts) b.Put(v);
  b.Align();
  return b;
}

TEST_CASE("imatrix: entries with one count for all experts are spread over them") {
  const test::ScratchFolder folder;
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{2, 3}, std::vector<int64_t>{6}}) {
    const auto bytes =
        Imatrix({1, 2, 3, 4, 5, 6}, dims, {10}, {1}, "blk.2.ffn_down_exps.weight").text;
    const auto s = ReadImatrixGguf(folder.Write("i", bytes), kMixtral);
    REQUIRE_MESSAGE(s.ok(), s.error().ToString());
    REQUIRE(s->inputs.size() == 3);
    CHECK(s->inputs[2].weights.front() == "model.layers.2.block_sparse_moe.experts.2.w2.weight");
    CHECK(s->inputs[2].sum_sq == std::vector<double>{5, 6});
    CHECK(s->inputs[2].tokens == 10);
  }
}

TEST_CASE("imatrix: bad entries are named") {
  const test::ScratchFolder folder;
  const std::string q = "blk.0.attn_q.weight", e = "blk.0.ffn_up_exps.weight";
  GgufBytes alone;
  alone.Start(1, 1).Text("general.type", "imatrix").Tensor(q + ".in_sum2", {8}, 0, 0).Align();
  alone.Data(32);
  GgufBytes half;
  half.Start(2, 1).Text("general.type", "imatrix");
  half.Tensor(q + ".in_sum2", {8}, 1, 0).Tensor(q + ".counts", {1}, 0, 32).Align().Data(64);
  GgufBytes model;
  model.Start(1, 1).Text("general.architecture", "llama").Tensor(q, {8}, 0, 0).Align().Data(32);
  const struct {
    std::string what, bytes;
    ErrorCode code;
  } cases[] = {
      {"NaN", Imatrix({1, std::nanf("")}, {2}, {1}, {1}, q).text, ErrorCode::kNonFinite},
      {"infinite count", Imatrix({1, 2}, {2}, {INFINITY}, {1}, q).text, ErrorCode::kNonFinite},
      {"negative", Imatrix({1, -2}, {2}, {1}, {1}, q).text, ErrorCode::kInvalidTensor},
      {"two of three experts", Imatrix({1, 2, 3, 4}, {2, 2}, {1, 1}, {1, 2}, e).text,
       ErrorCode::kInvalidTensor},
      {"no counts", alone.text, ErrorCode::kInvalidTensor},
      {"f16", half.text, ErrorCode::kInvalidTensor},
      {"a model", model.text, ErrorCode::kUnknownFormat},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    const auto s = StatisticsFile::Open(folder.Write("bad", c.bytes), kMixtral, 512);
    REQUIRE_FALSE(s.ok());
    CHECK(s.error().code == c.code);
  }
}

// i32 name length and name, calls, values.
std::string LegacyEntry(const std::string& name, int32_t calls, const std::vector<float>& values) {
  GgufBytes b;
  b.Put<int32_t>(static_cast<int32_t>(name.size())).Raw(name).Put(calls);
  b.Put<int32_t>(static_cast<int32_t>(values.size()));
  for (const float v : values) b.Put(v);
  return b.text;
}

std::string Number(int32_t value) { return GgufBytes().Put(value).text; }

TEST_CASE("imatrix, legacy: means become sums; the tail may be absent") {
  const test::ScratchFolder folder;
  const std::string entries =
      LegacyEntry("blk.0.attn_q.weight", 4, {8, 2}) + LegacyEntry("blk.0.attn_k.weight", 0, {3, 5});
  for (const std::string& tail : {std::string(), Number(9), Number(9) + Number(1) + "t"}) {
    const auto s = ReadImatrixLegacy(folder.Write("i", Number(2) + entries + tail), kLlama, 100);
    REQUIRE_MESSAGE(s.ok(), s.error().ToString());
    REQUIRE(s->inputs.size() == 2);
    CHECK(s->windows == (tail.empty() ? 0 : 9));
    CHECK(s->inputs[0].tokens == 400);
    CHECK(s->inputs[0].sum_sq == std::vector<double>{800, 200});
    // Of no call: the values are taken as they are.
    CHECK(s->inputs[1].sum_sq[1] / static_cast<double>(s->inputs[1].tokens) == 5);
  }
}

TEST_CASE("imatrix, legacy: no count or length is believed") {
  const test::ScratchFolder folder;
  const std::string entry = LegacyEntry("blk.0.attn_q.weight", 4, {8, 2});
  const struct {
    std::string what, bytes;
    ErrorCode code;
  } cases[] = {
      {"empty", "", ErrorCode::kTruncated},
      {"none", Number(0) + entry, ErrorCode::kUnknownFormat},
      {"negative", Number(-1) + entry, ErrorCode::kUnknownFormat},
      {"more than fit", Number(1 << 30) + entry, ErrorCode::kUnknownFormat},
      {"text", "Once upon a time there was a little girl", ErrorCode::kUnknownFormat},
      {"a name of -1 bytes", Number(1) + Number(-1) + entry, ErrorCode::kInvalidName},
      {"a long name", Number(1) + Number(1 << 30) + entry, ErrorCode::kInvalidName},
      {"many values", Number(1) + Number(1) + "n" + Number(1) + Number(1 << 30) + entry,
       ErrorCode::kTruncated},
      {"no values", Number(1) + LegacyEntry("name_of_a_tensor", 4, {}) + Number(1),
       ErrorCode::kInvalidTensor},
      {"negative calls", Number(1) + LegacyEntry("n", -4, {1}), ErrorCode::kInvalidTensor},
      {"twice", Number(2) + entry + entry, ErrorCode::kDuplicateKey},
      {"NaN", Number(1) + LegacyEntry("n", 1, {std::nanf("")}), ErrorCode::kNonFinite},
      {"cut off", Number(1) + entry.substr(0, entry.size() - 1), ErrorCode::kTruncated},
      {"a torn tail", Number(1) + entry + "ab", ErrorCode::kTruncated},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    const auto s = StatisticsFile::Open(folder.Write("bad", c.bytes), kLlama, 512);
    REQUIRE_FALSE(s.ok());
    CHECK(s.error().code == c.code);
    CHECK_FALSE(s.error().file.empty());
  }
}

}  // namespace
}  // namespace pennyweight
