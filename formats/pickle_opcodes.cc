// The opcodes that make containers, names and calls.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "formats/pickle_machine.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// Constructors of containers that mean the same here as in Python.
struct Constructor {
  std::string_view module;
  std::string_view name;
  PickleKind kind;
};
constexpr std::array<Constructor, 11> kConstructors = {{
    {"__builtin__", "dict", PickleKind::kDict},
    {"__builtin__", "list", PickleKind::kList},
    {"__builtin__", "set", PickleKind::kSet},
    {"__builtin__", "tuple", PickleKind::kTuple},
    {"builtins", "dict", PickleKind::kDict},
    {"builtins", "list", PickleKind::kList},
    {"builtins", "set", PickleKind::kSet},
    {"builtins", "tuple", PickleKind::kTuple},
    {"collections", "OrderedDict", PickleKind::kDict},
    {"collections", "defaultdict", PickleKind::kDict},
    {"torch", "Size", PickleKind::kTuple},
}};

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= limits::kPickleNameBytes &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; });
}

}  // namespace

// Items of a dict are charged once more, for the search that lists its tensors.
Status PickleMachine::AddTo(PickleId id, const Ids& items) {
  if (items.empty()) return OkStatus();
  Pickle::Node& node = out_.nodes_[id];
  const bool fresh = node.value == Pickle::kEmpty;
  const bool searched = node.kind == PickleKind::kDict || node.kind == PickleKind::kObject;
  PW_TRY(Hold((fresh ? sizeof(Ids) : 0) + (searched ? 2 * items.size() * sizeof(PickleId) : 0) +
              (node.kind == PickleKind::kObject ? kContainerCharge : 0)));
  if (fresh) {
    node.value = out_.lists_.size();
    out_.lists_.emplace_back();
  }
  Ids& list = out_.lists_[node.value];
  PW_TRY(HoldGrowth(list, items.size()));
  list.insert(list.end(), items.begin(), items.end());
  return OkStatus();
}

Status PickleMachine::Append(const Ids& items) {
  if (stack_.size() <= Floor()) return Fail("the pickle appends to an empty stack");
  const PickleKind kind = out_.kind(stack_.back());
  if (kind != PickleKind::kList && kind != PickleKind::kObject) {
    return Fail("the pickle appends to what is not a list");
  }
  return AddTo(stack_.back(), items);
}

Status PickleMachine::AddItems(const Ids& items) {
  if (stack_.size() <= Floor()) return Fail("the pickle adds to an empty stack");
  if (out_.kind(stack_.back()) != PickleKind::kSet) {
    return Fail("the pickle adds items to what is not a set");
  }
  return AddTo(stack_.back(), items);
}

Status PickleMachine::SetItems(const Ids& items) {
  if (stack_.size() <= Floor()) return Fail("the pickle sets items of an empty stack");
  const PickleKind kind = out_.kind(stack_.back());
  if (kind != PickleKind::kDict && kind != PickleKind::kObject) {
    return Fail("the pickle sets items of what is not a dict");
  }
  if (items.size() % 2 != 0) return Fail("the pickle sets a key without a value");
  return AddTo(stack_.back(), items);
}

Result<bool> PickleMachine::ContainerOp(uint8_t op) {
  Ids items;
  switch (op) {
    case ')':
      PW_TRY(PushTuple({}));
      return true;
    case ']':
      PW_TRY(Push(PickleKind::kList, Pickle::kEmpty));
      return true;
    case '}':
      PW_TRY(Push(PickleKind::kDict, Pickle::kEmpty));
      return true;
    case 0x8f:  // EMPTY_SET
      PW_TRY(Push(PickleKind::kSet, Pickle::kEmpty));
      return true;
    case 0x85:    // TUPLE1
    case 0x86:    // TUPLE2
    case 0x87: {  // TUPLE3
      items.resize(op - size_t{0x84});
      for (size_t i = items.size(); i > 0; --i) {
        PW_ASSIGN(items[i - 1], Pop());
      }
      PW_TRY(PushTuple(items));
      return true;
    }
    case 'a': {  // APPEND
      PW_ASSIGN(const PickleId item, Pop());
      PW_TRY(Append({item}));
      return true;
    }
    case 's': {  // SETITEM
      PW_ASSIGN(const PickleId value, Pop());
      PW_ASSIGN(const PickleId key, Pop());
      PW_TRY(SetItems({key, value}));
      return true;
    }
    case 't':
    case 'l':   // LIST
    case 'd':   // DICT
    case 'e':   // APPENDS
    case 'u':   // SETITEMS
    case 0x90:  // ADDITEMS
    case 0x91:  // FROZENSET
      break;
    default:
      return false;
  }
  PW_ASSIGN(items, PopToMark());
  if (op == 't') {
    PW_TRY(PushTuple(items));
    return true;
  }
  if (op == 'l') PW_TRY(Push(PickleKind::kList, Pickle::kEmpty));
  if (op == 'd') PW_TRY(Push(PickleKind::kDict, Pickle::kEmpty));
  if (op == 0x91) PW_TRY(Push(PickleKind::kSet, Pickle::kEmpty));
  if (op == 'l' || op == 'e') PW_TRY(Append(items));
  if (op == 'd' || op == 'u') PW_TRY(SetItems(items));
  if (op == 0x90 || op == 0x91) PW_TRY(AddItems(items));
  return true;
}

Status PickleMachine::Global(uint64_t module, uint64_t name) {
  if (!IsName(View(module)) || !IsName(View(name))) {
    return Fail("the name of a function or class in the pickle is malformed");
  }
  PW_TRY(Hold(sizeof(out_.globals_[0])));
  PW_TRY(Push(PickleKind::kGlobal, out_.globals_.size()));
  out_.globals_.push_back({module, name, op_at_});
  return OkStatus();
}

void PickleMachine::RecordInst() {
  const Result<uint64_t> module = ReadLine();
  const Result<uint64_t> name = module.ok() ? ReadLine() : module;
  if (!name.ok() || !IsName(View(*module)) || !IsName(View(*name))) return;
  out_.globals_.push_back({*module, *name, op_at_});
}

// Copies of containers are counted: a large one that is copied again and again would fill memory.
Status PickleMachine::Charge(size_t items) {
  copied_ += items;
  if (copied_ <= limits::kPickleNodes) return OkStatus();
  return Error(ErrorCode::kLimit,
               fmt::format("the pickle copies more than {} values", limits::kPickleNodes))
      .At(begin_ + op_at_);
}

// A container made of at most one other: OrderedDict([(key, value), ...]), set([...]).
Status PickleMachine::Construct(PickleKind kind, std::string_view name, const Ids& arguments) {
  if (arguments.size() > 1) return Fail(fmt::format("{} is called with too much", name));
  // Its argument is what makes the values that are missing, which nobody asks for here.
  const bool empty = arguments.empty() || name == "collections.defaultdict";
  if (!empty && out_.kind(arguments[0]) == kind && kind == PickleKind::kTuple) {
    return PushId(arguments[0]);
  }
  Ids items;
  if (!empty) {
    const PickleKind from = out_.kind(arguments[0]);
    if (from != PickleKind::kList && from != PickleKind::kTuple && from != PickleKind::kSet &&
        from != PickleKind::kDict) {
      return Fail(fmt::format("{} is made of what is not a container", name));
    }
    const auto given = out_.items(arguments[0]);
    PW_TRY(Charge(given.size()));
    items.assign(given.begin(), given.end());
    if (kind == PickleKind::kDict && from != PickleKind::kDict) {
      Ids flat;
      PW_TRY(Charge(items.size()));
      for (const PickleId pair : items) {
        const PickleKind pair_kind = out_.kind(pair);
        const bool fits = pair_kind == PickleKind::kTuple || pair_kind == PickleKind::kList;
        const auto entry = fits ? out_.items(pair) : std::span<const PickleId>();
        if (entry.size() != 2) return Fail(fmt::format("{} is made of no pairs", name));
        flat.insert(flat.end(), entry.begin(), entry.end());
      }
      items = std::move(flat);
    } else if (kind != PickleKind::kDict && from == PickleKind::kDict) {
      return Fail(fmt::format("{} is made of a dict", name));
    }
  }
  if (kind == PickleKind::kTuple) return PushTuple(items);
  PW_TRY(Push(kind, Pickle::kEmpty));
  return AddTo(stack_.back(), items);
}

Status PickleMachine::Call(PickleId callable, PickleId arguments) {
  if (out_.kind(arguments) != PickleKind::kTuple) {
    return Fail("the pickle calls something without a tuple of arguments");
  }
  switch (out_.kind(callable)) {
    case PickleKind::kGlobal: {
      const Pickle::Global global = out_.global(out_.nodes_[callable].value);
      for (const Constructor& constructor : kConstructors) {
        if (global.module != constructor.module || global.name != constructor.name) continue;
        const auto given = out_.items(arguments);
        return Construct(constructor.kind, out_.GlobalName(callable), {given.begin(), given.end()});
      }
      break;
    }
    case PickleKind::kObject:
    case PickleKind::kPersistent:
      break;
    default:
      return Fail("the pickle calls what is neither a function nor a class");
  }
  PW_TRY(Hold(sizeof(Ids) + 4 * sizeof(PickleId)));
  PW_TRY(Push(PickleKind::kObject, out_.lists_.size()));
  out_.lists_.push_back({callable, arguments, Pickle::kNoState});
  return OkStatus();
}

Status PickleMachine::Build(PickleId state) {
  if (stack_.size() <= Floor()) return Fail("the pickle gives a state to an empty stack");
  const PickleId id = stack_.back();
  switch (out_.kind(id)) {
    case PickleKind::kObject:
      PW_TRY(Hold(kContainerCharge));
      out_.lists_[out_.nodes_[id].value][2] = state;
      return OkStatus();
    case PickleKind::kDict:  // attributes of an OrderedDict (_metadata): not of use here
    case PickleKind::kList:
    case PickleKind::kSet:
      return OkStatus();
    default:
      return Fail("the pickle gives a state to what has none");
  }
}

Result<bool> PickleMachine::CallOp(uint8_t op) {
  switch (op) {
    case 'c': {  // GLOBAL
      PW_ASSIGN(const uint64_t module, ReadLine());
      PW_ASSIGN(const uint64_t name, ReadLine());
      PW_TRY(Global(module, name));
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      PW_ASSIGN(const PickleId name, Pop());
      PW_ASSIGN(const PickleId module, Pop());
      if (out_.kind(name) != PickleKind::kString || out_.kind(module) != PickleKind::kString) {
        return Fail("the name of a function or class in the pickle is not a string");
      }
      PW_TRY(Global(out_.nodes_[module].value, out_.nodes_[name].value));
      return true;
    }
    case 0x92: {  // NEWOBJ_EX: its keyword arguments change nothing here
      PW_ASSIGN(const PickleId keywords, Pop());
      if (out_.kind(keywords) != PickleKind::kDict) {
        return Fail("the pickle makes an object without a dict of keyword arguments");
      }
      [[fallthrough]];
    }
    case 'R':     // REDUCE
    case 0x81: {  // NEWOBJ
      PW_ASSIGN(const PickleId arguments, Pop());
      PW_ASSIGN(const PickleId callable, Pop());
      PW_TRY(Call(callable, arguments));
      return true;
    }
    case 'b': {  // BUILD
      PW_ASSIGN(const PickleId state, Pop());
      PW_TRY(Build(state));
      return true;
    }
    case 'Q': {  // BINPERSID
      PW_ASSIGN(const PickleId pid, Pop());
      const uint64_t start = out_.pool_.size();
      PW_TRY(HoldGrowth(out_.pool_, 1));
      PW_TRY(Hold(3 * sizeof(PickleId)));  // its place in the list of storages
      out_.pool_.push_back(pid);
      PW_TRY(Push(PickleKind::kPersistent, start << 32 | 1));
      return true;
    }
    default:
      return false;
  }
}

}  // namespace pennyweight
