// The codebooks of IQ2 and IQ3 arranged for an exhaustive search of the best word.
//
// A word is cut into four quarters: two values of an IQ2 word, one of an IQ3 word. A quarter takes
// 9 (3 x 3) or 8 states, and half a word 81 or 64. What a word scores is the sum of what its halves
// score, so that the scores of all halves serve all words. Words are listed in runs that share
// their first half: a run needs one maximum per word and one sum.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/encoding.h"
#include "quant/lanes.h"

namespace pennyweight {

struct CodebookIndex {
  struct Run {
    uint16_t quarters[2];  // states of the first half, times kLanes
    uint16_t begin, end;   // its pairs
  };
  // Second halves of two words: their states times kLanes.
  struct Pair {
    uint16_t first, second;
  };

  explicit CodebookIndex(BlockType type);

  int dims;    // values of a word
  int levels;  // values that each of them can take
  int states;  // of a quarter
  float level_values[8];
  std::vector<Run> runs;
  std::vector<Pair> second;     // run after run; of an odd number the last word fills up
  std::vector<int32_t> entry;   // [words]: the word's number in the codebook
  std::vector<int32_t> places;  // [runs, 128]: the place of the word that has this second half
  std::vector<float> values;    // [dims, words]
};

// Made once for each type, thread-safe. IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
const CodebookIndex& IndexOf(BlockType type);

}  // namespace pennyweight
