// A zip archive: its directory, and the data of every entry.
#include "formats/zip_reader.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pennyweight::fuzz::Require;
  static pennyweight::fuzz::InputFile input;
  const std::string& path = input.Write(data, size);
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto file = pennyweight::ReadFile::Open(path);
  Require(file.ok(), "the input can be opened");
  const auto archive = pennyweight::ZipArchive::Open(*file);
  if (!archive.ok()) return 0;
  for (const pennyweight::ZipEntry& entry : archive->entries()) {
    Require(archive->Find(entry.name) == &entry, "an entry is found by its name");
    Require(entry.stored_bytes <= size && entry.offset <= size - entry.stored_bytes,
            "an entry's data are inside of the file");
    const bool sound = pennyweight::CheckZipEntry(*file, entry).ok();
    const auto bytes = pennyweight::ReadZipEntry(*file, entry, 1 << 20);
    if (!bytes.ok()) continue;
    Require(bytes->size() == entry.bytes, "an entry has the size that is announced");
    Require(sound || entry.deflated, "data that are read are those that were checked");
  }
  return 0;
}
