// A block of memory for packed operands: aligned to cache lines, uninitialised, freed with its
// owner. Pages become resident only when touched.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pennyweight {

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
#if defined(__linux__)
    // Advice only: where it is refused, small pages do.
    if (alignment == kHugePage) (void)madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
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
