#include "tests/bench/ggml_library.h"

#include <dlfcn.h>

#include <bit>

namespace pennyweight {

Result<GgmlLibrary> GgmlLibrary::Load(const std::string& path) {
  // A name without a slash would be looked for in the system's folders.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return Error(ErrorCode::kNotFound, dlerror()).InFile(path);
  GgmlLibrary library;
  library.init_ = std::bit_cast<InitFunction>(dlsym(handle, "ggml_quantize_init"));
  library.chunk_ = std::bit_cast<ChunkFunction>(dlsym(handle, "ggml_quantize_chunk"));
  if (library.init_ == nullptr || library.chunk_ == nullptr) {
    return Error(ErrorCode::kNotFound, "not a library of ggml's quantizers").InFile(path);
  }
  return library;
}

bool GgmlLibrary::Encodes(const BlockTraits& traits, int64_t cols) {
  // These two are the forms of activations; ggml_quantize_chunk aborts on them.
  const bool weights = traits.type != BlockType::kQ8_1 && traits.type != BlockType::kQ8_K;
  return weights && cols % traits.elements == 0;
}

bool GgmlLibrary::NeedsImportance(const BlockTraits& traits) {
  return traits.type == BlockType::kIQ2_XXS || traits.type == BlockType::kIQ2_XS ||
         traits.type == BlockType::kIQ1_S;
}

void GgmlLibrary::Prepare(const BlockTraits& traits) const {
  init_(static_cast<int>(traits.ggml_id));
}

void GgmlLibrary::Encode(const BlockTraits& traits, const float* w, int64_t rows, int64_t cols,
                         const float* importance, EncodedTensor* out) const {
  chunk_(static_cast<int>(traits.ggml_id), w, out->data.data(), 0, rows, cols, importance);
}

}  // namespace pennyweight
