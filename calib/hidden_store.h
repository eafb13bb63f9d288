// Hidden states of all tokens between layers: [tokens, width] floats, in memory or in a scratch
// file when they would not fit the memory limit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/file.h"
#include "lib/result.h"

namespace pennyweight {

class HiddenStore {
 public:
  // scratch_dir empty: in memory; else an unnamed file there.
  static Result<HiddenStore> Create(int64_t tokens, int64_t width, const std::string& scratch_dir);
  int64_t tokens() const { return tokens_; }
  int64_t width() const { return width_; }
  Status Read(int64_t token, int64_t count, float* out) const;
  Status Write(int64_t token, int64_t count, const float* from);

 private:
  HiddenStore() = default;
  int64_t tokens_ = 0, width_ = 0;
  std::vector<float> memory_;
  std::unique_ptr<ScratchFile> file_;
};

}  // namespace pennyweight
