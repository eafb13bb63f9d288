// What bench_quant prints: a table for people on stderr; JSON or Markdown on stdout.
#pragma once

#include <map>
#include <string>

namespace pennyweight {

// What one way to encode a matrix gave; negative: not measured.
struct Figures {
  double speed = -1;  // 1e6 weights per second
  double rrmse = -1;  // |x' - x| / |x|
  double wrmse = -1;  // the same with squares weighted by importance
};

// The ways are rtn, rtn_importance, minmax: ours; ggml, ggml_importance: the reference's; bound:
// the least errors there are, each on its own.
struct BenchRow {
  std::string type;
  double bits = 0;  // per weight, scales included
  std::map<std::string, Figures> ways;

  // nullptr when this way was not taken.
  const Figures* Find(const std::string& way) const {
    const auto at = ways.find(way);
    return at == ways.end() ? nullptr : &at->second;
  }
};

void PrintTableHead(const std::string& title, bool bounds);
void PrintTableRow(const BenchRow& row);

// One element of an array.
void PrintJson(const BenchRow& row, bool first);

// A table of speeds, or of errors, with its title above it.
void PrintMarkdownHead(bool speed, const std::string& title);
void PrintMarkdownRow(bool speed, const BenchRow& row);

}  // namespace pennyweight
