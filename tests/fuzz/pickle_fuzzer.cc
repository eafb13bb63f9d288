// A bare pickle, and what the readers of both containers make of it.
#include "formats/pickle.h"
#include "formats/pytorch_pickle.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pennyweight::fuzz::Require;
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto pickle =
      pennyweight::Pickle::Parse(std::string(reinterpret_cast<const char*>(data), size));
  if (!pickle.ok()) return 0;
  Require(pickle->bytes() <= size, "a pickle ends inside of its bytes");
  for (const bool legacy : {false, true}) {
    const auto checkpoint = pennyweight::ReadTorchPickle(*pickle, legacy);
    if (!checkpoint.ok()) continue;
    for (const pennyweight::TorchTensor& tensor : checkpoint->tensors) {
      Require(tensor.storage < checkpoint->storages.size(), "a tensor has a storage");
      Require(tensor.shape.size() == tensor.strides.size(), "a tensor has strides");
    }
  }
  return 0;
}
