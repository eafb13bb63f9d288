#include "formats/pickle.h"

#include <doctest/doctest.h>

#include <random>

#include "lib/limits.h"
#include "tests/formats/pickle_builder.h"

namespace pennyweight {
namespace {

using test::LittleEndian;
using test::Pkl;
using test::PklCall;
using test::PklDict;
using test::PklGlobal;
using test::PklInteger;
using test::PklString;
using test::PklTuple;
using test::ScratchFolder;
using std::literals::operator""s;

// A value as Python's repr would show it; objects as "module.name(arguments)". `depth` guards
// against cycles.
std::string Show(const Pickle& p, PickleId id, int depth = 8) {
  if (depth == 0) return "...";
  const auto list = [&](const char* open, const char* close) {
    std::string out = open;
    for (const PickleId item : p.items(id)) out += Show(p, item, depth - 1) + ",";
    return out + close;
  };
  switch (p.kind(id)) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return p.integer(id) != 0 ? "True" : "False";
    case PickleKind::kInteger:
      return std::to_string(p.integer(id));
    case PickleKind::kBigInteger:
      return fmt::format("big{}", p.text(id).size());
    case PickleKind::kFloat:
      return fmt::format("{}", p.real(id));
    case PickleKind::kString:
      return "'" + std::string(p.text(id)) + "'";
    case PickleKind::kBytes:
      return "b'" + std::string(p.text(id)) + "'";
    case PickleKind::kTuple:
      return list("(", ")");
    case PickleKind::kList:
      return list("[", "]");
    case PickleKind::kSet:
      return list("{*", "}");
    case PickleKind::kDict:
      return list("{", "}");
    case PickleKind::kGlobal:
      return p.GlobalName(id);
    case PickleKind::kPersistent:
      return list("P(", ")");
    case PickleKind::kObject: {
      std::string out = Show(p, p.callable(id), depth - 1) + Show(p, p.arguments(id), depth - 1);
      if (p.state(id)) out += "<-" + Show(p, *p.state(id), depth - 1);
      return out + (p.items(id).empty() ? "" : list("+[", "]"));
    }
  }
  return "?";
}

std::string ShowBytes(const std::string& bytes) {
  const auto pickle = Pickle::Parse(bytes);
  return pickle.ok() ? Show(*pickle, pickle->root()) : pickle.error().ToString();
}

TEST_CASE("values of every protocol") {
  struct Case {
    std::string bytes;
    const char* shown;
  };
  const std::string u32_3 = LittleEndian(uint32_t{3});
  const std::string u64_3 = LittleEndian(uint64_t{3});
  const std::vector<Case> cases = {
      {"N.", "None"},
      {"\x80\x02\x88.", "True"},
      {"I01\n.", "True"},
      {"I00\n.", "False"},
      {"I-12\n.", "-12"},
      {"L12345678901L\n.", "12345678901"},
      {"F-2.5\n.", "-2.5"},
      {"S'a\\x41\\n\\'b'\n.", "'aA\n'b'"},
      {"S\"q\"\n.", "'q'"},
      {"Vx\\u00e9\\U0001F600\n.", "'x\xC3\xA9\xF0\x9F\x98\x80'"},
      {"K\xFF.", "255"},
      {"M\x01\x02.", "513"},
      {"J\xFE\xFF\xFF\xFF.", "-2"},
      {"\x8a\x01\xFF.", "-1"},
      {"\x8a\x00."s, "0"},
      {"\x8a\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x00."s, "big9"},
      {"\x8b\x02\x00\x00\x00\x01\x01."s, "257"},
      {"G\x3F\xF8\x00\x00\x00\x00\x00\x00."s, "1.5"},
      {"U\x03"
       "abc.",
       "'abc'"},
      {"T" + u32_3 + "abc.", "'abc'"},
      {"X" + u32_3 + "abc.", "'abc'"},
      {"\x80\x04\x8c\x03"
       "abc.",
       "'abc'"},
      {"\x8d" + u64_3 + "abc.", "'abc'"},
      {"C\x03"
       "abc.",
       "b'abc'"},
      {"B" + u32_3 + "abc.", "b'abc'"},
      {"\x8e" + u64_3 + "abc.", "b'abc'"},
      {"\x80\x05\x96" + u64_3 + "abc.", "b'abc'"},
      {"(lp0\nI1\naI2\na.", "[1,2,]"},
      {"](K\x01K\x02"
       "e.",
       "[1,2,]"},
      {"(K\x01K\x02l.", "[1,2,]"},
      {"(dp0\nS'a'\nI1\ns.", "{'a',1,}"},
      {"(K\x01K\x02"
       "d.",
       "{1,2,}"},
      {"}(K\x01K\x02"
       "u.",
       "{1,2,}"},
      {").", "()"},
      {"K\x01\x85.", "(1,)"},
      {"K\x01K\x02\x86.", "(1,2,)"},
      {"K\x01K\x02K\x03\x87.", "(1,2,3,)"},
      {"\x8f(K\x01K\x02\x90.", "{*1,2,}"},
      {"(K\x01\x91.", "{*1,}"},
      {"K\x01"
       "2\x86.",
       "(1,1,)"},
      {"K\x01K\x02"
       "0.",
       "1"},
      {"K\x01(K\x02K\x03"
       "1.",
       "1"},
      {"K\x01(0.", "1"},
      {"K\x07q\x00"
       "0h\x00."s,
       "7"},
      {"K\x07p0\n0g0\n.", "7"},
      {"K\x07r\x00\x00\x00\x00"
       "0j\x00\x00\x00\x00."s,
       "7"},
      {"\x80\x04K\x07\x94"
       "0h\x00."s,
       "7"},
      {"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00K\x07."s, "7"},
      {"ccollections\nOrderedDict\n)R.", "{}"},
      {"ccollections\nOrderedDict\n(](](K\x01K\x02"
       "e](K\x03K\x04"
       "eetR.",
       "{1,2,3,4,}"},
      {"ccollections\nOrderedDict\n)R}b.", "{}"},
      {"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R.", "{}"},
      {"c__builtin__\nset\n](K\x01"
       "e\x85R.",
       "{*1,}"},
      {"ctorch\nSize\nK\x04K\x05\x86\x85R.", "(4,5,)"},
      {"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"},
      {"cargparse\nNamespace\n)\x81}(U\x01"
       "aK\x01ub.",
       "argparse.Namespace()<-{'a',1,}"},
      {"ca\nB\n)}\x92.", "a.B()"},
      {"ca\nB\n)R)R.", "a.B()()"},
      {"ca\nDict\n)\x81(K\x01K\x02u.", "a.Dict()+[1,2,]"},
      {"(U\x07storageK\x01tQ.", "P(('storage',1,),)"},
  };
  for (const Case& good : cases) {
    CAPTURE(good.shown);
    CHECK(ShowBytes(good.bytes) == good.shown);
  }
}

TEST_CASE("what would run is data, and nothing runs") {
  const ScratchFolder folder;
  const std::string made = folder.Path("made");
  const std::string command = "touch " + made;
  const std::vector<std::string> pickles = {
      "cos\nsystem\n(S'" + command + "'\ntR.",
      Pkl(PklCall(PklGlobal("posix", "system"), {PklString(command)})),
      Pkl(PklCall(PklGlobal("builtins", "exec"), {PklString("open('" + made + "', 'w').close()")})),
      // The name in pieces that come from the memo.
      "\x80\x04\x8c\x02os\x94\x8c\x06system\x94"
      "00h\x00h\x01\x93"s +
          PklTuple({PklString(command)}) + "R.",
      Pkl(PklCall(
          PklCall(PklGlobal("builtins", "getattr"), {PklGlobal("os", "path"), PklString("system")}),
          {PklString(command)})),
      Pkl(PklGlobal("subprocess", "Popen") + PklTuple({PklString(command)}) + "\x81" +
          PklDict({PklString("shell"), "\x88"}) + "b"),
  };
  for (const std::string& bytes : pickles) {
    const auto pickle = Pickle::Parse(bytes);
    REQUIRE_MESSAGE(pickle.ok(), pickle.error().ToString());
    CHECK(pickle->kind(pickle->root()) == PickleKind::kObject);
    CHECK(Show(*pickle, pickle->root()).find(made) != std::string::npos);
  }
  CHECK_FALSE(std::filesystem::exists(made));
}

TEST_CASE("malformed and hostile pickles are refused") {
  struct Case {
    const char* id;
    std::string bytes;
    ErrorCode code;
  };
  const auto bad = ErrorCode::kInvalidPickle;
  const auto cut = ErrorCode::kTruncated;
  const std::string u64_big = LittleEndian(uint64_t{1} << 63);
  const std::vector<Case> cases = {
      {"empty", "", cut},
      {"P31", "K\x01", cut},
      {"P3",
       "\x80\x04K\x01\x8c\x01"
       "a\x93.",
       bad},
      {"P4", "h\x05.", bad},
      {"P4 text", "g5\n.", bad},
      {"P5", "Nr\xFF\xFF\xFF\xFF.", bad},
      {"P5 text", "Np999999999\n.", bad},
      {"P5 longer", "Np99999999999\n.", bad},
      {"memo of nothing", "q\x00."s, bad},
      {"P10",
       "X\xFF\xFF\xFF\xFF"
       "abc.",
       cut},
      {"P11", "\x8e" + u64_big + "abc.", cut},
      {"P12 -1", "\x8b\xFF\xFF\xFF\xFF.", bad},
      {"P12 2^31-1", "\x8b\xFF\xFF\xFF\x7F.", cut},
      {"long integer", "\x8a\x41" + std::string(65, '1') + ".", ErrorCode::kLimit},
      {"P13", "\x80\x04\x95\xFF\x00\x00\x00\x00\x00\x00\x00N."s, cut},
      {"P13 2^63", "\x80\x04\x95" + u64_big + "N.", cut},
      {"P14", "\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00K\x01."s, bad},
      {"P15",
       "\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x95\x01\x00\x00\x00\x00\x00\x00\x00N.."s, bad},
      {"stop inside a frame", "\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00N.N"s, bad},
      {"P16", "\x80\x02\x80\x02N.", bad},
      {"PROTO later", "N\x80\x02.", bad},
      {"protocol 6", "\x80\x06N.", bad},
      {"P17", "K\x01t.", bad},
      {"P18", "}(K\x01u.", bad},
      {"P19 list", "](K\x01K\x02u.", bad},
      {"P19 tuple", ")K\x01K\x02s.", bad},
      {"P20",
       ")K\x01"
       "a.",
       bad},
      {"add to a list", "](K\x01\x90.", bad},
      {"P29 EXT1", "\x82\x01.", bad},
      {"P29 INST", "(ios\nsystem\n.", bad},
      {"P29 OBJ", "(cos\nsystem\no.", bad},
      {"P29 PERSID", "Pabc\n.", bad},
      {"NEXT_BUFFER", "\x80\x05\x97.", bad},
      {"unknown", "\xFF.", bad},
      {"P44 UTF-8 is not checked, spaces are", "cos \nsystem\n.", bad},
      {"P44 long line", "c" + std::string(1 << 20, 'a') + "\nb\n.", bad},
      {"empty name", "c\n\n.", bad},
      {"pop of nothing", "0.", bad},
      {"pop below a mark",
       "K\x01(K\x02"
       "00a.",
       bad},
      {"tuple through a mark", "K\x01(\x85.", bad},
      {"open mark", "(.", bad},
      {"two values", "NN.", bad},
      {"no value", ".", bad},
      {"call of a string",
       "U\x01"
       "a)R.",
       bad},
      {"call of a tuple", "))R.", bad},
      {"call without a tuple", "ca\nb\nNR.", bad},
      {"NEWOBJ_EX without a dict", "ca\nb\n)N\x92.", bad},
      {"BUILD of an integer", "K\x01}b.", bad},
      {"OrderedDict of integers",
       "ccollections\nOrderedDict\n](K\x01"
       "e\x85R.",
       bad},
      {"OrderedDict of one", "ccollections\nOrderedDict\nK\x01\x85R.", bad},
      {"set of a string",
       "c__builtin__\nset\nU\x01"
       "a\x85R.",
       bad},
      {"integer", "I1x\n.", bad},
      {"integer too large", "L99999999999999999999L\n.", bad},
      {"float", "Fabc\n.", bad},
      {"quote open", "S'abc\n.", bad},
      {"quote escape", "S'\\q'\n.", bad},
      {"surrogate", "V\\ud800\n.", bad},
      {"many marks", std::string(5000, '('), bad},
  };
  for (const Case& hostile : cases) {
    CAPTURE(hostile.id);
    const auto pickle = Pickle::Parse(hostile.bytes);
    REQUIRE_FALSE(pickle.ok());
    CAPTURE(pickle.error().ToString());
    CHECK(std::string(ErrorCodeName(pickle.error().code)) == ErrorCodeName(hostile.code));
    CHECK(pickle.error().offset >= 0);
  }
}

TEST_CASE("bombs stay small") {
  // P6, P7: ten levels of ten references to the level below.
  std::string laughs = "\x80\x02]q"s + '\0' + "0";
  for (int level = 0; level < 10; ++level) {
    laughs += "](";
    for (int i = 0; i < 10; ++i) laughs += "h" + std::string(1, static_cast<char>(level));
    laughs += "eq" + std::string(1, static_cast<char>(level + 1)) + (level < 9 ? "0" : ".");
  }
  const auto small = Pickle::Parse(laughs);
  REQUIRE_MESSAGE(small.ok(), small.error().ToString());
  CHECK(small->size() == 11);
  // P9: a million lists inside each other.
  const size_t deep = 1000000;
  const auto nested = Pickle::Parse(std::string(deep, ']') + std::string(deep - 1, 'a') + ".");
  REQUIRE(nested.ok());
  CHECK(nested->size() == deep);
  // P8: a list inside itself.
  const auto cycle = Pickle::Parse(
      "]q\x00h\x00"
      "a."s);
  REQUIRE(cycle.ok());
  REQUIRE(cycle->items(cycle->root()).size() == 1);
  CHECK(cycle->items(cycle->root())[0] == cycle->root());
  // A list of 100000 that is copied 1000 times.
  std::string copies = "](" + std::string(100000, 'N') + "eq"s + '\0';
  for (int i = 0; i < 1000; ++i) copies += "c__builtin__\nset\nh"s + '\0' + "\x85R0";
  const auto copied = Pickle::Parse(copies + ".");
  REQUIRE_FALSE(copied.ok());
  CHECK(copied.error().code == ErrorCode::kLimit);
  // More values than are taken.
  const auto many = Pickle::Parse(std::string(limits::kPickleNodes + 1, 'N'));
  REQUIRE_FALSE(many.ok());
  CHECK(many.error().code == ErrorCode::kLimit);
}

TEST_CASE("pickles that follow each other in a file are read one by one, a window at a time") {
  const ScratchFolder folder;
  std::string large(300000, '\0');
  std::mt19937 random{std::random_device{}()};
  for (char& c : large) c = static_cast<char>(random());
  const std::string first = Pkl(PklDict({PklString("a"), PklString(large)}));
  const std::string bytes = "skip" + first + Pkl("K\x05") + std::string(1 << 20, 'x');
  const auto file = ReadFile::Open(folder.Write("x.bin", bytes));
  const auto a = Pickle::Parse(*file, 4);
  REQUIRE_MESSAGE(a.ok(), a.error().ToString());
  CHECK(a->bytes() == first.size());
  CHECK(a->text(a->items(a->root())[1]) == large);
  const auto b = Pickle::Parse(*file, 4 + a->bytes());
  REQUIRE(b.ok());
  CHECK(b->integer(b->root()) == 5);
  // A length beyond the file is not allocated.
  const auto huge = Pickle::Parse(
      *ReadFile::Open(folder.Write("y.bin", "\x8e" + LittleEndian(uint64_t{1} << 62))), 0);
  REQUIRE_FALSE(huge.ok());
  CHECK(huge.error().code == ErrorCode::kTruncated);
  CHECK(huge.error().file == folder.Path("y.bin"));
  CHECK_FALSE(Pickle::Parse(*file, bytes.size()).ok());
  CHECK_FALSE(Pickle::Parse(*file, bytes.size() + 9).ok());
}

TEST_CASE("random bytes, and pickles with random changes, never do harm") {
  std::mt19937 random{std::random_device{}()};
  const std::string good =
      Pkl(PklDict({PklString("a"), PklCall(PklGlobal("collections", "OrderedDict"), {}),
                   PklString("b"), PklTuple({PklInteger(1), "h\x00"s})}));
  constexpr std::string_view kOps = "()]}.0123atuesqhrjRQbcNKMX\x81\x85\x86\x87\x88\x93\x94\x95";
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    if (i % 2 == 0) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    } else {
      bytes.resize(random() % 64);
      for (char& c : bytes) c = kOps[random() % kOps.size()];
    }
    const auto pickle = Pickle::Parse(bytes);
    if (pickle.ok()) Show(*pickle, pickle->root());
  }
}

}  // namespace
}  // namespace pennyweight
