// What the pickle of a PyTorch checkpoint says: its storages, and the tensors of its state dict.
//
// Facts from torch/_utils.py, torch/serialization.py and torch/_tensor.py of PyTorch 1.6 to 2.9. A
// tensor is a call of torch._utils._rebuild_tensor* on a storage, and a storage a persistent id
// ("storage", type, key, location, number of elements).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle.h"
#include "lib/dtype.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

struct TorchStorage {
  std::string key;             // names the record that holds it
  std::string type;            // "FloatStorage"
  std::optional<DType> dtype;  // nullopt: untyped, or one that lib/dtype.h does not have
  uint64_t element_bytes = 1;
  uint64_t elements = 0;
  uint64_t bytes = 0;
  uint64_t offset = 0;  // in the file; for the container to fill in
};

struct TorchTensor {
  std::string name;
  size_t storage = 0;  // index into TorchCheckpoint::storages
  DType dtype = DType::kF32;
  Shape shape;
  Shape strides;        // in elements, none negative
  uint64_t offset = 0;  // of the first element in the storage, in elements
};

struct TorchCheckpoint {
  std::vector<TorchStorage> storages;  // every one that the pickle names
  std::vector<TorchTensor> tensors;    // of the state dict, in its order; the views are checked
  std::map<std::string, std::string> notes;  // for people: which state dict, what was left out
};

// Finds the state dict: the pickle's value itself, or what stands in it under a usual name
// ("state_dict", "model", ...), else the dict with the most elements outside of the optimizer's.
// Modules that were pickled whole and TorchScript objects count as the dict of their parameters and
// buffers; dicts and modules inside of it are flattened, their names joined by dots.
// `legacy`: the pickle is of a file of before PyTorch 1.6. `key` chooses the state dict instead:
// the names on the way to it, joined by dots ("ema.model"); empty: none. Errors: kTensorMissing
// (there is no tensor, or none under `key`), kInvalidTensor (a view outside of its storage),
// kUnsupported (a tensor that is sparse, quantized, conjugated, without data or of a type that
// lib/dtype.h does not have; named), kInvalidPickle, kDuplicateKey, kInvalidName, kOverflow,
// kLimit.
Result<TorchCheckpoint> ReadTorchPickle(const Pickle& pickle, bool legacy,
                                        std::string_view key = {});

}  // namespace pennyweight
