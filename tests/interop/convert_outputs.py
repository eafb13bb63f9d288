"""What convert writes opens in safetensors, transformers, sentencepiece and gguf with equal values."""

import json
import pathlib
import re

import gguf
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoModelForCausalLM, AutoTokenizer

from client import check, finish, load_config, load_tensors, models, pennyweight, scratch

SHARD_BYTES = 600_000


def same_bits(a, b):
    """Equal dtype, shape and bytes: NaN and -0 included."""
    return (a.dtype == b.dtype and a.shape == b.shape
            and torch.equal(a.contiguous().reshape(-1).view(torch.uint8),
                            b.contiguous().reshape(-1).view(torch.uint8)))


def same_tensors(a, b):
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def check_shards(original, output):
    """Every shard alone, the index against all of them, and the values."""
    index = json.loads((output / "model.safetensors.index.json").read_text())
    where, total, sizes_fit = {}, 0, True
    for path in sorted(output.glob("*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            check(shard.metadata() == {"format": "pt"}, f"{path.name}: opens, metadata kept")
            tensors = {name: shard.get_tensor(name) for name in shard.keys()}
        where.update({name: path.name for name in tensors})
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        sizes_fit &= size <= SHARD_BYTES or len(tensors) == 1
        total += size
    check(len(set(where.values())) > 1 and sizes_fit, f"{len(set(where.values()))} shards, none too large")
    check(index["weight_map"] == where, "the index maps every tensor to its shard")
    check(index["metadata"]["total_size"] == total, "total_size is the bytes of the tensors")
    check(same_tensors(load_tensors(original), load_tensors(output)), "sharded: the same bits")


def parameters(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True)
    left = {key: value for key, value in info.items() if value}
    check(not left, f"{pathlib.Path(folder).name}: transformers finds every key and no other {left}")
    return model.state_dict()


def check_tokenizer(original, output, text):
    ours = SentencePieceProcessor(model_file=str(output / "tokenizer.model"))
    if (original / "tokenizer.model").exists():
        theirs = SentencePieceProcessor(model_file=str(original / "tokenizer.model"))
        check(ours.encode(text) == theirs.encode(text), "tokenizer.model made from GGUF: equal ids")
        ids = [(t.bos_id(), t.eos_id(), t.unk_id()) for t in (ours, theirs)]
        check(ids[0] == ids[1], f"and equal special ids {ids[0]}")
    if load_config(original)["model_type"] == "mixtral":
        print("SKIPPED transformers' tokenizer of a mixtral: from tokenizer.model alone it makes another "
              "than it does for a llama of the same file", flush=True)
        return
    want = AutoTokenizer.from_pretrained(original)(text).input_ids
    check(AutoTokenizer.from_pretrained(output)(text).input_ids == want,
          "transformers tokenizes as with the original's files")


def check_model(original, temp):
    print(f"== {original.name}")
    folder = temp / "sharded"
    pennyweight("convert", original, "-o", folder, "--shard-size", SHARD_BYTES)
    check_shards(original, folder)
    expected = parameters(original)
    check(same_tensors(expected, parameters(folder)), "transformers loads equal parameters")

    pennyweight("convert", original, "-o", temp / "half", "--dtype", "f16")
    half = {name: t.half() for name, t in load_tensors(original).items()}
    check(same_tensors(half, load_tensors(temp / "half")), "--dtype f16 casts as torch does")
    check(json.loads((temp / "half/config.json").read_text())["torch_dtype"] == "float16",
          "and config.json says so")

    pennyweight("convert", original, "-o", temp / "model.gguf")
    pennyweight("convert", temp / "model.gguf", "-o", temp / "back", "--shard-size", "1M")
    back = parameters(temp / "back")
    check(all(torch.equal(t.float(), back[name].float()) for name, t in expected.items()),
          "GGUF and back: transformers loads equal values")
    text = "And the LORD said,\n  héllo <s> 漢字"
    check_tokenizer(original, temp / "back", text)
    pennyweight("convert", temp / "model.gguf", "-o", temp / "bits", "--dtype", "bf16")
    stored = load_tensors(original)
    if all(t.dtype == torch.bfloat16 for t in stored.values()):
        check(same_tensors(stored, load_tensors(temp / "bits")), "GGUF and back to bf16: the same bits")
    check_gguf(GGUFReader(temp / "model.gguf"), stored)


def check_gguf(reader, stored):
    """gguf-py lists every tensor; the experts of a layer are one, in their order."""
    experts = [name for name in stored if ".experts." in name]
    stacks = {re.sub(r"experts\.\d+", "experts", name) for name in experts}
    check(len(reader.tensors) == len(stored) - len(experts) + len(stacks), "gguf lists every tensor")
    names = {"w1": "gate", "w2": "down", "w3": "up"}
    same = True
    for tensor in reader.tensors:
        found = re.fullmatch(r"blk\.(\d+)\.ffn_(\w+)_exps\.weight", tensor.name)
        if not found:
            continue
        words = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        part = next(key for key, value in names.items() if value == found[2])
        prefix = f"model.layers.{found[1]}.block_sparse_moe.experts."
        want = torch.stack([stored[f"{prefix}{e}.{part}.weight"].float() for e in range(len(words))])
        same = same and torch.equal(want, torch.from_numpy(words.copy()))
    check(same, f"and the values of {len(stacks)} stacks of experts")


def check_odd_file(temp):
    """One file with metadata and every dtype that torch saves; the values are random bits."""
    print("== odd values")
    print(f"seed {torch.seed()}")
    bits = torch.randint(-2**31, 2**31, (37, 50), dtype=torch.int64).to(torch.int32)
    tensors = {
        "f32": bits.view(torch.float32).clone(),
        "f16": bits.view(torch.float16).clone(),
        "bf16": bits.view(torch.bfloat16).clone(),
        "f64": torch.randn(5, 3, dtype=torch.float64),
        "f8": torch.randn(64, 32).to(torch.float8_e4m3fn),
        "i64": torch.arange(7),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    metadata = {"format": "pt", "modelspec.title": "ü \"quoted\"", "empty": ""}
    save_file(tensors, temp / "odd.safetensors", metadata=metadata)
    pennyweight("convert", temp / "odd.safetensors", "-o", temp / "copy.safetensors")
    with safe_open(temp / "copy.safetensors", framework="pt") as file:
        check(file.metadata() == metadata, "a single file keeps its metadata")
    check(same_tensors(tensors, load_file(temp / "copy.safetensors")), "and every bit")
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        output = temp / f"{name}.safetensors"
        pennyweight("convert", temp / "odd.safetensors", "-o", output, "--dtype", name)
        cast = load_file(output)
        for key, tensor in tensors.items():
            is_cast = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
            want = tensor.to(dtype) if is_cast else tensor
            nan = want.isnan() if is_cast else torch.zeros(want.shape, dtype=torch.bool)
            # Which NaN it is may differ; that it is one may not.
            ok = cast[key].dtype == want.dtype and cast[key].shape == want.shape
            if is_cast:
                ok = ok and torch.equal(cast[key].isnan(), nan)
                ok = ok and same_bits(cast[key][~nan], want[~nan])
            else:
                ok = ok and same_bits(cast[key], want)
            check(ok, f"--dtype {name}: {key}")


def main():
    for folder in models("stories260K", "pd-llama-4M", "pd-qwen2-4M", "pd-mixtral-4M"):
        with scratch() as temp:
            check_model(folder, pathlib.Path(temp))
    with scratch() as temp:
        check_odd_file(pathlib.Path(temp))
    finish()


main()
