// GGUF files byte by byte, so that every field can lie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pennyweight {

// Appends fields in the order of the calls; nothing is checked.
class GgufBytes {
 public:
  template <class T>
  GgufBytes& Put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& Str(std::string_view value) {
    Put<uint64_t>(value.size());
    text.append(value);
    return *this;
  }
  GgufBytes& Raw(std::string_view bytes) {
    text.append(bytes);
    return *this;
  }
  // Magic, version, counts.
  GgufBytes& Start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    return Raw("GGUF").Put<uint32_t>(version).Put<uint64_t>(tensors).Put<uint64_t>(keys);
  }
  GgufBytes& U32(std::string_view key, uint32_t value) {
    return Str(key).Put<uint32_t>(4).Put<uint32_t>(value);
  }
  GgufBytes& F32(std::string_view key, float value) {
    return Str(key).Put<uint32_t>(6).Put<float>(value);
  }
  GgufBytes& Bool(std::string_view key, uint8_t value) {
    return Str(key).Put<uint32_t>(7).Put<uint8_t>(value);
  }
  GgufBytes& Text(std::string_view key, std::string_view value) {
    return Str(key).Put<uint32_t>(8).Str(value);
  }
  GgufBytes& ArrayStart(std::string_view key, uint32_t element, uint64_t count) {
    return Str(key).Put<uint32_t>(9).Put<uint32_t>(element).Put<uint64_t>(count);
  }
  // `dims` innermost first, as stored.
  GgufBytes& Tensor(std::string_view name, const std::vector<int64_t>& dims, uint32_t type,
                    uint64_t offset) {
    Str(name).Put<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (const int64_t dim : dims) Put<int64_t>(dim);
    return Put<uint32_t>(type).Put<uint64_t>(offset);
  }
  GgufBytes& Align(size_t alignment = 32) {
    text.resize((text.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  // Data that are no zeros.
  GgufBytes& Data(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) text.push_back(static_cast<char>(i * 37 + 11));
    return *this;
  }

  std::string text;
};

}  // namespace pennyweight
