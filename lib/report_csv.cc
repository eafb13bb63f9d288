// The rows of a report as CSV (RFC 4180): lines end in CR LF, a field is quoted when it has to be.
#include <charconv>
#include <cmath>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>

#include "lib/report.h"

namespace pennyweight {
namespace {

constexpr std::string_view kLineEnd = "\r\n";

// Field by field; an empty optional and a number that is not finite are empty fields.
class CsvWriter {
 public:
  void Field(std::string_view text) {
    if (!at_line_start_) out_ += ',';
    at_line_start_ = false;
    if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
      out_ += text;
      return;
    }
    out_ += '"';
    for (const char c : text) {
      if (c == '"') out_ += '"';
      out_ += c;
    }
    out_ += '"';
  }
  template <std::integral T>
  void Field(T value) {
    Field(std::string_view(std::to_string(value)));
  }
  void Field(double value) {
    char buffer[32];
    // The shortest digits that read back as the same number.
    const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
    Field(std::isfinite(value) ? std::string_view(buffer, static_cast<size_t>(end - buffer))
                               : std::string_view());
  }
  template <class T>
  void Field(const std::optional<T>& value) {
    if (value) {
      Field(*value);
    } else {
      Field(std::string_view());
    }
  }
  void EndLine() {
    out_ += kLineEnd;
    at_line_start_ = true;
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
  bool at_line_start_ = true;
};

// "4096x11008": no comma, so no quotes. Empty for a scalar.
std::string ShapeField(const Shape& shape) {
  std::string text;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += 'x';
    text += std::to_string(shape[i]);
  }
  return text;
}

void WriteTensor(const TensorReport& tensor, CsvWriter* csv) {
  csv->Field(tensor.name);
  csv->Field(tensor.output_name);
  csv->Field(tensor.layer);
  csv->Field(RoleName(tensor.role));
  csv->Field(tensor.expert);
  csv->Field(ShapeField(tensor.shape));
  csv->Field(tensor.from);
  csv->Field(tensor.to);
  csv->Field(tensor.bytes_in);
  csv->Field(tensor.bytes);
  csv->Field(tensor.bits_per_weight);
  csv->Field(tensor.method);
  csv->Field(tensor.fallback);
  csv->Field(tensor.weight_rel_mse);
  csv->Field(tensor.sqnr_db);
  csv->Field(tensor.max_abs_error);
  csv->Field(tensor.cosine);
  csv->Field(tensor.tokens);
  csv->Field(tensor.output_rel_error);
  csv->Field(tensor.output_rel_error_heldout);
  csv->Field(tensor.output_rel_error_rtn);
  csv->Field(tensor.output_rel_error_minmax);
  csv->Field(tensor.damp);
  csv->Field(tensor.seconds);
  csv->EndLine();
}

void WriteLayer(const LayerReport& layer, CsvWriter* csv) {
  csv->Field(layer.layer);
  csv->Field(layer.hidden_rel_error);
  csv->Field(layer.hidden_cosine);
  csv->Field(layer.hidden_rel_error_rtn);
  csv->Field(layer.bytes);
  csv->Field(layer.bits_per_weight);
  csv->Field(layer.worst_tensor);
  csv->Field(layer.chosen);
  csv->EndLine();
}

void WriteHeader(std::initializer_list<std::string_view> names, CsvWriter* csv) {
  for (const std::string_view name : names) csv->Field(name);
  csv->EndLine();
}

}  // namespace

std::string ReportToCsv(const Report& report) {
  CsvWriter csv;
  WriteHeader({"name",
               "output_name",
               "layer",
               "role",
               "expert",
               "shape",
               "from",
               "to",
               "bytes_in",
               "bytes",
               "bits_per_weight",
               "method",
               "fallback",
               "weight_rel_mse",
               "sqnr_db",
               "max_abs_error",
               "cosine",
               "tokens",
               "output_rel_error",
               "output_rel_error_heldout",
               "output_rel_error_rtn",
               "output_rel_error_minmax",
               "damp",
               "seconds"},
              &csv);
  for (const TensorReport& tensor : report.tensors) WriteTensor(tensor, &csv);
  csv.EndLine();
  WriteHeader({"layer", "hidden_rel_error", "hidden_cosine", "hidden_rel_error_rtn", "bytes",
               "bits_per_weight", "worst_tensor", "chosen"},
              &csv);
  for (const LayerReport& layer : report.layers) WriteLayer(layer, &csv);
  return csv.Take();
}

}  // namespace pennyweight
