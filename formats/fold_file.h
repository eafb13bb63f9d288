// The record of folds that a file holds, into the model.
#pragma once

#include <string>
#include <string_view>

#include "lib/model.h"

namespace pennyweight {

// Parses `text`, checks it against the tensors of model->source, and sets model->folds, or
// model->folds_error with `file` in it: commands that do not need the record go on.
void ReadFolds(std::string_view text, const std::string& file, Model* model);

// The same of a folder's or file's own record where it has one: kFoldsFile beside the weights, else
// kFoldsKey in their metadata.
void ReadFoldsOf(Model* model);

}  // namespace pennyweight
