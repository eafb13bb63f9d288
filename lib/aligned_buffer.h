// A block of memory for packed operands: aligned to cache lines, uninitialised, freed with its
// owner. Pages become resident only when touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pennyweight {

// Asks for huge pages for memory that is not touched yet, where it spans some. Advice only: where
// it is refused, small pages do.
inline void AdviseHugePages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t from = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t to = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (to > from) (void)madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

// `count` elements of a trivial T. Throws std::bad_alloc; sizes are the program's own, never a
// file's. Blocks of several MiB ask for huge pages: packed panels are walked with large strides,
// and misses of the address cache cost a tenth of a product's time.
template <class T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t count) {
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t bytes = count * sizeof(T);
    const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : size_t{64};
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    data_.reset(static_cast<T*>(std::aligned_alloc(alignment, rounded)));
    if (rounded != 0 && data_ == nullptr) throw std::bad_alloc();
    if (alignment == kHugePage) AdviseHugePages(data_.get(), rounded);
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace pennyweight
