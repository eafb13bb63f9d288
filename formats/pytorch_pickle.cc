#include "formats/pytorch_pickle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "formats/pytorch_tensors.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

using Ids = std::span<const PickleId>;

// Where training programs put the weights beside other things; the first that is there.
constexpr std::array<std::string_view, 9> kUsualNames = {
    "state_dict", "model_state_dict", "model",     "module", "net",
    "params",     "weights",          "generator", "ema",
};
constexpr size_t kNamesInNotes = 8;
constexpr size_t kBuffersLeftOut = 1 << 16;
// A tensor here and in the reader's lists, without its name and with it.
constexpr uint64_t kTensorCharge = 1024;
constexpr uint64_t kNameCopies = 6;

// Adam's moments have the shapes of the weights, but are none.
bool IsOptimizer(std::string_view name) { return name.starts_with("optim"); }

// A value in a dict; keys become text when they are needed.
struct Child {
  PickleId key;
  PickleId id;
};

// What stands where in the attributes of a torch.nn.Module.
struct ModuleParts {
  bool is_module = false;
  std::optional<PickleId> parameters;
  std::optional<PickleId> buffers;
  std::optional<PickleId> modules;
  std::optional<PickleId> not_persistent;
};

// What a value is to the search for tensors.
enum class Role { kOther, kTensor, kDict, kModule };

class StateDictFinder {
 public:
  StateDictFinder(const Pickle& pickle, const TorchStorages& storages)
      : pickle_(pickle), storages_(storages), allowance_(storages.allowance()) {}

  Result<TorchCheckpoint> Run(std::string_view key);

 private:
  // A dict or module that was reached, by which key of which other place. Paths are made when they
  // are needed: many places may have long ones.
  static constexpr uint32_t kRoot = ~uint32_t{0};
  struct Place {
    PickleId id = 0;
    PickleId key = 0;
    uint32_t parent = kRoot;  // index into the list of places
    uint16_t path_bytes = 0;
    uint8_t depth = 0;
  };
  using Places = std::vector<Place>;
  // Where the state dict is, and by which path.
  struct Found {
    PickleId id = 0;
    std::string path;
    int depth = 0;
  };

  Role RoleOf(PickleId id) const;
  // A key as text; nullopt for keys that name nothing (tuples, objects).
  std::optional<std::string> KeyText(PickleId id) const;
  std::string ChildName(const Child& child) const { return KeyText(child.key).value_or(""); }
  // Pairs of `items` that are or may hold tensors. Not those whose names are in `except`.
  void AddPairs(const Ids& items, const std::set<std::string>& except,
                std::vector<Child>* children) const;
  std::vector<Child> Children(PickleId id) const;
  std::vector<Child> ModuleChildren(PickleId id) const;
  // Whether it is some object that could be a weight (a numpy array), but is not understood.
  bool IsStranger(PickleId id) const {
    return pickle_.kind(id) == PickleKind::kObject && RoleOf(id) == Role::kOther;
  }
  // The dict of an object's attributes, or nullopt.
  std::optional<PickleId> Attributes(PickleId id) const;
  // Remembered, as many objects may share one dict.
  const ModuleParts& PartsOf(PickleId dict) const;
  // Values of the tensor, as far as they can be told.
  uint64_t Elements(PickleId id) const;

  // Everything that can hold tensors, below `id`; each value once.
  Places Containers(PickleId id) const;
  std::string PathOf(const Places& places, const Place& place) const;
  bool HoldsTensors(PickleId id) const;
  Result<Found> Select() const;
  // The dict or module that `key` names.
  Result<Found> SelectKey(std::string_view key) const;
  Status Flatten(PickleId root, TorchCheckpoint* out);
  Status AddTensor(const std::string& name, PickleId id, TorchCheckpoint* out);
  void AddNotes(const Found& root, TorchCheckpoint* out) const;
  Error NoTensors() const;
  Status CheckWork() const;
  // Names of functions and classes that have no meaning here.
  std::vector<std::string> ForeignNames() const;

  const Pickle& pickle_;
  const TorchStorages& storages_;
  Allowance allowance_;
  mutable std::unordered_map<PickleId, ModuleParts> module_parts_;
  // Pairs looked at. Dicts may stand in many places, so it is not bounded by the file's size.
  mutable uint64_t work_ = 0;
};

Role StateDictFinder::RoleOf(PickleId id) const {
  if (pickle_.kind(id) == PickleKind::kDict) return Role::kDict;
  if (pickle_.kind(id) != PickleKind::kObject) return Role::kOther;
  if (IsTorchTensor(pickle_, id)) return Role::kTensor;
  const std::optional<PickleId> attributes = Attributes(id);
  if (attributes) {
    if (PartsOf(*attributes).is_module) return Role::kModule;
    const PickleId callable = pickle_.callable(id);
    const bool script = pickle_.kind(callable) == PickleKind::kGlobal &&
                        pickle_.GlobalStartsWith(callable, "__torch__.");
    if (script) return Role::kModule;
  }
  // A subclass of dict: what was put into it came as keys and values.
  const Ids items = pickle_.items(id);
  const bool pairs =
      items.size() >= 2 && items.size() % 2 == 0 && pickle_.kind(items[0]) == PickleKind::kString;
  return pairs ? Role::kDict : Role::kOther;
}

std::optional<std::string> StateDictFinder::KeyText(PickleId id) const {
  switch (pickle_.kind(id)) {
    case PickleKind::kString:
    case PickleKind::kBytes:
      // A name that is too long is no less a name: the check of names will refuse it.
      return std::string(pickle_.text(id).substr(0, limits::kTensorNameBytes + 1));
    case PickleKind::kInteger:
      return std::to_string(pickle_.integer(id));
    default:
      return std::nullopt;
  }
}

void StateDictFinder::AddPairs(const Ids& items, const std::set<std::string>& except,
                               std::vector<Child>* children) const {
  work_ += items.size() / 2;
  if (work_ > limits::kPickleWork) return;
  children->reserve(children->size() + items.size() / 2);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const PickleKind kind = pickle_.kind(items[i]);
    if (kind != PickleKind::kString && kind != PickleKind::kBytes && kind != PickleKind::kInteger) {
      continue;
    }
    if (RoleOf(items[i + 1]) == Role::kOther) continue;
    if (!except.empty() && except.count(*KeyText(items[i])) != 0) continue;
    children->push_back({items[i], items[i + 1]});
  }
}

std::optional<PickleId> StateDictFinder::Attributes(PickleId id) const {
  std::optional<PickleId> state = pickle_.state(id);
  // Objects with __slots__ have the pair (attributes, slots).
  if (state && pickle_.kind(*state) == PickleKind::kTuple) {
    const Ids items = pickle_.items(*state);
    if (items.size() == 2) state = items[0];
  }
  if (!state || pickle_.kind(*state) != PickleKind::kDict) return std::nullopt;
  return state;
}

const ModuleParts& StateDictFinder::PartsOf(PickleId dict) const {
  const auto [place, fresh] = module_parts_.emplace(dict, ModuleParts());
  ModuleParts& parts = place->second;
  if (!fresh) return parts;
  const Ids items = pickle_.items(dict);
  work_ += items.size() / 2;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (pickle_.kind(items[i]) != PickleKind::kString) continue;
    const std::string_view key = pickle_.text(items[i]);
    if (key == "_parameters") parts.parameters = items[i + 1];
    if (key == "_buffers") parts.buffers = items[i + 1];
    if (key == "_modules") parts.modules = items[i + 1];
    if (key == "_non_persistent_buffers_set") parts.not_persistent = items[i + 1];
  }
  parts.is_module = parts.parameters && parts.modules;
  return parts;
}

// What Module.state_dict() would give: parameters, buffers but those that are not persistent, and
// the submodules.
std::vector<Child> StateDictFinder::ModuleChildren(PickleId id) const {
  std::vector<Child> children;
  const std::optional<PickleId> attributes = Attributes(id);
  if (!attributes) return children;
  const ModuleParts& parts = PartsOf(*attributes);
  if (!parts.parameters) {  // TorchScript: attributes alone
    AddPairs(pickle_.items(*attributes), {}, &children);
    return children;
  }
  std::set<std::string> left_out;
  if (parts.not_persistent) {
    const Ids names = pickle_.items(*parts.not_persistent);
    work_ += names.size();
    for (const PickleId name : names.first(std::min(names.size(), kBuffersLeftOut))) {
      if (const auto text = KeyText(name)) left_out.insert(*text);
    }
  }
  for (const std::optional<PickleId>& dict : {parts.parameters, parts.buffers, parts.modules}) {
    if (!dict || pickle_.kind(*dict) != PickleKind::kDict) continue;
    const bool buffers = dict == parts.buffers;
    AddPairs(pickle_.items(*dict), buffers ? left_out : std::set<std::string>(), &children);
  }
  return children;
}

std::vector<Child> StateDictFinder::Children(PickleId id) const {
  if (RoleOf(id) == Role::kModule) return ModuleChildren(id);
  std::vector<Child> children;
  AddPairs(pickle_.items(id), {}, &children);
  return children;
}

uint64_t StateDictFinder::Elements(PickleId id) const {
  const auto tensor = ReadTorchTensor(pickle_, storages_, id);
  if (!tensor.ok()) return 1;
  return static_cast<uint64_t>(ElementCount(tensor->shape).value_or(1));
}

StateDictFinder::Places StateDictFinder::Containers(PickleId id) const {
  Places places;
  std::unordered_set<PickleId> seen;
  const auto visit = [&](const Place& place) {
    const Role role = RoleOf(place.id);
    if (role != Role::kDict && role != Role::kModule) return;
    if (place.depth > limits::kStateDictDepth) return;
    if (seen.insert(place.id).second) places.push_back(place);
  };
  visit({.id = id});
  // Modules may share one large dict of parameters: what is looked at is counted, not what is new.
  uint64_t looked_at = 0;
  for (uint32_t i = 0; i < places.size() && looked_at < limits::kTensors; ++i) {
    const Place place = places[i];  // a copy: the vector grows
    for (const Child& child : Children(place.id)) {
      ++looked_at;
      if (RoleOf(child.id) == Role::kTensor) continue;
      const size_t bytes = place.path_bytes + ChildName(child).size() + (i > 0 ? 1 : 0);
      if (bytes > limits::kTensorNameBytes) continue;
      visit({.id = child.id,
             .key = child.key,
             .parent = i,
             .path_bytes = static_cast<uint16_t>(bytes),
             .depth = static_cast<uint8_t>(place.depth + 1)});
    }
  }
  return places;
}

std::string StateDictFinder::PathOf(const Places& places, const Place& place) const {
  std::string path;
  for (const Place* at = &place; at->parent != kRoot; at = &places[at->parent]) {
    const std::string key = KeyText(at->key).value_or("");
    path = path.empty() ? key : key + "." + path;
  }
  return path;
}

bool StateDictFinder::HoldsTensors(PickleId id) const {
  for (const Place& place : Containers(id)) {
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) == Role::kTensor) return true;
    }
  }
  return false;
}

std::string Join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

Result<StateDictFinder::Found> StateDictFinder::Select() const {
  Found at = {pickle_.root(), "", 0};
  // A usual name is followed from dict to dict; inside of a module it is a part of the model.
  for (bool moved = true; moved && at.depth < limits::kStateDictDepth;) {
    moved = false;
    if (RoleOf(at.id) != Role::kDict) break;
    const std::vector<Child> children = Children(at.id);
    for (const std::string_view usual : kUsualNames) {
      const auto child = std::find_if(children.begin(), children.end(),
                                      [&](const Child& c) { return ChildName(c) == usual; });
      if (child == children.end() || RoleOf(child->id) == Role::kTensor) continue;
      if (!HoldsTensors(child->id)) continue;
      at = {child->id, Join(at.path, ChildName(*child)), at.depth + 1};
      moved = true;
      break;
    }
  }
  if (RoleOf(at.id) == Role::kModule && HoldsTensors(at.id)) return at;
  std::optional<Found> best;
  uint64_t most = 0;
  const Places places = Containers(at.id);
  for (const Place& place : places) {
    uint64_t elements = 0;
    bool any = false;
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) != Role::kTensor) continue;
      any = true;
      elements += Elements(child.id);
    }
    // Tensors of the dict itself: it is the state dict, whatever else is in it.
    if (any && place.id == at.id) return at;
    if (!any || (best && elements <= most)) continue;
    // Below an optimizer: the path says so at some step.
    std::string path = PathOf(places, place);
    if (IsOptimizer(path) || path.find(".optim") != std::string::npos) continue;
    best = Found{place.id, std::move(path), place.depth};
    most = elements;
  }
  PW_TRY(CheckWork());
  if (!best) return NoTensors();
  // Under a usual name the dict is meant as a whole, nested as it may be.
  if (!at.path.empty()) return at;
  return *best;
}

Result<StateDictFinder::Found> StateDictFinder::SelectKey(std::string_view key) const {
  const Places places = Containers(pickle_.root());
  PW_TRY(CheckWork());
  std::vector<std::string> others;
  for (const Place& place : places) {
    const bool same_size = place.path_bytes == key.size();
    if (!same_size && others.size() >= kNamesInNotes) continue;
    std::string path = PathOf(places, place);
    if (same_size && path == key && HoldsTensors(place.id)) {
      return Found{place.id, std::move(path), place.depth};
    }
    if (!path.empty() && others.size() < kNamesInNotes && HoldsTensors(place.id)) {
      others.push_back(std::move(path));
    }
  }
  PW_TRY(CheckWork());
  Error error(ErrorCode::kTensorMissing,
              fmt::format("the checkpoint has no tensors under the key \"{:.100}\"", key));
  if (others.empty()) return std::move(error).Hint("leave out --key: its tensors are under none");
  return std::move(error).Hint(
      fmt::format("--key takes the place of a dict, as {}", fmt::join(others, ", ")));
}

Error HeldTooOften() {
  return Error(ErrorCode::kLimit, "the dicts of the checkpoint hold each other too often");
}

Status StateDictFinder::CheckWork() const {
  if (work_ > limits::kPickleWork) return HeldTooOften();
  return OkStatus();
}

Status StateDictFinder::AddTensor(const std::string& name, PickleId id, TorchCheckpoint* out) {
  if (name.empty() || name.size() > limits::kTensorNameBytes ||
      name.find('\0') != std::string::npos) {
    return Error(ErrorCode::kInvalidName,
                 fmt::format("the name of a tensor is empty, has more than {} bytes, or has a NUL",
                             limits::kTensorNameBytes));
  }
  if (out->tensors.size() >= limits::kTensors) {
    return Error(ErrorCode::kLimit, fmt::format("more than {} tensors", limits::kTensors));
  }
  if (!allowance_.Take(kTensorCharge + kNameCopies * name.size())) {
    return Allowance::Exceeded("the list of tensors");
  }
  Result<TorchTensor> tensor = ReadTorchTensor(pickle_, storages_, id);
  if (!tensor.ok()) return std::move(tensor).TakeError().InTensor(name);
  tensor->name = name;
  out->tensors.push_back(std::move(tensor).value());
  return OkStatus();
}

Status StateDictFinder::Flatten(PickleId root, TorchCheckpoint* out) {
  Places places = {{.id = root}};
  std::vector<uint32_t> open = {0};
  std::unordered_set<std::string> names;
  // A dict may stand in many places, and a few dicts inside each other in very many.
  uint64_t visited = 0;
  while (!open.empty()) {
    const uint32_t at = open.back();
    open.pop_back();
    const Place place = places[at];
    const std::string path = PathOf(places, place);
    const size_t first_inner = places.size();
    for (const Child& child : Children(place.id)) {
      if (++visited > limits::kTensors) return HeldTooOften();
      const std::string key = ChildName(child);
      const std::string name = Join(path, key);
      if (RoleOf(child.id) == Role::kTensor) {
        if (!names.insert(name).second) {
          return Error(ErrorCode::kDuplicateKey, "the tensor is in the state dict twice")
              .InTensor(name.substr(0, limits::kTensorNameBytes));
        }
        PW_TRY(AddTensor(name, child.id, out));
        continue;
      }
      if (RoleOf(place.id) == Role::kDict && IsOptimizer(key)) continue;
      if (place.depth >= limits::kStateDictDepth || name.size() > limits::kTensorNameBytes) {
        return Error(
            ErrorCode::kLimit,
            fmt::format("dicts of more than {} levels, or with names of more than {} bytes",
                        limits::kStateDictDepth, limits::kTensorNameBytes));
      }
      if (!allowance_.Take(3 * sizeof(Place))) return Allowance::Exceeded("the list of dicts");
      places.push_back({.id = child.id,
                        .key = child.key,
                        .parent = at,
                        .path_bytes = static_cast<uint16_t>(name.size()),
                        .depth = static_cast<uint8_t>(place.depth + 1)});
    }
    for (size_t i = places.size(); i > first_inner; --i) {
      open.push_back(static_cast<uint32_t>(i - 1));
    }
  }
  return CheckWork();
}

std::vector<std::string> StateDictFinder::ForeignNames() const {
  std::set<std::string> names;
  for (PickleId id = 0; id < pickle_.size(); ++id) {
    if (pickle_.kind(id) != PickleKind::kGlobal) continue;
    const auto begins = [&](std::string_view prefix) {
      return pickle_.GlobalStartsWith(id, prefix);
    };
    // A whole checkpoint in a string, which PyTorch would load: named, not followed.
    const bool nested = pickle_.GlobalIs(id, "torch.storage._load_from_bytes");
    if ((begins("torch.") && !nested) || begins("__torch__.") || begins("collections.") ||
        pickle_.GlobalIs(id, "__builtin__.set") || pickle_.GlobalIs(id, "builtins.set")) {
      continue;
    }
    std::string name = pickle_.GlobalName(id);
    for (char& c : name) c = static_cast<unsigned char>(c) < 0x7f ? c : '?';
    names.insert(name.substr(0, 100));
    if (names.size() > kNamesInNotes) break;
  }
  return {names.begin(), names.end()};
}

Error StateDictFinder::NoTensors() const {
  const std::vector<std::string> foreign = ForeignNames();
  const std::string calls =
      foreign.empty() ? ""
                      : fmt::format("; it names {} (nothing was called)", fmt::join(foreign, ", "));
  return Error(ErrorCode::kTensorMissing,
               storages_.list().empty()
                   ? "there is no tensor in the checkpoint" + calls
                   : "no state dict was found in the checkpoint: its tensors are in lists, in "
                     "unknown objects or the optimizer's" +
                         calls)
      .Hint("save the weights alone: torch.save(model.state_dict(), \"model.pt\")");
}

void StateDictFinder::AddNotes(const Found& root, TorchCheckpoint* out) const {
  if (!root.path.empty()) out->notes["state_dict"] = root.path;
  std::set<std::string> others;
  std::set<std::string> strangers;
  std::unordered_set<PickleId> inside;
  const Places own = Containers(root.id);
  for (const Place& place : own) {
    inside.insert(place.id);
    if (RoleOf(place.id) != Role::kDict) continue;
    const Ids items = pickle_.items(place.id);
    for (size_t i = 0; i + 1 < items.size() && strangers.size() < kNamesInNotes; i += 2) {
      if (!IsStranger(items[i + 1])) continue;
      const std::optional<std::string> key = KeyText(items[i]);
      if (key) strangers.insert(Join(PathOf(own, place), *key));
    }
  }
  if (!strangers.empty()) out->notes["not_tensors"] = fmt::format("{}", fmt::join(strangers, ", "));
  const Places all = Containers(pickle_.root());
  for (const Place& place : all) {
    if (inside.count(place.id) != 0 || others.size() >= kNamesInNotes) continue;
    const std::string path = PathOf(all, place);
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) != Role::kTensor) continue;
      others.insert(path.empty() ? ChildName(child) : path.substr(0, path.find('.')));
      if (others.size() >= kNamesInNotes) break;
    }
  }
  if (!others.empty()) out->notes["not_read"] = fmt::format("{}", fmt::join(others, ", "));
  const std::vector<std::string> foreign = ForeignNames();
  if (!foreign.empty()) out->notes["not_called"] = fmt::format("{}", fmt::join(foreign, ", "));
}

Result<TorchCheckpoint> StateDictFinder::Run(std::string_view key) {
  TorchCheckpoint checkpoint;
  PW_ASSIGN(const Found root, key.empty() ? Select() : SelectKey(key));
  PW_TRY(Flatten(root.id, &checkpoint));
  if (checkpoint.tensors.empty()) return NoTensors();
  AddNotes(root, &checkpoint);
  checkpoint.storages = storages_.list();
  return checkpoint;
}

}  // namespace

Result<TorchCheckpoint> ReadTorchPickle(const Pickle& pickle, bool legacy, std::string_view key) {
  PW_ASSIGN(const TorchStorages storages, TorchStorages::Read(pickle, legacy));
  return StateDictFinder(pickle, storages).Run(key);
}

}  // namespace pennyweight
