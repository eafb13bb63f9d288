// Lane buffers: kLanes rows of weights side by side, one row in each lane of a SIMD vector, so that
// searches of sixteen blocks run without any horizontal work. Element (column i, lane l) is at
// [i * kLanes + l]; buffers are aligned to kLaneAlign bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

namespace pennyweight {

inline constexpr int64_t kLanes = 16;
inline constexpr size_t kLaneAlign = 64;

// An aligned array for lanes: zeros at first, moved but not copied.
template <class T>
class LaneArray {
 public:
  LaneArray() = default;
  explicit LaneArray(int64_t n)
      : data_(new (std::align_val_t(kLaneAlign)) T[static_cast<size_t>(n)]()) {}
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t(kLaneAlign)); }
  };
  std::unique_ptr<T[], Free> data_;
};

// Importance scaled to a mean of one; all ones when it is empty, not finite or nowhere positive.
// Columns of no importance keep a thousandth of the mean, so that what calibration has never seen
// is not clipped without bound. Returns the mean that was divided out. out[n].
double NormalizeImportance(std::span<const float> importance, int64_t n, float* out);

// rows[count, n], `stride` floats from row to row, into out[n][kLanes]; lanes from `count` on get
// zeros. 1 <= count <= kLanes.
void LoadLanes(const float* rows, int64_t stride, int64_t count, int64_t n, float* out);
// The inverse: lanes[n][kLanes] into rows[count, n].
void StoreLanes(const float* lanes, int64_t count, int64_t n, float* rows, int64_t stride);
// lanes[k][l] += e[l] * r[k] for k in [0, n). Fused multiply-adds.
void AddOuter(const float* e, const float* r, int64_t n, float* lanes);

// Which lanes; and columns from[n] into to[n] where they are set.
using LaneMask = std::array<bool, kLanes>;
template <class T>
void TakeLanes(const T* from, int64_t n, const LaneMask& lanes, T* to) {
  for (int64_t i = 0; i < n; ++i, from += kLanes, to += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) to[l] = lanes[l] ? from[l] : to[l];
  }
}

// The first index of a NaN or infinity in w[n]; -1 when there is none.
int64_t FindNonFinite(const float* w, int64_t n);

}  // namespace pennyweight
