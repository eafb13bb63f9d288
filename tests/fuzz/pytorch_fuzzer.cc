// A whole checkpoint: the stream of before PyTorch 1.6, or a zip archive.
#include "formats/pytorch_reader.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static pennyweight::fuzz::InputFile file;
  const std::string& path = file.Write(data, size);
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto source = pennyweight::PytorchSource::Open({path});
  if (source.ok()) pennyweight::fuzz::ReadSome(**source);
  return 0;
}
