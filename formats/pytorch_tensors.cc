#include "formats/pytorch_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

using Ids = std::span<const PickleId>;

struct StorageType {
  std::string_view name;  // in torch, torch.cuda or torch.storage
  std::optional<DType> dtype;
  uint64_t bytes;
};
constexpr std::array<StorageType, 18> kStorageTypes = {{
    {"BFloat16Storage", DType::kBF16, 2},
    {"BoolStorage", DType::kBool, 1},
    {"ByteStorage", DType::kU8, 1},
    {"CharStorage", DType::kI8, 1},
    {"ComplexDoubleStorage", std::nullopt, 16},
    {"ComplexFloatStorage", DType::kC64, 8},
    {"DoubleStorage", DType::kF64, 8},
    {"FloatStorage", DType::kF32, 4},
    {"HalfStorage", DType::kF16, 2},
    {"IntStorage", DType::kI32, 4},
    {"LongStorage", DType::kI64, 8},
    {"QInt32Storage", std::nullopt, 4},
    {"QInt8Storage", std::nullopt, 1},
    {"QUInt2x4Storage", std::nullopt, 1},
    {"QUInt4x2Storage", std::nullopt, 1},
    {"QUInt8Storage", std::nullopt, 1},
    {"ShortStorage", DType::kI16, 2},
    {"UntypedStorage", std::nullopt, 1},
}};

// The dtypes of _rebuild_tensor_v3, whose storages are untyped.
struct TorchDType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<TorchDType, 20> kDTypes = {{
    {"torch.bfloat16", DType::kBF16},
    {"torch.bool", DType::kBool},
    {"torch.complex64", DType::kC64},
    {"torch.float16", DType::kF16},
    {"torch.float32", DType::kF32},
    {"torch.float64", DType::kF64},
    {"torch.float8_e4m3fn", DType::kF8E4M3},
    {"torch.float8_e4m3fnuz", DType::kF8E4M3Fnuz},
    {"torch.float8_e5m2", DType::kF8E5M2},
    {"torch.float8_e5m2fnuz", DType::kF8E5M2Fnuz},
    {"torch.float8_e8m0fnu", DType::kF8E8M0},
    {"torch.half", DType::kF16},
    {"torch.int16", DType::kI16},
    {"torch.int32", DType::kI32},
    {"torch.int64", DType::kI64},
    {"torch.int8", DType::kI8},
    {"torch.uint16", DType::kU16},
    {"torch.uint32", DType::kU32},
    {"torch.uint64", DType::kU64},
    {"torch.uint8", DType::kU8},
}};

constexpr std::string_view kRebuild = "torch._utils._rebuild_";
constexpr int kWrappers = 8;  // of one tensor: Parameter, subclass

// "FloatStorage" of "torch.FloatStorage", "torch.cuda.FloatStorage", "torch.storage.FloatStorage".
std::string_view StorageTypeName(std::string_view global) {
  if (!global.starts_with("torch.")) return {};
  global.remove_prefix(6);
  for (const std::string_view part : {"cuda.", "storage."}) {
    if (global.starts_with(part)) global.remove_prefix(part.size());
  }
  return global;
}

// torch._tensor was torch.tensor before PyTorch 1.8.
bool IsRebuildFromType(const Pickle& pickle, PickleId global) {
  return pickle.GlobalIs(global, "torch._tensor._rebuild_from_type_v2") ||
         pickle.GlobalIs(global, "torch._tensor._rebuild_from_type") ||
         pickle.GlobalIs(global, "torch.tensor._rebuild_from_type");
}

Error Malformed(std::string text) { return Error(ErrorCode::kInvalidPickle, std::move(text)); }

Error Unsupported(std::string text) {
  return Error(ErrorCode::kUnsupported, std::move(text))
      .Hint("save it from PyTorch as a plain tensor (float32, float16 or bfloat16)");
}

// The function and arguments that make a tensor, its wrappers taken off.
struct Rebuild {
  std::string function;
  Ids arguments;
};

Result<Rebuild> Unwrap(const Pickle& pickle, PickleId id) {
  Rebuild rebuild;
  for (int i = 0; i < kWrappers; ++i) {
    if (!IsTorchTensor(pickle, id)) return Malformed("a wrapped tensor is not a tensor");
    if (!pickle.items(id).empty()) return Malformed("items were put into a tensor");
    rebuild.function = pickle.GlobalName(pickle.callable(id));
    rebuild.arguments = pickle.items(pickle.arguments(id));
    if (IsRebuildFromType(pickle, pickle.callable(id))) {
      // (function, type, arguments, state): a subclass of Tensor.
      const Ids& a = rebuild.arguments;
      if (a.size() != 4 || pickle.kind(a[0]) != PickleKind::kGlobal ||
          pickle.kind(a[2]) != PickleKind::kTuple) {
        return Malformed(fmt::format("{} has the wrong arguments", rebuild.function));
      }
      rebuild.function = pickle.GlobalName(a[0]);
      rebuild.arguments = pickle.items(a[2]);
    }
    if (!rebuild.function.starts_with("torch._utils._rebuild_parameter")) return rebuild;
    if (rebuild.arguments.empty()) {
      return Malformed(fmt::format("{} has no arguments", rebuild.function));
    }
    id = rebuild.arguments[0];
  }
  return Error(ErrorCode::kLimit, "a tensor is wrapped too many times");
}

// A tuple (or list, as Python 2 had it) of integers of 0 or more.
Result<Shape> ReadIntegers(const Pickle& pickle, PickleId id, const char* what) {
  const PickleKind kind = pickle.kind(id);
  if (kind != PickleKind::kTuple && kind != PickleKind::kList) {
    return Malformed(fmt::format("the {} is not a tuple", what));
  }
  Shape values;
  const Ids items = pickle.items(id);
  if (items.size() > static_cast<size_t>(limits::kTensorRank)) {
    return Error(ErrorCode::kLimit, fmt::format("the {} has {} dimensions; at most {} are taken",
                                                what, items.size(), limits::kTensorRank));
  }
  for (const PickleId item : items) {
    if (pickle.kind(item) != PickleKind::kInteger) {
      return Malformed(fmt::format("the {} is not made of integers", what));
    }
    if (pickle.integer(item) < 0) {
      return Error(ErrorCode::kInvalidTensor, fmt::format("the {} is negative", what));
    }
    values.push_back(pickle.integer(item));
  }
  return values;
}

// An expanded tensor (stride 0) may have far more values than its storage; so may a bomb.
constexpr uint64_t kExpandFactor = 64;
constexpr uint64_t kExpandBytes = 1ull << 30;

// The view must lie inside of its storage.
Status CheckView(const TorchTensor& tensor, const TorchStorage& storage) {
  const std::optional<int64_t> elements = ElementCount(tensor.shape);
  const uint64_t element_bytes = static_cast<uint64_t>(DTypeBits(tensor.dtype)) / 8;
  const auto bytes =
      elements ? CheckedMul(static_cast<uint64_t>(*elements), element_bytes) : std::nullopt;
  if (!bytes || *bytes > INT64_MAX) {
    return Error(ErrorCode::kOverflow,
                 fmt::format("the shape {} has too many elements", ShapeToString(tensor.shape)));
  }
  if (*elements == 0) return OkStatus();
  std::optional<uint64_t> last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size() && last; ++i) {
    const auto step = CheckedMul(static_cast<uint64_t>(tensor.shape[i] - 1),
                                 static_cast<uint64_t>(tensor.strides[i]));
    last = step ? CheckedAdd(*last, *step) : std::nullopt;
  }
  const uint64_t there = storage.bytes / element_bytes;
  if (!last || *last >= there) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("the shape {} with strides {} from element {} goes past its storage "
                             "of {} elements",
                             ShapeToString(tensor.shape), ShapeToString(tensor.strides),
                             tensor.offset, there));
  }
  if (*bytes > storage.bytes && (*bytes / kExpandFactor > storage.bytes || *bytes > kExpandBytes)) {
    return Error(ErrorCode::kLimit, fmt::format("{} bytes of values are expanded from a storage of "
                                                "{} bytes",
                                                *bytes, storage.bytes));
  }
  return OkStatus();
}

// "conj" and "neg": the values are to be changed on the way, which is not done here.
Status CheckMetadata(const Pickle& pickle, PickleId id) {
  if (pickle.kind(id) != PickleKind::kDict) return OkStatus();
  const Ids items = pickle.items(id);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (pickle.kind(items[i]) != PickleKind::kString) continue;
    const std::string_view key = pickle.text(items[i]);
    const PickleKind kind = pickle.kind(items[i + 1]);
    const bool is_false = kind == PickleKind::kNone ||
                          (kind == PickleKind::kBool && pickle.integer(items[i + 1]) == 0);
    if ((key == "conj" || key == "neg") && !is_false) {
      return Unsupported(fmt::format("the tensor is a lazy {} view", key));
    }
  }
  return OkStatus();
}

Result<DType> DTypeOfStorage(const TorchStorage& storage) {
  if (storage.dtype) return *storage.dtype;
  return Unsupported(fmt::format("the tensor is of type {:.100}", storage.type));
}

// "torch.uint16" and so on.
Result<DType> NamedDType(const Pickle& pickle, PickleId id) {
  if (pickle.kind(id) != PickleKind::kGlobal) return Malformed("the dtype of a tensor is none");
  const std::string name = pickle.GlobalName(id);
  for (const TorchDType& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return Unsupported(fmt::format("the tensor is of type {:.100}", name));
}

// What _rebuild_* makes that is not an ordinary tensor, in words.
std::string_view KindOfTensor(std::string_view function) {
  struct Row {
    std::string_view suffix;
    std::string_view kind;
  };
  constexpr std::array<Row, 7> kKinds = {{
      {"qtensor", "quantized"},
      {"sparse_tensor", "sparse"},
      {"sparse_csr_tensor", "sparse"},
      {"nested_tensor", "nested"},
      {"meta_tensor_no_storage", "without data (on the meta device)"},
      {"wrapper_subclass", "of a special class"},
      {"device_tensor_from_numpy", "of another device"},
  }};
  for (const Row& row : kKinds) {
    if (function == std::string(kRebuild) + std::string(row.suffix)) return row.kind;
  }
  return "of a special kind";
}

}  // namespace

bool IsTorchTensor(const Pickle& pickle, PickleId id) {
  if (pickle.kind(id) != PickleKind::kObject) return false;
  const PickleId callable = pickle.callable(id);
  if (pickle.kind(callable) != PickleKind::kGlobal) return false;
  return pickle.GlobalStartsWith(callable, kRebuild) || IsRebuildFromType(pickle, callable);
}

Result<TorchTensor> ReadTorchTensor(const Pickle& pickle, const TorchStorages& storages,
                                    PickleId id) {
  PW_ASSIGN(const Rebuild rebuild, Unwrap(pickle, id));
  const bool v1 = rebuild.function == "torch._utils._rebuild_tensor";
  const bool v2 = rebuild.function == "torch._utils._rebuild_tensor_v2";
  const bool v3 = rebuild.function == "torch._utils._rebuild_tensor_v3";
  if (!v1 && !v2 && !v3) {
    return Unsupported(fmt::format("the tensor is {} ({}), which is not read here",
                                   KindOfTensor(rebuild.function), rebuild.function));
  }
  const Ids& a = rebuild.arguments;
  // (storage, offset, size, stride[, requires_grad, hooks[, dtype][, metadata]])
  const size_t least = v1 ? 4 : v2 ? 6 : 7;
  if (a.size() < least || a.size() > least + (v1 ? 0 : 1)) {
    return Malformed(fmt::format("{} has {} arguments", rebuild.function, a.size()));
  }
  if (a.size() > least) PW_TRY(CheckMetadata(pickle, a[least]));
  const std::optional<size_t> storage = storages.Find(a[0]);
  if (!storage) return Malformed("the storage of a tensor is not a storage");
  if (pickle.kind(a[1]) != PickleKind::kInteger) {
    return Malformed("the offset of a tensor is not an integer");
  }
  if (pickle.integer(a[1]) < 0) {
    return Error(ErrorCode::kInvalidTensor, "the offset of the tensor is negative");
  }
  TorchTensor tensor;
  tensor.storage = *storage;
  tensor.offset = static_cast<uint64_t>(pickle.integer(a[1]));
  PW_ASSIGN(tensor.shape, ReadIntegers(pickle, a[2], "shape"));
  PW_ASSIGN(tensor.strides, ReadIntegers(pickle, a[3], "list of strides"));
  if (tensor.shape.size() != tensor.strides.size()) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("the shape {} has the strides {}", ShapeToString(tensor.shape),
                             ShapeToString(tensor.strides)));
  }
  const TorchStorage& source = storages.list()[*storage];
  PW_ASSIGN(tensor.dtype, v3 ? NamedDType(pickle, a[6]) : DTypeOfStorage(source));
  PW_TRY(CheckView(tensor, source));
  return tensor;
}

Result<TorchStorages> TorchStorages::Read(const Pickle& pickle, bool legacy) {
  TorchStorages storages(pickle.allowance());
  for (PickleId id = 0; id < pickle.size(); ++id) {
    if (pickle.kind(id) == PickleKind::kPersistent) PW_TRY(storages.Add(pickle, id, legacy));
  }
  return storages;
}

std::optional<size_t> TorchStorages::Find(PickleId id) const {
  const auto found = std::lower_bound(by_node_.begin(), by_node_.end(), std::pair(id, 0u));
  if (found == by_node_.end() || found->first != id) return std::nullopt;
  return found->second;
}

Status TorchStorages::Add(const Pickle& pickle, PickleId id, bool legacy) {
  const PickleId pid = pickle.items(id)[0];
  // One tuple may name the same storage over and over.
  if (const auto known = by_pid_.find(pid); known != by_pid_.end()) {
    by_node_.emplace_back(id, known->second);
    return OkStatus();
  }
  const Ids parts = pickle.kind(pid) == PickleKind::kTuple ? pickle.items(pid) : Ids();
  const auto is_text = [&](size_t i) {
    return i < parts.size() && pickle.kind(parts[i]) == PickleKind::kString;
  };
  const std::string_view tag = is_text(0) ? pickle.text(parts[0]) : std::string_view();
  // Classes of modules that were saved whole, with their source code.
  if (legacy && tag == "module") return OkStatus();
  if (tag != "storage" || parts.size() != (legacy ? 6 : 5) || !is_text(2) ||
      pickle.kind(parts[1]) != PickleKind::kGlobal ||
      pickle.kind(parts[4]) != PickleKind::kInteger) {
    return Malformed("a persistent id of the pickle is not a storage");
  }
  if (legacy && pickle.kind(parts[5]) != PickleKind::kNone) {
    return Unsupported("a storage is a view of another one (PyTorch before 0.4)");
  }
  if (!allowance_.Take(kStorageCharge) || pickle.text(parts[2]).size() > limits::kStorageKeyBytes) {
    return Error(ErrorCode::kLimit, "the pickle names far too many storages, or by endless names");
  }
  TorchStorage storage;
  storage.key = std::string(pickle.text(parts[2]));
  const std::string global = pickle.GlobalName(parts[1]);
  storage.type = std::string(StorageTypeName(global));
  const auto* row = std::find_if(kStorageTypes.begin(), kStorageTypes.end(),
                                 [&](const StorageType& r) { return r.name == storage.type; });
  if (row == kStorageTypes.end()) {
    return Error(
        ErrorCode::kUnknownDtype,
        fmt::format("the storage type {:.100} is not known (from a newer PyTorch?)", global));
  }
  storage.dtype = row->dtype;
  storage.element_bytes = row->bytes;
  const int64_t elements = pickle.integer(parts[4]);
  const auto bytes =
      elements < 0 ? std::nullopt : CheckedMul(static_cast<uint64_t>(elements), row->bytes);
  if (!bytes) {
    return Error(ErrorCode::kOverflow,
                 fmt::format("the storage \"{:.100}\" has {} elements", storage.key, elements));
  }
  storage.elements = static_cast<uint64_t>(elements);
  storage.bytes = *bytes;
  const auto [place, fresh] = by_key_.emplace(storage.key, list_.size());
  by_node_.emplace_back(id, static_cast<uint32_t>(place->second));
  by_pid_.emplace(pid, static_cast<uint32_t>(place->second));
  if (fresh) {
    list_.push_back(std::move(storage));
    return OkStatus();
  }
  const TorchStorage& first = list_[place->second];
  if (first.type == storage.type && first.elements == storage.elements) return OkStatus();
  return Error(
      ErrorCode::kInvalidTensor,
      fmt::format("the storage \"{:.100}\" is a {} of {} elements and a {} of {}", storage.key,
                  first.type, first.elements, storage.type, storage.elements));
}

}  // namespace pennyweight
