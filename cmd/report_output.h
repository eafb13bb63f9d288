// The report of quantize and compare: tables for people, documents for --json and --report.
#pragma once

#include <string>
#include <vector>

#include "cmd/console.h"
#include "lib/report.h"
#include "lib/result.h"

namespace pennyweight {

// Errors: kUsage for a --report file of an unknown kind; kOutputExists. Called before any work.
Status CheckReportFiles(const std::vector<std::string>& paths, bool force);
// .json: the document of --json; .csv: ReportToCsv.
Status WriteReportFiles(const std::vector<std::string>& paths, const Report& report,
                        const Console& console, bool force);

// Tables of layers and tensors; with `all` every tensor, else at most the 64 worst.
std::string ReportTables(const Report& report, bool all);

}  // namespace pennyweight
