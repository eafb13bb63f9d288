#include "cmd/report_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "lib/file.h"
#include "lib/peak_rss.h"

namespace pennyweight {
namespace {

constexpr size_t kRows = 64;

std::string LayerTable(const Report& report) {
  Table table{{"layer", "chosen", "hidden error", "cosine", "rtn would give", "bits", "bytes",
               "worst tensor"},
              {},
              {true, true, false, false, false, false, false, true}};
  for (const LayerReport& l : report.layers) {
    table.rows.push_back({fmt::format("{}", l.layer), l.chosen.value_or("-"),
                          Short(l.hidden_rel_error),
                          l.hidden_cosine ? fmt::format("{:.5f}", *l.hidden_cosine) : "-",
                          Short(l.hidden_rel_error_rtn), fmt::format("{:.2f}", l.bits_per_weight),
                          HumanBytes(l.bytes), l.worst_tensor.value_or("-")});
  }
  return table.ToString();
}

// What each candidate would have given, layer by layer.
std::string CandidateTable(const Report& report) {
  std::vector<std::string> names;
  for (const LayerReport& l : report.layers) {
    for (const LayerReport::Candidate& c : l.candidates) {
      if (std::find(names.begin(), names.end(), c.name) == names.end()) names.push_back(c.name);
    }
  }
  if (names.empty()) return "";
  Table table{{"hidden error by"}, {}, {true}};
  for (const std::string& name : names) table.header.push_back(name);
  for (const LayerReport& l : report.layers) {
    std::vector<std::string>& row = table.rows.emplace_back();
    row.push_back(fmt::format("layer {}", l.layer));
    for (const std::string& name : names) {
      const auto found = std::find_if(l.candidates.begin(), l.candidates.end(),
                                      [&](const auto& c) { return c.name == name; });
      const bool tried = found != l.candidates.end();
      row.push_back(tried ? Short(found->hidden_rel_error) : "-");
      if (tried && l.chosen == name) row.back() += " *";
    }
  }
  return "\n" + table.ToString();
}

// Tokens that each expert learned from.
std::string CoverageTable(const Report& report) {
  const std::vector<ExpertCoverage> coverage = CoverageOf(report);
  if (coverage.empty()) return "";
  Table table{{"tokens of expert"}, {}, {true}};
  std::map<int64_t, std::map<int64_t, int64_t>> layers;
  int64_t experts = 0;
  for (const ExpertCoverage& row : coverage) {
    layers[row.layer][row.expert] = row.tokens;
    experts = std::max(experts, row.expert + 1);
  }
  for (int64_t e = 0; e < experts; ++e) table.header.push_back(fmt::format("{}", e));
  for (const auto& [layer, tokens] : layers) {
    std::vector<std::string>& row = table.rows.emplace_back();
    row.push_back(fmt::format("layer {}", layer));
    for (int64_t e = 0; e < experts; ++e) {
      const auto found = tokens.find(e);
      row.push_back(found == tokens.end() ? "-" : fmt::format("{}", found->second));
    }
  }
  return "\n" + table.ToString();
}

// One line per reason: how many tensors, and the first of them.
std::string Fallbacks(const Report& report) {
  std::map<std::string, std::vector<const TensorReport*>> reasons;
  for (const TensorReport& t : report.tensors) {
    if (t.fallback) reasons[*t.fallback].push_back(&t);
  }
  std::string lines;
  for (const auto& [reason, tensors] : reasons) {
    lines += fmt::format("  {}: {}", reason, tensors[0]->name);
    if (tensors.size() > 1) lines += fmt::format(" and {} more", tensors.size() - 1);
    lines += "\n";
  }
  return lines.empty() ? "" : "\nfallbacks:\n" + lines;
}

std::string TensorTable(const Report& report, bool all) {
  std::vector<const TensorReport*> rows;
  for (const TensorReport& t : report.tensors) rows.push_back(&t);
  std::string tail;
  if (!all && rows.size() > kRows) {
    std::stable_sort(rows.begin(), rows.end(), [](auto* a, auto* b) {
      return a->weight_rel_mse.value_or(0) > b->weight_rel_mse.value_or(0);
    });
    tail =
        fmt::format("{} more tensors with less error; -v prints them all\n", rows.size() - kRows);
    rows.resize(kRows);
  }
  Table table{{"tensor", "from", "to", "method", "bits", "weight error", "output error", "held out",
               "rtn", "minmax"},
              {},
              {true, true, true, true}};
  for (const TensorReport* t : rows) {
    table.rows.push_back({t->name, t->from, t->to, t->method,
                          fmt::format("{:.2f}", t->bits_per_weight), Short(t->weight_rel_mse),
                          Short(t->output_rel_error), Short(t->output_rel_error_heldout),
                          Short(t->output_rel_error_rtn), Short(t->output_rel_error_minmax)});
  }
  return table.ToString() + tail + Fallbacks(report);
}

Status WriteReportFiles(const std::vector<std::string>& paths, const Report& report,
                        const Console& console, bool force) {
  for (const std::string& path : paths) {
    const std::string text =
        path.ends_with(".csv") ? ReportToCsv(report) : console.Document(ReportToJson(report));
    PW_ASSIGN(const std::unique_ptr<AtomicFile> file, AtomicFile::Create(path, text.size(), force));
    PW_TRY(file->WriteAt(0, text.data(), text.size()));
    PW_TRY(file->Seal());
    PW_TRY(file->Commit());
  }
  return OkStatus();
}

std::string ReportTables(const Report& report, bool all) {
  std::string out = "\n" + TensorTable(report, all);
  const bool measured = std::any_of(report.layers.begin(), report.layers.end(),
                                    [](const LayerReport& l) { return l.bytes > 0; });
  if (measured) out += "\n" + LayerTable(report);
  out += CandidateTable(report) + CoverageTable(report);
  return out;
}

}  // namespace

Status CheckReportFiles(const std::vector<std::string>& paths, bool force) {
  for (const std::string& path : paths) {
    if (!path.ends_with(".json") && !path.ends_with(".csv")) {
      return Error(ErrorCode::kUsage,
                   fmt::format("--report writes .json and .csv, not \"{}\"", path))
          .Hint(fmt::format("use --report {}.json", path));
    }
    if (!force && PathExists(path)) {
      return Error(ErrorCode::kOutputExists, "the report file exists")
          .Hint("give another name, or --force")
          .InFile(path);
    }
  }
  return OkStatus();
}

void FinishTotals(std::chrono::steady_clock::time_point start, Report* report) {
  report->totals.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report->totals.peak_rss_bytes = PeakRssBytes();
}

Status PublishReport(const std::vector<std::string>& paths, const Report& report, bool force,
                     Console* console) {
  PW_TRY(WriteReportFiles(paths, report, *console, force));
  console->Print(ReportTables(report, console->verbose()));
  console->PrintResult(console->json() ? ReportToJson(report) : std::string());
  return OkStatus();
}

}  // namespace pennyweight
