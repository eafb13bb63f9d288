// Single values of a PyTorch pickle: storages and tensors. Internal to formats/pytorch_*.cc.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/pytorch_pickle.h"

namespace pennyweight {

// The storages of a pickle, by the node that names them.
class TorchStorages {
 public:
  // Reads every persistent id. Errors: kInvalidPickle, kOverflow; kInvalidTensor where one key
  // stands for two different storages.
  static Result<TorchStorages> Read(const Pickle& pickle, bool legacy);

  std::vector<TorchStorage>& list() { return list_; }
  const std::vector<TorchStorage>& list() const { return list_; }
  // What is left for the tensors.
  const Allowance& allowance() const { return allowance_; }
  // Index into list(), or nullopt when the node is no storage.
  std::optional<size_t> Find(PickleId id) const;

 private:
  // A storage with its places here and in the reader: its record, its checksum.
  static constexpr uint64_t kStorageCharge = 1024;

  explicit TorchStorages(const Allowance& allowance) : allowance_(allowance) {}
  Status Add(const Pickle& pickle, PickleId id, bool legacy);

  std::vector<TorchStorage> list_;
  std::unordered_map<std::string, size_t> by_key_;
  std::unordered_map<PickleId, uint32_t> by_pid_;
  std::vector<std::pair<PickleId, uint32_t>> by_node_;  // in the order of the nodes
  Allowance allowance_;
};

// Whether the value is a tensor of any kind, also of those that are not read here.
bool IsTorchTensor(const Pickle& pickle, PickleId id);

// The tensor that a value stands for; its name is left empty. Errors: as ReadTorchPickle.
Result<TorchTensor> ReadTorchTensor(const Pickle& pickle, const TorchStorages& storages,
                                    PickleId id);

}  // namespace pennyweight
