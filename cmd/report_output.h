// The report of quantize and compare: tables for people, documents for --json and --report.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "cmd/console.h"
#include "lib/report.h"
#include "lib/result.h"

namespace pennyweight {

// Errors: kUsage for a --report file of an unknown kind; kOutputExists. Called before any work.
Status CheckReportFiles(const std::vector<std::string>& paths, bool force);
// Fills totals.seconds, since `start`, and totals.peak_rss_bytes.
void FinishTotals(std::chrono::steady_clock::time_point start, Report* report);

// Writes the files of --report (.json: the document of --json; .csv: ReportToCsv), and prints the
// tables of layers and tensors (without --verbose at most the 64 worst) or that document.
Status PublishReport(const std::vector<std::string>& paths, const Report& report, bool force,
                     Console* console);

}  // namespace pennyweight
