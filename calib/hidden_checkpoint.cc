#include "calib/hidden_checkpoint.h"

#include <algorithm>
#include <vector>

#include "lib/file.h"
#include "lib/hash.h"

namespace pennyweight {
namespace {

constexpr int64_t kFloatsAtATime = 1 << 20;

std::vector<uint64_t> HeadOf(int64_t layer, std::span<const HiddenStore* const> stores) {
  std::vector<uint64_t> head = {static_cast<uint64_t>(layer), stores.size()};
  for (const HiddenStore* store : stores) {
    head.push_back(static_cast<uint64_t>(store->tokens()));
    head.push_back(static_cast<uint64_t>(store->width()));
  }
  return head;
}

uint64_t FileBytes(const std::vector<uint64_t>& head, std::span<const HiddenStore* const> stores) {
  uint64_t bytes = head.size() * sizeof(uint64_t) + sizeof(Hash128);
  for (const HiddenStore* store : stores) {
    bytes += static_cast<uint64_t>(store->tokens() * store->width()) * sizeof(float);
  }
  return bytes;
}

// Calls each(token, count) over a store's tokens in order.
template <class Each>
Status OverTokens(const HiddenStore& store, const Each& each) {
  const int64_t step = std::max<int64_t>(1, kFloatsAtATime / std::max<int64_t>(1, store.width()));
  for (int64_t token = 0; token < store.tokens(); token += step) {
    PW_TRY(each(token, std::min(step, store.tokens() - token)));
  }
  return OkStatus();
}

}  // namespace

Status SaveHidden(const std::string& path, int64_t layer,
                  std::span<const HiddenStore* const> from) {
  const std::vector<uint64_t> head = HeadOf(layer, from);
  PW_ASSIGN(const std::unique_ptr<AtomicFile> file,
            AtomicFile::CreateAt(path, path + ".partial", FileBytes(head, from), /*force=*/true,
                                 /*reopen=*/false));
  Hasher hasher;
  uint64_t offset = 0;
  const auto append = [&](const void* data, uint64_t bytes) -> Status {
    hasher.Update(data, bytes);
    PW_TRY(file->WriteAt(offset, data, bytes));
    offset += bytes;
    return OkStatus();
  };
  PW_TRY(append(head.data(), head.size() * sizeof(uint64_t)));
  std::vector<float> values;
  for (const HiddenStore* store : from) {
    const auto copy = [&](int64_t token, int64_t count) -> Status {
      values.resize(static_cast<size_t>(count * store->width()));
      PW_TRY(store->Read(token, count, values.data()));
      return append(values.data(), values.size() * sizeof(float));
    };
    PW_TRY(OverTokens(*store, copy));
  }
  const Hash128 hash = hasher.Digest();
  PW_TRY(file->WriteAt(offset, hash.data(), sizeof(hash)));
  PW_TRY(file->Seal());
  return file->Commit();
}

Result<bool> LoadHidden(const std::string& path, int64_t layer, std::span<HiddenStore* const> to) {
  const std::vector<const HiddenStore*> stores(to.begin(), to.end());
  const std::vector<uint64_t> want = HeadOf(layer, stores);
  const Result<ReadFile> file = ReadFile::Open(path);
  if (!file.ok() || file->size() != FileBytes(want, stores)) return false;
  Hasher hasher;
  uint64_t offset = 0;
  const auto read = [&](void* data, uint64_t bytes) -> bool {
    if (!file->ReadAt(offset, data, bytes).ok()) return false;
    hasher.Update(data, bytes);
    offset += bytes;
    return true;
  };
  std::vector<uint64_t> head(want.size());
  if (!read(head.data(), head.size() * sizeof(uint64_t)) || head != want) return false;
  std::vector<float> values;
  bool whole = true;
  for (HiddenStore* store : to) {
    const auto fill = [&](int64_t token, int64_t count) -> Status {
      values.resize(static_cast<size_t>(count * store->width()));
      whole = whole && read(values.data(), values.size() * sizeof(float));
      return whole ? store->Write(token, count, values.data()) : OkStatus();
    };
    PW_TRY(OverTokens(*store, fill));
  }
  Hash128 hash{};
  return whole && file->ReadAt(offset, hash.data(), sizeof(hash)).ok() && hash == hasher.Digest();
}

}  // namespace pennyweight
