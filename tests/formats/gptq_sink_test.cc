#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "formats/sinks.h"
#include "lib/json.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

IntegerSpec Spec(int bits, int64_t group, bool symmetric) {
  return {.bits = bits, .group_size = group, .symmetric = symmetric};
}

std::string Layer(const std::string& name) { return "model.layers.0." + name + ".weight"; }

std::string Module(const std::string& name) { return "model.layers.0." + name; }

struct LayoutCase {
  const char* name;
  Result<std::unique_ptr<TensorSink>> (*make)(const SinkOptions&);
};
constexpr LayoutCase kGptq = {"gptq", MakeGptqSink};
constexpr LayoutCase kAwq = {"awq", MakeAwqSink};

void Finish(TensorSink* sink) {
  const Status sealed = sink->Seal();
  REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
  REQUIRE(sink->Commit().ok());
}

// A stored part: its listing, and its bytes as words.
struct Part {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<uint32_t> words;
};

Part ReadPart(const std::string& folder, const std::string& name) {
  const auto source = SafetensorsSource::Open({folder + "/model.safetensors"});
  REQUIRE(source.ok());
  const int64_t at = (*source)->Find(name);
  REQUIRE_MESSAGE(at >= 0, name);
  const TensorInfo& info = (*source)->tensors()[static_cast<size_t>(at)];
  EncodedTensor out;
  REQUIRE((*source)->ReadRows(static_cast<size_t>(at), 0, info.rows(), &out).ok());
  Part part{info.encoding.dtype, info.shape, std::vector<uint32_t>(out.data.size() / 4)};
  std::memcpy(part.words.data(), out.data.data(), part.words.size() * 4);
  return part;
}

Json QuantizationConfig(const std::string& folder) {
  const auto config = Json::ParseFile(folder + "/config.json");
  REQUIRE(config.ok());
  const Json* const found = config->Find("quantization_config");
  REQUIRE(found != nullptr);
  return *found;
}

// A matrix whose code in row r and column c is f(r, c) as an unsigned number, with scales of one.
template <class F>
EncodedTensor Codes(const Encoding& encoding, int64_t rows, int64_t cols, const F& f) {
  EncodedTensor tile = RandomTile(encoding, rows, cols, 3);
  const int half = 1 << (encoding.integer.bits - 1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      tile.codes[static_cast<size_t>(r * cols + c)] = static_cast<int8_t>(f(r, c) - half);
    }
  }
  return tile;
}

// Writes one matrix, and gives the folder.
std::string WriteOne(const TempFolder& temp, const LayoutCase& layout, const EncodedTensor& tile) {
  const Model input = MakeInputFolder(temp);
  const std::string out = temp / "out";
  auto sink = OpenSink(layout.make, out, input);
  const Status begun = sink->Begin({{Layer("mlp.up_proj"), tile.encoding, {tile.rows, tile.cols}}});
  REQUIRE_MESSAGE(begun.ok(), begun.error().ToString());
  REQUIRE(sink->Write(0, 0, tile).ok());
  Finish(sink.get());
  return out;
}

// The words of specs for GPTQ: 0..7 of 4 bits, 0..3 of 8, 0..3 over and over of 2, 0..7 of 3. All
// rows are alike, so each word stands once for each row.
TEST_CASE("golden words of GPTQ") {
  struct Golden {
    int bits;
    int modulus;
    std::vector<uint32_t> first_words, zeros_v1, zeros_v2;
  };
  const std::vector<Golden> all = {
      {4, 8, {0x76543210u}, {0x77777777u}, {0x88888888u}},
      {8, 4, {0x03020100u}, {0x7f7f7f7fu}, {0x80808080u}},
      {2, 4, {0xe4e4e4e4u}, {0x55555555u}, {0xaaaaaaaau}},
      {3,
       8,
       {0x88fac688u, 0xc688fac6u, 0xfac688fau},
       {0xdb6db6dbu, 0xb6db6db6u, 0x6db6db6du},
       {0x24924924u, 0x49249249u, 0x92492492u}},
  };
  for (const Golden& golden : all) {
    CAPTURE(golden.bits);
    for (const bool symmetric : {true, false}) {
      TempFolder temp;
      const Encoding encoding = Encoding::Integer(Spec(golden.bits, 32, symmetric));
      EncodedTensor tile =
          Codes(encoding, 32, 64, [&](int64_t, int64_t c) { return c % golden.modulus; });
      std::fill(tile.zeros.begin(), tile.zeros.end(), int8_t{0});
      // One group is not in the middle, else nothing tells it from symmetric.
      if (!symmetric) std::fill_n(tile.zeros.begin(), 2, static_cast<int8_t>(-1));
      const std::string out = WriteOne(temp, kGptq, tile);
      const Part q = ReadPart(out, Module("mlp.up_proj.qweight"));
      CHECK(q.dtype == DType::kI32);
      CHECK(q.shape == Shape{64 * golden.bits / 32, 32});
      for (size_t i = 0; i < q.words.size(); ++i) {
        REQUIRE(q.words[i] == golden.first_words[i / 32 % golden.first_words.size()]);
      }
      const Part zeros = ReadPart(out, Module("mlp.up_proj.qzeros"));
      CHECK(zeros.shape == Shape{2, 32 * golden.bits / 32});
      const auto& middle = symmetric ? golden.zeros_v1 : golden.zeros_v2;
      for (size_t i = 0; i < zeros.words.size(); ++i) {
        // Row 0 of the weight has the zero points that differ: the lowest field of each first word.
        const bool first = i % static_cast<size_t>(golden.bits) == 0;
        const uint32_t less = !symmetric && first ? 1 : 0;
        REQUIRE(zeros.words[i] == middle[i % middle.size()] - less);
      }
      const Part groups = ReadPart(out, Module("mlp.up_proj.g_idx"));
      CHECK(groups.dtype == DType::kI32);
      REQUIRE(groups.words.size() == 64);
      for (uint32_t k = 0; k < 64; ++k) REQUIRE(groups.words[k] == k / 32);
      const Part scales = ReadPart(out, Module("mlp.up_proj.scales"));
      CHECK(scales.dtype == DType::kF16);
      CHECK(scales.shape == Shape{2, 32});
      const Json config = QuantizationConfig(out);
      CHECK(config.Find("quant_method")->str() == "gptq");
      CHECK(config.Find("bits")->AsInteger() == golden.bits);
      CHECK(config.Find("group_size")->AsInteger() == 32);
      CHECK(config.Find("sym")->AsBool() == symmetric);
      CHECK(config.Find("desc_act")->AsBool() == false);
      CHECK(config.Find("checkpoint_format")->str() == (symmetric ? "gptq" : "gptq_v2"));
      CHECK(config.Find("dynamic") == nullptr);
      CHECK(config.Find("modules_in_block_to_quantize") == nullptr);
    }
  }
}

TEST_CASE("golden words of AWQ") {
  for (const bool symmetric : {true, false}) {
    TempFolder temp;
    const Encoding encoding = Encoding::Integer(Spec(4, 32, symmetric));
    // Outputs 0..7 have the codes 0..7 in even inputs, 8..15 in odd ones.
    EncodedTensor tile =
        Codes(encoding, 32, 64, [](int64_t r, int64_t c) { return r % 8 + c % 2 * 8; });
    for (size_t i = 0; i < tile.zeros.size(); ++i) {
      tile.zeros[i] =
          static_cast<int8_t>(static_cast<int>(i / 2 % 8) - 8 + static_cast<int>(i % 2));
    }
    const std::string out = WriteOne(temp, kAwq, tile);
    const Part q = ReadPart(out, Module("mlp.up_proj.qweight"));
    CHECK(q.dtype == DType::kI32);
    CHECK(q.shape == Shape{64, 4});
    for (size_t i = 0; i < q.words.size(); ++i) {
      REQUIRE(q.words[i] == (i / 4 % 2 == 0 ? 0x75316420u : 0xfdb9eca8u));
    }
    const Part zeros = ReadPart(out, Module("mlp.up_proj.qzeros"));
    CHECK(zeros.shape == Shape{2, 4});
    for (size_t i = 0; i < 8; ++i) {
      // No minus one here; the second group has one more.
      const uint32_t word = i < 4 ? 0x75316420u : 0x86427531u;
      REQUIRE(zeros.words[i] == (symmetric ? 0x88888888u : word));
    }
    CHECK(ReadPart(out, Module("mlp.up_proj.scales")).shape == Shape{2, 32});
    const Json config = QuantizationConfig(out);
    CHECK(config.Find("quant_method")->str() == "awq");
    CHECK(config.Find("bits")->AsInteger() == 4);
    CHECK(config.Find("group_size")->AsInteger() == 32);
    CHECK(config.Find("zero_point")->AsBool() == true);
    CHECK(config.Find("version")->str() == "gemm");
    CHECK(config.Find("modules_to_not_convert")->is_null());
  }
}

TEST_CASE("what gptq and awq are handed comes back from the reader, whatever the tiles") {
  struct Case {
    LayoutCase layout;
    IntegerSpec spec;
  };
  std::vector<Case> cases;
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {0, 16, 32, 64, 128}) {
      for (const int bits : {2, 3, 4, 8}) cases.push_back({kGptq, Spec(bits, group, symmetric)});
      cases.push_back({kAwq, Spec(4, group, symmetric)});
    }
  }
  for (const Case& c : cases) {
    CAPTURE(c.layout.name);
    const Encoding encoding = Encoding::Integer(c.spec);
    CAPTURE(encoding.Name());
    TempFolder temp;
    const Model input = MakeInputFolder(temp);
    auto sink = OpenSink(c.layout.make, temp / "out", input);
    std::vector<OutputTensor> tensors = {
        {"model.embed_tokens.weight", Encoding::Plain(DType::kBF16), {40, 64}},
        {Layer("self_attn.q_proj"), encoding, {96, 256}},
        {Layer("mlp.down_proj"), encoding, {160, 384}},
        {Layer("mlp.up_proj"), encoding, {32, 256}}};
    REQUIRE(sink->Begin(tensors).ok());
    std::vector<EncodedTensor> wholes;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Shape& shape = tensors[i].shape;
      wholes.push_back(RandomTile(tensors[i].encoding, shape[0], shape[1], std::random_device()()));
      WriteInTiles(sink.get(), i, wholes[i], i % 2 == 0 ? 32 : 64);
    }
    CHECK(sink->OutputName(1) == Module("self_attn.q_proj.qweight"));
    const auto groups = static_cast<uint64_t>(c.spec.Groups(256));
    const auto bits = static_cast<uint64_t>(c.spec.bits);
    CHECK(sink->OutputBytes(1) == 96 * 256 * bits / 8 + groups * 96 * bits / 8 + groups * 96 * 2 +
                                      (c.layout.make == MakeGptqSink ? 256 * 4 : 0));
    Finish(sink.get());
    const auto model = OpenHuggingFace(temp / "out");
    REQUIRE_MESSAGE(model.ok(), model.error().ToString());
    REQUIRE(model->source->tensors().size() == tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      CAPTURE(tensors[i].name);
      const auto at = static_cast<size_t>(model->source->Find(tensors[i].name));
      EncodedTensor read;
      REQUIRE(model->source->ReadRows(at, 0, wholes[i].rows, &read).ok());
      CHECK(read.encoding == tensors[i].encoding);
      CHECK(SameTile(read, wholes[i]));
    }
  }
}

TEST_CASE("rows that only fill words, and zero points that are all in the middle") {
  for (const LayoutCase& layout : {kGptq, kAwq}) {
    CAPTURE(layout.name);
    TempFolder temp;
    const Model input = MakeInputFolder(temp);
    auto sink = OpenSink(layout.make, temp / "out", input);
    const Encoding encoding = Encoding::Integer(Spec(4, 0, false));
    REQUIRE(sink->Begin({{Layer("mlp.up_proj"), encoding, {104, 24}},
                         {Layer("mlp.gate_proj"), encoding, {8, 40}}})
                .ok());
    const EncodedTensor odd = RandomTile(encoding, 104, 24, 5);
    EncodedTensor middle = RandomTile(encoding, 8, 40, 6);
    std::fill(middle.zeros.begin(), middle.zeros.end(), int8_t{0});
    WriteInTiles(sink.get(), 0, odd, 32);
    WriteInTiles(sink.get(), 1, middle, 32);
    Finish(sink.get());
    const auto model = OpenHuggingFace(temp / "out");
    REQUIRE(model.ok());
    EncodedTensor read;
    const auto at = static_cast<size_t>(model->source->Find(Layer("mlp.up_proj")));
    REQUIRE(model->source->ReadRows(at, 0, 104, &read).ok());
    CHECK(SameTile(read, odd));
    const auto other = static_cast<size_t>(model->source->Find(Layer("mlp.gate_proj")));
    REQUIRE(model->source->ReadRows(other, 0, 8, &read).ok());
    CHECK(read.codes == middle.codes);
    CHECK(read.scales == middle.scales);
  }
}

TEST_CASE("linear modules that stay plain are listed, the head is not") {
  const auto config_of = [](const LayoutCase& layout) {
    TempFolder temp;
    const Model input = MakeInputFolder(temp);
    auto sink = OpenSink(layout.make, temp / "out", input);
    const Encoding packed = Encoding::Integer(Spec(4, 32, false));
    const Encoding plain = Encoding::Plain(DType::kBF16);
    const std::vector<OutputTensor> tensors = {{"model.embed_tokens.weight", plain, {40, 64}},
                                               {Layer("self_attn.q_proj"), packed, {64, 64}},
                                               {Layer("mlp.down_proj"), plain, {60, 96}},
                                               {Layer("input_layernorm"), plain, {64}},
                                               {"lm_head.weight", plain, {40, 64}}};
    REQUIRE(sink->Begin(tensors).ok());
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Shape& shape = tensors[i].shape;
      const int64_t rows = shape.size() == 1 ? 1 : shape[0];
      WriteInTiles(sink.get(), i,
                   RandomTile(tensors[i].encoding, rows, shape.back(), static_cast<uint32_t>(i)),
                   64);
    }
    Finish(sink.get());
    return QuantizationConfig(temp / "out");
  };
  const Json gptq = config_of(kGptq);
  CHECK(gptq.Find("dynamic")->Dump() == R"({"-:^model\\.layers\\.0\\.mlp\\.down_proj$":{}})");
  CHECK(gptq.Find("modules_in_block_to_quantize")->Dump() ==
        R"([["model.layers.0.self_attn.q_proj"]])");
  CHECK(config_of(kAwq).Find("modules_to_not_convert")->Dump() ==
        R"(["model.layers.0.mlp.down_proj","lm_head"])");
}

TEST_CASE("what gptq and awq cannot hold is refused with a remedy, and leaves nothing") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  const std::string q = Layer("self_attn.q_proj");
  const auto refusal = [&](const LayoutCase& layout, const std::vector<OutputTensor>& tensors) {
    auto sink = OpenSink(layout.make, temp / "out", input);
    const Status status = sink->Begin(tensors);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kUnsupported);
    CHECK(!status.error().tensor.empty());
    CHECK(!status.error().hint.empty());
    return status.error().message + " / " + status.error().hint;
  };
  const auto has = [](const std::string& text, const char* part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  const Encoding good = Encoding::Integer(Spec(4, 32, false));
  for (const LayoutCase& layout : {kGptq, kAwq}) {
    CAPTURE(layout.name);
    has(refusal(layout, {{q, Encoding::Block(BlockType::kQ4_0), {64, 64}}}), "--type int4");
    has(refusal(layout, {{q, Encoding::Integer(Spec(5, 32, true)), {64, 64}}}), "not int5_g32");
    has(refusal(layout, {{q, Encoding::Integer(Spec(4, 256, true)), {64, 256}}}), "--group-size");
    has(refusal(layout, {{q, good, {60, 64}}}), "60 rows do not fill words");
    has(refusal(layout, {{q, good, {64, 80}}}), "80 columns do not divide into groups of 32");
    has(refusal(layout, {{"model.embed_tokens.weight", good, {64, 64}}}), "--keep");
    has(refusal(layout, {{"lm_head.weight", good, {64, 64}}}), "--keep");
    IntegerSpec other = good.integer;
    other.scale_dtype = DType::kBF16;
    has(refusal(layout, {{q, Encoding::Integer(other), {64, 64}}}), "float16");
    other = good.integer;
    other.act_order = true;
    has(refusal(layout, {{q, Encoding::Integer(other), {64, 64}}}), "activation order");
    has(refusal(layout, {{q, good, {64, 64}},
                         {Layer("mlp.up_proj"), Encoding::Integer(Spec(4, 64, false)), {64, 64}}}),
        "--to compressed-tensors");
  }
  has(refusal(kAwq, {{q, Encoding::Integer(Spec(8, 32, true)), {64, 64}}}), "4 bits");
  has(refusal(kGptq, {{q, Encoding::Integer(Spec(4, 0, true)), {64, 36}}}), "36 columns");
  has(refusal(kGptq, {{q, Encoding::Integer(Spec(3, 16, true)), {48, 64}}}), "48 rows");
  CHECK(!std::filesystem::exists(temp / "out"));

  for (const LayoutCase& layout : {kGptq, kAwq}) {
    auto sink = OpenSink(layout.make, temp / "out", input);
    REQUIRE(sink->Begin({{q, good, {64, 64}}}).ok());
    EncodedTensor tile = RandomTile(good, 64, 64, 9);
    tile.codes[77] = 8;  // beyond 4 bits
    const Status codes = sink->Write(0, 0, tile);
    REQUIRE(!codes.ok());
    CHECK(codes.error().code == ErrorCode::kInvalidTensor);
    CHECK(codes.error().tensor == q);
    tile.codes[77] = 7;
    tile.zeros[3] = -9;
    CHECK(!sink->Write(0, 0, tile).ok());
    tile.zeros[3] = -8;
    REQUIRE(sink->Write(0, 0, RowsOf(tile, 0, 32)).ok());
    // Half of every line was never written.
    const Status sealed = sink->Seal();
    REQUIRE(!sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
  }
}

TEST_CASE("a bit that flips on the disk is noticed in strips of columns too") {
  TempFolder temp;
  const Model input = MakeInputFolder(temp);
  for (int trial = 0; trial < 8; ++trial) {
    auto sink = OpenSink(MakeGptqSink, temp / "out", input);
    const Encoding encoding = Encoding::Integer(Spec(4, 64, false));
    REQUIRE(sink->Begin({{Layer("mlp.up_proj"), encoding, {256, 128}}}).ok());
    WriteInTiles(sink.get(), 0, RandomTile(encoding, 256, 128, std::random_device()()), 64);
    std::string partial;
    for (const std::string& file : FilesUnder(temp.path())) {
      if (file.find("/input/") == std::string::npos) partial = file;
    }
    REQUIRE(!partial.empty());
    FlipBit(partial, 1 + static_cast<int64_t>(std::random_device()() % (128 / 8 * 256 * 4)));
    const Status sealed = sink->Seal();
    REQUIRE(!sealed.ok());
    CHECK(sealed.error().code == ErrorCode::kVerifyFailed);
  }
}

}  // namespace
}  // namespace pennyweight
