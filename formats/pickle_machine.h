// The stack machine behind Pickle::Parse. Internal to formats/pickle*.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle.h"

namespace pennyweight {

class PickleMachine {
 public:
  // `file` null: the pickle is in `bytes`. Else it is read from `begin` of the file.
  PickleMachine(std::string bytes, const ReadFile* file, uint64_t begin);
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
  Status PushTuple(const Ids& items);
  Result<PickleId> Pop();
  // Everything above the last mark, which goes too.
  Result<Ids> PopToMark();
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
  Ids* MutableItems(PickleId id);

  const ReadFile* file_;
  uint64_t begin_;
  uint64_t limit_;       // bytes that there are at most
  uint64_t cursor_ = 0;  // in the buffer
  uint64_t op_at_ = 0;   // of the current opcode
  uint64_t ops_ = 0;
  uint64_t copied_ = 0;  // values that constructors copied
  uint64_t frame_end_ = 0;
  bool in_frame_ = false;
  Pickle out_;
  Ids stack_;
  std::vector<size_t> marks_;
  Ids memo_;  // kNoMemo where nothing was put
  static constexpr PickleId kNoMemo = ~PickleId{0};
};

}  // namespace pennyweight
