// Opens whatever a user named, decided by content, as a model of canonical tensors.
#pragma once

#include <string>

#include "cmd/arguments.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

// A safetensors or GGUF file, a PyTorch checkpoint, or a Hugging Face folder. Errors: those of
// formats/readers.h.
Result<Model> OpenModel(const std::string& path);
inline constexpr Flag kKeyFlag = {"--key", "", "NAME",
                                  "of a PyTorch checkpoint: the dict to take the weights from"};
// The same by the command's --key: the state dict to take from a PyTorch checkpoint. Errors also:
// kUsage when the input is no such file.
Result<Model> OpenModelByKey(const std::string& path, const Arguments& arguments);

// Gives tensors that are stored transposed (experts in MXFP4) the orientation that their names
// promise, decoded to bf16, which holds every such value; a note says so.
void UseCanonical(Model* model);

// Gives tensors that a rewrite was folded into the numbers of the original again, for comparing
// weights; a note says so. Errors: the model's folds_error, where its record is damaged.
Status UndoFolds(Model* model);

// The model's own word on its dtype; without a configuration, that of most of its weights.
DType ModelDType(const Model& model);

// Errors unless the model can be run: configuration, known family, vocabulary.
Status RequireRunnable(const Model& model);

// A text, as --text and --calib take it, of at most limits::kTextBytes.
Result<std::string> ReadText(const std::string& path);

// --context, or 512, or the model's own limit when that is smaller. Errors: kUsage above the limit.
Result<int64_t> ContextLength(const Arguments& arguments, const ModelConfig& config);

// --separator with \n and \t as C writes them.
std::optional<std::string> Separator(const Arguments& arguments);

}  // namespace pennyweight
