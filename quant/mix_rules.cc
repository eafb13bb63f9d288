// Source: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type_impl (August 2026).
//
// Fused attn_qkv: that file still has a rule of its own for it (Q4_K_M: q5_k, Q5_K_M: q6_k), but
// since 2025 takes such a matrix for an attn_v first, so the rule is never reached. The old rule is
// smoother; the choice here is what llama.cpp does, not what it has written down: a mix of the same
// name makes a file of the same size, and figures published for one hold for the other.
#include "quant/mix_rules.h"

namespace pennyweight {
namespace {

using F = GgufFileType;
using B = BlockType;
using P = GgufPart;

constexpr FileSet kAll = ~FileSet{0};
// About two bits a weight and less: what is small or delicate gets much more.
constexpr FileSet kOneBit = In(F::kIQ1_S, F::kIQ1_M);
constexpr FileSet kTwoBitSmall = In(F::kIQ2_XXS, F::kIQ2_XS);
constexpr FileSet kTwoBitLarge = In(F::kIQ2_S, F::kIQ2_M);
constexpr FileSet kTiny = kOneBit | kTwoBitSmall | kTwoBitLarge;
constexpr FileSet kIQ4 = In(F::kIQ4_NL, F::kIQ4_XS);
constexpr FileSet kMoreBitsM = In(F::kQ4_K_M, F::kQ5_K_M);

constexpr MixRule kRules[] = {
    // The head, or the embedding that serves as one.
    {P::kOutput, In(F::kMXFP4_MoE), kAlways, B::kQ8_0},
    {P::kOutput, kAll, kFalcon, B::kQ8_0},
    {P::kOutput, kAll, kRagged, B::kQ8_0},
    {P::kOutput, kTiny | In(F::kIQ3_XXS), kAlways, B::kQ5_K},
    {P::kOutput, kAll & ~In(F::kQ8_0), kAlways, B::kQ6_K},

    // An embedding with a head beside it.
    {P::kEmbedding, kTwoBitSmall | kOneBit, kAlways, B::kQ2_K},
    {P::kEmbedding, kTwoBitLarge | In(F::kIQ3_XXS), kAlways, B::kIQ3_S},
    {P::kEmbedding, In(F::kTQ1_0, F::kTQ2_0, F::kQ2_0), kAlways, B::kQ4_K},

    // attn_v is small where heads are grouped, and every error in it reaches the output.
    {P::kValue, kTiny, kGroups4, B::kQ4_K},
    {P::kValue, kTiny, kExperts4, B::kQ4_K},
    {P::kValue, kTwoBitLarge, kAlways, B::kIQ3_S},
    {P::kValue, kTiny, kAlways, B::kQ2_K},
    {P::kValue, kAll, kEightExperts, B::kQ8_0},
    {P::kValue, In(F::kQ2_K), kGroups4, B::kQ4_K},
    {P::kValue, In(F::kQ2_K), kAlways, B::kQ3_K},
    {P::kValue, In(F::kQ2_K_S, F::kIQ3_XXS, F::kIQ3_XS, F::kIQ3_S), kGroups4, B::kQ4_K},
    {P::kValue, In(F::kIQ3_XXS), kNoImportance, B::kIQ3_S},
    {P::kValue, In(F::kIQ3_M), kAlways, B::kQ4_K},
    {P::kValue, In(F::kQ3_K_M), kFirst2, B::kQ5_K},
    {P::kValue, In(F::kQ3_K_M), kAlways, B::kQ4_K},
    {P::kValue, In(F::kQ3_K_L), kAlways, B::kQ5_K},
    {P::kValue, kIQ4, kGroups4, B::kQ5_K},
    {P::kValue, kMoreBitsM, kMore, B::kQ6_K},
    {P::kValue, In(F::kQ4_K_S), kFirst4, B::kQ5_K},

    {P::kKey, kTiny, kEightExperts, B::kQ4_K},
    {P::kKey, kAll & ~kTiny, kEightExperts, B::kQ8_0},
    {P::kKey, In(F::kIQ3_XS), kAlways, B::kIQ3_XXS},
    {P::kKey, In(F::kIQ3_XXS), kAlways, B::kIQ2_S},
    {P::kQuery, In(F::kIQ3_XS), kAlways, B::kIQ3_XXS},
    {P::kQuery, In(F::kIQ3_XXS), kAlways, B::kIQ2_S},

    {P::kDown, kTwoBitLarge, kFirstEighth, B::kIQ3_S},
    {P::kDown, kTiny, kFirstEighth, B::kQ2_K},
    {P::kDown, In(F::kQ2_K), kAlways, B::kQ3_K},
    {P::kDown, In(F::kQ2_K_S), kFirstEighth, B::kQ4_K},
    {P::kDown, In(F::kIQ3_XXS), kNoImportance | kFirstEighth, B::kQ4_K},
    {P::kDown, In(F::kIQ3_XXS), kNoImportance, B::kQ3_K},
    {P::kDown, In(F::kQ3_K_M), kFirstSixteenth, B::kQ5_K},
    {P::kDown, In(F::kQ3_K_M), kNotFalcon, B::kQ4_K},
    {P::kDown, In(F::kQ3_K_M), kMore, B::kQ4_K},
    {P::kDown, In(F::kIQ3_M), kFirstEighth, B::kQ4_K},
    {P::kDown, In(F::kIQ3_M), kEightExperts | kMore, B::kQ4_K},
    {P::kDown, In(F::kQ3_K_L), kFalcon, B::kQ4_K},
    {P::kDown, In(F::kQ3_K_L), kAlways, B::kQ5_K},
    {P::kDown, In(F::kQ4_K_M), kFalcon | kFirstSixteenth, B::kQ6_K},
    {P::kDown, In(F::kQ4_K_M), kFalcon | kMore, B::kQ5_K},
    {P::kDown, In(F::kQ4_K_M), kNotFalcon | kMore, B::kQ6_K},
    {P::kDown, kIQ4, kNoImportance | kFirstEighth, B::kQ5_K},
    {P::kDown, In(F::kQ5_K_M), kMore, B::kQ6_K},
    {P::kDown, In(F::kQ4_K_S), kNotFalcon | kFirstEighth, B::kQ5_K},
    // Weighted rounding can go wrong in the first of these; unweighted q4_1 and q5_1 do.
    {P::kDown, In(F::kQ4_0), kImportance | kFirstEighth, B::kQ4_1},
    {P::kDown, In(F::kQ5_0), kImportance | kFirstEighth, B::kQ5_1},

    {P::kAttnOutput, kTiny, kEightExperts, B::kQ5_K},
    {P::kAttnOutput, kOneBit, kNotEight, B::kIQ2_XXS},
    {P::kAttnOutput, kTwoBitLarge, kNotEight, B::kIQ3_S},
    {P::kAttnOutput,
     In(F::kQ2_K, F::kIQ3_XS, F::kIQ3_XXS, F::kQ3_K_S, F::kQ3_K_M, F::kIQ4_NL, F::kQ4_K_S,
        F::kQ4_K_M, F::kIQ3_S, F::kIQ3_M, F::kIQ4_XS),
     kNotFalcon | kEightExperts, B::kQ5_K},
    {P::kAttnOutput, In(F::kQ2_K), kNotFalcon | kNotEight, B::kQ3_K},
    {P::kAttnOutput, In(F::kIQ3_XXS), kNotFalcon | kNotEight, B::kIQ3_S},
    {P::kAttnOutput, In(F::kQ3_K_M, F::kIQ3_M), kNotFalcon | kNotEight, B::kQ4_K},
    {P::kAttnOutput, In(F::kQ3_K_L), kNotFalcon | kNotEight, B::kQ5_K},
    {P::kAttnOutput, In(F::kQ3_K_L), kFalcon, B::kQ4_K},

    {P::kGate, In(F::kIQ3_XS), kMiddle, B::kIQ3_XXS},
    {P::kUp, In(F::kIQ3_XS), kMiddle, B::kIQ3_XXS},
};

}  // namespace

std::span<const MixRule> MixRules() { return kRules; }

}  // namespace pennyweight
