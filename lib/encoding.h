// How the values of a tensor are stored: plain elements, GGUF blocks, integer groups, small floats
// with scales, or indices into a table.
// Facts of storage only; what the bits mean as numbers is quant's business.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lib/dtype.h"

namespace pennyweight {

// Block types of GGUF. Values lie along a row; `elements` of them share one block of `bytes`.
enum class BlockType : uint8_t {
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ8_1, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kQ8_K,
  kIQ2_XXS, kIQ2_XS, kIQ3_XXS, kIQ1_S, kIQ4_NL, kIQ3_S, kIQ2_S, kIQ4_XS, kIQ1_M,
  kTQ1_0, kTQ2_0, kMXFP4, kNVFP4, kQ1_0, kQ2_0,
};

struct BlockTraits {
  BlockType type;
  std::string_view name;  // "q4_k"
  uint32_t ggml_id;       // the number in a GGUF file
  int32_t elements;       // values per block
  int32_t bytes;          // bytes per block
};

const BlockTraits& TraitsOf(BlockType type);
// nullptr when no such type.
const BlockTraits* FindBlockType(std::string_view name);
const BlockTraits* FindBlockTypeByGgmlId(uint32_t id);

// Integer codes in groups along a row: value = (code - zero) * scale.
struct IntegerSpec {
  int bits = 4;            // 2 to 8; codes are signed: [-2^(bits-1), 2^(bits-1) - 1]
  int64_t group_size = 0;  // columns that share a scale; 0: the whole row
  bool symmetric = true;   // no zero points
  DType scale_dtype = DType::kF16;
  bool act_order = false;  // a table says the group of each column (read only, never written)

  // Groups in a row of `cols` columns. Precondition: cols divides by group_size when that is set.
  int64_t Groups(int64_t cols) const { return group_size == 0 ? 1 : cols / group_size; }
  bool operator==(const IntegerSpec&) const = default;
};

// Small elements with scales over blocks of rows and columns: value = element * scale, divided by
// 127 when the scale is an absolute maximum.
struct ScaledSpec {
  DType element = DType::kF8E4M3;   // F8_E4M3, F8_E5M2, I8, or F4 (E2M1)
  int64_t block_rows = 0;           // rows that share a scale; 0: all
  int64_t block_cols = 0;           // columns that share one; 0: all
  DType scale_dtype = DType::kF32;  // F32, F16, BF16, F8_E4M3 or F8_E8M0
  bool absmax = false;              // I8 only: 127 stands for the scale itself
  bool divided = false;             // all scales are divided by one number

  // Scales of a row of `cols` columns; the last block may be partial.
  int64_t Groups(int64_t cols) const;
  bool operator==(const ScaledSpec&) const = default;
};

// 4-bit indices into a table of 16 levels: value = level * absmax, one absmax for each `block`
// consecutive values of the whole tensor in row-major order (blocks may cross rows). Nested: the
// absmax are themselves bytes, looked up in a table of 256 and scaled in blocks.
struct CodebookSpec {
  enum class Book : uint8_t { kNf4, kFp4 };  // bitsandbytes'
  Book book = Book::kNf4;
  int64_t block = 64;
  int64_t nested_block = 0;  // absmax that share a scale; 0: not nested, absmax are F32
  bool operator==(const CodebookSpec&) const = default;
};

struct Encoding {
  enum class Kind : uint8_t { kPlain, kBlock, kInteger, kScaled, kCodebook };
  Kind kind = Kind::kPlain;
  DType dtype = DType::kF32;           // kPlain
  BlockType block = BlockType::kQ4_0;  // kBlock
  IntegerSpec integer;                 // kInteger
  ScaledSpec scaled;                   // kScaled
  CodebookSpec codebook;               // kCodebook

  static Encoding Plain(DType dtype);
  static Encoding Block(BlockType type);
  static Encoding Integer(IntegerSpec spec);
  static Encoding Scaled(ScaledSpec spec);
  static Encoding Codebook(CodebookSpec spec);

  bool operator==(const Encoding& other) const;
  // "f16", "q4_k", "int4_g128", "int4_g32_asym", "int8_channel", "int4_g128_actorder",
  // "fp8_e4m3_tensor", "fp8_e4m3_channel", "fp8_e4m3_b128x128", "int8_absmax", "nf4_b64",
  // "nf4_b64_nested"; lower case, stable.
  std::string Name() const;
  // Bits per weight with everything that is stored for a row of `cols` (scales, zero points).
  double BitsPerWeight(int64_t cols) const;
  // Bytes of one row of `cols` values in kPlain and kBlock form (whole blocks; plain: whole bytes).
  // nullopt when cols does not divide into blocks, on overflow, and for all other kinds.
  std::optional<uint64_t> RowBytes(int64_t cols) const;
};

}  // namespace pennyweight
