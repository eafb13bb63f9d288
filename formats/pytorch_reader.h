// Reads PyTorch checkpoints (.pt, .pth, .bin) without running anything in them.
//
// Two containers: since PyTorch 1.6 a zip archive, <prefix>/data.pkl with one record
// <prefix>/data/<key> per storage; before, a stream of five pickles (magic number, version of the
// protocol, facts of the system, the value, the list of storage keys) and then the storages, each
// behind its number of elements.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/pytorch_pickle.h"
#include "formats/zip_reader.h"
#include "lib/file.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// Pickles in a legacy file, in front of the storages.
inline constexpr int kLegacyPickles = 5;
// Whether a pickle is the first of a legacy file: the magic number itself, not a call that gives
// it.
bool IsTorchMagic(const Pickle& pickle);

// A checkpoint whose storages were found in its file.
struct TorchFile {
  TorchCheckpoint checkpoint;     // the offsets of the storages are filled in
  std::vector<ZipEntry> records;  // by storage; empty: a legacy file, which has no checksums
  bool big_endian = false;
  std::vector<std::string> malicious;  // names in its pickles, see MaliciousNames
};

// Reads and checks everything but the tensors' data. Errors: those of ZipArchive::Open,
// Pickle::Parse and ReadTorchPickle; kUnknownFormat (a zip archive or pickle that PyTorch did not
// write), kInvalidHeader, kInvalidTensor (a storage is missing or has another size than announced),
// kIncompleteBuffer (bytes behind the last storage), kTruncated.
Result<TorchFile> ReadTorchFile(const ReadFile& file, std::string_view key = {});

// The tensors of the state dicts of one or more checkpoints. Thread-safe.
class PytorchSource : public TensorSource {
 public:
  // Opens `paths` in this order. Errors: those of DetectFormat and ReadTorchFile; kShardMismatch
  // when two files hold a tensor of the same name.
  // `key`: as ReadTorchPickle takes it.
  static Result<std::unique_ptr<PytorchSource>> Open(const std::vector<std::string>& paths,
                                                     std::string_view key = {});

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  // Gathers views that are not contiguous. Errors also: kChecksum, found at the first read from a
  // storage, which is read as a whole for it.
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override;
  std::string_view format() const override { return "pytorch"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return paths_; }
  // Why nothing should be made of these files: kMaliciousPickle, naming what a pickle would call.
  const std::optional<Error>& danger() const { return danger_; }

 private:
  // A storage's checksum, compared once.
  struct Check {
    ZipEntry record;
    std::mutex mutex;
    bool done = false;
    std::optional<Error> error;
  };
  struct View {
    size_t file = 0;
    Check* check = nullptr;  // none in legacy files
    Shape strides;
    bool contiguous = false;
    uint64_t swap = 1;  // bytes of a word to be turned around; 1: none
  };

  PytorchSource() = default;
  Status Add(const std::string& path, std::string_view key);
  Status CheckStorage(const View& view) const;

  std::vector<ReadFile> files_;
  std::vector<std::string> paths_;
  std::vector<TensorInfo> tensors_;
  std::vector<View> views_;  // by tensor
  std::vector<std::unique_ptr<Check>> checks_;
  std::map<std::string, std::string> metadata_;
  std::optional<Error> danger_;
};

}  // namespace pennyweight
