"""Makes testdata/tokenizer/pd-llama-4M.json with sentencepiece itself.

Usage: make_tokenizer_vectors.py TOKENIZER_MODEL OUTPUT
Needs: pip install sentencepiece protobuf. Each variant changes a few fields of the model; a test
makes the same changes to the vocabulary it reads.
"""

import json
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

TEXTS = [
    "", " ", "  ", "   a", "a   ", "a  b   c", "\t", "\n", "\n\n", "a\nb", "a\n b", " \n ", "\t\tx",
    "Hello world", " Hello", "Hello, World! (1234567890)", "And the LORD said unto Moses",
    "the the the the", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "New York is not York, New York",
    "NewNew YorkYork<sep><sep>the<sep> the", "<s> </s> <unk> <0x0A>", "\u2581\u2581x \u2581",
    "caf\u00e9 na\u00efve \u00c4pfel \u00fc\u00df", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u0645\u0631\u062d\u0628\u0627", "\U0001f600 \U0001f469\u200d\U0001f680 \u2764\ufe0f",
    "x\u00a0y\u3000z", "\ufffd\ufeff", "e\u0301", "\u0000 nul", "3.14159 - 2/7 = \u00bd?",
    "\"Don't!\" she said; 'I won't.'", "unto the children of Israel, and\nthe   children's children",
    "def f(x):\n    return x * 2\n\n\nprint(f(3))\t# six",
]
# Bytes that are not UTF-8: alone, cut short, overlong, a surrogate, beyond Unicode.
BYTES = [b"\xff", b"a\x80b", b"\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80x", b"\xf4\x90\x80\x80", b"ok \xf0\x9f\x98"]


def piece_id(model, text):
    return next(i for i, p in enumerate(model.pieces) if p.piece == text)


def variant(model, name):
    changed = pb.ModelProto()
    changed.CopyFrom(model)
    changed.trainer_spec.unk_surface = " \u2047 "  # the default; some models carry it escaped twice
    changes = {}
    if name == "squeeze":
        changed.normalizer_spec.remove_extra_whitespaces = True
        changes["remove_extra_whitespaces"] = True
    if name == "no_prefix":
        changed.normalizer_spec.add_dummy_prefix = False
        changes["add_space_prefix"] = False
    if name == "unknown":
        # Without byte fallback: the byte tokens become control tokens.
        changed.trainer_spec.byte_fallback = False
        for p in changed.pieces:
            if p.type == pb.ModelProto.SentencePiece.BYTE:
                p.type = pb.ModelProto.SentencePiece.CONTROL
        changes["byte_fallback"] = False
    if name == "types":
        # Last pieces become user-defined ones, frequent merges become unused, some span words.
        user = ["York", "<sep>", "the\u2581", "l\u2581", "Yo"]
        first = len(changed.pieces) - len(user)
        changes["replace"] = []
        for i, text in enumerate(user):
            p = changed.pieces[first + i]
            p.piece, p.type = text, pb.ModelProto.SentencePiece.USER_DEFINED
            changes["replace"].append({"id": first + i, "text": text, "type": 4})
        changes["unused"] = [piece_id(changed, t) for t in ["\u2581the", "he", "ch", "\u2581un"]]
        for i in changes["unused"]:
            changed.pieces[i].type = pb.ModelProto.SentencePiece.UNUSED
    return changed, changes


def main():
    model = pb.ModelProto()
    with open(sys.argv[1], "rb") as f:
        model.ParseFromString(f.read())
    variants = []
    for name in ["plain", "squeeze", "no_prefix", "unknown", "types"]:
        changed, changes = variant(model, name)
        processor = sentencepiece.SentencePieceProcessor(model_proto=changed.SerializeToString())
        cases = []
        for text in TEXTS:
            ids = processor.encode(text)
            cases.append({"text": text, "ids": ids, "decoded": processor.decode(ids)})
        for data in BYTES:
            cases.append({"hex": data.hex(), "ids": processor.encode(data)})
        variants.append({"name": name, "changes": changes, "cases": cases})
    document = {"oracle": "sentencepiece " + sentencepiece.__version__, "variants": variants}
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        json.dump(document, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


main()
