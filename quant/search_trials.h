// Which scales, offsets and zero points the searches of quant/lane_search-inl.h try. Each list is
// ordered by what its entries gain, so that a shorter search takes its beginning.
#pragma once

#include <cstdint>

#include "quant/effort.h"

namespace pennyweight {

// Blocks beyond this many columns have lists of wide steps: their error is a smooth function of the
// scale, and their largest weights stand further out.
inline constexpr int64_t kLongBlock = 256;
// Codes whose largest is this or more are fine: see quant/lane_search-inl.h.
inline constexpr int kFineCodes = 32;

struct TrialList {
  const float* at;
  int count;
};

// Fractions of a block's range by which codes move in from its ends.
struct Ends {
  float low, high;
};
struct EndsList {
  const Ends* at;
  int count;
};

// How often the best trial's codes are fitted again.
int Refits(Effort effort);

// Codes in [-top, top - 1], top below kFineCodes: where the weight of largest magnitude lies, in
// codes of the sign that has one more; negative: in codes of the other sign.
TrialList SymmetricTrials(int top, int64_t n, Effort effort);
// For long blocks: the same as multiples of -top, all positive; and factors of the best inverse
// scale of those, which lie between them.
TrialList LongTrials(Effort effort);
TrialList NearTrials();

// Codes with `top` from kFineCodes on: where the largest weight lies, in steps of the scale.
int FineTrialCount(Effort effort);
float FineTrial(int k, int top, int64_t n);

// Codes in [0, levels] with a zero point among them (up to kLongBlock columns), and with an offset
// of their own.
EndsList ZeroPointTrials(int levels, int64_t n, Effort effort);
EndsList AffineTrials(int levels, Effort effort);

}  // namespace pennyweight
