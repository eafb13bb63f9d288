// The index of a folder of shards; the folder also has a link that leaves it.
#include "formats/safetensors_reader.h"
#include "formats/shard_index.h"
#include "tests/formats/model_files.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

namespace pennyweight::fuzz {
namespace {

// Two shards with the tensors "a" and "b", and "c".
struct Folder {
  Folder() {
    files.Write("model-00001-of-00002.safetensors",
                test::SafetensorsFile({{"a", "U8", {3}, "123"}, {"b", "F16", {2}, "4567"}}));
    files.Write("model-00002-of-00002.safetensors", test::SafetensorsFile({{"c", "U8", {1}, "8"}}));
    files.Link("link.safetensors", "/etc/passwd");
  }
  InputFolder files;
};

void ReadIndex(const std::string& text) {
  static const Folder folder;
  folder.files.Write("model.safetensors.index.json", text);
  const AllocationCap cap(text.size());
  const auto files = FindWeightFiles(folder.files.path());
  if (!files.ok()) return;
  for (const std::string& path : files->paths) {
    const std::string name = path.substr(path.rfind('/') + 1);
    Require(path == folder.files.path() + "/" + name, "a shard is in the folder");
    Require(name != "link.safetensors", "a link out of the folder is refused");
  }
  const auto source = SafetensorsSource::Open(files->paths);
  if (!source.ok() || !CheckAgainstIndex(*files, (*source)->tensors()).ok()) return;
  ReadSome(**source);
}

}  // namespace
}  // namespace pennyweight::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pennyweight::fuzz::ReadIndex(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
