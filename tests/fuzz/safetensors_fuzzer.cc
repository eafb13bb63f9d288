// A whole .safetensors file: its tensors, and those that parts of quantized weights make.
#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static pennyweight::fuzz::InputFile file;
  const std::string& path = file.Write(data, size);
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto source = pennyweight::SafetensorsSource::Open({path});
  if (source.ok()) pennyweight::fuzz::ReadSome(**source);
  const auto model = pennyweight::OpenSafetensors(path);
  if (model.ok()) pennyweight::fuzz::ReadSome(*model->source);
  return 0;
}
