#include "calib/pre_tokenizer.h"

#include <fmt/format.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <string>
#include <vector>

#include "lib/pre_tokenizer.h"

namespace pennyweight {
namespace {

// Unicode's White_Space, which is \s in the files' dialect; PCRE2's own \s has U+180E too.
constexpr std::string_view kSpaceMembers =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Letters and numbers of Unicode 15 and 16, which PCRE2 10.42 does not know yet and tokenizers
// does.
constexpr std::string_view kNewLetters =
    R"(\x{1c89}\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}\x{11240}\x{11380}-\x{11389}\x{1138b})"
    R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02})"
    R"(\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})"
    R"(\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})"
    R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739})"
    R"(\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNewNumbers =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

// Steps that one match may take before it is given up. The patterns take no more than a few for
// each byte that they look at, so only a text of gigabytes without a word's end gets there; a block
// of it is then a word.
constexpr uint32_t kMatchLimit = 1u << 31;
constexpr size_t kBlockBytes = 1 << 16;
constexpr size_t kJitStackBytes = 1 << 20;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeStack {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};
using Code = std::unique_ptr<pcre2_code, FreeCode>;

// A pattern of a file in PCRE2's dialect.
std::string PcrePattern(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's' && in_class) {
        out += kSpaceMembers;
      } else if (next == 's' || next == 'S') {
        out += fmt::format("[{}{}]", next == 'S' ? "^" : "", kSpaceMembers);
      } else if (pattern.substr(i).starts_with("p{L}") || pattern.substr(i).starts_with("p{N}")) {
        const char kind = pattern[i + 2];
        const std::string_view more = kind == 'L' ? kNewLetters : kNewNumbers;
        out += in_class ? fmt::format("\\p{{{}}}{}", kind, more)
                        : fmt::format("[\\p{{{}}}{}]", kind, more);
        i += 3;
      } else {
        out += {c, next};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

Result<Code> Compile(std::string_view pattern) {
  const std::string text = PcrePattern(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF, &error,
                          &offset, nullptr));
  if (code == nullptr) {
    PCRE2_UCHAR message[200];
    pcre2_get_error_message(error, message, sizeof(message));
    return Error(ErrorCode::kTokenizer, fmt::format("PCRE2 does not take the pattern {}: {}", text,
                                                    reinterpret_cast<const char*>(message)));
  }
  // Where there is no JIT the interpreter gives the same words.
  static_cast<void>(pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE));
  return code;
}

// What one call of Split needs for itself.
struct Scratch {
  std::unique_ptr<pcre2_match_data, FreeMatch> match;
  std::unique_ptr<pcre2_match_context, FreeContext> context;
  std::unique_ptr<pcre2_jit_stack, FreeStack> stack;
};

class PcreWordSplitter : public WordSplitter {
 public:
  explicit PcreWordSplitter(std::vector<Code> patterns) : patterns_(std::move(patterns)) {}

  void Split(std::string_view text, const WordFunction& word) const override {
    Scratch scratch;
    scratch.match.reset(pcre2_match_data_create(1, nullptr));
    scratch.context.reset(pcre2_match_context_create(nullptr));
    scratch.stack.reset(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr));
    pcre2_set_match_limit(scratch.context.get(), kMatchLimit);
    pcre2_jit_stack_assign(scratch.context.get(), nullptr, scratch.stack.get());
    SplitBy(0, text, word, &scratch);
  }

 private:
  void SplitBy(size_t step, std::string_view text, const WordFunction& word,
               Scratch* scratch) const;

  std::vector<Code> patterns_;
};

// Patterns are few, so this does not go deep.
void PcreWordSplitter::SplitBy(size_t step, std::string_view text, const WordFunction& word,
                               Scratch* scratch) const {
  if (text.empty()) return;
  if (step == patterns_.size()) {
    word(text);
    return;
  }
  size_t at = 0;
  while (at < text.size()) {
    const int found =
        pcre2_match(patterns_[step].get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    at, PCRE2_NO_UTF_CHECK, scratch->match.get(), scratch->context.get());
    size_t begin = text.size(), end = text.size();
    if (found > 0) {
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(scratch->match.get());
      begin = ends[0];
      end = ends[1];
    } else if (found != PCRE2_ERROR_NOMATCH) {
      begin = at;
      end = std::min(text.size(), at + kBlockBytes);
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    }
    SplitBy(step + 1, text.substr(at, begin - at), word, scratch);
    SplitBy(step + 1, text.substr(begin, end - begin), word, scratch);
    at = end;
  }
}

}  // namespace

Result<std::unique_ptr<WordSplitter>> WordSplitter::Create(PreTokenizer id) {
  std::vector<Code> patterns;
  for (const std::string_view pattern : RowOf(id).patterns) {
    PW_ASSIGN(Code code, Compile(pattern));
    patterns.push_back(std::move(code));
  }
  return std::unique_ptr<WordSplitter>(std::make_unique<PcreWordSplitter>(std::move(patterns)));
}

}  // namespace pennyweight
