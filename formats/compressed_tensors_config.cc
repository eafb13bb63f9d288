#include "formats/compressed_tensors_config.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace pennyweight {
namespace {

constexpr std::string_view kWeight = ".weight";

bool EndsWithWeight(std::string_view name) {
  return name.size() > kWeight.size() && name.ends_with(kWeight);
}

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string ModuleOf(std::string_view name) {
  if (EndsWithWeight(name)) name.remove_suffix(kWeight.size());
  return std::string(name);
}

Role RoleOf(const Model& model, const OutputTensor& tensor) {
  if (model.family != nullptr) {
    const TensorPlace place = PlaceOfHf(*model.family, tensor.name);
    if (place.rule != nullptr) return place.rule->role;
  }
  return GuessRole(tensor.name, tensor.shape.size());
}

// What the loaders would find as a module of the class Linear.
bool IsLinear(const Model& model, const OutputTensor& tensor) {
  const Role role = RoleOf(model, tensor);
  return tensor.shape.size() == 2 && EndsWithWeight(tensor.name) && role != Role::kEmbedding &&
         role != Role::kNorm && role != Role::kBias;
}

struct Group {
  IntegerSpec spec;
  std::vector<std::string> modules;
};

std::vector<Group> GroupBySpec(const std::vector<OutputTensor>& tensors) {
  std::vector<Group> groups;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.encoding.kind != Encoding::Kind::kInteger) continue;
    const IntegerSpec& spec = tensor.encoding.integer;
    // The scales' dtype is the tensors' affair; no key that every loader accepts speaks of it.
    auto it = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return group.spec.bits == spec.bits && group.spec.group_size == spec.group_size &&
             group.spec.symmetric == spec.symmetric;
    });
    if (it == groups.end()) it = groups.insert(groups.end(), Group{spec, {}});
    it->modules.push_back(ModuleOf(tensor.name));
  }
  // Stable: among groups of equal size the first announced stays first.
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    return a.modules.size() > b.modules.size();
  });
  return groups;
}

Json GroupJson(const Group& group, bool by_class) {
  Json weights = Json::Object();
  weights.Set("num_bits", Json::Integer(group.spec.bits));
  weights.Set("type", Json::String("int"));
  weights.Set("symmetric", Json::Bool(group.spec.symmetric));
  const bool channel = group.spec.group_size == 0;
  weights.Set("strategy", Json::String(channel ? "channel" : "group"));
  weights.Set("group_size", channel ? Json() : Json::Integer(group.spec.group_size));
  weights.Set("dynamic", Json::Bool(false));
  Json targets = Json::Array();
  if (by_class) {
    targets.Push(Json::String("Linear"));
  } else {
    for (const std::string& module : group.modules) targets.Push(Json::String(module));
  }
  Json out = Json::Object();
  out.Set("targets", std::move(targets));
  out.Set("weights", std::move(weights));
  out.Set("input_activations", Json());
  out.Set("output_activations", Json());
  return out;
}

Json IgnoreJson(const Model& model, const std::vector<OutputTensor>& tensors) {
  Json ignore = Json::Array();
  const std::string head =
      ModuleOf(model.family != nullptr ? model.family->head : std::string_view("lm_head.weight"));
  bool head_seen = false;
  for (const OutputTensor& tensor : tensors) {
    const std::string module = ModuleOf(tensor.name);
    if (module == head) head_seen = true;
    if (tensor.encoding.kind == Encoding::Kind::kPlain && IsLinear(model, tensor)) {
      ignore.Push(Json::String(module));
    }
  }
  // Clients build the head as a module of its own even where it shares the embedding's weight.
  if (!head_seen && !head.empty()) ignore.Push(Json::String(head));
  return ignore;
}

}  // namespace

Status CheckPackQuantized(const Model& model, const OutputTensor& tensor) {
  const auto refused = [&](const std::string& why, const char* hint) -> Status {
    return Error(ErrorCode::kUnsupported, "compressed-tensors: " + why)
        .Hint(hint)
        .InTensor(tensor.name);
  };
  switch (tensor.encoding.kind) {
    case Encoding::Kind::kPlain:
      return OkStatus();
    case Encoding::Kind::kBlock:
      return refused("this layout does not hold " + tensor.encoding.Name() + " blocks",
                     "--to gguf");
    case Encoding::Kind::kScaled:
    case Encoding::Kind::kCodebook:
      return refused(tensor.encoding.Name() + " values are not written", "--type int4");
    case Encoding::Kind::kInteger:
      break;
  }
  const IntegerSpec& spec = tensor.encoding.integer;
  if (!IsLinear(model, tensor)) {
    return refused("only the weights of linear modules are stored as integers",
                   "leave it as it is: --keep REGEX");
  }
  if (spec.bits != 4 && spec.bits != 8) {
    return refused(std::to_string(spec.bits) + " bits are not written, only 4 and 8",
                   "--type int4");
  }
  if (spec.act_order) {
    return refused("groups in activation order are not written", "--type int4");
  }
  if (!IsFloatDType(spec.scale_dtype)) {
    return refused("scales are float16, bfloat16 or float32", "--type int4");
  }
  if (spec.group_size < 0 || (spec.group_size > 0 && tensor.shape[1] % spec.group_size != 0)) {
    return refused("its rows of " + std::to_string(tensor.shape[1]) +
                       " do not divide into groups of " + std::to_string(spec.group_size),
                   "--group-size 32");
  }
  return OkStatus();
}

Json PackQuantizedConfig(const Model& model, const std::vector<OutputTensor>& tensors) {
  const std::vector<Group> groups = GroupBySpec(tensors);
  Json config_groups = Json::Object();
  // The class comes last: a loader that tries targets in this order finds a module's own name
  // first, and does not warn that the name matches nothing.
  for (size_t i = 0; i < groups.size(); ++i) {
    const size_t from = groups.size() - 1 - i;
    config_groups.Set("group_" + std::to_string(i), GroupJson(groups[from], from == 0));
  }
  Json config = Json::Object();
  config.Set("quant_method", Json::String("compressed-tensors"));
  config.Set("format", Json::String("pack-quantized"));
  config.Set("quantization_status", Json::String("compressed"));
  config.Set("global_compression_ratio", Json());
  config.Set("kv_cache_scheme", Json());
  config.Set("config_groups", std::move(config_groups));
  config.Set("ignore", IgnoreJson(model, tensors));
  return config;
}

}  // namespace pennyweight
