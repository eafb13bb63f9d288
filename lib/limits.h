// Caps on what an untrusted file may make this program do. One place, so that they can be judged
// together; each is far above any real model.
#pragma once

#include <cstdint>

namespace pennyweight::limits {

// Reading a file may hold kHeldBytes + kHeldPerByte x its size at once (lib/allowance.h).
inline constexpr uint64_t kHeldBytes = 64ull << 20;
inline constexpr uint64_t kHeldPerByte = 4;
inline constexpr uint64_t kSafetensorsHeaderBytes = 100'000'000;  // the format's own rule, inclusive
inline constexpr uint64_t kJsonFileBytes = 512ull << 20;          // config, index, tokenizer
inline constexpr int kJsonDepth = 64;
inline constexpr uint64_t kJsonValues = 1u << 25;                 // in one document
inline constexpr uint64_t kJsonTokenBytes = 16u << 20;            // one string or number
inline constexpr uint64_t kMetadataKeys = 1u << 14;               // __metadata__ of safetensors
inline constexpr int kTensorRank = 16;
inline constexpr uint64_t kTensors = 1u << 20;
inline constexpr uint64_t kShards = 1u << 16;
inline constexpr uint64_t kTensorNameBytes = 1024;
inline constexpr uint64_t kGgufKeys = 1u << 14;
inline constexpr uint64_t kGgufKeyBytes = 1u << 16;
inline constexpr uint64_t kGgufStringBytes = 64u << 20;
inline constexpr uint64_t kGgufAlignment = 1u << 20;
inline constexpr uint64_t kGgufHeaderBytes = 1u << 30;  // metadata and tensor list together
inline constexpr uint64_t kGgufSplits = 1u << 12;       // files of one model
inline constexpr uint64_t kZipEntries = 1u << 20;
inline constexpr uint64_t kZipDirectoryBytes = 256u << 20;
inline constexpr uint64_t kPickleBytes = 256u << 20;      // one pickle
inline constexpr uint64_t kPickleNodes = 1u << 23;        // values in one pickle
inline constexpr uint64_t kPickleMarks = 4096;            // open at once
inline constexpr uint64_t kPickleLineBytes = 4096;        // of an opcode written as text
inline constexpr uint64_t kPickleNameBytes = 512;         // a module, or a name in it
inline constexpr uint64_t kPickleWork = 1u << 26;         // looks at items of dicts for the tensors
inline constexpr uint64_t kStorageKeyBytes = 1024;
inline constexpr uint64_t kPickleIntegerBytes = 64;
inline constexpr int kStateDictDepth = 64;  // dicts and modules inside each other
inline constexpr uint64_t kFoldsBytes = 48u << 20;  // a record of folds
inline constexpr uint64_t kJournalBytes = 256u << 20;
inline constexpr uint64_t kVocabulary = 1u << 24;   // tokens
inline constexpr uint64_t kTokenBytes = 1u << 16;   // one token's text
inline constexpr uint64_t kTextBytes = 1ull << 32;  // calibration and evaluation texts
inline constexpr uint64_t kStatisticsDirectoryBytes = 256u << 20;  // of a statistics file
inline constexpr int64_t kLayers = 4096;
inline constexpr int64_t kExperts = 4096;       // of one layer
inline constexpr int64_t kDimension = 1 << 24;  // hidden size, heads, rows of a matrix

}  // namespace pennyweight::limits
