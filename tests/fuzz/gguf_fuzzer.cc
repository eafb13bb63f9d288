// A whole GGUF file: container, metadata as configuration and vocabulary, tensors.
#include "formats/readers.h"
#include "tests/fuzz/allocation_cap.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static pennyweight::fuzz::InputFile file;
  const std::string& path = file.Write(data, size);
  const pennyweight::fuzz::AllocationCap cap(size);
  const auto model = pennyweight::OpenGguf(path);
  if (model.ok()) pennyweight::fuzz::ReadSome(*model->source);
  return 0;
}
