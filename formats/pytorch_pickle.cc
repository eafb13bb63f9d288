#include "formats/pytorch_pickle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "formats/pytorch_tensors.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

using Ids = std::vector<PickleId>;

// Where training programs put the weights beside other things; the first that is there.
constexpr std::array<std::string_view, 9> kUsualNames = {
    "state_dict", "model_state_dict", "model",     "module", "net",
    "params",     "weights",          "generator", "ema",
};
constexpr size_t kNamesInNotes = 8;

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Adam's moments have the shapes of the weights, but are none.
bool IsOptimizer(std::string_view name) { return StartsWith(name, "optim"); }

struct Child {
  std::string name;
  PickleId id;
};

// What a value is to the search for tensors.
enum class Role { kOther, kTensor, kDict, kModule };

class StateDictFinder {
 public:
  StateDictFinder(const Pickle& pickle, const TorchStorages& storages)
      : pickle_(pickle), storages_(storages) {}

  Result<TorchCheckpoint> Run();

 private:
  struct Place {
    PickleId id;
    std::string path;
    int depth;
  };

  Role RoleOf(PickleId id) const;
  // A key as text; nullopt for keys that name nothing (tuples, objects).
  std::optional<std::string> KeyText(PickleId id) const;
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
  std::optional<PickleId> Lookup(PickleId dict, std::string_view key) const;
  // Whether these are the attributes of a torch.nn.Module. Remembered, as many objects may share
  // one dict.
  bool HasModuleAttributes(PickleId dict) const;
  // Values of the tensor, as far as they can be told.
  uint64_t Elements(PickleId id) const;

  // Everything that can hold tensors, below `id`; each value once.
  std::vector<Place> Containers(PickleId id) const;
  bool HoldsTensors(PickleId id) const;
  Result<Place> Select() const;
  Status Flatten(const Place& root, TorchCheckpoint* out) const;
  Status AddTensor(const std::string& name, PickleId id, TorchCheckpoint* out) const;
  void AddNotes(const Place& root, TorchCheckpoint* out) const;
  Error NoTensors() const;
  // Names of functions and classes that have no meaning here.
  std::vector<std::string> ForeignNames() const;

  const Pickle& pickle_;
  const TorchStorages& storages_;
  mutable std::unordered_map<PickleId, bool> module_attributes_;
};

Role StateDictFinder::RoleOf(PickleId id) const {
  if (pickle_.kind(id) == PickleKind::kDict) return Role::kDict;
  if (pickle_.kind(id) != PickleKind::kObject) return Role::kOther;
  if (IsTorchTensor(pickle_, id)) return Role::kTensor;
  const std::optional<PickleId> attributes = Attributes(id);
  if (attributes) {
    if (HasModuleAttributes(*attributes)) return Role::kModule;
    const PickleId callable = pickle_.callable(id);
    const bool script = pickle_.kind(callable) == PickleKind::kGlobal &&
                        StartsWith(pickle_.GlobalName(callable), "__torch__.");
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
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    std::optional<std::string> name = KeyText(items[i]);
    if (!name || RoleOf(items[i + 1]) == Role::kOther || except.count(*name) != 0) continue;
    children->push_back({*std::move(name), items[i + 1]});
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

std::optional<PickleId> StateDictFinder::Lookup(PickleId dict, std::string_view key) const {
  std::optional<PickleId> found;
  const Ids items = pickle_.items(dict);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const bool text = pickle_.kind(items[i]) == PickleKind::kString;
    if (text && pickle_.text(items[i]) == key) found = items[i + 1];
  }
  return found;
}

bool StateDictFinder::HasModuleAttributes(PickleId dict) const {
  const auto [place, fresh] = module_attributes_.emplace(dict, false);
  if (fresh) place->second = Lookup(dict, "_parameters") && Lookup(dict, "_modules");
  return place->second;
}

// What Module.state_dict() would give: parameters, buffers but those that are not persistent, and
// the submodules.
std::vector<Child> StateDictFinder::ModuleChildren(PickleId id) const {
  std::vector<Child> children;
  const std::optional<PickleId> attributes = Attributes(id);
  if (!attributes) return children;
  if (!Lookup(*attributes, "_parameters")) {  // TorchScript: attributes alone
    AddPairs(pickle_.items(*attributes), {}, &children);
    return children;
  }
  std::set<std::string> left_out;
  if (const auto set = Lookup(*attributes, "_non_persistent_buffers_set")) {
    for (const PickleId name : pickle_.items(*set)) {
      if (const auto text = KeyText(name)) left_out.insert(*text);
    }
  }
  for (const char* part : {"_parameters", "_buffers", "_modules"}) {
    const std::optional<PickleId> dict = Lookup(*attributes, part);
    if (!dict || pickle_.kind(*dict) != PickleKind::kDict) continue;
    const bool buffers = std::string_view(part) == "_buffers";
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

std::vector<StateDictFinder::Place> StateDictFinder::Containers(PickleId id) const {
  std::vector<Place> places;
  std::unordered_set<PickleId> seen;
  const auto visit = [&](PickleId at, std::string path, int depth) {
    const Role role = RoleOf(at);
    if (role != Role::kDict && role != Role::kModule) return;
    if (depth > limits::kStateDictDepth || path.size() > limits::kTensorNameBytes) return;
    if (seen.insert(at).second) places.push_back({at, std::move(path), depth});
  };
  visit(id, "", 0);
  // Modules may share one large dict of parameters: what is looked at is counted, not what is new.
  uint64_t looked_at = 0;
  for (size_t i = 0; i < places.size() && looked_at < limits::kTensors; ++i) {
    const Place place = places[i];  // a copy: the vector grows
    for (const Child& child : Children(place.id)) {
      ++looked_at;
      visit(child.id, place.path.empty() ? child.name : place.path + "." + child.name,
            place.depth + 1);
    }
  }
  return places;
}

bool StateDictFinder::HoldsTensors(PickleId id) const {
  for (const Place& place : Containers(id)) {
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) == Role::kTensor) return true;
    }
  }
  return false;
}

Result<StateDictFinder::Place> StateDictFinder::Select() const {
  Place at = {pickle_.root(), "", 0};
  // A usual name is followed from dict to dict; inside of a module it is a part of the model.
  for (bool moved = true; moved && at.depth < limits::kStateDictDepth;) {
    moved = false;
    if (RoleOf(at.id) != Role::kDict) break;
    const std::vector<Child> children = Children(at.id);
    for (const std::string_view usual : kUsualNames) {
      const auto child = std::find_if(children.begin(), children.end(),
                                      [&](const Child& c) { return c.name == usual; });
      if (child == children.end() || RoleOf(child->id) == Role::kTensor) continue;
      if (!HoldsTensors(child->id)) continue;
      at = {child->id, at.path.empty() ? child->name : at.path + "." + child->name, at.depth + 1};
      moved = true;
      break;
    }
  }
  if (RoleOf(at.id) == Role::kModule && HoldsTensors(at.id)) return at;
  std::optional<Place> best;
  uint64_t most = 0;
  for (const Place& place : Containers(at.id)) {
    // Below an optimizer: the path says so at some step.
    if (IsOptimizer(place.path) || place.path.find(".optim") != std::string::npos) continue;
    uint64_t elements = 0;
    bool any = false;
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) != Role::kTensor) continue;
      any = true;
      elements += Elements(child.id);
    }
    // Tensors of the dict itself: it is the state dict, whatever else is in it.
    if (any && place.id == at.id) return at;
    if (any && (!best || elements > most)) {
      best = place;
      most = elements;
    }
  }
  if (!best) return NoTensors();
  // Under a usual name the dict is meant as a whole, nested as it may be.
  if (!at.path.empty()) return at;
  return *best;
}

Status StateDictFinder::AddTensor(const std::string& name, PickleId id,
                                  TorchCheckpoint* out) const {
  if (name.empty() || name.size() > limits::kTensorNameBytes ||
      name.find('\0') != std::string::npos) {
    return Error(ErrorCode::kInvalidName,
                 fmt::format("the name of a tensor is empty, has more than {} bytes, or has a NUL",
                             limits::kTensorNameBytes));
  }
  if (out->tensors.size() >= limits::kTensors) {
    return Error(ErrorCode::kLimit, fmt::format("more than {} tensors", limits::kTensors));
  }
  Result<TorchTensor> tensor = ReadTorchTensor(pickle_, storages_, id);
  if (!tensor.ok()) return std::move(tensor).TakeError().InTensor(name);
  tensor->name = name;
  out->tensors.push_back(std::move(tensor).value());
  return OkStatus();
}

Status StateDictFinder::Flatten(const Place& root, TorchCheckpoint* out) const {
  std::vector<Place> open = {{root.id, "", 0}};
  std::unordered_set<std::string> names;
  // A dict may stand in many places, and a few dicts inside each other in very many.
  uint64_t visited = 0;
  while (!open.empty()) {
    const Place place = std::move(open.back());
    open.pop_back();
    std::vector<Place> inner;
    for (const Child& child : Children(place.id)) {
      if (++visited > limits::kTensors) {
        return Error(ErrorCode::kLimit, "the dicts of the checkpoint hold each other too often");
      }
      const std::string name = place.path.empty() ? child.name : place.path + "." + child.name;
      if (RoleOf(child.id) == Role::kTensor) {
        if (!names.insert(name).second) {
          return Error(ErrorCode::kDuplicateKey, "the tensor is in the state dict twice")
              .InTensor(name.substr(0, limits::kTensorNameBytes));
        }
        PW_TRY(AddTensor(name, child.id, out));
        continue;
      }
      if (RoleOf(place.id) == Role::kDict && IsOptimizer(child.name)) continue;
      if (place.depth >= limits::kStateDictDepth || name.size() > limits::kTensorNameBytes) {
        return Error(
            ErrorCode::kLimit,
            fmt::format("dicts of more than {} levels, or with names of more than {} bytes",
                        limits::kStateDictDepth, limits::kTensorNameBytes));
      }
      inner.push_back({child.id, name, place.depth + 1});
    }
    open.insert(open.end(), inner.rbegin(), inner.rend());
  }
  return OkStatus();
}

std::vector<std::string> StateDictFinder::ForeignNames() const {
  std::set<std::string> names;
  for (PickleId id = 0; id < pickle_.size(); ++id) {
    if (pickle_.kind(id) != PickleKind::kGlobal) continue;
    std::string name = pickle_.GlobalName(id);
    if (StartsWith(name, "torch.") || StartsWith(name, "__torch__.") ||
        StartsWith(name, "collections.") || name == "__builtin__.set" || name == "builtins.set") {
      continue;
    }
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

void StateDictFinder::AddNotes(const Place& root, TorchCheckpoint* out) const {
  if (!root.path.empty()) out->notes["state_dict"] = root.path;
  std::set<std::string> others;
  std::set<std::string> strangers;
  std::unordered_set<PickleId> inside;
  for (const Place& place : Containers(root.id)) {
    inside.insert(place.id);
    if (RoleOf(place.id) != Role::kDict) continue;
    const Ids items = pickle_.items(place.id);
    for (size_t i = 0; i + 1 < items.size() && strangers.size() < kNamesInNotes; i += 2) {
      const std::optional<std::string> key = KeyText(items[i]);
      if (!key || !IsStranger(items[i + 1])) continue;
      strangers.insert(place.path.empty() ? *key : place.path + "." + *key);
    }
  }
  if (!strangers.empty()) out->notes["not_tensors"] = fmt::format("{}", fmt::join(strangers, ", "));
  for (const Place& place : Containers(pickle_.root())) {
    if (inside.count(place.id) != 0) continue;
    for (const Child& child : Children(place.id)) {
      if (RoleOf(child.id) != Role::kTensor) continue;
      others.insert(place.path.empty() ? child.name : place.path.substr(0, place.path.find('.')));
    }
  }
  if (!others.empty()) out->notes["not_read"] = fmt::format("{}", fmt::join(others, ", "));
  const std::vector<std::string> foreign = ForeignNames();
  if (!foreign.empty()) out->notes["not_called"] = fmt::format("{}", fmt::join(foreign, ", "));
}

Result<TorchCheckpoint> StateDictFinder::Run() {
  TorchCheckpoint checkpoint;
  PW_ASSIGN(const Place root, Select());
  PW_TRY(Flatten(root, &checkpoint));
  if (checkpoint.tensors.empty()) return NoTensors();
  AddNotes(root, &checkpoint);
  checkpoint.storages = storages_.list();
  return checkpoint;
}

}  // namespace

Result<TorchCheckpoint> ReadTorchPickle(const Pickle& pickle, bool legacy) {
  PW_ASSIGN(const TorchStorages storages, TorchStorages::Read(pickle, legacy));
  return StateDictFinder(pickle, storages).Run();
}

}  // namespace pennyweight
