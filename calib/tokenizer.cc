#include "calib/tokenizer.h"

#include "calib/tokenizer_bpe.h"
#include "calib/tokenizer_spm.h"

namespace pennyweight {

Result<std::unique_ptr<Tokenizer>> Tokenizer::Create(const Vocabulary& vocabulary) {
  switch (vocabulary.kind) {
    case Vocabulary::Kind::kNone:
      break;
    case Vocabulary::Kind::kSentencePieceBpe:
      return MakeSentencePieceTokenizer(vocabulary);
    case Vocabulary::Kind::kByteBpe:
      return MakeByteBpeTokenizer(vocabulary);
  }
  return Error(ErrorCode::kTokenizer, "the model has no tokenizer that this program can run")
      .Hint("put the model's tokenizer.model or tokenizer.json beside its weights");
}

}  // namespace pennyweight
