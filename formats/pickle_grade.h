// How bad the name of a function or class in a pickle is. Nothing here decides what is done with a
// pickle: no name is ever looked up or called. The grade decides how loudly it is reported, and
// whether commands that write refuse the checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/pickle.h"

namespace pennyweight {

enum class PickleGrade : uint8_t {
  kAllowed,    // state dicts need it, and its meaning is known here
  kBenign,     // classes of training programs, without effects of their own
  kModule,     // torch.nn: the module was pickled whole
  kNested,     // torch.storage._load_from_bytes, which loads a pickle inside of the pickle
  kUnknown,    // anything else
  kMalicious,  // runs commands or code, or reaches files, the network or the interpreter
};

// Modules are compared by prefixes of dotted names (asyncio.unix_events is asyncio), and every part
// of `name` by itself too: protocol 4 takes "serialization.os.system" apart at its dots.
PickleGrade GradeGlobal(std::string_view module, std::string_view name);

// "os.system at offset 12" for each malicious name of a pickle that begins at `begin` of its file,
// at most `most`.
std::vector<std::string> MaliciousNames(const Pickle& pickle, uint64_t begin, size_t most);

}  // namespace pennyweight
