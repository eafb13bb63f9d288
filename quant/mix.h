// Mixes: a named table from tensor role to type, and llama.cpp's shape fallbacks.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"
#include "lib/encoding.h"
#include "lib/model_config.h"
#include "lib/tensor.h"

namespace pennyweight {

enum class MixStyle : uint8_t { kGguf, kInteger };

struct Mix {
  std::string_view name;      // "q4_k_m", "int4"
  MixStyle style;
  std::string_view base;      // type of a layer matrix without a rule of its own
  uint32_t gguf_file_type;    // general.file_type; 0 for integer mixes
};

std::span<const Mix> Mixes();
const Mix* FindMix(std::string_view name);

// What a user may ask for with --type and friends: "f16", "q4_k", "int4", ...; integer types take
// group size and symmetry from `integer`. nullopt when no such type.
std::optional<Encoding> FindType(std::string_view name, const IntegerSpec& integer);
// Names of all types that can be written, sorted.
std::vector<std::string> TypeNames();

// What to do with each tensor.
struct MixOptions {
  std::string type;       // a mix if one has that name and !pure, else a type
  bool pure = false;
  IntegerSpec integer;    // group size, symmetry, scale dtype of integer types
  Encoding plain;         // for tensors left alone: their storage in the output ...
  Encoding norm;          // ... and for norms and biases
  std::optional<Encoding> output_type, embedding_type;
  struct Override { std::string pattern; Encoding encoding; };
  std::vector<Override> tensor_types;  // ECMAScript regex on the name; first match wins
  std::vector<std::string> keep;       // regex: leave as is
};

struct Choice {
  Encoding encoding;
  bool quantize = false;                // false: stored plain
  std::optional<std::string> fallback;  // why it was left alone, or is not what was asked for
  bool degraded = false;  // a shape stood in the way of what was asked for (--strict)
};

// One choice per tensor, in the order given. For gguf mixes the choices equal those of llama.cpp's
// quantizer for the same file type (specs: shape fallbacks where its own quantizer would refuse).
// Errors: kUsage for an unknown type, a bad regex, or a pattern that matches nothing.
Result<std::vector<Choice>> ChooseTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors);

}  // namespace pennyweight
