"""Makes testdata/tokenizer/byte-bpe/tokenizer.json and byte-bpe.json beside it.

Usage: make_byte_bpe_vectors.py TEXT FOLDER
Trains a small byte-level BPE on TEXT with Hugging Face's tokenizers, then writes down the ids that
it gives for several variants of it. A test makes the same changes to the vocabulary it reads.
Needs: pip install tokenizers. Only characters of Unicode 3.2 are drawn: classes and combining
classes of newer ones differ between versions of Unicode.
"""

import json
import os
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]

# (name, patterns, NFC, ignore_merges, add_prefix_space)
VARIANTS = [
    ("qwen2", [QWEN2], True, False, False),
    ("llama-bpe", [LLAMA3], False, True, False),
    ("gpt-2", None, False, False, False),
    ("gpt-2", None, True, True, True),
    ("smollm", [r"\p{N}", GPT2], False, False, False),
    ("tekken", [TEKKEN], False, True, False),
    ("default", DEFAULT, False, False, False),
]

TEXTS = [
    "", " ", "  ", "   a", "a   ", "\t", "\n", "\n\n", " \n  \n x", "\r\n\r\n", "a\r\n b", "\n   ",
    "I'll, I'LL, we've 'tis 'S 'D don't", "1234567 12 3", "caf\u00e9 cafe\u0301 \u1100\u1161\u11a8",
    "\u212b A\u030a \u0344 a\u0316\u0301 a\u0301\u0316", "HTTPServer iPhone \u01c5 McX", "!!!...\n\n",
    " \u00a0\u2003\u3000x\u180ey\u0085z\u200b", "if (a[i] != b) {\n\treturn a/b;\n}\n",
    "<|bos|>a <|bos|> b<|end|>", "<tool>", "a  <tool>\n b <tool><tool> ", "word words word, aword \u00e9word",
    "x\u00e9!y xe\u0301!y", "<|bo|bos|>", "<tool", " beginning the beginning",
    "\U0001f999\U0001f680 \U0001f469\u200d\U0001f680 \u2764\ufe0f \U0001f1e9\U0001f1ea",
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093 \u0645\u0631\u062d\u0628\u0627 \u0967\u0968\u0969\u096a",
]
# Bytes that are not UTF-8: each counts as U+FFFD.
BYTES = [b"\xff", b"a\x80b", b"\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80x", b"\xf4\x90\x80\x80",
         b"ok \xf0\x9f\x98", b"the\xfe the"]


def replaced(data):
    text = ""
    i = 0
    while i < len(data):
        for length in range(1, 5):
            try:
                text += data[i:i + length].decode("utf-8")
                i += length
                break
            except UnicodeDecodeError:
                if length == 4 or i + length >= len(data):
                    text += "\ufffd"
                    i += 1
                    break
    return text


def random_texts(count):
    rng = random.Random(20240229)
    old = unicodedata.ucd_3_2_0
    assigned = [c for c in range(0x110000) if old.category(chr(c)) not in ("Cn", "Cs", "Co")]
    marks = [c for c in assigned if old.combining(chr(c))]
    common = ["'s", "'LL", " ", "  ", "\n", "\r\n", "12", "the ", " and", "\u017f", "'\u017f", "Gen", "\t"]

    def character():
        kind = rng.random()
        if kind < 0.3:
            return chr(rng.randrange(32, 127))
        if kind < 0.55:
            return rng.choice(common)
        if kind < 0.65:
            return chr(rng.choice(marks))
        if kind < 0.8:
            return chr(rng.randrange(0xA0, 0x250))
        return chr(rng.choice(assigned))

    texts = ["".join(character() for _ in range(rng.randrange(1, 12))) for _ in range(count)]
    return texts


def train(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([path], trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|bos|>", "<|end|>"])
    tokenizer.add_tokens([
        AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("e\u0301!", normalized=True)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B",
                                      special_tokens=[("<|bos|>", 400)])])
    return json.loads(tokenizer.to_str())


def variant(base, patterns, nfc, ignore_merges, add_prefix_space):
    made = json.loads(json.dumps(base))
    made["normalizer"] = {"type": "NFC"} if nfc else None
    last = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True,
            "use_regex": patterns is None}
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
             for p in patterns or []]
    made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps + [last]} if steps else last
    made["model"]["ignore_merges"] = ignore_merges
    return made


def main():
    text, folder = sys.argv[1:]
    base = train(text)
    # A token that merges do not make, but that a whole word is.
    word = base["model"]["vocab"]
    word["\u0120beginning"] = word.pop(max(word, key=word.get))
    base["model"]["merges"] = base["model"]["merges"][:len(word) - 257]
    os.makedirs(os.path.join(folder, "byte-bpe"), exist_ok=True)
    with open(os.path.join(folder, "byte-bpe", "tokenizer.json"), "w", encoding="utf-8") as out:
        json.dump(base, out, ensure_ascii=False, indent=0)
        out.write("\n")
    document = {"variants": []}
    for i, (name, patterns, nfc, ignore_merges, prefix) in enumerate(VARIANTS):
        tokenizer = Tokenizer.from_str(json.dumps(variant(base, patterns, nfc, ignore_merges, prefix)))
        texts = [(t, None) for t in TEXTS + random_texts(40 * len(VARIANTS))[40 * i:40 * i + 40]]
        texts += [(replaced(b), b.hex()) for b in BYTES]
        cases = []
        for string, data in texts:
            tokenizer.encode_special_tokens = True
            ids = tokenizer.encode(string, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = False
            special = tokenizer.encode(string, add_special_tokens=False).ids
            case = {"text": string} if data is None else {"hex": data}
            case["ids"] = ids
            if special != ids:
                case["special_ids"] = special
            cases.append(case)
        document["variants"].append({
            "pre": name, "nfc": nfc, "ignore_merges": ignore_merges, "add_prefix_space": prefix,
            "cases": cases})
    with open(os.path.join(folder, "byte-bpe.json"), "w", encoding="utf-8") as out:
        rows = ",\n".join(
            "{" + ", ".join(f'"{k}": {json.dumps(v)}' for k, v in entry.items() if k != "cases")
            + ', "cases": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in entry["cases"])
            + "]}" for entry in document["variants"])
        out.write('{"variants": [\n' + rows + "]}\n")


main()
