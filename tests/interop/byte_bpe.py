"""Byte-level BPE: our ids are those of tokenizers, from a folder, from GGUF, and from the folder that
is made of the GGUF file; what is written loads in tokenizers, transformers and gguf."""

import json
import pathlib
import shutil

import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from client import SHARED, SOURCE_DIR, check, finish, pennyweight, scratch

HIDDEN, FFN, HEADS, PADDING = 64, 128, 4, 11
CONTROL, UNUSED = 3, 5
TEXT = ("I'll say: we've 1234567 caf\u00e9s, cafe\u0301s \u0434\u0430, \u4f60\u597d\uff01 \U0001f999\U0001f680\r\n\r\n"
        "  def f(x):\n\treturn x != 3.14   # \u00bd \u0967\u0968\n\n\n \u1100\u1161\u11a8 \u212b <|im_end|> x\u00e9!")


def write_model(source, folder):
    """A Llama of one layer and random weights, with the tokenizer of `source`."""
    folder.mkdir()
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    # GGUF cannot say how an added token takes spaces along, stands alone or is normalized.
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if not any(
        token[flag] for flag in ("lstrip", "rstrip", "single_word", "normalized"))]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if (source / "tokenizer_config.json").exists():
        shutil.copyfile(source / "tokenizer_config.json", folder / "tokenizer_config.json")
    else:
        config = {"bos_token": "<|bos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rows = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() + PADDING
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "vocab_size": rows, "tie_word_embeddings": True, "hidden_act": "silu",
        "torch_dtype": "float16"}))
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return (torch.randn(*shape, generator=generator) * 0.1).half()

    layer = "model.layers.0."
    tensors = {"model.embed_tokens.weight": random(rows, HIDDEN), "model.norm.weight": 1 + random(HIDDEN)}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{layer}{norm}.weight"] = 1 + random(HIDDEN)
    for part in "qkvo":
        tensors[f"{layer}self_attn.{part}_proj.weight"] = random(HIDDEN, HIDDEN)
    for part, shape in (("gate", (FFN, HIDDEN)), ("up", (FFN, HIDDEN)), ("down", (HIDDEN, FFN))):
        tensors[f"{layer}mlp.{part}_proj.weight"] = random(*shape)
    save_file(tensors, folder / "model.safetensors")
    return rows


def check_gguf(path, rows, theirs):
    fields = GGUFReader(path).fields

    def items(name):
        field = fields[f"tokenizer.ggml.{name}"]
        return [field.parts[i] for i in field.data]

    tokens = [bytes(part).decode() for part in items("tokens")]
    types = [int(part[0]) for part in items("token_type")]
    check(len(tokens) == len(types) == rows, f"gguf: {rows} tokens with types, as the embedding has rows")
    vocabulary = theirs.get_vocab(with_added_tokens=True)
    check(all(tokens[id] == text for text, id in vocabulary.items()), "gguf: every token at its id")
    check(types[-PADDING:] == [UNUSED] * PADDING, "gguf: the rest is unused")
    special = [id for id, token in theirs.get_added_tokens_decoder().items() if token.special]
    check(special and all(types[id] == CONTROL for id in special), "gguf: special tokens are control tokens")


def check_tokenizer(name, source, temp):
    print(f"== {name}")
    rows = write_model(source, temp / "model")
    theirs = Tokenizer.from_file(str(temp / "model/tokenizer.json"))
    pennyweight("convert", temp / "model", "-o", temp / "m.gguf")
    check_gguf(temp / "m.gguf", rows, theirs)
    pennyweight("convert", temp / "m.gguf", "-o", temp / "back")
    again = Tokenizer.from_file(str(temp / "back/tokenizer.json"))
    for special in (False, True):
        check(again.encode(TEXT, add_special_tokens=special).ids
              == theirs.encode(TEXT, add_special_tokens=special).ids,
              f"tokenizer.json made from GGUF: equal ids (special {special})")
    check(AutoTokenizer.from_pretrained(temp / "back")(TEXT).input_ids == theirs.encode(TEXT).ids,
          "and in transformers")
    theirs.encode_special_tokens = True
    want = theirs.encode(TEXT).ids
    for model in ("model", "m.gguf", "back"):
        ours = pennyweight("eval", temp / model, "--prompt", TEXT, "--generate", "0")["prompt_ids"]
        check(ours == want, f"{model}: {len(want)} ids as tokenizers gives them")


def main():
    folders = {"byte-bpe": SOURCE_DIR / "testdata/tokenizer/byte-bpe"}
    for name in ("llama3", "qwen3"):
        folder = SHARED / "tokenizers" / name
        if folder.is_dir():
            folders[name] = folder
        else:
            print(f"SKIPPED {name}: {folder} is absent", flush=True)
    for name, folder in folders.items():
        with scratch() as temp:
            check_tokenizer(name, folder, pathlib.Path(temp))
    finish()


main()
