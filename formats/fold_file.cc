#include "formats/fold_file.h"

#include <utility>

#include "lib/file.h"
#include "lib/fold_record.h"
#include "lib/limits.h"

namespace pennyweight {

void ReadFolds(std::string_view text, const std::string& file, Model* model) {
  Result<FoldRecord> record = ParseFoldRecord(text);
  if (!record.ok()) {
    model->folds_error = std::move(record).TakeError().InFile(file);
    return;
  }
  auto folds = FoldsOf(*record, *model->source);
  if (!folds.ok()) {
    model->folds_error = std::move(folds).TakeError().InFile(file);
    return;
  }
  model->folds = std::move(record).value();
}

void ReadFoldsOf(Model* model) {
  if (!model->directory.empty()) {
    const std::string path = JoinPath(model->directory, std::string(kFoldsFile));
    if (PathExists(path)) {
      const Result<std::string> text = ReadWholeFile(path, limits::kFoldsBytes);
      if (text.ok()) {
        ReadFolds(*text, path, model);
      } else {
        model->folds_error = Error(text.error());
      }
      return;
    }
  }
  const auto& metadata = model->source->metadata();
  const auto entry = metadata.find(std::string(kFoldsKey));
  if (entry != metadata.end()) ReadFolds(entry->second, model->path, model);
}

}  // namespace pennyweight
