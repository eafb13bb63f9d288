#include "lib/finding.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lib/json.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr std::array kRules = {
    Rule{"CFG-REMOTE-CODE", Severity::kNote,
         "config.json names Python code of the folder, which transformers runs with "
         "trust_remote_code"},
    Rule{"CFG-SHAPE", Severity::kError, "a tensor's shape is not what the configuration says"},
    Rule{"CFG-TENSOR-MISSING", Severity::kError,
         "the model family needs a tensor that is not in the files"},
    Rule{"CFG-TENSOR-UNEXPECTED", Severity::kWarning,
         "a tensor that the model family does not have, or of a layer beyond the last"},
    Rule{"CFG-UNUSABLE", Severity::kNote,
         "configuration or tokenizer cannot be used here, so that the model was not checked "
         "against them"},
    Rule{
        "DUP-CONTENT", Severity::kNote,
        "two tensors of the same dtype and shape have the same bytes (tied weights that are stored "
        "twice)"},
    Rule{"FILE-ARCHIVE", Severity::kWarning,
         "a compressed archive where weights should be: scanners do not look into it, and neither "
         "do readers"},
    Rule{"GGUF-BLOCK-COUNT", Severity::kError,
         "block_count and the tensors of the blocks tell different stories"},
    Rule{"GGUF-LAYOUT", Severity::kWarning,
         "holes, trailing bytes, tensors out of order, booleans other than 0 and 1, or names that "
         "llama.cpp does not take"},
    Rule{"GGUF-TOKEN-ARRAYS", Severity::kError,
         "the arrays of the tokenizer have different lengths"},
    Rule{"GGUF-TOKEN-ID", Severity::kError, "the id of a special token is beyond the vocabulary"},
    Rule{"IDX-SHARD-COUNT", Severity::kWarning, "the shards are not as many as their names say"},
    Rule{"IDX-TOTAL-SIZE", Severity::kNote, "the index has another total_size than its tensors"},
    Rule{"MAN-FILE-ADDED", Severity::kWarning, "a file that is not in the manifest"},
    Rule{"MAN-FILE-CHANGED", Severity::kError,
         "a file has another size or SHA-256 than in the manifest"},
    Rule{"MAN-FILE-MISSING", Severity::kError, "a file of the manifest is not there"},
    Rule{"MAN-TENSOR-ADDED", Severity::kWarning, "a tensor that is not in the manifest"},
    Rule{"MAN-TENSOR-CHANGED", Severity::kError,
         "a tensor has another dtype, shape or XXH3-128 than in the manifest"},
    Rule{"MAN-TENSOR-MISSING", Severity::kError, "a tensor of the manifest is not there"},
    Rule{"NAME-CONTROL", Severity::kWarning,
         "the name of a tensor has control characters, which can change what a terminal shows"},
    Rule{"PKL-BARE", Severity::kWarning,
         "a plain pickle, or one with a computed magic number: not what torch.save writes, but "
         "loaders run it"},
    Rule{"PKL-BENIGN-GLOBAL", Severity::kNote,
         "a pickle names a harmless class of a training program"},
    Rule{"PKL-BROKEN", Severity::kError,
         "a pickle that is malformed; Python runs what stands before the fault"},
    Rule{"PKL-HIDDEN", Severity::kError, "bytes or a second pickle behind the end of a pickle"},
    Rule{"PKL-MALICIOUS-GLOBAL", Severity::kError,
         "a pickle names a function that runs commands or code, or reaches files or the network"},
    Rule{"PKL-MODULE", Severity::kWarning,
         "a module was pickled whole: loading it imports and calls its classes"},
    Rule{"PKL-NESTED", Severity::kWarning,
         "a pickle inside of a pickle, which torch.storage._load_from_bytes would load"},
    Rule{"PKL-OPCODE", Severity::kError,
         "an opcode that no checkpoint needs and with which scanners were led astray (INST, OBJ, "
         "EXT, PERSID, out-of-band buffers)"},
    Rule{"PKL-TENSOR", Severity::kError,
         "a pickle's tensors or storages contradict each other or their file, as in attacks on the "
         "memory of loaders"},
    Rule{"PKL-UNKNOWN-GLOBAL", Severity::kWarning,
         "a pickle names a function or class that no state dict needs"},
    Rule{"QNT-LOST-CODES", Severity::kNote,
         "quantized blocks have codes other than zero, but the scale 0"},
    Rule{"QNT-SCALE-NEGATIVE", Severity::kNote,
         "an integer group has a negative scale, which some quantizers use and not every reader "
         "takes"},
    Rule{"QNT-SCALE-NONFINITE", Severity::kError,
         "the scale of a quantized block or group is NaN or infinite"},
    Rule{"ST-MISALIGNED", Severity::kNote,
         "a tensor does not begin at a multiple of its element's size, which slows some readers "
         "down"},
    Rule{"TPL-CODE", Severity::kWarning,
         "a chat template reaches into Python (attributes with underscores, import, open), as "
         "attacks on template engines do"},
    Rule{"TPL-CONDITION", Severity::kNote,
         "a chat template looks into the text of messages and can answer some of them differently"},
    Rule{"TPL-HIDDEN-TEXT", Severity::kWarning,
         "a chat template has invisible characters: zero width, direction marks or tags"},
    Rule{"TPL-LOOP", Severity::kWarning, "a chat template has a very long loop"},
    Rule{"VAL-CONSTANT", Severity::kNote, "all values of a matrix are the same number"},
    Rule{"VAL-INF", Severity::kWarning, "a tensor has infinite values"},
    Rule{"VAL-NAN", Severity::kError, "a tensor has values that are not numbers"},
    Rule{"VAL-UPCAST-BF16", Severity::kNote,
         "a matrix of 32 bits holds bf16 values: half of its bytes are zero"},
    Rule{"VAL-UPCAST-F16", Severity::kNote, "a matrix of 32 bits holds f16 values"},
    Rule{"VAL-ZERO", Severity::kWarning, "all values of a matrix are zero"},
    Rule{"ZIP-CODE", Severity::kWarning,
         "a TorchScript archive: its code is run by torch.jit.load, and was not read here"},
    Rule{"ZIP-CRC", Severity::kError, "an entry of a zip archive has another CRC-32 than it says"},
    Rule{"ZIP-DUPLICATE", Severity::kError,
         "a zip archive has an entry twice: readers differ in which one they take"},
    Rule{"ZIP-NAME", Severity::kError,
         "an entry of a zip archive has a name that leaves its folder, or that readers take for "
         "another"},
    Rule{"ZIP-STRUCTURE", Severity::kError,
         "the records of a zip archive contradict each other, or bytes belong to none: readers see "
         "different files"},
    Rule{"ZIP-UNSUPPORTED", Severity::kError,
         "an entry of a zip archive is marked as encrypted, is compressed, or is on another disk: "
         "scanners skip what PyTorch loads"},
    Rule{"ZIP-UNUSED", Severity::kWarning, "a checkpoint has storages that no tensor uses"},
};

static_assert(std::is_sorted(kRules.begin(), kRules.end(),
                             [](const Rule& a, const Rule& b) { return a.id < b.id; }));

Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json::String(text); }

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace

std::string_view SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "error";
}

std::span<const Rule> Rules() { return kRules; }

const Rule& RuleOf(std::string_view id) {
  return *std::lower_bound(kRules.begin(), kRules.end(), id,
                           [](const Rule& rule, std::string_view key) { return rule.id < key; });
}

Finding FindingOf(std::string_view rule, const Error& error) {
  return {rule, error.message, error.file, error.tensor, error.offset};
}

std::string SafeText(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
    const size_t n = Utf8Length(text, i);
    // C0, DEL, and C1, which is 0xC2 0x80 to 0xC2 0x9F in UTF-8.
    const bool control =
        byte(0) < 0x20 || byte(0) == 0x7F || (n == 2 && byte(0) == 0xC2 && byte(1) < 0xA0);
    const size_t taken = n == 0 ? 1 : n;
    if (n == 0 || control) {
      for (size_t k = 0; k < taken; ++k) out += fmt::format("\\x{:02x}", byte(k));
    } else {
      out += text.substr(i, taken);
    }
    i += taken;
  }
  return out;
}

size_t Findings::Count(Severity severity) const {
  return static_cast<size_t>(std::count_if(
      list.begin(), list.end(), [&](const Finding& f) { return f.severity() == severity; }));
}

bool Findings::Ok(bool strict) const {
  return std::none_of(list.begin(), list.end(),
                      [&](const Finding& f) { return strict || f.severity() != Severity::kNote; });
}

std::string FindingsToJson(const Findings& findings, bool strict) {
  Json result = Json::Object();
  result.Set("ok", Json::Bool(findings.Ok(strict)));
  result.Set("tensors_checked", Json::Unsigned(findings.tensors_checked));
  Json list = Json::Array();
  for (const Finding& f : findings.list) {
    Json row = Json::Object();
    row.Set("rule", Json::String(std::string(f.rule)));
    row.Set("severity", Json::String(std::string(SeverityName(f.severity()))));
    row.Set("file", TextOrNull(f.file));
    row.Set("tensor", TextOrNull(f.tensor));
    row.Set("offset", f.offset < 0 ? Json() : Json::Integer(f.offset));
    row.Set("message", Json::String(f.message));
    list.Push(std::move(row));
  }
  result.Set("findings", std::move(list));
  return result.Dump();
}

std::string FindingsToCsv(const Findings& findings) {
  std::string out = "rule,severity,file,tensor,offset,message\r\n";
  for (const Finding& f : findings.list) {
    out += fmt::format("{},{},{},{},{},{}\r\n", f.rule, SeverityName(f.severity()),
                       CsvField(f.file), CsvField(f.tensor),
                       f.offset < 0 ? "" : std::to_string(f.offset), CsvField(f.message));
  }
  return out;
}

}  // namespace pennyweight
