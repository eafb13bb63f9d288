#include "calib/walk_stream.h"

#include <utility>

namespace pennyweight {

Result<WalkStream> WalkStream::Create(int64_t first_token, int64_t tokens, int64_t width,
                                      bool keeps_input, const std::string& scratch_dir) {
  PW_ASSIGN(HiddenStore input, HiddenStore::Create(tokens, width, scratch_dir));
  std::optional<HiddenStore> ahead;
  if (keeps_input) {
    PW_ASSIGN(ahead, HiddenStore::Create(tokens, width, scratch_dir));
  }
  return WalkStream(first_token, std::move(input), std::move(ahead));
}

size_t WalkStream::From(const WalkChunk& chunk, size_t step) const {
  const size_t reached = reached_[chunk.heldout ? 1 : 0];
  return reached <= step ? reached : 0;
}

Status WalkStream::Read(const WalkChunk& chunk, size_t from, std::vector<float>* hidden) const {
  hidden->resize(static_cast<size_t>(chunk.tokens * input_.width()));
  const HiddenStore& store = from > 0 && ahead_ ? *ahead_ : input_;
  return store.Read(chunk.token - first_token_, chunk.tokens, hidden->data());
}

Status WalkStream::Write(const WalkChunk& chunk, const float* hidden) {
  HiddenStore& store = ahead_ ? *ahead_ : input_;
  return store.Write(chunk.token - first_token_, chunk.tokens, hidden);
}

void WalkStream::EndLayer() {
  if (ahead_) std::swap(input_, *ahead_);
  Rewind();
}

}  // namespace pennyweight
