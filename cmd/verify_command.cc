// pennyweight verify: structure, configuration, values, pickles and checksums of models.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>

#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "cmd/output_path.h"
#include "cmd/verify_tensors.h"
#include "formats/audit.h"
#include "formats/detect.h"
#include "lib/arch/check.h"
#include "lib/file.h"
#include "lib/limits.h"
#include "lib/manifest.h"
#include "lib/parallel.h"
#include "lib/sha256.h"

namespace pennyweight {
namespace {

constexpr Flag kFlags[] = {
    {"--report", "", "FILE", "write the findings as .json, .sarif or .csv; repeatable"},
    {"--manifest", "", "FILE", "compare files (SHA-256) and tensors (XXH3-128) with this manifest"},
    {"--write-manifest", "", "FILE", "write such a manifest, also where there are findings"},
    {"--strict", "", "", "exit 1 on notes too"},
    {"--force", "", "", "replace report and manifest files that exist"},
};

constexpr size_t kFiles = 1 << 20;  // in one folder
constexpr size_t kRowsOfRule = 20;  // that are printed without --verbose

struct Settings {
  std::vector<std::string> reports;
  std::string expected;  // manifest to compare with, or empty
  std::string written;   // manifest to write, or empty
  bool strict = false;
  bool force = false;
};

Status CheckWritable(const std::string& path, bool force) {
  if (force || !PathExists(path)) return OkStatus();
  return Error(ErrorCode::kOutputExists, "the file exists")
      .Hint("give another name, or --force to replace it")
      .InFile(path);
}

Result<Settings> ReadSettings(const Arguments& arguments) {
  Settings s;
  s.reports = arguments.All("--report");
  s.expected = arguments.Get("--manifest").value_or("");
  s.written = arguments.Get("--write-manifest").value_or("");
  s.strict = arguments.Has("--strict");
  s.force = arguments.Has("--force");
  for (const std::string& path : s.reports) {
    if (!path.ends_with(".json") && !path.ends_with(".sarif") && !path.ends_with(".csv")) {
      return Error(ErrorCode::kUsage,
                   fmt::format("--report writes .json, .sarif and .csv, not \"{}\"", path))
          .Hint(fmt::format("use --report {}.sarif", path));
    }
    PW_TRY(CheckWritable(path, s.force));
  }
  if (!s.written.empty()) PW_TRY(CheckWritable(s.written, s.force));
  if ((!s.expected.empty() || !s.written.empty()) && arguments.inputs().size() != 1) {
    return Error(ErrorCode::kUsage, "a manifest is of one model")
        .Hint("run `pennyweight verify` once for each model");
  }
  for (const std::string& input : arguments.inputs()) {
    std::vector<std::string> outputs = s.reports;
    if (!s.written.empty()) outputs.push_back(s.written);
    for (const std::string& output : outputs) {
      if (!SameFile(input, output)) continue;
      return Error(ErrorCode::kOutputIsInput, "the output is one of the inputs")
          .Hint("give another name")
          .InFile(output);
    }
  }
  return s;
}

Status WriteFile(const std::string& path, const std::string& text, bool force) {
  PW_ASSIGN(const std::unique_ptr<AtomicFile> file, AtomicFile::Create(path, text.size(), force));
  PW_TRY(file->WriteAt(0, text.data(), text.size()));
  PW_TRY(file->Seal());
  return file->Commit();
}

void Append(std::vector<Finding> from, std::vector<Finding>* to) {
  std::move(from.begin(), from.end(), std::back_inserter(*to));
}

// Every file of a folder and its subfolders, also those that no reader takes weights from; of a
// repository not what git keeps for itself.
Result<std::vector<std::string>> FilesOf(const std::string& input) {
  if (!IsDirectory(input)) return std::vector<std::string>{input};
  std::vector<std::string> files;
  std::error_code error;
  auto at = std::filesystem::recursive_directory_iterator(input, error);
  const auto end = std::filesystem::recursive_directory_iterator();
  for (; !error && at != end; at.increment(error)) {
    std::error_code ignored;
    if (at->is_directory(ignored) && at->path().filename() == ".git")
      at.disable_recursion_pending();
    if (at->is_regular_file(ignored)) files.push_back(at->path().string());
    if (files.size() > kFiles) {
      return Error(ErrorCode::kLimit, fmt::format("the folder has more than {} files", kFiles))
          .InFile(input);
    }
  }
  if (error) {
    return Error(ErrorCode::kIo, fmt::format("cannot list the folder: {}", error.message()))
        .InFile(input);
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Configuration and tokenizer that are there and cannot be used.
void AuditUnusable(const Model& model, std::vector<Finding>* findings) {
  for (const auto* error : {&model.config_error, &model.vocabulary_error}) {
    if (!*error || (*error)->code == ErrorCode::kNotFound) continue;
    findings->push_back(FindingOf("CFG-UNUSABLE", **error));
    if (findings->back().file.empty()) findings->back().file = model.path;
  }
}

// The files of the manifest: all of a folder's, else those of the model. Not those that this run
// writes or compares with.
Result<std::vector<Manifest::File>> HashFiles(const Context& context, const Settings& settings,
                                              const Model& model) {
  std::vector<std::string> paths = model.source->files();
  if (!model.directory.empty()) {
    PW_ASSIGN(paths, ListDirectory(model.directory));
    for (std::string& path : paths) path = JoinPath(model.directory, path);
  }
  std::erase_if(paths, [&](const std::string& path) {
    const auto same = [&](const std::string& other) { return SameFile(path, other); };
    return same(settings.expected) || same(settings.written) ||
           std::any_of(settings.reports.begin(), settings.reports.end(), same);
  });
  std::vector<Manifest::File> files(paths.size());
  PW_TRY(ParallelTry(context, static_cast<int64_t>(paths.size()), [&](int64_t i) -> Status {
    const std::string& path = paths[static_cast<size_t>(i)];
    PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
    Result<std::string> digest = Sha256OfFile(file);
    if (!digest.ok()) return std::move(digest).TakeError().InFile(path);
    files[static_cast<size_t>(i)] = {BaseName(path), file.size(), std::move(digest).value()};
    return OkStatus();
  }));
  return files;
}

Status HandleManifest(const Context& context, const Settings& settings, const Model& model,
                      std::vector<Manifest::Tensor> tensors, std::vector<Finding>* findings) {
  if (settings.expected.empty() && settings.written.empty()) return OkStatus();
  Manifest found;
  found.tensors = std::move(tensors);
  PW_ASSIGN(found.files, HashFiles(context, settings, model));
  if (!settings.expected.empty()) {
    PW_ASSIGN(const std::string text, ReadWholeFile(settings.expected, limits::kJsonFileBytes));
    Result<Manifest> expected = ParseManifest(text);
    if (!expected.ok()) return std::move(expected).TakeError().InFile(settings.expected);
    const size_t slash = model.path.rfind('/');
    const std::string folder = !model.directory.empty()     ? model.directory
                               : slash == std::string::npos ? ""
                                                            : model.path.substr(0, slash);
    Append(CompareManifests(*expected, found, folder), findings);
  }
  if (settings.written.empty()) return OkStatus();
  return WriteFile(settings.written, ManifestToJson(found), settings.force);
}

// Whether an error of a PyTorch file is of the kind that attacks are made of, and not just damage,
// or something that this program does not read.
bool IsHostile(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidPickle:
    case ErrorCode::kInvalidTensor:
    case ErrorCode::kInvalidHeader:
    case ErrorCode::kDuplicateKey:
    case ErrorCode::kInvalidName:
    case ErrorCode::kIncompleteBuffer:
    case ErrorCode::kOverflow:
    case ErrorCode::kLimit:
      break;
    default:
      return false;
  }
  const Result<FileFormat> format = DetectFormat(error.file);
  return format.ok() && *format == FileFormat::kPytorch;
}

// All checks of one input. Findings up to an error are kept.
Status VerifyInput(const Context& context, const Settings& settings, const std::string& input,
                   Findings* findings) {
  PW_ASSIGN(const std::vector<std::string> files, FilesOf(input));
  for (const std::string& file : files) Append(AuditFile(file), &findings->list);
  Result<Model> opened = OpenModel(input);
  if (!opened.ok()) {
    const Error& error = opened.error();
    const bool said = std::any_of(findings->list.begin(), findings->list.end(),
                                  [&](const Finding& f) { return f.file == error.file; });
    if (!said && IsHostile(error)) findings->list.push_back(FindingOf("PKL-TENSOR", error));
    return std::move(opened).TakeError();
  }
  const Model& model = *opened;
  if (!model.directory.empty()) Append(AuditHuggingFace(model.directory), &findings->list);
  if (model.source->format() == "gguf") Append(AuditGguf(input), &findings->list);
  AuditUnusable(model, &findings->list);
  Append(AuditTensorList(model), &findings->list);
  Append(CheckFamily(model), &findings->list);
  PW_ASSIGN(TensorCheck check, CheckTensors(context, model));
  Append(std::move(check.findings), &findings->list);
  findings->tensors_checked += check.tensors.size();
  return HandleManifest(context, settings, model, std::move(check.tensors), &findings->list);
}

std::string Counted(size_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string Line(const Finding& f) {
  std::string where = SafeText(f.file);
  if (!f.tensor.empty()) where += fmt::format(": tensor \"{}\"", SafeText(f.tensor));
  if (f.offset >= 0) where += fmt::format(" (offset {})", f.offset);
  return fmt::format("{:<7} {:<20} {}\n        {}\n", SeverityName(f.severity()), f.rule,
                     SafeText(f.message), where);
}

// Errors first; without `all` a few of each rule.
std::string Lines(const Findings& findings, bool all) {
  std::string out;
  for (const Severity severity : {Severity::kError, Severity::kWarning, Severity::kNote}) {
    std::map<std::string_view, size_t> printed;
    for (const Finding& finding : findings.list) {
      if (finding.severity() != severity) continue;
      if (++printed[finding.rule] <= kRowsOfRule || all) out += Line(finding);
    }
    for (const auto& [rule, count] : printed) {
      if (count <= kRowsOfRule || all) continue;
      out += fmt::format("{:<7} {:<20} {} more; -v prints them all\n", SeverityName(severity), rule,
                         count - kRowsOfRule);
    }
  }
  return out;
}

// The document of --json; with both keys where a model is unreadable and has findings.
std::string ResultJson(const Findings& findings, const std::optional<Error>& error, bool strict) {
  const std::string result = FindingsToJson(findings, strict);
  return error ? fmt::format("{},\"error\":{}", result, ErrorJson(*error)) : result;
}

Status WriteReports(const Settings& settings, const Findings& findings,
                    const std::optional<Error>& error, const Console& console) {
  for (const std::string& path : settings.reports) {
    std::string text;
    if (path.ends_with(".sarif")) {
      text = FindingsToSarif(findings, error ? &*error : nullptr, PENNYWEIGHT_VERSION);
    } else if (path.ends_with(".csv")) {
      text = FindingsToCsv(findings);
    } else {
      text = console.Document(ResultJson(findings, error, settings.strict));
    }
    PW_TRY(WriteFile(path, text, settings.force));
  }
  return OkStatus();
}

bool IsMalicious(const Findings& findings) {
  return std::any_of(findings.list.begin(), findings.list.end(),
                     [](const Finding& f) { return f.rule == "PKL-MALICIOUS-GLOBAL"; });
}

}  // namespace

const CommandSpec kVerifySpec = {
    "verify",
    "structure, values, pickles and checksums of models; exit 1 on findings",
    "MODEL...",
    kOneOrMore,
    "  pennyweight verify ./Llama-8B\n"
    "  pennyweight verify pytorch_model.bin --json | jq '.result.findings[]'\n"
    "  pennyweight verify model.gguf --report findings.sarif\n"
    "  pennyweight verify ./Llama-8B --write-manifest llama-8b.manifest.json\n"
    "  pennyweight verify ./Llama-8B --manifest llama-8b.manifest.json\n",
    kFlags};

Result<int> RunVerify(const Invocation& invocation) {
  Console& console = invocation.console;
  PW_ASSIGN(const Settings settings, ReadSettings(invocation.arguments));
  Findings findings;
  std::optional<Error> error;
  for (const std::string& input : invocation.arguments.inputs()) {
    Status status = VerifyInput(invocation.context, settings, input, &findings);
    if (status.ok()) continue;
    if (status.error().code == ErrorCode::kInterrupted) return std::move(status).TakeError();
    console.EndProgress();
    if (!error) {
      error = std::move(status).TakeError();
    } else {
      PrintError("verify", status.error(), /*json=*/false);
    }
  }
  PW_TRY(WriteReports(settings, findings, error, console));
  if (error && findings.list.empty()) return *std::move(error);
  if (error) PrintError("verify", *error, /*json=*/false);
  console.Print(Lines(findings, console.verbose()));
  console.Print(fmt::format("{}, {}, {}; {} checked\n",
                            Counted(findings.Count(Severity::kError), "error"),
                            Counted(findings.Count(Severity::kWarning), "warning"),
                            Counted(findings.Count(Severity::kNote), "note"),
                            Counted(findings.tensors_checked, "tensor")));
  if (console.json()) console.PrintResult(ResultJson(findings, error, settings.strict));
  if (error) return IsMalicious(findings) ? kExitFound : kExitFailed;
  return findings.Ok(settings.strict) ? kExitDone : kExitFound;
}

}  // namespace pennyweight
