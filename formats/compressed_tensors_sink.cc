// MakeCompressedTensorsSink: the pack-quantized layout of compressed-tensors.
//   P.weight_packed      I32 [N, ceil(K b / 32)]  row n: b-bit values code + 2^(b-1), low bits
//   first P.weight_scale       [N, G] of the scales' dtype P.weight_zero_point  I32 [ceil(N b /
//   32), G]  column g: zero + 2^(b-1), packed down the rows;
//                        only when asymmetric
//   P.weight_shape       I64 [2] = {N, K}
// for P.weight [N, K] of b-bit codes in G groups; plain tensors as they are. What is left of a last
// word is zero. Source: compressed_tensors/compressors/pack_quantized, pack_to_int32
// (github.com/vllm-project/compressed-tensors).
#include <array>
#include <utility>

#include "formats/compressed_tensors_config.h"
#include "formats/hf_folder.h"
#include "formats/shard_writer.h"
#include "formats/sinks.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr uint64_t kWordBytes = 4;

// The first part of a tensor in the list of parts, and the places of the others behind it.
struct PartsOf {
  size_t first = 0;  // the tensor itself when plain, else weight_packed
  size_t scale = 0;
  size_t zero_point = 0;  // only when asymmetric
  size_t shape = 0;
  size_t end = 0;
};

// Puts value `i` of a stream of `bits`-bit values (4 or 8, so none straddles a byte) into
// little-endian words.
void PutCode(uint8_t* words, size_t i, int bits, int code) {
  const int value = code + (1 << (bits - 1));
  if (bits == 8) {
    words[i] = static_cast<uint8_t>(value);
  } else {
    words[i / 2] = static_cast<uint8_t>(words[i / 2] | ((value & 0xf) << (i % 2 == 0 ? 0 : 4)));
  }
}

// A code outside its bits would spill into its neighbour.
bool AllFit(const std::vector<int8_t>& values, int bits) {
  const int low = -(1 << (bits - 1));
  for (const int8_t v : values) {
    if (v < low || v >= -low) return false;
  }
  return true;
}

// [rows, cols] codes to [rows, words] little-endian words.
std::vector<uint8_t> PackRows(const EncodedTensor& tile, int bits) {
  const auto cols = static_cast<size_t>(tile.cols);
  const auto row_bytes = static_cast<size_t>(CeilDiv(tile.cols * bits, 32)) * kWordBytes;
  std::vector<uint8_t> packed(static_cast<size_t>(tile.rows) * row_bytes);
  for (size_t r = 0; r < static_cast<size_t>(tile.rows); ++r) {
    uint8_t* const words = packed.data() + r * row_bytes;
    const int8_t* const codes = tile.codes.data() + r * cols;
    for (size_t c = 0; c < cols; ++c) PutCode(words, c, bits, codes[c]);
  }
  return packed;
}

// [rows, groups] zero points to [word rows, groups]: each column is a stream of its own. A tile
// begins at a multiple of 32 rows, which fill whole words.
std::vector<uint8_t> PackZeros(const EncodedTensor& tile, int bits, size_t groups) {
  const auto word_rows = static_cast<size_t>(CeilDiv(tile.rows * bits, 32));
  const size_t per_word = 32 / static_cast<size_t>(bits);
  std::vector<uint8_t> packed(word_rows * groups * kWordBytes);
  for (size_t r = 0; r < static_cast<size_t>(tile.rows); ++r) {
    for (size_t g = 0; g < groups; ++g) {
      uint8_t* const word = packed.data() + (r / per_word * groups + g) * kWordBytes;
      PutCode(word, r % per_word, bits, tile.zeros[r * groups + g]);
    }
  }
  return packed;
}

class CompressedTensorsSink : public TensorSink {
 public:
  explicit CompressedTensorsSink(const SinkOptions& options) : options_(options) {}

  Status Begin(const std::vector<OutputTensor>& tensors) override {
    std::vector<TensorPart> parts;
    for (size_t i = 0; i < tensors.size(); ++i) {
      PW_TRY(CheckPackQuantized(*options_.model, tensors[i]));
      AddParts(tensors[i], i, &parts);
    }
    PW_ASSIGN(folder_, HfFolder::Create(options_, parts));
    tensors_ = tensors;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].encoding.kind == Encoding::Kind::kInteger) PW_TRY(WriteShape(i));
    }
    return OkStatus();
  }

  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    PW_TRY(CheckTile(tensors_[index], row, tile));
    if (tile.rows == 0) return OkStatus();
    if (tensors_[index].encoding.kind == Encoding::Kind::kInteger) {
      return WriteInteger(index, static_cast<uint64_t>(row), tile);
    }
    const uint64_t row_bytes = tile.data.size() / static_cast<uint64_t>(tile.rows);
    return folder_->shards().Write(parts_of_[index].first, static_cast<uint64_t>(row) * row_bytes,
                                   tile.data.data(), tile.data.size());
  }

  Status Seal() override {
    ConfigChanges changes;
    for (const OutputTensor& tensor : tensors_) {
      if (tensor.encoding.kind != Encoding::Kind::kInteger) continue;
      changes.quantization_config = PackQuantizedConfig(*options_.model, tensors_);
      break;
    }
    return folder_->Seal(tensors_, changes);
  }

  Status Commit() override { return folder_->Commit(); }
  void Keep() override {
    if (folder_ != nullptr) folder_->Keep();
  }

  // A client finds the weight under the module's name with other endings; this is the first part.
  std::string OutputName(size_t index) const override {
    const OutputTensor& tensor = tensors_[index];
    return tensor.encoding.kind == Encoding::Kind::kInteger ? tensor.name + "_packed" : tensor.name;
  }
  uint64_t OutputBytes(size_t index) const override {
    uint64_t bytes = 0;
    for (size_t part = parts_of_[index].first; part < parts_of_[index].end; ++part) {
      bytes += folder_->shards().PartBytes(part);
    }
    return bytes;
  }
  uint64_t TotalBytes() const override { return folder_->TotalBytes(); }

 private:
  // Appends the parts of `tensor`, the `owner`th, to the list, and keeps their places.
  void AddParts(const OutputTensor& tensor, size_t owner, std::vector<TensorPart>* parts) {
    PartsOf of;
    of.first = parts->size();
    if (tensor.encoding.kind == Encoding::Kind::kInteger) {
      const IntegerSpec& spec = tensor.encoding.integer;
      const int64_t n = tensor.shape[0];
      const int64_t k = tensor.shape[1];
      const auto add = [&](const char* suffix, DType dtype, Shape shape) {
        parts->push_back({{tensor.name + suffix, dtype, std::move(shape)}, owner});
        return parts->size() - 1;
      };
      add("_packed", DType::kI32, {n, CeilDiv(k * spec.bits, 32)});
      of.scale = add("_scale", spec.scale_dtype, {n, spec.Groups(k)});
      if (!spec.symmetric) {
        of.zero_point =
            add("_zero_point", DType::kI32, {CeilDiv(n * spec.bits, 32), spec.Groups(k)});
      }
      of.shape = add("_shape", DType::kI64, {2});
    } else {
      parts->push_back({{tensor.name, tensor.encoding.dtype, tensor.shape}, owner});
    }
    of.end = parts->size();
    parts_of_.push_back(of);
  }

  Status WriteShape(size_t index) {
    std::array<uint8_t, 16> bytes;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const auto dimension = static_cast<uint64_t>(tensors_[index].shape[i / 8]);
      bytes[i] = static_cast<uint8_t>(dimension >> (8 * (i % 8)));
    }
    return folder_->shards().Write(parts_of_[index].shape, 0, bytes.data(), bytes.size());
  }

  Status WriteInteger(size_t index, uint64_t row, const EncodedTensor& tile) {
    const IntegerSpec& spec = tensors_[index].encoding.integer;
    if (!AllFit(tile.codes, spec.bits) || !AllFit(tile.zeros, spec.bits)) {
      return Error(ErrorCode::kInvalidTensor, "a code or zero point does not fit its bits")
          .InTensor(tensors_[index].name);
    }
    ShardWriter& shards = folder_->shards();
    const PartsOf& of = parts_of_[index];
    const auto rows = static_cast<uint64_t>(tile.rows);
    const std::vector<uint8_t> packed = PackRows(tile, spec.bits);
    PW_TRY(shards.Write(of.first, row * (packed.size() / rows), packed.data(), packed.size()));
    const uint64_t scale_bytes = tile.scales.size() / rows;
    PW_TRY(shards.Write(of.scale, row * scale_bytes, tile.scales.data(), tile.scales.size()));
    if (spec.symmetric) return OkStatus();
    const auto groups = static_cast<uint64_t>(spec.Groups(tile.cols));
    const std::vector<uint8_t> zeros = PackZeros(tile, spec.bits, groups);
    const uint64_t word_row = row * static_cast<uint64_t>(spec.bits) / 32;
    return shards.Write(of.zero_point, word_row * groups * kWordBytes, zeros.data(), zeros.size());
  }

  SinkOptions options_;
  std::vector<OutputTensor> tensors_;
  std::vector<PartsOf> parts_of_;  // by tensor
  std::unique_ptr<HfFolder> folder_;
};

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeCompressedTensorsSink(const SinkOptions& options) {
  PW_TRY(CheckOutputPath(options));
  if (options.model == nullptr) {
    return Error(ErrorCode::kConfigMissing, "a folder needs a model's configuration");
  }
  // Refused now rather than after the work.
  PW_TRY(OutputConfig(*options.model, {}));
  return std::unique_ptr<TensorSink>(std::make_unique<CompressedTensorsSink>(options));
}

}  // namespace pennyweight
