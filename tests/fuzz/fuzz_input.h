// What the fuzzers share: inputs as files, and reading of whatever a reader accepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "lib/tensor_source.h"

namespace pennyweight::fuzz {

// A file in memory that holds one input after another; readers open it by its path.
class InputFile {
 public:
  InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Replaces the contents; returns the path.
  const std::string& Write(const uint8_t* data, size_t size);

 private:
  int fd_ = -1;
  std::string path_;
};

// A folder for inputs that are more than one file; removed when the process exits.
class InputFolder {
 public:
  InputFolder();
  ~InputFolder();
  InputFolder(const InputFolder&) = delete;
  InputFolder& operator=(const InputFolder&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const;
  void Link(const std::string& name, const std::string& target) const;

 private:
  std::string path_;
};

// Looks at every tensor that is listed and reads the first and last rows of some. What was accepted
// must be inside of its file, and its reads may fail only with an error.
void ReadSome(const TensorSource& source);

// Prints the text and aborts when `condition` is false: something a reader promises did not hold.
void Require(bool condition, const char* what);

}  // namespace pennyweight::fuzz
