#include "formats/pickle_grade.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lib/finding.h"

namespace pennyweight {
namespace {

using std::literals::operator""sv;

// Names that state dicts are made of: torch/_weights_only_unpickler.py and torch/_utils.py of
// PyTorch, numpy's own pickles, and containers without effects. Whole names only.
constexpr std::array kAllowed = {
    "__builtin__.bool"sv,
    "__builtin__.bytearray"sv,
    "__builtin__.bytes"sv,
    "__builtin__.complex"sv,
    "__builtin__.dict"sv,
    "__builtin__.float"sv,
    "__builtin__.frozenset"sv,
    "__builtin__.int"sv,
    "__builtin__.list"sv,
    "__builtin__.long"sv,
    "__builtin__.object"sv,
    "__builtin__.set"sv,
    "__builtin__.slice"sv,
    "__builtin__.str"sv,
    "__builtin__.tuple"sv,
    "__builtin__.unicode"sv,
    "_codecs.encode"sv,
    "builtins.bool"sv,
    "builtins.bytearray"sv,
    "builtins.bytes"sv,
    "builtins.complex"sv,
    "builtins.dict"sv,
    "builtins.float"sv,
    "builtins.frozenset"sv,
    "builtins.int"sv,
    "builtins.list"sv,
    "builtins.object"sv,
    "builtins.range"sv,
    "builtins.set"sv,
    "builtins.slice"sv,
    "builtins.str"sv,
    "builtins.tuple"sv,
    "collections.Counter"sv,
    "collections.OrderedDict"sv,
    "collections.defaultdict"sv,
    "copy_reg._reconstructor"sv,
    "copyreg._reconstructor"sv,
    "numpy._core.multiarray._reconstruct"sv,
    "numpy._core.multiarray.scalar"sv,
    "numpy.core.multiarray._reconstruct"sv,
    "numpy.core.multiarray.scalar"sv,
    "numpy.dtype"sv,
    "numpy.ndarray"sv,
    "torch.Size"sv,
    "torch.Tensor"sv,
    "torch._tensor._rebuild_from_type"sv,
    "torch._tensor._rebuild_from_type_v2"sv,
    "torch._utils._rebuild_device_tensor_from_numpy"sv,
    "torch._utils._rebuild_meta_tensor_no_storage"sv,
    "torch._utils._rebuild_nested_tensor"sv,
    "torch._utils._rebuild_parameter"sv,
    "torch._utils._rebuild_parameter_with_state"sv,
    "torch._utils._rebuild_qtensor"sv,
    "torch._utils._rebuild_sparse_csr_tensor"sv,
    "torch._utils._rebuild_sparse_tensor"sv,
    "torch._utils._rebuild_tensor"sv,
    "torch._utils._rebuild_tensor_v2"sv,
    "torch._utils._rebuild_tensor_v3"sv,
    "torch._utils._rebuild_wrapper_subclass"sv,
    "torch.device"sv,
    "torch.dtype"sv,
    "torch.nn.parameter.Buffer"sv,
    "torch.nn.parameter.Parameter"sv,
    "torch.serialization._get_layout"sv,
    "torch.storage.TypedStorage"sv,
    "torch.storage.UntypedStorage"sv,
    "torch.storage._TypedStorage"sv,
    "torch.storage._UntypedStorage"sv,
    "torch.tensor._rebuild_from_type"sv,
};
static_assert(std::is_sorted(kAllowed.begin(), kAllowed.end()));

// torch.float32 and its kind, layouts and schemes of quantization: constants, not functions.
constexpr std::array kTorchConstants = {
    "bfloat16"sv,
    "bits16"sv,
    "bits1x8"sv,
    "bits2x4"sv,
    "bits4x2"sv,
    "bits8"sv,
    "bool"sv,
    "channels_last"sv,
    "complex128"sv,
    "complex32"sv,
    "complex64"sv,
    "contiguous_format"sv,
    "double"sv,
    "float"sv,
    "float16"sv,
    "float32"sv,
    "float4_e2m1fn_x2"sv,
    "float64"sv,
    "float8_e4m3fn"sv,
    "float8_e4m3fnuz"sv,
    "float8_e5m2"sv,
    "float8_e5m2fnuz"sv,
    "float8_e8m0fnu"sv,
    "half"sv,
    "int"sv,
    "int16"sv,
    "int32"sv,
    "int64"sv,
    "int8"sv,
    "long"sv,
    "per_channel_affine"sv,
    "per_channel_symmetric"sv,
    "per_tensor_affine"sv,
    "per_tensor_symmetric"sv,
    "preserve_format"sv,
    "qint32"sv,
    "qint8"sv,
    "quint2x4"sv,
    "quint4x2"sv,
    "quint8"sv,
    "short"sv,
    "sparse_coo"sv,
    "strided"sv,
    "uint16"sv,
    "uint32"sv,
    "uint64"sv,
    "uint8"sv,
};
static_assert(std::is_sorted(kTorchConstants.begin(), kTorchConstants.end()));

// Modules, classes and functions that give a pickle power over the machine; each also stands for
// everything below it. From CVE and GHSA entries of picklescan, fickling and modelscan, and from
// the list of modules in the documentation of Python that run, load or fetch something.
constexpr std::array kMalicious = {
    "IPython"sv,
    "__builtin__.__import__"sv,
    "__builtin__.apply"sv,
    "__builtin__.breakpoint"sv,
    "__builtin__.compile"sv,
    "__builtin__.delattr"sv,
    "__builtin__.eval"sv,
    "__builtin__.exec"sv,
    "__builtin__.execfile"sv,
    "__builtin__.exit"sv,
    "__builtin__.file"sv,
    "__builtin__.filter"sv,
    "__builtin__.getattr"sv,
    "__builtin__.globals"sv,
    "__builtin__.input"sv,
    "__builtin__.locals"sv,
    "__builtin__.map"sv,
    "__builtin__.open"sv,
    "__builtin__.quit"sv,
    "__builtin__.raw_input"sv,
    "__builtin__.reduce"sv,
    "__builtin__.reload"sv,
    "__builtin__.setattr"sv,
    "__builtin__.vars"sv,
    "_aix_support"sv,
    "_asyncio"sv,
    "_ctypes"sv,
    "_imp"sv,
    "_io.FileIO"sv,
    "_io.open"sv,
    "_io.open_code"sv,
    "_operator.attrgetter"sv,
    "_operator.itemgetter"sv,
    "_operator.methodcaller"sv,
    "_osx_support"sv,
    "_pickle"sv,
    "_posixshmem"sv,
    "_posixsubprocess"sv,
    "_pyrepl"sv,
    "_socket"sv,
    "_ssl"sv,
    "_thread"sv,
    "_winapi"sv,
    "_xxsubinterpreters"sv,
    "aiohttp"sv,
    "asyncio"sv,
    "atexit"sv,
    "bdb"sv,
    "builtins.__import__"sv,
    "builtins.breakpoint"sv,
    "builtins.compile"sv,
    "builtins.delattr"sv,
    "builtins.eval"sv,
    "builtins.exec"sv,
    "builtins.exit"sv,
    "builtins.filter"sv,
    "builtins.getattr"sv,
    "builtins.globals"sv,
    "builtins.help"sv,
    "builtins.input"sv,
    "builtins.locals"sv,
    "builtins.map"sv,
    "builtins.open"sv,
    "builtins.quit"sv,
    "builtins.setattr"sv,
    "builtins.vars"sv,
    "cProfile"sv,
    "cgitb"sv,
    "cloudpickle"sv,
    "code"sv,
    "codeop"sv,
    "commands"sv,
    "concurrent"sv,
    "ctypes"sv,
    "dill"sv,
    "distutils"sv,
    "doctest"sv,
    "ensurepip"sv,
    "ftplib"sv,
    "functools.partial"sv,
    "functools.reduce"sv,
    "gc"sv,
    "glob"sv,
    "http"sv,
    "httplib"sv,
    "httpx"sv,
    "idlelib"sv,
    "imaplib"sv,
    "imp"sv,
    "importlib"sv,
    "inspect"sv,
    "io.FileIO"sv,
    "io.open"sv,
    "io.open_code"sv,
    "joblib.load"sv,
    "lib2to3"sv,
    "linecache"sv,
    "logging.FileHandler"sv,
    "logging.config"sv,
    "logging.handlers"sv,
    "mailcap"sv,
    "marshal"sv,
    "mmap"sv,
    "modulefinder"sv,
    "multiprocessing"sv,
    "nt"sv,
    "ntpath"sv,
    "numpy.core._internal"sv,
    "numpy.ctypeslib"sv,
    "numpy.distutils"sv,
    "numpy.f2py"sv,
    "numpy.fromfile"sv,
    "numpy.load"sv,
    "numpy.testing"sv,
    "operator.attrgetter"sv,
    "operator.itemgetter"sv,
    "operator.methodcaller"sv,
    "os"sv,
    "pandas.eval"sv,
    "pandas.read_pickle"sv,
    "pdb"sv,
    "pickle"sv,
    "pickletools"sv,
    "pip"sv,
    "pkg_resources"sv,
    "pkgutil"sv,
    "platform.popen"sv,
    "poplib"sv,
    "posix"sv,
    "posixpath"sv,
    "profile"sv,
    "pty"sv,
    "py_compile"sv,
    "pydoc"sv,
    "requests"sv,
    "runpy"sv,
    "sched"sv,
    "select"sv,
    "selectors"sv,
    "setuptools"sv,
    "shelve"sv,
    "shutil"sv,
    "signal"sv,
    "site"sv,
    "smtplib"sv,
    "socket"sv,
    "socketserver"sv,
    "sqlite3"sv,
    "ssl"sv,
    "subprocess"sv,
    "sys"sv,
    "sysconfig"sv,
    "telnetlib"sv,
    "tempfile"sv,
    "test.support"sv,
    "threading"sv,
    "timeit"sv,
    "tkinter"sv,
    "torch._C._import_ir_module"sv,
    "torch._dynamo.guards"sv,
    "torch._inductor"sv,
    "torch.compile"sv,
    "torch.distributed.rpc"sv,
    "torch.fx.experimental.symbolic_shapes"sv,
    "torch.hub"sv,
    "torch.jit.load"sv,
    "torch.jit.unsupported_tensor_ops"sv,
    "torch.load"sv,
    "torch.multiprocessing"sv,
    "torch.ops.load_library"sv,
    "torch.package"sv,
    "torch.serialization.load"sv,
    "torch.utils._config_module"sv,
    "torch.utils.bottleneck"sv,
    "torch.utils.collect_env"sv,
    "torch.utils.cpp_extension"sv,
    "torch.utils.data.datapipes"sv,
    "torch.utils.model_zoo"sv,
    "trace"sv,
    "types.BuiltinFunctionType"sv,
    "types.CodeType"sv,
    "types.FunctionType"sv,
    "types.LambdaType"sv,
    "types.MethodType"sv,
    "types.ModuleType"sv,
    "unittest"sv,
    "urllib"sv,
    "urllib2"sv,
    "urllib3"sv,
    "uuid._get_command_stdout"sv,
    "venv"sv,
    "webbrowser"sv,
    "winreg"sv,
    "wsgiref"sv,
    "xmlrpc"sv,
    "zipimport"sv,
};
static_assert(std::is_sorted(kMalicious.begin(), kMalicious.end()));

// Parts of a dotted name that give the rest power, wherever they were imported into.
constexpr std::array kMaliciousParts = {
    "asyncio"sv,   "builtins"sv,   "ctypes"sv, "eval"sv,   "exec"sv,   "execl"sv, "execv"sv,
    "importlib"sv, "marshal"sv,    "os"sv,     "pickle"sv, "popen"sv,  "runpy"sv, "shutil"sv,
    "socket"sv,    "subprocess"sv, "sys"sv,    "system"sv, "urllib"sv,
};
static_assert(std::is_sorted(kMaliciousParts.begin(), kMaliciousParts.end()));

// Classes that training programs leave in checkpoints; each also stands for what is below it.
constexpr std::array kBenign = {
    "accelerate.utils.dataclasses"sv,
    "argparse.Namespace"sv,
    "collections.deque"sv,
    "datetime.date"sv,
    "datetime.datetime"sv,
    "datetime.timedelta"sv,
    "datetime.timezone"sv,
    "decimal.Decimal"sv,
    "easydict.EasyDict"sv,
    "fractions.Fraction"sv,
    "numpy._core.numeric"sv,
    "numpy.core.numeric"sv,
    "numpy.dtypes"sv,
    "numpy.random._mt19937"sv,
    "numpy.random._pcg64"sv,
    "numpy.random._philox"sv,
    "numpy.random._pickle"sv,
    "omegaconf.base"sv,
    "omegaconf.dictconfig"sv,
    "omegaconf.listconfig"sv,
    "omegaconf.nodes"sv,
    "pathlib.Path"sv,
    "pathlib.PosixPath"sv,
    "pathlib.PurePath"sv,
    "pathlib.PurePosixPath"sv,
    "pathlib.PureWindowsPath"sv,
    "pathlib.WindowsPath"sv,
    "torch.Generator"sv,
    "torch.optim"sv,
    "torch.random.fork_rng"sv,
    "torch.torch_version.TorchVersion"sv,
    "transformers.configuration_utils"sv,
    "transformers.generation.configuration_utils"sv,
    "transformers.trainer_pt_utils"sv,
    "transformers.trainer_utils"sv,
    "transformers.training_args"sv,
    "types.SimpleNamespace"sv,
    "typing.Any"sv,
    "uuid.UUID"sv,
    "yacs.config.CfgNode"sv,
};
static_assert(std::is_sorted(kBenign.begin(), kBenign.end()));

template <class Table>
bool Contains(const Table& table, std::string_view name) {
  return std::binary_search(table.begin(), table.end(), name);
}

// Whether the dotted name, or one of its beginnings up to a dot, is in the table.
template <class Table>
bool ContainsPrefix(const Table& table, std::string_view name) {
  for (size_t dot = name.find('.');; dot = name.find('.', dot + 1)) {
    if (Contains(table, name.substr(0, dot))) return true;
    if (dot == std::string_view::npos) return false;
  }
}

// torch.FloatStorage, torch.cuda.FloatStorage, torch.storage.FloatStorage.
bool IsStorage(std::string_view module, std::string_view name) {
  if (module != "torch" && module != "torch.cuda" && module != "torch.storage") return false;
  return name.size() > 7 && name.ends_with("Storage") && name.find('.') == std::string_view::npos &&
         name[0] >= 'A' && name[0] <= 'Z';
}

// A part of the name itself that is dangerous: protocol 4 follows the dots of a name as attributes.
bool HasMaliciousPart(std::string_view name) {
  size_t parts = 0;
  while (true) {
    const size_t dot = name.find('.');
    const std::string_view part = name.substr(0, dot);
    const bool last = dot == std::string_view::npos;
    // A lone "eval" may be a module's own; behind a dot, or with more behind it, it is looked up.
    if ((parts > 0 || !last) && Contains(kMaliciousParts, part)) return true;
    if (part.size() > 4 && part.starts_with("__") && part.ends_with("__")) return true;
    if (last) return false;
    name.remove_prefix(dot + 1);
    ++parts;
  }
}

}  // namespace

PickleGrade GradeGlobal(std::string_view module, std::string_view name) {
  const std::string dotted = fmt::format("{}.{}", module, name);
  if (Contains(kAllowed, dotted) || IsStorage(module, name)) return PickleGrade::kAllowed;
  if (module == "torch" && Contains(kTorchConstants, name)) return PickleGrade::kAllowed;
  if (ContainsPrefix(kMalicious, dotted) || HasMaliciousPart(name)) return PickleGrade::kMalicious;
  if (dotted == "torch.storage._load_from_bytes") return PickleGrade::kNested;
  if (dotted.starts_with("__torch__.")) return PickleGrade::kAllowed;
  if (ContainsPrefix(kBenign, dotted)) return PickleGrade::kBenign;
  if (dotted.starts_with("torch.nn.")) return PickleGrade::kModule;
  return PickleGrade::kUnknown;
}

std::vector<std::string> MaliciousNames(const Pickle& pickle, uint64_t begin, size_t most) {
  std::vector<std::string> names;
  for (size_t i = 0; i < pickle.globals() && names.size() < most; ++i) {
    const Pickle::Global global = pickle.global(i);
    if (GradeGlobal(global.module, global.name) != PickleGrade::kMalicious) continue;
    names.push_back(fmt::format("{}.{} at offset {}", SafeText(global.module).substr(0, 100),
                                SafeText(global.name).substr(0, 100), begin + global.at));
  }
  return names;
}

}  // namespace pennyweight
