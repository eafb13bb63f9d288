// Collects the names in the pickles of one file by their grade, and makes findings of them.
// Internal to formats/pickle_audit.cc.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "formats/pickle_grade.h"
#include "lib/finding.h"

namespace pennyweight {

class PickleNames {
 public:
  // `at`: of the opcode, bytes from the start of the file.
  void Add(std::string_view module, std::string_view name, uint64_t at);
  // Names in bytes that no machine has run through: of a pickle behind the opcode that was refused.
  // Only malicious ones count, as the bytes may be anything. `at`: where they begin in the file.
  void Sweep(std::string_view bytes, uint64_t at);
  // Malicious names and unknown ones have a finding each, up to a number; the others share one.
  void Report(const std::string& file, std::vector<Finding>* findings) const;

 private:
  struct Name {
    std::string dotted;
    uint64_t at;
  };
  std::map<PickleGrade, std::vector<Name>> names_;  // each once, in the order of the file
  std::set<std::string, std::less<>> seen_;
  std::map<PickleGrade, uint64_t> left_out_;
  std::unordered_set<std::string> graded_;  // "module\nname" of the first ones: most are repeated
};

}  // namespace pennyweight
