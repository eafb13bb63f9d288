// A model as every command takes it: tensors, configuration, vocabulary, and the folder's other
// files. cmd/ opens one from whatever the user named; formats/ fills the parts.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/arch/family.h"
#include "lib/error.h"
#include "lib/fold_record.h"
#include "lib/model_config.h"
#include "lib/tensor_source.h"
#include "lib/vocabulary.h"

namespace pennyweight {

struct Model {
  std::string path;                       // as the user named it
  std::string directory;                  // of a Hugging Face model, else empty
  std::unique_ptr<TensorSource> source;
  std::optional<ModelConfig> config;      // none: bare tensors
  std::optional<Error> config_error;      // why there is no config, where one was expected
  std::optional<Vocabulary> vocabulary;
  std::optional<Error> vocabulary_error;
  FoldRecord folds;                       // what was folded into the tensors, as the files say
  std::optional<Error> folds_error;       // why that record cannot be used, where there is one
  std::optional<Error> danger;            // why no command may make an output of it
  const Family* family = nullptr;         // nullptr: unknown, or no config
  std::vector<std::string> notes;         // for people: what was decided where the files are vague
};

}  // namespace pennyweight
