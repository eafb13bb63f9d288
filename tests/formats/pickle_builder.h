// Pickles put together opcode by opcode, as text: each function gives the bytes that push one
// value.
#pragma once

#include <string>
#include <vector>

#include "tests/formats/zip_builder.h"

namespace pennyweight::test {

inline std::string PklString(const std::string& text) {
  return "X" + LittleEndian(uint32_t(text.size())) + text;
}
inline std::string PklInteger(int64_t value) { return "\x8a\x08" + LittleEndian(value); }
inline std::string PklGlobal(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string PklTuple(const std::vector<std::string>& items) {
  std::string out = "(";
  for (const std::string& item : items) out += item;
  return out + "t";
}
inline std::string PklIntegers(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) out += PklInteger(value);
  return out + "t";
}
inline std::string PklCall(const std::string& callable, const std::vector<std::string>& arguments) {
  return callable + PklTuple(arguments) + "R";
}
// {key: value, ...}
inline std::string PklDict(const std::vector<std::string>& keys_and_values) {
  std::string out = "}(";
  for (const std::string& item : keys_and_values) out += item;
  return out + "u";
}
// A whole pickle.
inline std::string Pkl(const std::string& value) { return "\x80\x02" + value + "."; }

// A storage by its persistent id: "FloatStorage", "0", 4.
inline std::string PklStorage(const std::string& type, const std::string& key, int64_t numel,
                              bool legacy = false) {
  std::vector<std::string> pid = {PklString("storage"), PklGlobal("torch", type), PklString(key),
                                  PklString("cpu"), PklInteger(numel)};
  if (legacy) pid.push_back("N");
  return PklTuple(pid) + "Q";
}
inline std::string PklTensor(const std::string& storage, int64_t offset,
                             const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                             const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {storage,
                                        PklInteger(offset),
                                        PklIntegers(shape),
                                        PklIntegers(strides),
                                        "\x89",
                                        PklGlobal("collections", "OrderedDict") + ")R"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return PklCall(PklGlobal("torch._utils", "_rebuild_tensor_v2"), arguments);
}

}  // namespace pennyweight::test
