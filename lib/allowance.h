// How much memory reading one file may take: a fixed part and a multiple of the file's size, so
// that no small file fills a large machine. Readers charge what they are about to keep.
#pragma once

#include <cstdint>
#include <string>

#include "lib/error.h"
#include "lib/limits.h"

namespace pennyweight {

class Allowance {
 public:
  // Of the whole (limits::kHeldBytes + limits::kHeldPerByte per byte) a quarter stays for what is
  // not charged: the file's text itself, and buffers.
  explicit Allowance(uint64_t file_bytes)
      : left_((limits::kHeldBytes + limits::kHeldPerByte * Capped(file_bytes)) / 4 * 3) {}

  // False when that is more than is left; then nothing is taken.
  bool Take(uint64_t bytes) {
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }
  void Return(uint64_t bytes) { left_ += bytes; }
  uint64_t left() const { return left_; }

  // `what` begins the sentence: "the list of tensors".
  static Error Exceeded(const std::string& what) {
    return Error(ErrorCode::kLimit, what + " would take far more memory than the file has bytes");
  }

 private:
  // No file has 2^60 bytes; an announced size may.
  static uint64_t Capped(uint64_t bytes) { return bytes < (1ull << 60) ? bytes : (1ull << 60); }

  uint64_t left_;
};

}  // namespace pennyweight
