#include "formats/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "formats/pickle_machine.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

static_assert(std::endian::native == std::endian::little, "operands are read in place");

constexpr uint64_t kWindow = 64 << 10;
constexpr int kHighestProtocol = 5;

}  // namespace

double Pickle::real(PickleId id) const { return std::bit_cast<double>(nodes_[id].value); }

std::string_view Pickle::text(PickleId id) const {
  const uint64_t value = nodes_[id].value;
  return std::string_view(buffer_).substr(value >> 32, value & 0xFFFFFFFFu);
}

std::string Pickle::GlobalName(PickleId id) const {
  const Global named = global(nodes_[id].value);
  return fmt::format("{}.{}", named.module, named.name);
}

Pickle::Global Pickle::global(size_t i) const {
  const auto view = [&](uint64_t text) {
    return std::string_view(buffer_).substr(text >> 32, text & 0xFFFFFFFFu);
  };
  const GlobalTexts& texts = globals_[i];
  return {view(texts.module), view(texts.name), texts.at};
}

bool Pickle::GlobalStartsWith(PickleId id, std::string_view prefix) const {
  const auto view = [&](uint64_t text) {
    return std::string_view(buffer_).substr(text >> 32, text & 0xFFFFFFFFu);
  };
  const GlobalTexts& texts = globals_[nodes_[id].value];
  const std::string_view module = view(texts.module);
  if (prefix.size() <= module.size()) return module.starts_with(prefix);
  return prefix.starts_with(module) && prefix[module.size()] == '.' &&
         view(texts.name).starts_with(prefix.substr(module.size() + 1));
}

bool Pickle::GlobalIs(PickleId id, std::string_view name) const {
  const GlobalTexts& texts = globals_[nodes_[id].value];
  return (texts.module & 0xFFFFFFFFu) + 1 + (texts.name & 0xFFFFFFFFu) == name.size() &&
         GlobalStartsWith(id, name);
}

std::span<const PickleId> Pickle::items(PickleId id) const {
  const Node& node = nodes_[id];
  switch (node.kind) {
    case PickleKind::kTuple:
    case PickleKind::kPersistent: {
      return std::span(pool_).subspan(node.value >> 32, node.value & 0xFFFFFFFFu);
    }
    case PickleKind::kList:
    case PickleKind::kSet:
    case PickleKind::kDict:
      if (node.value == kEmpty) return {};
      return lists_[node.value];
    case PickleKind::kObject:
      return std::span(lists_[node.value]).subspan(kObjectHead);
    default:
      return {};
  }
}

std::optional<PickleId> Pickle::state(PickleId id) const {
  const PickleId state = lists_[nodes_[id].value][2];
  return state == kNoState ? std::nullopt : std::optional<PickleId>(state);
}

Result<Pickle> Pickle::Parse(std::string bytes, uint64_t file_bytes,
                             std::optional<Pickle>* partial) {
  PickleMachine machine(std::move(bytes), file_bytes);
  Result<Pickle> pickle = machine.Run();
  if (!pickle.ok() && partial != nullptr) *partial = machine.TakePartial();
  return pickle;
}

Result<Pickle> Pickle::Parse(const ReadFile& file, uint64_t begin, uint64_t max_bytes,
                             std::optional<Pickle>* partial) {
  PickleMachine machine(file, begin, max_bytes);
  Result<Pickle> pickle = machine.Run();
  if (pickle.ok()) return pickle;
  if (partial != nullptr) *partial = machine.TakePartial();
  return std::move(pickle).TakeError().InFile(file.path());
}

Pickle PickleMachine::TakePartial() {
  out_.bytes_ = op_at_;
  return std::move(out_);
}

PickleMachine::PickleMachine(std::string bytes, uint64_t file_bytes)
    : limit_(bytes.size()), out_(std::max<uint64_t>(file_bytes, bytes.size())) {
  out_.buffer_ = std::move(bytes);
}

PickleMachine::PickleMachine(const ReadFile& file, uint64_t begin, uint64_t max_bytes)
    : file_(&file),
      begin_(begin),
      limit_(file.size() - std::min(begin, file.size())),
      max_bytes_(std::min(max_bytes, limits::kPickleBytes)),
      out_(file.size()) {}

Error PickleMachine::Fail(std::string message) const {
  return Error(ErrorCode::kInvalidPickle, std::move(message)).At(begin_ + op_at_);
}

Status PickleMachine::Need(uint64_t bytes) {
  if (bytes > limit_ - cursor_) {
    return Error(ErrorCode::kTruncated,
                 fmt::format("the pickle needs {} bytes more here, {} are left", bytes,
                             limit_ - cursor_))
        .At(begin_ + op_at_);
  }
  if (in_frame_ && bytes > frame_end_ - cursor_) {
    return Fail("an opcode of the pickle goes past the end of its frame");
  }
  const uint64_t end = cursor_ + bytes;
  if (end > max_bytes_) {
    return Error(ErrorCode::kLimit, fmt::format("the pickle has more than {} bytes", max_bytes_))
        .At(begin_ + op_at_);
  }
  const uint64_t have = out_.buffer_.size();
  if (end <= have) return OkStatus();
  const uint64_t wanted = std::min(std::max(end, have + kWindow), limit_);
  if (wanted > out_.buffer_.capacity()) {
    const uint64_t room = std::min(std::max(wanted, 2 * have), limit_);
    PW_TRY(Hold(room));
    out_.allowance_.Return(std::exchange(buffer_charge_, room));
    out_.buffer_.reserve(room);
  }
  out_.buffer_.resize(wanted);
  return file_->ReadAt(begin_ + have, out_.buffer_.data() + have, wanted - have);
}

template <class T>
Result<T> PickleMachine::Read() {
  PW_TRY(Need(sizeof(T)));
  T value;
  std::memcpy(&value, out_.buffer_.data() + cursor_, sizeof(T));
  cursor_ += sizeof(T);
  return value;
}

template Result<uint8_t> PickleMachine::Read();
template Result<uint16_t> PickleMachine::Read();
template Result<uint32_t> PickleMachine::Read();
template Result<uint64_t> PickleMachine::Read();

Result<uint64_t> PickleMachine::ReadText(uint64_t bytes) {
  PW_TRY(Need(bytes));
  const uint64_t text = cursor_ << 32 | bytes;  // both are under kPickleBytes
  cursor_ += bytes;
  return text;
}

Result<uint64_t> PickleMachine::ReadLine() {
  const uint64_t begin = cursor_;
  while (true) {
    PW_ASSIGN(const uint8_t c, Read<uint8_t>());
    if (c == '\n') return begin << 32 | (cursor_ - 1 - begin);
    if (cursor_ - begin > limits::kPickleLineBytes) {
      return Fail("a line of the pickle does not end");
    }
  }
}

std::string_view PickleMachine::View(uint64_t text) const {
  return std::string_view(out_.buffer_).substr(text >> 32, text & 0xFFFFFFFFu);
}

Result<PickleId> PickleMachine::Add(PickleKind kind, uint64_t value) {
  if (out_.nodes_.size() >= limits::kPickleNodes) {
    return Error(ErrorCode::kLimit,
                 fmt::format("the pickle has more than {} values", limits::kPickleNodes))
        .At(begin_ + op_at_);
  }
  // A dict is looked through, and perhaps remembered as a part of the state dict.
  PW_TRY(Hold(sizeof(Pickle::Node) + (kind == PickleKind::kDict ? kContainerCharge : 0)));
  out_.nodes_.push_back({kind, value});
  return static_cast<PickleId>(out_.nodes_.size() - 1);
}

Status PickleMachine::Push(PickleKind kind, uint64_t value) {
  PW_ASSIGN(const PickleId id, Add(kind, value));
  return PushId(id);
}

Status PickleMachine::PushId(PickleId id) {
  stack_.push_back(id);
  if (stack_.size() <= stack_charge_) return OkStatus();
  stack_charge_ = stack_.size();
  return Hold(sizeof(PickleId));
}

Status PickleMachine::Hold(uint64_t bytes) {
  if (out_.allowance_.Take(bytes)) return OkStatus();
  return Allowance::Exceeded("the pickle").At(begin_ + op_at_);
}

// What the elements take when the vector has to grow for them, the old ones included until they
// are copied.
Status PickleMachine::HoldGrowth(const Ids& ids, size_t more) {
  if (ids.size() + more <= ids.capacity()) return OkStatus();
  PW_TRY(Hold(std::max(2 * ids.capacity(), ids.size() + more) * sizeof(PickleId)));
  out_.allowance_.Return(ids.capacity() * sizeof(PickleId));
  return OkStatus();
}

Status PickleMachine::PushTuple(const Ids& items) {
  // Every element was pushed by an opcode of its own, so the pool is no longer than the pickle.
  const uint64_t start = out_.pool_.size();
  PW_TRY(HoldGrowth(out_.pool_, items.size()));
  out_.pool_.insert(out_.pool_.end(), items.begin(), items.end());
  return Push(PickleKind::kTuple, start << 32 | items.size());
}

Result<PickleId> PickleMachine::Pop() {
  if (stack_.size() <= Floor()) return Fail("the pickle takes a value from an empty stack");
  const PickleId id = stack_.back();
  stack_.pop_back();
  return id;
}

Result<PickleMachine::Ids> PickleMachine::PopToMark() {
  if (marks_.empty()) return Fail("the pickle uses a mark that was not set");
  PW_TRY(Hold((stack_.size() - marks_.back()) * sizeof(PickleId)));
  out_.allowance_.Return((stack_.size() - marks_.back()) * sizeof(PickleId));
  Ids items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

Status PickleMachine::Put(uint64_t index) {
  if (stack_.size() <= Floor()) return Fail("the pickle memoizes a value of an empty stack");
  // Writers number what they memoize, so an index beyond the opcodes so far is made to hurt.
  if (index > ops_) return Fail(fmt::format("the memo index {} is far too large", index));
  if (index >= memo_.size()) {
    PW_TRY(Hold((index + 1 - memo_.size()) * sizeof(PickleId)));
    memo_.resize(index + 1, kNoMemo);
  }
  memo_[index] = stack_.back();
  return OkStatus();
}

Status PickleMachine::Get(uint64_t index) {
  if (index >= memo_.size() || memo_[index] == kNoMemo) {
    return Fail(fmt::format("the pickle uses the memo {}, which was not set", index));
  }
  return PushId(memo_[index]);
}

Status PickleMachine::Frame() {
  if (in_frame_) return Fail("a frame of the pickle begins inside another");
  PW_ASSIGN(const uint64_t length, Read<uint64_t>());
  if (length > limit_ - cursor_) {
    return Error(ErrorCode::kTruncated,
                 fmt::format("a frame of the pickle has {} bytes, {} are left", length,
                             limit_ - cursor_))
        .At(begin_ + op_at_);
  }
  in_frame_ = length > 0;
  frame_end_ = cursor_ + length;
  return OkStatus();
}

Result<bool> PickleMachine::StackOp(uint8_t op) {
  switch (op) {
    case '(':  // MARK
      if (marks_.size() >= limits::kPickleMarks) return Fail("too many open marks");
      marks_.push_back(stack_.size());
      return true;
    case '0':  // POP, which also takes back a mark
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
        return true;
      }
      PW_TRY(Pop());
      return true;
    case '1':  // POP_MARK
      PW_TRY(PopToMark());
      return true;
    case '2':  // DUP
      if (stack_.size() <= Floor()) return Fail("the pickle copies from an empty stack");
      PW_TRY(PushId(stack_.back()));
      return true;
    case 0x95:
      PW_TRY(Frame());
      return true;
    default:
      break;
  }
  bool known = false;
  PW_TRY(MemoOp(op, &known));
  return known;
}

Status PickleMachine::MemoOp(uint8_t op, bool* known) {
  *known = true;
  switch (op) {
    case 'p':    // PUT
    case 'g': {  // GET
      PW_ASSIGN(const uint64_t line, ReadLine());
      const std::string_view digits = View(line);
      if (digits.empty() || digits.size() > 9 ||
          digits.find_first_not_of("0123456789") != std::string_view::npos) {
        return Fail("a memo index of the pickle is not a number");
      }
      uint64_t index = 0;
      for (const char c : digits) index = index * 10 + static_cast<uint64_t>(c - '0');
      return op == 'p' ? Put(index) : Get(index);
    }
    case 'q': {  // BINPUT
      PW_ASSIGN(const uint8_t index, Read<uint8_t>());
      return Put(index);
    }
    case 'r': {  // LONG_BINPUT
      PW_ASSIGN(const uint32_t index, Read<uint32_t>());
      return Put(index);
    }
    case 'h': {  // BINGET
      PW_ASSIGN(const uint8_t index, Read<uint8_t>());
      return Get(index);
    }
    case 'j': {  // LONG_BINGET
      PW_ASSIGN(const uint32_t index, Read<uint32_t>());
      return Get(index);
    }
    case 0x94:  // MEMOIZE
      return Put(memo_.size());
    default:
      *known = false;
      return OkStatus();
  }
}

Result<Pickle> PickleMachine::Run() {
  while (true) {
    if (in_frame_ && cursor_ == frame_end_) in_frame_ = false;
    op_at_ = cursor_;
    PW_ASSIGN(const uint8_t op, Read<uint8_t>());
    ++ops_;
    if (op == '.') break;  // STOP
    if (op == 0x80) {      // PROTO
      PW_ASSIGN(const uint8_t protocol, Read<uint8_t>());
      if (ops_ != 1) return Fail("the pickle announces its protocol twice");
      if (protocol > kHighestProtocol) {
        return Fail(fmt::format("the pickle has protocol {}; the highest known is {}", protocol,
                                kHighestProtocol));
      }
      continue;
    }
    bool known = false;
    for (const auto group :
         {&PickleMachine::StackOp, &PickleMachine::NumberOp, &PickleMachine::TextOp,
          &PickleMachine::ContainerOp, &PickleMachine::CallOp}) {
      PW_ASSIGN(known, (this->*group)(op));
      if (known) break;
    }
    if (!known) {
      if (op == 'i') RecordInst();
      return Fail(fmt::format("the pickle opcode {:#04x} is not taken here", op));
    }
  }
  if (in_frame_ && cursor_ != frame_end_) return Fail("the pickle stops inside a frame");
  if (!marks_.empty() || stack_.size() != 1) {
    return Fail(fmt::format("the pickle stops with {} values instead of one", stack_.size()));
  }
  out_.root_ = stack_[0];
  out_.bytes_ = cursor_;
  out_.buffer_.resize(cursor_);
  return std::move(out_);
}

}  // namespace pennyweight
