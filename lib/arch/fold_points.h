// Where a decoder layer can be written with other numbers without changing what it computes: a norm
// or a linear is divided by a scale per channel, and the linears behind it are multiplied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"

namespace pennyweight {

// Read off the family's steps: each kind rests on what the steps between producer and consumers do.
struct FoldPoint {
  enum class Kind : uint8_t {
    kNorm,   // a norm's gain; consumers: all linears that read the normed rows
    kValue,  // rows of v; consumer: o, whose heads read those of v by groups (attention is linear)
    kUp,     // rows of up; consumer: down (the gated product is linear in up)
  };
  Kind kind = Kind::kNorm;
  std::string_view producer;                // pattern of the norm or linear that is divided
  std::vector<std::string_view> consumers;  // patterns of the linears that are multiplied
  bool per_expert = false;                  // one fold for each expert, inside of it
  // Steps [begin, end) of the layer are its block, from its norm to where the result is added.
  size_t begin = 0;
  size_t end = 0;
};

// In the order of the steps. None for a family whose steps do not have them.
std::vector<FoldPoint> FoldPointsOf(const Family& family);

// True for the pattern of an expert's tensor: it has a mark for the expert behind that of the
// layer.
bool IsExpertPattern(std::string_view pattern);

// Channel of the producer that column `col` of a consumer belongs to: for kValue the head of v that
// the query head of the column reads, else `col` itself.
int64_t ProducerChannel(FoldPoint::Kind kind, const ModelConfig& config, int64_t col);

}  // namespace pennyweight
