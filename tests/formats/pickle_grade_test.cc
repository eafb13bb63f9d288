#include "formats/pickle_grade.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/formats/pickle_builder.h"

namespace pennyweight {
namespace {

using enum PickleGrade;

struct Case {
  const char* module;
  const char* name;
  PickleGrade grade;
};

constexpr Case kCases[] = {
    // What state dicts are made of.
    {"collections", "OrderedDict", kAllowed},
    {"torch._utils", "_rebuild_tensor_v2", kAllowed},
    {"torch._utils", "_rebuild_parameter", kAllowed},
    {"torch", "FloatStorage", kAllowed},
    {"torch.cuda", "HalfStorage", kAllowed},
    {"torch.storage", "UntypedStorage", kAllowed},
    {"torch", "bfloat16", kAllowed},
    {"torch", "Size", kAllowed},
    {"torch._tensor", "_rebuild_from_type_v2", kAllowed},
    {"numpy.core.multiarray", "_reconstruct", kAllowed},
    {"_codecs", "encode", kAllowed},
    {"builtins", "set", kAllowed},
    {"__torch__.torch.nn.modules.linear", "Linear", kAllowed},
    // Clutter, modules, nested pickles.
    {"argparse", "Namespace", kBenign},
    {"pathlib", "PosixPath", kBenign},
    {"numpy.random._pickle", "__randomstate_ctor", kBenign},
    {"omegaconf.dictconfig", "DictConfig", kBenign},
    {"transformers.training_args", "TrainingArguments", kBenign},
    {"torch.optim.adamw", "AdamW", kBenign},
    {"torch.nn.modules.linear", "Linear", kModule},
    {"torch.storage", "_load_from_bytes", kNested},
    // Unknown: reported, but no attack by itself.
    {"__main__", "Net", kUnknown},
    {"acme", "Thing", kUnknown},
    {"torch", "Stor", kUnknown},
    {"torch.storage", "_StorageBase", kUnknown},
    {"builtins", "print", kUnknown},
    {"osx", "system", kUnknown},
    {"mymodule.os", "thing", kUnknown},
    {"collections", "OrderedDictX", kUnknown},
    // Attacks, also by submodule and by attribute.
    {"os", "system", kMalicious},
    {"posix", "system", kMalicious},
    {"nt", "system", kMalicious},
    {"subprocess", "Popen", kMalicious},
    {"builtins", "eval", kMalicious},
    {"__builtin__", "execfile", kMalicious},
    {"builtins", "getattr", kMalicious},
    {"builtins", "__import__", kMalicious},
    {"asyncio.unix_events", "_UnixSubprocessTransport._start", kMalicious},
    {"pip", "main", kMalicious},
    {"pip._internal", "main", kMalicious},
    {"runpy", "run_path", kMalicious},
    {"importlib", "import_module", kMalicious},
    {"functools", "partial", kMalicious},
    {"operator", "attrgetter", kMalicious},
    {"_operator", "methodcaller", kMalicious},
    {"numpy.testing._private.utils", "runstring", kMalicious},
    {"numpy.f2py", "crackfortran.getlincoef", kMalicious},
    {"torch", "load", kMalicious},
    {"torch", "hub.load", kMalicious},
    {"torch.jit", "load", kMalicious},
    {"torch.utils.collect_env", "run", kMalicious},
    {"torch._inductor.codecache", "compile_file", kMalicious},
    {"torch.serialization", "os.system", kMalicious},
    {"collections", "OrderedDict.__class__", kMalicious},
    {"acme", "helpers.subprocess.run", kMalicious},
    {"acme", "__globals__", kMalicious},
    {"logging", "FileHandler", kMalicious},
    {"_io", "FileIO", kMalicious},
    {"webbrowser", "open", kMalicious},
    {"pickle", "loads", kMalicious},
    {"dill._dill", "_create_function", kMalicious},
    {"types", "FunctionType", kMalicious},
    {"timeit", "timeit", kMalicious},
};

TEST_CASE("each name has its grade") {
  for (const Case& c : kCases) {
    CAPTURE(c.module);
    CAPTURE(c.name);
    CHECK(static_cast<int>(GradeGlobal(c.module, c.name)) == static_cast<int>(c.grade));
  }
}

TEST_CASE("malicious names of a pickle come with their offsets, used or not") {
  using namespace test;
  // Pushed and thrown away in front of the value.
  const std::string bytes = Pkl(PklGlobal("os", "system") + "0" + PklGlobal("acme", "X") + "0" +
                                PklCall(PklGlobal("builtins", "eval"), {PklString("1")}));
  const Result<Pickle> pickle = Pickle::Parse(bytes);
  REQUIRE(pickle.ok());
  const std::vector<std::string> names = MaliciousNames(*pickle, 100, 8);
  REQUIRE(names.size() == 2);
  CHECK(names[0] == "os.system at offset 102");
  CHECK(names[1] == fmt::format("builtins.eval at offset {}", 100 + bytes.find("cbuiltins")));
  CHECK(MaliciousNames(*pickle, 100, 1).size() == 1);
}

TEST_CASE("a pickle that is refused still gives the names in front of the fault") {
  using namespace test;
  const std::string bytes =
      "\x80\x02" + PklGlobal("posix", "system") + "(" + PklString("x") + "iacme\nRun\n.";
  std::optional<Pickle> partial;
  const Result<Pickle> pickle = Pickle::Parse(bytes, 0, &partial);
  REQUIRE_FALSE(pickle.ok());
  REQUIRE(partial.has_value());
  REQUIRE(partial->globals() == 2);
  CHECK(partial->global(0).module == "posix");
  CHECK(partial->global(0).at == 2);
  CHECK(partial->global(1).name == "Run");
  CHECK(static_cast<int64_t>(partial->global(1).at) == pickle.error().offset);
}

}  // namespace
}  // namespace pennyweight
