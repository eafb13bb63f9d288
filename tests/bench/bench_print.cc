#include "tests/bench/bench_print.h"

#include <fmt/format.h>

#include <cstdio>

namespace pennyweight {
namespace {

std::string Number(double value, int digits) {
  return value < 0 ? "null" : fmt::format("{:.{}g}", value, digits);
}

// a / b as JSON.
std::string Ratio(const Figures* a, const Figures* b, double Figures::*field) {
  if (a == nullptr || b == nullptr || a->*field < 0 || b->*field <= 0) return "null";
  return fmt::format("{:.4f}", a->*field / (b->*field));
}

std::string Cell(const Figures* f, double Figures::*field, int width, int digits) {
  if (f == nullptr || f->*field < 0) return fmt::format("{:>{}}", "-", width);
  return fmt::format("{:>{}.{}f}", f->*field, width, digits);
}

std::string RatioCell(const Figures* a, const Figures* b, double Figures::*field) {
  const std::string ratio = Ratio(a, b, field);
  return fmt::format("{:>8}", ratio == "null" ? "-" : ratio.substr(0, ratio.size() - 1));
}

// Cells of a Markdown table, each with its bar.
std::string SpeedColumn(const Figures* f) {
  return f == nullptr || f->speed < 0 ? "- | " : fmt::format("{:.1f} | ", f->speed);
}

std::string ErrorColumn(const Figures* f, double Figures::*field) {
  return f == nullptr || f->*field < 0 ? "- | " : fmt::format("{:#.4g} | ", f->*field);
}

std::string RatioColumn(const Figures* a, const Figures* b, double Figures::*field, int digits) {
  if (a == nullptr || b == nullptr || a->*field < 0 || b->*field <= 0) return "- | ";
  return fmt::format("{:.{}f} | ", a->*field / (b->*field), digits);
}

}  // namespace

void PrintTableHead(const std::string& title, bool bounds) {
  fmt::print(stderr, "{}, one thread; i: with importance\n", title);
  fmt::print(stderr, "{:14} {:>6} | {:>8} {:>8}{:>8} | {:>8} {:>8}{:>8} | {:>8} {:>8}", "", "bits",
             "Mw/s", "ggml", "ratio", "rrmse", "ggml", "ratio", "minmax", "rrmse");
  fmt::print(stderr, " | {:>8} {:>8}{:>8} | {:>8} {:>8}{:>8}", "Mw/s i", "ggml i", "ratio",
             "wrmse i", "ggml i", "ratio");
  if (bounds) fmt::print(stderr, " | {:>8}{:>8} {:>8}{:>8}", "bound", "ratio", "bound i", "ratio");
  fmt::print(stderr, "\n");
}

void PrintTableRow(const BenchRow& row) {
  const Figures *plain = row.Find("rtn"), *weighted = row.Find("rtn_importance");
  const Figures *other = row.Find("ggml"), *other_weighted = row.Find("ggml_importance");
  const Figures* minmax = row.Find("minmax");
  const auto speed = &Figures::speed;
  const auto rrmse = &Figures::rrmse, wrmse = &Figures::wrmse;
  fmt::print(stderr, "{:14} {:6.3f} | {} {}{} | {} {}{} | {} {} | {} {}{} | {} {}{}", row.type,
             row.bits, Cell(plain, speed, 8, 1), Cell(other, speed, 8, 1),
             RatioCell(plain, other, speed), Cell(plain, rrmse, 8, 5), Cell(other, rrmse, 8, 5),
             RatioCell(plain, other, rrmse), Cell(minmax, speed, 8, 1), Cell(minmax, rrmse, 8, 5),
             Cell(weighted, speed, 8, 1), Cell(other_weighted, speed, 8, 1),
             RatioCell(weighted, other_weighted, speed), Cell(weighted, wrmse, 8, 5),
             Cell(other_weighted, wrmse, 8, 5), RatioCell(weighted, other_weighted, wrmse));
  const Figures* bound = row.Find("bound");
  if (bound != nullptr) {
    fmt::print(stderr, " | {}{} {}{}", Cell(bound, rrmse, 8, 5), RatioCell(plain, bound, rrmse),
               Cell(bound, wrmse, 8, 5), RatioCell(weighted, bound, wrmse));
  }
  fmt::print(stderr, "\n");
}

void PrintJson(const BenchRow& row, bool first) {
  fmt::print("{}    {{\"type\": \"{}\", \"bits_per_weight\": {:.4f}", first ? "" : ",\n", row.type,
             row.bits);
  for (const char* name :
       {"rtn", "rtn_importance", "minmax", "memcpy", "ggml", "ggml_importance"}) {
    const Figures* f = row.Find(name);
    if (f == nullptr) {
      fmt::print(", \"{}\": null", name);
      continue;
    }
    fmt::print(", \"{}\": {{\"mweights_per_second\": {}, \"rrmse\": {}, \"wrmse\": {}}}", name,
               Number(f->speed, 5), Number(f->rrmse, 7), Number(f->wrmse, 7));
  }
  const Figures *plain = row.Find("rtn"), *weighted = row.Find("rtn_importance");
  const Figures *other = row.Find("ggml"), *other_weighted = row.Find("ggml_importance");
  const Figures* bound = row.Find("bound");
  if (bound == nullptr) {
    fmt::print(", \"bound\": null");
  } else {
    fmt::print(", \"bound\": {{\"rrmse\": {}, \"wrmse\": {}}}", Number(bound->rrmse, 7),
               Number(bound->wrmse, 7));
  }
  fmt::print(", \"rrmse_to_bound\": {}, \"wrmse_importance_to_bound\": {}",
             Ratio(plain, bound, &Figures::rrmse), Ratio(weighted, bound, &Figures::wrmse));
  fmt::print(
      ", \"speed_ratio\": {}, \"speed_ratio_importance\": {}, \"rrmse_ratio\": {}, "
      "\"wrmse_ratio_importance\": {}}}",
      Ratio(plain, other, &Figures::speed), Ratio(weighted, other_weighted, &Figures::speed),
      Ratio(plain, other, &Figures::rrmse), Ratio(weighted, other_weighted, &Figures::wrmse));
  std::fflush(stdout);
}

void PrintMarkdownHead(bool speed, const std::string& title) {
  fmt::print("### {}\n\n", title);
  if (speed) {
    fmt::print(
        "| type | `rtn` | reference | ratio | `rtn`, importance | reference | ratio | `minmax` | "
        "its "
        "time over memcpy's |\n|---|---|---|---|---|---|---|---|---|\n");
  } else {
    fmt::print(
        "| type | bits | `minmax` | `rtn` | reference | ratio | least | `rtn`, importance | "
        "reference | ratio | least |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  }
}

void PrintMarkdownRow(bool speed, const BenchRow& row) {
  const Figures *plain = row.Find("rtn"), *weighted = row.Find("rtn_importance");
  const Figures *other = row.Find("ggml"), *other_weighted = row.Find("ggml_importance");
  const Figures *minmax = row.Find("minmax"), *bound = row.Find("bound");
  std::string line = fmt::format("| {} | ", row.type);
  if (speed) {
    const auto field = &Figures::speed;
    line += SpeedColumn(plain) + SpeedColumn(other) + RatioColumn(plain, other, field, 2) +
            SpeedColumn(weighted) + SpeedColumn(other_weighted) +
            RatioColumn(weighted, other_weighted, field, 2) + SpeedColumn(minmax) +
            RatioColumn(row.Find("memcpy"), minmax, field, 2);
  } else {
    const auto rrmse = &Figures::rrmse, wrmse = &Figures::wrmse;
    line += fmt::format("{:.3f} | ", row.bits) + ErrorColumn(minmax, rrmse) +
            ErrorColumn(plain, rrmse) + ErrorColumn(other, rrmse) +
            RatioColumn(plain, other, rrmse, 3) + ErrorColumn(bound, rrmse) +
            ErrorColumn(weighted, wrmse) + ErrorColumn(other_weighted, wrmse) +
            RatioColumn(weighted, other_weighted, wrmse, 3) + ErrorColumn(bound, wrmse);
  }
  line.pop_back();
  fmt::print("{}\n", line);
}

}  // namespace pennyweight
