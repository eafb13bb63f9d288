#include "formats/sentencepiece_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <unordered_set>
#include <utility>

#include "lib/limits.h"

namespace pennyweight {
namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

Error Malformed(std::string text, uint64_t offset) {
  return Error(ErrorCode::kTokenizer, "not a sentencepiece model: " + std::move(text))
      .Hint("fetch tokenizer.model again, or remove it where tokenizer.json is there too")
      .At(offset);
}

struct Field {
  uint32_t number = 0;
  uint32_t wire = kVarint;
  uint64_t value = 0;      // kVarint, kFixed32, kFixed64
  std::string_view bytes;  // kBytes
  uint64_t offset = 0;     // of `bytes` in the file

  int64_t Signed() const { return static_cast<int64_t>(value); }
  bool IsTrue() const { return value != 0; }
};

// Goes through the fields of one message. `base` is the message's offset in the file.
class Walker {
 public:
  Walker(std::string_view bytes, uint64_t base) : bytes_(bytes), base_(base) {}

  bool AtEnd() const { return at_ == bytes_.size(); }
  Result<Field> Next() {
    Field field;
    PW_ASSIGN(const uint64_t tag, Varint());
    if (tag > UINT32_MAX || tag >> 3 == 0) return Malformed("a field has no number", Offset());
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<uint32_t>(tag & 7);
    switch (field.wire) {
      case kVarint: {
        PW_ASSIGN(field.value, Varint());
        return field;
      }
      case kFixed32:
        return Fixed(4, field);
      case kFixed64:
        return Fixed(8, field);
      case kBytes: {
        PW_ASSIGN(const uint64_t length, Varint());
        if (length > bytes_.size() - at_) {
          return Malformed(
              fmt::format("a field of {} bytes, {} are left", length, bytes_.size() - at_),
              Offset());
        }
        field.offset = Offset();
        field.bytes = bytes_.substr(at_, length);
        at_ += length;
        return field;
      }
      default:
        return Malformed(fmt::format("wire type {}", field.wire), Offset());
    }
  }

 private:
  uint64_t Offset() const { return base_ + at_; }

  Result<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (AtEnd()) return Malformed("it ends inside a number", Offset());
      const uint8_t byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    return Malformed("a number is longer than 64 bits", Offset());
  }

  Result<Field> Fixed(size_t size, Field field) {
    if (size > bytes_.size() - at_) return Malformed("it ends inside a number", Offset());
    std::memcpy(&field.value, bytes_.data() + at_, size);
    at_ += size;
    return field;
  }

  std::string_view bytes_;
  uint64_t base_;
  size_t at_ = 0;
};

Status ForEachField(std::string_view bytes, uint64_t base,
                    const std::function<Status(const Field&)>& visit) {
  Walker walker(bytes, base);
  while (!walker.AtEnd()) {
    PW_ASSIGN(const Field field, walker.Next());
    PW_TRY(visit(field));
  }
  return OkStatus();
}

// What the specs say, with the defaults of the .proto.
struct Specs {
  int64_t model_type = 1;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  int64_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_charsmap = false;
};

Status ParseTrainerSpec(const Field& message, Specs* specs) {
  return ForEachField(message.bytes, message.offset, [&](const Field& field) {
    switch (field.number) {
      case 3:
        specs->model_type = field.Signed();
        break;
      case 24:
        specs->whitespace_as_suffix = field.IsTrue();
        break;
      case 35:
        specs->byte_fallback = field.IsTrue();
        break;
      case 40:
        specs->unk_id = field.Signed();
        break;
      case 41:
        specs->bos_id = field.Signed();
        break;
      case 42:
        specs->eos_id = field.Signed();
        break;
      case 43:
        specs->pad_id = field.Signed();
        break;
      default:
        break;
    }
    return OkStatus();
  });
}

Status ParseNormalizerSpec(const Field& message, Specs* specs) {
  return ForEachField(message.bytes, message.offset, [&](const Field& field) {
    switch (field.number) {
      case 2:
        specs->has_charsmap = !field.bytes.empty();
        break;
      case 3:
        specs->add_dummy_prefix = field.IsTrue();
        break;
      case 4:
        specs->remove_extra_whitespaces = field.IsTrue();
        break;
      case 5:
        specs->escape_whitespaces = field.IsTrue();
        break;
      default:
        break;
    }
    return OkStatus();
  });
}

Result<Token> ParsePiece(const Field& message) {
  Token token;
  PW_TRY(ForEachField(message.bytes, message.offset, [&](const Field& field) -> Status {
    if (field.number == 1 && field.wire == kBytes) {
      token.text = std::string(field.bytes);
    } else if (field.number == 2 && field.wire == kFixed32) {
      const uint32_t bits = static_cast<uint32_t>(field.value);
      std::memcpy(&token.score, &bits, sizeof(bits));
    } else if (field.number == 3 && field.wire == kVarint) {
      if (field.value < 1 || field.value > 6) {
        return Malformed(fmt::format("a piece of type {}", field.value), message.offset);
      }
      token.type = static_cast<TokenType>(field.value);
    }
    return OkStatus();
  }));
  if (token.text.empty()) return Malformed("a piece without text", message.offset);
  if (token.text.size() > limits::kTokenBytes) {
    return Error(ErrorCode::kLimit, fmt::format("a piece of {} bytes; at most {} are taken",
                                                token.text.size(), limits::kTokenBytes))
        .At(message.offset);
  }
  if (!std::isfinite(token.score)) return Malformed("a score is not a number", message.offset);
  return token;
}

// What this program cannot run, by name.
Status CheckSpecs(const Specs& specs) {
  const auto refuse = [](std::string what) {
    return Error(ErrorCode::kTokenizer, std::move(what) + " is not read here");
  };
  switch (specs.model_type) {
    case 1:
      return refuse("a sentencepiece model of type unigram");
    case 2:
      break;
    case 3:
      return refuse("a sentencepiece model of type word");
    case 4:
      return refuse("a sentencepiece model of type char");
    default:
      return refuse(fmt::format("a sentencepiece model of type {}", specs.model_type));
  }
  if (specs.has_charsmap) return refuse("text normalised by a character map");
  if (!specs.escape_whitespaces) return refuse("a sentencepiece model with unescaped spaces");
  if (specs.whitespace_as_suffix) return refuse("a sentencepiece model with spaces as suffix");
  return OkStatus();
}

std::optional<int64_t> IdIn(const Vocabulary& vocabulary, int64_t id) {
  if (id < 0 || id >= static_cast<int64_t>(vocabulary.tokens.size())) return std::nullopt;
  return id;
}

Status CheckPieces(const Vocabulary& vocabulary) {
  std::unordered_set<std::string_view> seen;
  size_t bytes = 0;
  for (const Token& token : vocabulary.tokens) {
    if (!seen.insert(token.text).second) {
      return Error(ErrorCode::kTokenizer,
                   fmt::format("the piece \"{:.100}\" is there twice", token.text));
    }
    if (token.type == TokenType::kByte) ++bytes;
  }
  if (vocabulary.byte_fallback && bytes != 256) {
    return Error(ErrorCode::kTokenizer,
                 fmt::format("unknown text falls back to bytes, but {} of 256 are there", bytes));
  }
  return OkStatus();
}

}  // namespace

Result<Vocabulary> ParseSentencePieceModel(std::string_view bytes) {
  Vocabulary vocabulary;
  Specs specs;
  PW_TRY(ForEachField(bytes, 0, [&](const Field& field) -> Status {
    if (field.wire != kBytes) return OkStatus();
    if (field.number == 1) {
      if (vocabulary.tokens.size() >= limits::kVocabulary) {
        return Error(ErrorCode::kLimit, fmt::format("more than {} pieces", limits::kVocabulary));
      }
      PW_ASSIGN(Token token, ParsePiece(field));
      vocabulary.tokens.push_back(std::move(token));
    } else if (field.number == 2) {
      return ParseTrainerSpec(field, &specs);
    } else if (field.number == 3) {
      return ParseNormalizerSpec(field, &specs);
    }
    return OkStatus();
  }));
  if (vocabulary.tokens.empty()) return Malformed("no pieces", 0);
  PW_TRY(CheckSpecs(specs));
  vocabulary.kind = Vocabulary::Kind::kSentencePieceBpe;
  vocabulary.byte_fallback = specs.byte_fallback;
  vocabulary.add_space_prefix = specs.add_dummy_prefix;
  vocabulary.remove_extra_whitespaces = specs.remove_extra_whitespaces;
  vocabulary.unk_id = IdIn(vocabulary, specs.unk_id);
  vocabulary.bos_id = IdIn(vocabulary, specs.bos_id);
  vocabulary.eos_id = IdIn(vocabulary, specs.eos_id);
  vocabulary.pad_id = IdIn(vocabulary, specs.pad_id);
  PW_TRY(CheckPieces(vocabulary));
  return vocabulary;
}

}  // namespace pennyweight
