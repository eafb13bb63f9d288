// The stack machine behind Pickle::Parse. Internal to formats/pickle*.cc.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle.h"

namespace pennyweight {

class PickleMachine {
 public:
  PickleMachine(std::string bytes, uint64_t file_bytes);
  PickleMachine(const ReadFile& file, uint64_t begin, uint64_t max_bytes);
  Result<Pickle> Run();
  // After a failure: what was built until then.
  Pickle TakePartial();

 private:
  using Ids = std::vector<PickleId>;

  // Input. Every read goes through Need, which never trusts a length.
  Status Need(uint64_t bytes);
  template <class T>
  Result<T> Read();
  // `bytes` bytes of operand: offset << 32 | length in the buffer.
  Result<uint64_t> ReadText(uint64_t bytes);
  // A line without its newline.
  Result<uint64_t> ReadLine();
  std::string_view View(uint64_t text) const;
  Error Fail(std::string message) const;

  // Stack.
  Result<PickleId> Add(PickleKind kind, uint64_t value);
  Status Push(PickleKind kind, uint64_t value);
  Status PushId(PickleId id);
  Status PushTuple(const Ids& items);
  Result<PickleId> Pop();
  // Everything above the last mark, which goes too.
  Result<Ids> PopToMark();
  // Charges what is about to be kept. Errors: kLimit.
  Status Hold(uint64_t bytes);
  Status HoldGrowth(const Ids& ids, size_t more);
  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }

  // Opcodes by group; false: not one of the group.
  Result<bool> StackOp(uint8_t op);
  Result<bool> NumberOp(uint8_t op);
  Result<bool> TextOp(uint8_t op);
  Result<bool> ContainerOp(uint8_t op);
  Result<bool> CallOp(uint8_t op);
  Status MemoOp(uint8_t op, bool* known);
  Status Frame();

  Status PushInteger(std::string_view little_endian, uint64_t text);
  Status IntegerLine(bool is_long);
  Status QuotedLine();
  Status UnicodeLine();
  Status AddString(PickleKind kind, uint64_t bytes);
  Status Put(uint64_t index);
  Status Get(uint64_t index);
  Status Append(const Ids& items);
  Status SetItems(const Ids& items);
  Status AddItems(const Ids& items);
  Status Charge(size_t items);
  Status Construct(PickleKind kind, std::string_view name, const Ids& arguments);
  Status Global(uint64_t module, uint64_t name);
  // Keeps the names of an INST, which is refused, for those who judge the file.
  void RecordInst();
  // What calling `callable` with the tuple `arguments` gives: a container, or an object.
  Status Call(PickleId callable, PickleId arguments);
  Status Build(PickleId state);
  // Adds items to a list, set, dict or object.
  Status AddTo(PickleId id, const Ids& items);

  // What the search for tensors may keep for a dict or for an object with contents.
  static constexpr uint64_t kContainerCharge = 192;

  const ReadFile* file_ = nullptr;
  uint64_t begin_ = 0;
  uint64_t limit_;  // bytes that there are at most
  uint64_t max_bytes_ = limits::kPickleBytes;
  uint64_t buffer_charge_ = 0;
  size_t stack_charge_ = 0;  // most values at once
  uint64_t cursor_ = 0;      // in the buffer
  uint64_t op_at_ = 0;       // of the current opcode
  uint64_t ops_ = 0;
  uint64_t copied_ = 0;  // values that constructors copied
  uint64_t frame_end_ = 0;
  bool in_frame_ = false;
  Pickle out_;
  std::deque<PickleId> stack_;
  std::vector<size_t> marks_;
  std::deque<PickleId> memo_;  // kNoMemo where nothing was put
  static constexpr PickleId kNoMemo = ~PickleId{0};
};

}  // namespace pennyweight
