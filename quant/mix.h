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
#include "quant/type_table.h"

namespace pennyweight {

// kGguf: llama.cpp's rules for each part of the model. kLinears: one type for the matrices of the
// layers, embedding and head stay plain.
enum class MixStyle : uint8_t { kGguf, kLinears };

struct Mix {
  std::string_view name;  // "q4_k_m", "int4"
  MixStyle style;
  std::string_view base;    // type of a layer matrix without a rule of its own
  uint32_t gguf_file_type;  // general.file_type; 0 for kLinears
};

// All mixes, sorted by name.
std::span<const Mix> Mixes();
const Mix* FindMix(std::string_view name);
// True when every type that the mix can choose can be written.
bool IsOffered(const Mix& mix);
// True when it gives layers a type that rounding without importance makes useless.
bool NeedsImportance(const Mix& mix);

// What to do with each tensor.
struct MixOptions {
  std::string type;  // a mix if one has that name and !pure, else a type
  bool pure = false;
  IntegerSpec integer;  // group size, symmetry, scale dtype of integer types
  Encoding plain;       // for tensors left alone: their storage in the output ...
  Encoding norm;        // ... and for norms and biases
  std::optional<Encoding> output_type, embedding_type;
  struct Override {
    std::string pattern;
    Encoding encoding;
  };
  std::vector<Override> tensor_types;  // ECMAScript regex on the name; first match wins
  std::vector<std::string> keep;       // regex: leave as is
  // The rounding is weighted: by an importance matrix, or by calibration, which measures the same.
  // llama.cpp's mixes ask for the first; a calibrated run counts as one throughout, so that a mix
  // makes files of the size that it has there. (q4_0 and q5_0 then spend more on the first
  // ffn_down, iq4_nl, iq4_xs and iq3_xxs less, since the guards in them are against unweighted
  // rounding.)
  bool importance = false;
};

struct Choice {
  Encoding encoding;
  bool quantize = false;                // false: stored plain
  std::optional<std::string> fallback;  // why it was left alone, or is not what was asked for
  std::string why = {};                 // for people: what decided, where nothing fell back
  // NaN and infinity pass where the tensor is stored plain, instead of being an error.
  bool keep_non_finite = false;
  bool degraded = false;  // a shape stood in the way of what was asked for (--strict)
};

// One choice per tensor, in the order given. For gguf mixes the choices equal those of llama.cpp's
// quantizer for the same file type, with two differences: where it would refuse a shape something
// stands in (FitBlocks), and `output_type` holds for a tied embedding under `pure` too.
// Errors: kUsage for an unknown type, a bad regex, or a pattern that matches nothing; kUnsupported
// with the tensor when a type has no encoder.
Result<std::vector<Choice>> ChooseTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors);

// The same without regard to what can be written.
Result<std::vector<Choice>> DecideTypes(const MixOptions& options, const Family* family,
                                        const ModelConfig& config,
                                        std::span<const TensorInfo> tensors);

}  // namespace pennyweight
