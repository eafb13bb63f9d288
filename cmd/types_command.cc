// pennyweight types: what --type takes, and what each is.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cmd/commands.h"
#include "lib/arch/family.h"
#include "quant/mix_size.h"

namespace pennyweight {

const CommandSpec kTypesSpec = {"types",
                                "tables of types, mixes, layouts and model families",
                                "",
                                0,
                                "  pennyweight types\n"
                                "  pennyweight types --json | jq '.result.mixes[].name'\n",
                                {}};

namespace {

// Rows of a shape that most models have; scales per row hardly count then.
constexpr int64_t kColumns = 4096;

bool IsOfferedLayout(const TypeLayoutName& layout) {
  return std::any_of(TypeRows().begin(), TypeRows().end(), [&](const TypeRow& row) {
    return (row.layouts & layout.bit) != 0 && IsWritable(row.encoding);
  });
}

std::vector<std::string_view> LayoutsOf(const TypeRow& row) {
  std::vector<std::string_view> names;
  for (const TypeLayoutName& layout : TypeLayouts()) {
    if ((row.layouts & layout.bit) != 0) names.push_back(layout.name);
  }
  return names;
}

Json TypesJson() {
  Json list = Json::Array();
  for (const TypeRow& type : TypeRows()) {
    Json row = Json::Object();
    row.Set("name", Json::String(std::string(type.name)));
    row.Set("group", Json::String(std::string(type.group)));
    row.Set("writable", Json::Bool(IsWritable(type.encoding)));
    row.Set("block", type.block() == 0 ? Json() : Json::Integer(type.block()));
    row.Set("bits_per_weight", Json::Double(type.encoding.BitsPerWeight(kColumns)));
    row.Set("importance", Json::String(std::string(ImportanceUseName(type.importance))));
    row.Set("gptq", Json::String(std::string(type.feedback)));
    row.Set("suffixes", type.suffixes.empty() ? Json() : Json::String(std::string(type.suffixes)));
    Json layouts = Json::Array();
    for (const std::string_view name : LayoutsOf(type)) {
      layouts.Push(Json::String(std::string(name)));
    }
    row.Set("layouts", std::move(layouts));
    list.Push(std::move(row));
  }
  return list;
}

Result<Json> MixesJson() {
  Json list = Json::Array();
  for (const Mix& mix : Mixes()) {
    const bool gguf = mix.style == MixStyle::kGguf;
    PW_ASSIGN(const double bits, BitsOnLlama8B(mix));
    Json row = Json::Object();
    row.Set("name", Json::String(std::string(mix.name)));
    row.Set("base", Json::String(std::string(mix.base)));
    row.Set("rules", Json::String(gguf ? "llama.cpp" : "layers"));
    row.Set("writable", Json::Bool(IsOffered(mix)));
    row.Set("bits_per_weight", Json::Double(bits));
    row.Set("needs_importance", Json::Bool(NeedsImportance(mix)));
    row.Set("gguf_file_type", gguf ? Json::Unsigned(mix.gguf_file_type) : Json());
    list.Push(std::move(row));
  }
  return list;
}

Result<std::string> ResultJson() {
  Json layouts = Json::Array();
  for (const TypeLayoutName& layout : TypeLayouts()) {
    if (!IsOfferedLayout(layout)) continue;
    Json row = Json::Object();
    row.Set("name", Json::String(std::string(layout.name)));
    row.Set("summary", Json::String(std::string(layout.summary)));
    layouts.Push(std::move(row));
  }
  Json families = Json::Array();
  for (const Family& family : Families()) {
    Json row = Json::Object();
    row.Set("name", Json::String(std::string(family.name)));
    row.Set("huggingface", Json::String(std::string(family.hf_architecture)));
    row.Set("gguf", Json::String(std::string(family.gguf_architecture)));
    families.Push(std::move(row));
  }
  Json result = Json::Object();
  result.Set("types", TypesJson());
  PW_ASSIGN(Json mixes, MixesJson());
  result.Set("mixes", std::move(mixes));
  result.Set("layouts", std::move(layouts));
  result.Set("families", std::move(families));
  return result.Dump(2);
}

std::string TypesTable() {
  Table table{{"type", "block", "bits", "importance", "layouts", "gptq"},
              {},
              {true, false, false, true, true, true}};
  std::string others;
  for (const TypeRow& row : TypeRows()) {
    if (!IsWritable(row.encoding)) {
      others += fmt::format("{}{}", others.empty() ? "" : " ", row.name);
      continue;
    }
    const int64_t block = row.block();
    table.rows.push_back({std::string(row.name), block == 0 ? "row" : fmt::format("{}", block),
                          fmt::format("{:.3g}", row.encoding.BitsPerWeight(kColumns)),
                          std::string(ImportanceUseName(row.importance)),
                          fmt::format("{}", fmt::join(LayoutsOf(row), " ")),
                          row.feedback.starts_with("none") ? "no" : "yes"});
  }
  std::string text = table.ToString();
  std::map<std::string_view, std::string> suffixes;
  for (const TypeRow& row : TypeRows()) {
    if (row.suffixes.empty() || !IsWritable(row.encoding)) continue;
    std::string& names = suffixes[row.suffixes];
    names += fmt::format("{}{}", names.empty() ? "" : " ", row.name);
  }
  for (const auto& [suffix, names] : suffixes) {
    text += fmt::format("{} may be followed by {}\n", names, suffix);
  }
  if (!others.empty()) text += fmt::format("read but not written: {}\n", others);
  return text;
}

Result<std::string> MixesTable() {
  Table table{{"mix", "base", "bits of Llama-3-8B", "calibration"}, {}, {true, true, false, true}};
  for (const Mix& mix : Mixes()) {
    if (!IsOffered(mix)) continue;
    PW_ASSIGN(const double bits, BitsOnLlama8B(mix));
    table.rows.push_back({std::string(mix.name), std::string(mix.base), fmt::format("{:.2f}", bits),
                          NeedsImportance(mix) ? "needed" : "helps"});
  }
  return table.ToString();
}

std::string LayoutsTable() {
  Table table{{"layout", ""}, {}, {true, true}};
  for (const TypeLayoutName& layout : TypeLayouts()) {
    if (!IsOfferedLayout(layout)) continue;
    table.rows.push_back({std::string(layout.name), std::string(layout.summary)});
  }
  return table.ToString();
}

}  // namespace

Result<int> RunTypes(const Invocation& invocation) {
  PW_ASSIGN(const std::string mixes, MixesTable());
  invocation.console.Print(TypesTable() + "\n" + mixes + "\n" + LayoutsTable());
  PW_ASSIGN(const std::string json, ResultJson());
  invocation.console.PrintResult(json);
  return kExitDone;
}

}  // namespace pennyweight
