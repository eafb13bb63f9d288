#include "lib/report.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "lib/json.h"

namespace pennyweight {
namespace {

// One calibrated matrix with every field, and one norm that was left alone.
Report Example() {
  TensorReport matrix;
  matrix.name = "model.layers.3.self_attn.q_proj.weight";
  matrix.output_name = "blk.3.attn_q.weight";
  matrix.layer = 3;
  matrix.role = Role::kAttnQ;
  matrix.expert = 0;
  matrix.shape = {256, 512};
  matrix.from = "bf16";
  matrix.to = "q4_k";
  matrix.bytes_in = 262144;
  matrix.bytes = 73728;
  matrix.bits_per_weight = 4.5;
  matrix.method = "gptq";
  matrix.fallback = "row of 172: \"q4_k\" needs 256,\nso q5_0";
  matrix.weight_rel_mse = 0.00123;
  matrix.sqnr_db = 29.1;
  matrix.max_abs_error = 1.5e-3;
  matrix.cosine = 0.9994;
  matrix.tokens = 65536;
  matrix.output_rel_error = 0.1;
  matrix.output_rel_error_heldout = 0.2;
  matrix.output_rel_error_rtn = 0.3;
  matrix.output_rel_error_minmax = 0.4;
  matrix.damp = 0.01;
  matrix.seconds = 1.25;
  TensorReport norm;
  norm.name = "model.norm.weight";
  norm.output_name = "output_norm.weight";
  norm.role = Role::kNorm;
  norm.shape = {512};
  norm.from = "bf16";
  norm.to = "f32";
  norm.bytes_in = 1024;
  norm.bytes = 2048;
  norm.bits_per_weight = 32;
  norm.method = "cast";
  norm.sqnr_db = HUGE_VAL;  // no error at all
  LayerReport layer;
  layer.layer = 3;
  layer.hidden_rel_error = 0.02;
  layer.hidden_cosine = 0.999;
  layer.bytes = 73728;
  layer.bits_per_weight = 4.5;
  layer.worst_tensor = matrix.name;
  Report report;
  report.totals = {.bytes_in = 263168,
                   .bytes_out = 75776,
                   .bits_per_weight = 4.6,
                   .seconds = 2.5,
                   .peak_rss_bytes = 123456789,
                   .weight_rel_mse = 0.00123,
                   .output_rel_error = std::nullopt};
  report.layers = {layer};
  report.tensors = {matrix, norm};
  return report;
}

std::vector<std::string> Keys(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.members()) keys.push_back(key);
  return keys;
}

using Words = std::vector<std::string>;
const Words kTensorKeys = {"name",
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
                           "seconds"};
const Words kLayerKeys = {"layer", "hidden_rel_error", "hidden_cosine", "hidden_rel_error_rtn",
                          "bytes", "bits_per_weight",  "worst_tensor",  "candidates",
                          "chosen"};

TEST_CASE("the JSON of a report has the documented keys in their order") {
  const Result<Json> parsed = Json::Parse(ReportToJson(Example()));
  REQUIRE(parsed.ok());
  CHECK(Keys(*parsed) == Words{"totals", "layers", "coverage", "tensors"});
  CHECK(parsed->Find("totals")->Dump() ==
        R"({"bytes_in":263168,"bytes_out":75776,"bits_per_weight":4.6,"seconds":2.5,)"
        R"("peak_rss_bytes":123456789,"weight_rel_mse":0.00123,"output_rel_error":null,)"
        R"("compute_path":null})");
  const Json& layer = parsed->Find("layers")->items().at(0);
  CHECK(Keys(layer) == kLayerKeys);
  CHECK(layer.Find("hidden_rel_error_rtn")->is_null());
  CHECK(layer.Find("worst_tensor")->AsString() == "model.layers.3.self_attn.q_proj.weight");
  const std::vector<Json>& tensors = parsed->Find("tensors")->items();
  REQUIRE(tensors.size() == 2);
  CHECK(Keys(tensors[0]) == kTensorKeys);
  CHECK(Keys(tensors[1]) == kTensorKeys);  // what does not apply is null, not absent
  CHECK(tensors[0].Dump() ==
        R"({"name":"model.layers.3.self_attn.q_proj.weight","output_name":"blk.3.attn_q.weight",)"
        R"("layer":3,"role":"attn_q","expert":0,"shape":[256,512],"from":"bf16","to":"q4_k",)"
        R"("bytes_in":262144,"bytes":73728,"bits_per_weight":4.5,"method":"gptq",)"
        R"("fallback":"row of 172: \"q4_k\" needs 256,\nso q5_0","weight_rel_mse":0.00123,)"
        R"("sqnr_db":29.1,"max_abs_error":0.0015,"cosine":0.9994,"tokens":65536,)"
        R"("output_rel_error":0.1,"output_rel_error_heldout":0.2,"output_rel_error_rtn":0.3,)"
        R"("output_rel_error_minmax":0.4,"damp":0.01,"seconds":1.25})");
  CHECK(tensors[1].Find("layer")->is_null());
  CHECK(tensors[1].Find("fallback")->is_null());
  CHECK(tensors[1].Find("sqnr_db")->is_null());  // infinity is no JSON number
  CHECK(tensors[1].Find("role")->AsString() == "norm");
}

TEST_CASE("the JSON of a report is indented by two, and an empty one has its keys") {
  const std::string text = ReportToJson(Report());
  CHECK(text.starts_with("{\n  \"totals\": {\n    \"bytes_in\": 0,\n"));
  CHECK(
      text.ends_with("\"compute_path\": null\n  },\n  \"layers\": [],\n  \"coverage\": [],\n  "
                     "\"tensors\": []\n}"));
}

TEST_CASE("the CSV of a report") {
  const std::string text = ReportToCsv(Example());
  std::string header;
  for (const std::string& key : kTensorKeys) header += (header.empty() ? "" : ",") + key;
  std::string layer_header;
  for (const std::string& key : kLayerKeys) {
    if (key == "candidates") continue;  // a list, for JSON
    layer_header += (layer_header.empty() ? "" : ",") + key;
  }
  CHECK(text ==
        header + "\r\n" +
            "model.layers.3.self_attn.q_proj.weight,blk.3.attn_q.weight,3,attn_q,0,256x512,bf16,"
            "q4_k,262144,73728,4.5,gptq,\"row of 172: \"\"q4_k\"\" needs 256,\nso q5_0\",0.00123,"
            "29.1,0.0015,0.9994,65536,0.1,0.2,0.3,0.4,0.01,1.25\r\n"
            "model.norm.weight,output_norm.weight,,norm,,512,bf16,f32,1024,2048,32,cast,,,,,,,,,,,,"
            "\r\n\r\n" +
            layer_header + "\r\n" +
            "3,0.02,0.999,,73728,4.5,model.layers.3.self_attn.q_proj.weight,\r\n");
}

}  // namespace
}  // namespace pennyweight
