// What readers let pass and an auditor wants to know: findings beyond the errors of the readers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lib/finding.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

// Of a GGUF model that can be opened: GGUF- rules (layout, tokenizer arrays, ids, block_count) and
// its chat templates. One that cannot has none: its error says it.
std::vector<Finding> AuditGguf(const std::string& path);

// Of a Hugging Face folder: IDX- rules (index and shards), CFG-REMOTE-CODE, chat templates. Files
// that are missing or malformed have none.
std::vector<Finding> AuditHuggingFace(const std::string& directory);

// Of one file of any kind: AuditTorchFile for what may pass for a checkpoint; FILE-ARCHIVE where
// the name does not say that it is an archive.
std::vector<Finding> AuditFile(const std::string& path);

// Of an opened model: NAME-CONTROL, ST-MISALIGNED, ZIP-UNUSED.
std::vector<Finding> AuditTensorList(const Model& model);

// TPL- rules for the text of a chat template (Jinja), which chat programs run. Offsets are left
// out: the text may be escaped in its file.
std::vector<Finding> AuditTemplate(std::string_view text, const std::string& file);

}  // namespace pennyweight
