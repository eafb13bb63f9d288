// A whole .safetensors file.
#include "formats/safetensors_reader.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static pennyweight::fuzz::InputFile file;
  const std::string& path = file.Write(data, size);
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto source = pennyweight::SafetensorsSource::Open({path});
  if (source.ok()) pennyweight::fuzz::ReadSome(**source);
  return 0;
}
