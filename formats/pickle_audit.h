// What is suspicious in a PyTorch checkpoint, or in a file that a loader may take for one. Every
// pickle in it is judged, also of files that are refused for another reason.
#pragma once

#include <vector>

#include "lib/file.h"
#include "lib/finding.h"

namespace pennyweight {

// Findings of PKL- and ZIP- rules, with offsets from the start of the file. Looks at zip archives
// (where one is malformed, at every local header in it), streams of pickles, and pickles inside of
// pickles. Nothing in the file is executed. A file that is none of these has no findings.
// `weights`: what is asked of checkpoints is asked of the archive too (ZIP- rules); else only the
// pickles in it are judged.
std::vector<Finding> AuditTorchFile(const ReadFile& file, bool weights = true);

}  // namespace pennyweight
