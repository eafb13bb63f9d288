#include "calib/hidden_store.h"

#include <algorithm>

namespace pennyweight {

Result<HiddenStore> HiddenStore::Create(int64_t tokens, int64_t width,
                                        const std::string& scratch_dir) {
  HiddenStore store;
  store.tokens_ = tokens;
  store.width_ = width;
  if (scratch_dir.empty()) {
    store.memory_.resize(static_cast<size_t>(tokens * width));
  } else {
    PW_ASSIGN(store.file_, ScratchFile::Create(scratch_dir));
  }
  return store;
}

Status HiddenStore::Read(int64_t token, int64_t count, float* out) const {
  const uint64_t offset = static_cast<uint64_t>(token * width_);
  const uint64_t floats = static_cast<uint64_t>(count * width_);
  if (file_) return file_->ReadAt(offset * sizeof(float), out, floats * sizeof(float));
  std::copy_n(memory_.begin() + static_cast<int64_t>(offset), floats, out);
  return OkStatus();
}

Status HiddenStore::Write(int64_t token, int64_t count, const float* from) {
  const uint64_t offset = static_cast<uint64_t>(token * width_);
  const uint64_t floats = static_cast<uint64_t>(count * width_);
  if (file_) return file_->WriteAt(offset * sizeof(float), from, floats * sizeof(float));
  std::copy_n(from, floats, memory_.begin() + static_cast<int64_t>(offset));
  return OkStatus();
}

}  // namespace pennyweight
