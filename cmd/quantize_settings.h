// What the user of `quantize` asks for: flags to settings, types to choices, and what a layout can
// hold of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "calib/matrix_job.h"
#include "cmd/arguments.h"
#include "cmd/strict_check.h"
#include "formats/sinks.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

enum class Layout : uint8_t { kGguf, kCompressedTensors, kFp8, kBnb, kGptq, kAwq, kSafetensors };

struct LayoutRow {
  Layout layout;
  std::string_view name;
  std::string_view type;  // without --type
  Result<std::unique_ptr<TensorSink>> (*make)(const SinkOptions& options);
};
const LayoutRow& RowOf(Layout layout);

struct QuantizeSettings {
  std::string output;
  Layout layout = Layout::kGguf;
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  bool force = false;
  bool allow_nan = false;
  bool dry_run = false;
  bool all_experts = false;
  bool strict = false;
  int64_t min_tokens = kMinTokens;
  std::vector<std::string> imatrix;
  // --method auto with files instead of a text: rtn, weighted by them.
  bool weighted_instead = false;
  std::vector<std::string> reports;
};

Result<QuantizeSettings> ReadSettings(const Arguments& arguments);

// Whether a method asks what the model's own activations are.
bool NeedsCalibration(Method method);

// The tables of what becomes what: the user's words to MixOptions.
Result<MixOptions> ReadMixOptions(const Arguments& arguments, const QuantizeSettings& settings,
                                  const Model& model);

// What the rules of a mix ask of the model. A GGUF file that cannot be run, say for its rope
// scaling, has no configuration here, but its metadata say as much.
ModelConfig MixConfig(const Model& model);

// What no mix decides: tensors whose bits this program does not turn into numbers stay as they are,
// norms outside GGUF keep their own dtype, and a matrix that does not divide into a layout's words
// and groups stays `plain`.
void AdjustChoices(const Model& model, Layout layout, const Encoding& plain,
                   std::vector<Choice>* choices);

// What a layout cannot hold is said before any work, with those that can. Errors: kUsage.
Status CheckLayout(Layout layout, const std::vector<OutputTensor>& outputs);

}  // namespace pennyweight
