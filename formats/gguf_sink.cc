// MakeGgufSink: one GGUF v3 file.
//
// Tensors stand in the order of llama.cpp's converter: rope_freqs, token_embd, the layers,
// output_norm, output.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <tuple>

#include "formats/detect.h"
#include "formats/gguf_metadata.h"
#include "formats/gguf_output.h"
#include "formats/gguf_rope.h"
#include "formats/gguf_rows.h"
#include "formats/gguf_writer.h"
#include "formats/shard_writer.h"
#include "formats/sinks.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

// An announced tensor in the file.
struct Placement {
  static constexpr size_t kDropped = SIZE_MAX;
  size_t place =
      kDropped;  // in the header's tensors(); kDropped: derived, the file does without it
  uint64_t row_bytes = 0;
  uint64_t offset = 0;  // of an expert's matrix in the tensor of all experts
  uint64_t bytes = 0;
  RowOrder order;
};

class GgufSink : public TensorSink {
 public:
  // `inputs`: the GGUF files of the model, or none. `family`: null to keep names and rows as the
  // input has them.
  GgufSink(SinkOptions options, std::vector<GgufFile> inputs, const Family* family)
      : options_(std::move(options)), inputs_(std::move(inputs)), family_(family) {}

  Status Begin(const std::vector<OutputTensor>& tensors) override {
    tensors_ = tensors;
    PW_TRY(AddMetadata());
    PW_TRY(PlaceTensors());
    PW_ASSIGN(file_, GgufOutput::Create(options_.path, std::move(header_), options_.force,
                                        options_.journal, options_.measure));
    if (rope_freqs_.empty()) return OkStatus();
    return file_->Write(0, 0, rope_freqs_.data(), rope_freqs_.size() * sizeof(float));
  }

  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    if (index >= slots_.size()) {
      return Error(ErrorCode::kUsage, fmt::format("tensor {} was not announced", index));
    }
    const Placement& slot = slots_[index];
    PW_TRY(CheckTile(tensors_[index], row, tile));
    if (slot.place == Placement::kDropped) return OkStatus();
    const auto write = [&](uint64_t offset, const void* from, uint64_t bytes) {
      return file_->Write(slot.place, slot.offset + offset, from, bytes);
    };
    Status status = slot.order.Write(write, slot.row_bytes, row, tile.rows, tile.data.data());
    if (!status.ok()) return std::move(status).TakeError().InTensor(tensors_[index].name);
    return OkStatus();
  }

  Status Seal() override {
    if (options_.folds_bytes > 0) {
      const FoldRecord none;
      const FoldRecord& folds = options_.folds == nullptr ? none : *options_.folds;
      if (!file_->FillRoom(FoldRecordToJson(folds))) {
        return Error(ErrorCode::kVerifyFailed, "the record of folds is longer than its room")
            .InFile(options_.path);
      }
    }
    return file_->Seal();
  }
  Status Commit() override { return file_->Commit(); }
  void Keep() override {
    if (file_ != nullptr) file_->Keep();
  }

  std::string OutputName(size_t index) const override {
    const Placement& slot = slots_[index];
    return slot.place == Placement::kDropped ? "" : file_->header().tensors()[slot.place].name;
  }
  uint64_t OutputBytes(size_t index) const override { return slots_[index].bytes; }
  uint64_t TotalBytes() const override { return file_->header().file_bytes(); }

 private:
  Status AddMetadata() {
    if (family_ != nullptr) {
      ModelConfig config = *options_.model->config;
      for (const OutputTensor& tensor : tensors_) {
        if (tensor.name == family_->embedding && tensor.shape.size() == 2) {
          config.vocab_size = tensor.shape[0];
        }
      }
      AddConfigKeys(*family_, config, &header_);
      PW_TRY(AddVocabulary(config.vocab_size));
    }
    header_.AddU32("general.file_type", options_.gguf_file_type);
    header_.AddU32("general.quantization_version", 2);
    for (const auto& [key, value] : options_.provenance) {
      const std::string full = key.starts_with("pennyweight.") ? key : "pennyweight." + key;
      if (!header_.Has(full)) header_.AddString(full, value);
    }
    if (options_.folds_bytes > 0) header_.AddRoom(kFoldsKey, options_.folds_bytes);
    if (!inputs_.empty()) CopyKeys(inputs_.front(), "");
    return OkStatus();
  }

  // A GGUF input's tokenizer passes as it is: it may hold more than a Vocabulary does.
  Status AddVocabulary(int64_t vocab_size) {
    if (!inputs_.empty()) {
      const GgufFile& input = inputs_.front();
      const GgufEntry* tokens = input.Find("tokenizer.ggml.tokens");
      if (tokens != nullptr && tokens->count == static_cast<uint64_t>(vocab_size)) {
        CopyKeys(input, "tokenizer.");
        return OkStatus();
      }
    }
    const Model& model = *options_.model;
    if (model.vocabulary) return AddVocabularyKeys(*model.vocabulary, vocab_size, &header_);
    if (model.vocabulary_error) return *model.vocabulary_error;
    return Error(ErrorCode::kTokenizer, "the model has no vocabulary, and a GGUF file needs one")
        .Hint("put tokenizer.model or tokenizer.json beside config.json")
        .InFile(model.path);
  }

  // Keys that begin with `prefix`, but not those that are there, that describe the input's own
  // bytes, or that tell how the input was made.
  void CopyKeys(const GgufFile& input, std::string_view prefix) {
    for (const GgufEntry& entry : input.entries()) {
      const std::string& key = entry.key;
      if (!key.starts_with(prefix) || header_.Has(key) || key == "general.alignment" ||
          key.starts_with("split.") || key.starts_with("pennyweight.")) {
        continue;
      }
      header_.AddCopy(input, entry);
    }
  }

  Status PlaceTensors() {
    slots_.resize(tensors_.size());
    std::vector<TensorPlace> places(tensors_.size());
    std::vector<size_t> order;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (family_ != nullptr) places[i] = PlaceOfHf(*family_, tensors_[i].name);
      const bool known = places[i].rule != nullptr;
      // A table of frequencies that rope_theta gives: old checkpoints hold it, GGUF does not.
      if (!known && tensors_[i].name.ends_with(".rotary_emb.inv_freq")) continue;
      if (!known && inputs_.empty()) {
        return Error(ErrorCode::kUnsupported,
                     "GGUF has no name for this tensor of the family " + std::string(family_->name))
            .InTensor(tensors_[i].name);
      }
      order.push_back(i);
    }
    if (family_ != nullptr) {
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return SortKey(places[a]) < SortKey(places[b]); });
      PW_TRY(AddRopeFreqs());
    }
    for (size_t first = 0; first < order.size();) {
      const TensorPlace& place = places[order[first]];
      size_t end = first + 1;
      if (place.expert >= 0) {
        while (end < order.size() && places[order[end]].rule == place.rule &&
               places[order[end]].layer == place.layer) {
          ++end;
        }
        PW_TRY(PlaceStack(std::span(order).subspan(first, end - first), places));
      } else {
        PW_TRY(PlaceTensor(order[first], place));
      }
      first = end;
    }
    return OkStatus();
  }

  // Embedding, layers, final norm, head, others; in a layer the order of the family's table, and of
  // the experts.
  std::tuple<int, int64_t, std::ptrdiff_t, int64_t> SortKey(const TensorPlace& place) const {
    if (place.rule == nullptr) return {4, 0, 0, 0};
    const std::ptrdiff_t rule = place.rule - family_->tensors.data();
    if (place.layer >= 0) return {1, place.layer, rule, place.expert};
    if (place.rule->hf == family_->embedding) return {0, 0, rule, 0};
    return {place.rule->hf == family_->head ? 3 : 2, 0, rule, 0};
  }

  Status AddRopeFreqs() {
    const ModelConfig& config = *options_.model->config;
    if (config.rope_scaling.kind != RopeScaling::Kind::kLlama3) return OkStatus();
    rope_freqs_ = Llama3RopeFactors(config.rope_scaling, config.rope_theta, config.head_dim);
    return header_.AddTensor(kRopeFreqsName, Encoding::Plain(DType::kF32),
                             {static_cast<int64_t>(rope_freqs_.size())});
  }

  Status PlaceTensor(size_t index, const TensorPlace& place) {
    const OutputTensor& tensor = tensors_[index];
    const bool known = place.rule != nullptr;
    Status status = header_.AddTensor(known ? NameFor(place.rule->gguf, place.layer) : tensor.name,
                                      tensor.encoding, tensor.shape);
    if (!status.ok()) return std::move(status).TakeError().InTensor(tensor.name);
    Placement& slot = slots_[index];
    slot.place = header_.tensors().size() - 1;
    slot.bytes = header_.tensors().back().bytes;
    slot.row_bytes =
        tensor.encoding.RowBytes(tensor.shape.empty() ? 1 : tensor.shape.back()).value_or(0);
    if (!known) return OkStatus();
    auto order =
        RowOrder::Make(place.rule->row_map, *options_.model->config, tensor.encoding, tensor.shape);
    if (!order.ok()) return std::move(order).TakeError().InTensor(tensor.name);
    slot.order = std::move(order).value();
    return OkStatus();
  }

  // The experts of a layer, by number, as one tensor: all of them, of one shape and encoding.
  Status PlaceStack(std::span<const size_t> stack, const std::vector<TensorPlace>& places) {
    const TensorPlace& place = places[stack.front()];
    const OutputTensor& first = tensors_[stack.front()];
    const auto experts = static_cast<size_t>(options_.model->config->experts);
    for (size_t e = 0; e < stack.size(); ++e) {
      const auto number = static_cast<size_t>(places[stack[e]].expert);
      if (number >= experts) {
        return Error(ErrorCode::kConfigInvalid,
                     fmt::format("the configuration has {} experts", experts))
            .InTensor(tensors_[stack[e]].name);
      }
      if (number != e) return MissingExpert(place, e);
      PW_TRY(CheckAlike(first, tensors_[stack[e]]));
    }
    if (stack.size() < experts) return MissingExpert(place, stack.size());
    if (first.shape.size() != 2) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("its shape is {}, not that of a matrix", ShapeToString(first.shape)))
          .InTensor(first.name);
    }
    const Shape shape = {static_cast<int64_t>(experts), first.shape[0], first.shape[1]};
    Status status =
        header_.AddTensor(NameFor(place.rule->gguf, place.layer), first.encoding, shape);
    if (!status.ok()) return std::move(status).TakeError().InTensor(first.name);
    const uint64_t bytes = header_.tensors().back().bytes / experts;
    for (size_t e = 0; e < experts; ++e) {
      Placement& slot = slots_[stack[e]];
      slot.place = header_.tensors().size() - 1;
      slot.row_bytes = first.encoding.RowBytes(first.shape[1]).value_or(0);
      slot.bytes = bytes;
      slot.offset = e * bytes;
    }
    return OkStatus();
  }

  static Error MissingExpert(const TensorPlace& place, size_t expert) {
    return Error(ErrorCode::kTensorMissing,
                 "GGUF keeps the experts of a layer in one tensor, and this one is missing")
        .InTensor(NameFor(place.rule->hf, place.layer, static_cast<int64_t>(expert)));
  }

  static Status CheckAlike(const OutputTensor& first, const OutputTensor& other) {
    if (first.shape == other.shape && first.encoding == other.encoding) return OkStatus();
    return Error(ErrorCode::kUnsupported,
                 fmt::format("GGUF keeps the experts of a layer in one tensor: this one is {} {}, "
                             "the first is {} {}",
                             other.encoding.Name(), ShapeToString(other.shape),
                             first.encoding.Name(), ShapeToString(first.shape)))
        .Hint(
            "write patterns of --tensor-type and --keep so that they match all experts of a "
            "layer: 'experts\\.\\d+\\.w2'")
        .InTensor(other.name);
  }

  SinkOptions options_;
  std::vector<GgufFile> inputs_;
  const Family* family_;
  std::vector<OutputTensor> tensors_;
  GgufHeader header_;  // until Begin is over
  std::vector<Placement> slots_;
  std::vector<float> rope_freqs_;
  std::unique_ptr<GgufOutput> file_;
};

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeGgufSink(const SinkOptions& options) {
  if (options.model == nullptr) {
    return Error(ErrorCode::kUsage, "a GGUF file needs the model it is made from");
  }
  const Model& model = *options.model;
  if (model.source != nullptr) {
    for (const std::string& input : model.source->files()) {
      if (!SameFile(input, options.path)) continue;
      return Error(ErrorCode::kOutputIsInput, "the output is one of the inputs")
          .InFile(options.path);
    }
  }
  if (!options.force && PathExists(options.path)) {
    return Error(ErrorCode::kOutputExists, "the output exists")
        .Hint("add --force to replace it")
        .InFile(options.path);
  }
  std::vector<GgufFile> inputs;
  if (!model.path.empty() && PathExists(model.path) && !IsDirectory(model.path)) {
    const auto format = DetectFormat(model.path);
    if (format.ok() && *format == FileFormat::kGguf) {
      PW_ASSIGN(inputs, OpenGgufFiles(model.path));
    }
  }
  const bool canonical = model.family != nullptr && model.config && !model.config_error;
  if (!canonical && inputs.empty()) {
    if (model.config_error) return *model.config_error;
    return Error(ErrorCode::kUnknownFamily,
                 "GGUF names are known for models with a config.json of "
                 "a known family")
        .Hint("give the model's folder with its config.json, or --to safetensors")
        .InFile(model.path);
  }
  return std::unique_ptr<TensorSink>(
      std::make_unique<GgufSink>(options, std::move(inputs), canonical ? model.family : nullptr));
}

}  // namespace pennyweight
