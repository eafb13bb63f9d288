#include "lib/tensor_source.h"

namespace pennyweight {

int64_t TensorSource::Find(std::string_view name) const {
  const auto& list = tensors();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].name == name) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace pennyweight
