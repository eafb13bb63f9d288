// Parses Python pickles of the protocols 0 to 5 into plain data. Nothing is ever executed: a pickle
// is a program for a stack machine that builds values and may call any Python function by name;
// this machine builds the same values and, where a call is due, keeps a node that says which
// function was to be called with what. Only a few constructors of containers have a meaning here
// (OrderedDict() is a dict).
//
// Opcodes as in Lib/pickletools.py of CPython 3.11. Those that no checkpoint needs, and with which
// scanners were led astray (INST, OBJ, EXT, PERSID, out-of-band buffers), are refused.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/allowance.h"
#include "lib/file.h"
#include "lib/result.h"

namespace pennyweight {

// A value of a pickle: an index into its nodes. Values are shared (memo), also in cycles.
using PickleId = uint32_t;

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInteger,     // fits int64
  kBigInteger,  // does not: text() is its two's complement, little-endian
  kFloat,
  kString,  // text() is UTF-8; bytes of Python 2 are kept as they are
  kBytes,
  kTuple,
  kList,
  kSet,
  kDict,        // items(): key, value, key, value, ... in the order of insertion, repeats included
  kGlobal,      // a function or class by name; see GlobalName
  kObject,      // what a call would give; see the accessors. Never called
  kPersistent,  // items(): the one value that names something outside of the pickle
};

class Pickle {
 public:
  // Parses the pickle that `bytes` begin with. Errors: kInvalidPickle with the offset of the
  // opcode, kTruncated, kLimit (limits::kPickle*, lib/allowance.h); offsets count from the start of
  // `bytes`. `file_bytes`: of the file that they come from, for the allowance. After an error
  // `*partial`, if asked for, holds what was built up to there, without a root.
  static Result<Pickle> Parse(std::string bytes, uint64_t file_bytes = 0,
                              std::optional<Pickle>* partial = nullptr);
  // The same of the pickle at `begin` of a file; reads as far as needed, a window at a time, and
  // takes `max_bytes` at most. Offsets count from the start of the file, which errors name.
  // Errors also: kIo.
  static Result<Pickle> Parse(const ReadFile& file, uint64_t begin,
                              uint64_t max_bytes = limits::kPickleBytes,
                              std::optional<Pickle>* partial = nullptr);

  PickleId root() const { return root_; }
  // Bytes of the pickle, with its STOP; of a partial one, up to the opcode that was refused.
  uint64_t bytes() const { return bytes_; }
  size_t size() const { return nodes_.size(); }

  PickleKind kind(PickleId id) const { return nodes_[id].kind; }
  // kBool and kInteger.
  int64_t integer(PickleId id) const { return static_cast<int64_t>(nodes_[id].value); }
  double real(PickleId id) const;
  // kString, kBytes, kBigInteger. Valid as long as the pickle.
  std::string_view text(PickleId id) const;
  // "module.name" of a kGlobal.
  std::string GlobalName(PickleId id) const;
  // The same compared, without building it.
  bool GlobalIs(PickleId id, std::string_view name) const;
  bool GlobalStartsWith(PickleId id, std::string_view prefix) const;
  // Every name of a function or class in the order of the pickle, used or not; also those of INST,
  // which is refused.
  struct Global {
    std::string_view module;
    std::string_view name;
    uint64_t at;  // of the opcode, bytes from the start of the pickle
  };
  size_t globals() const { return globals_.size(); }
  Global global(size_t i) const;
  // Where the text of a kString or kBytes stands, bytes from the start of the pickle.
  uint64_t TextOffset(PickleId id) const { return nodes_[id].value >> 32; }
  // Elements of a container (see PickleKind), pid of a persistent value; of an object what was put
  // into it after the call (items of subclasses of list and dict).
  // Valid as long as the pickle.
  std::span<const PickleId> items(PickleId id) const;
  // Of an object: what was to be called, with which tuple of arguments, and the state that it was
  // to be given (BUILD).
  PickleId callable(PickleId id) const { return lists_[nodes_[id].value][0]; }
  PickleId arguments(PickleId id) const { return lists_[nodes_[id].value][1]; }
  std::optional<PickleId> state(PickleId id) const;
  // What is left for those who look through the values.
  const Allowance& allowance() const { return allowance_; }

 private:
  friend class PickleMachine;
  // 16 bytes, so that a pickle of nothing but one-byte opcodes stays small in memory too.
  struct Node {
    PickleKind kind = PickleKind::kNone;
    // Text: offset << 32 | length in buffer_. Tuple, persistent: start << 32 | count in pool_.
    // List, set, dict: index into lists_, or kEmpty. Object: index into lists_. Global: into
    // globals_.
    uint64_t value = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr PickleId kNoState = ~PickleId{0};
  static constexpr size_t kObjectHead = 3;  // callable, arguments, state; then items

  explicit Pickle(uint64_t file_bytes) : allowance_(file_bytes) {}

  std::string buffer_;
  // Deques grow without copying, so that what is held is what is charged.
  std::deque<Node> nodes_;
  std::vector<PickleId> pool_;
  std::deque<std::vector<PickleId>> lists_;
  struct GlobalTexts {
    uint64_t module, name;  // texts in buffer_
    uint64_t at;
  };
  std::deque<GlobalTexts> globals_;
  Allowance allowance_;
  PickleId root_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace pennyweight
