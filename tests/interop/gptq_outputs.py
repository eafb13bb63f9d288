"""GPTQ and AWQ folders that we write, in transformers with gptqmodel, and by a decoder of our own.

The decoder below follows the layouts' definitions, word by word, and is checked on golden words first.
What it decodes has to be what `convert --dtype f32` gives, bit by bit, and in a float model has to
give the logits of `eval --logits`. Where gptqmodel is installed (requirements-gptq.txt) transformers
loads the same folders, places every key, and computes those logits with its own kernels.
"""

import importlib.util
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from client import (SOURCE_DIR, check, finish, load_config, load_tensors, models, pennyweight,
                    scratch, shared_text)

TOLERANCE = 2e-2
CLIENT = all(importlib.util.find_spec(name) for name in ("gptqmodel", "optimum"))
EVALUATED = ("pd-llama-4M", "stories260K")
# Kernels of plain torch: the others compile themselves for the machine at hand.
BACKENDS = {"gptq": "gptq_torch", "awq": "torch_awq"}

# Model, layout, flags, whether transformers is asked too, and the bits, group and symmetry that
# the words have.
CASES = [
    ("pd-llama-4M", "gptq", [], True, (4, 128, True)),
    ("pd-llama-4M", "gptq", ["--asymmetric", "--group-size", "32"], True, (4, 32, False)),
    ("pd-llama-4M", "gptq", ["--type", "int8_channel"], True, (8, -1, True)),
    ("pd-llama-4M", "gptq", ["--type", "int3_g64_asym"], False, (3, 64, False)),
    ("pd-llama-4M", "gptq", ["--type", "int2_g32"], False, (2, 32, True)),
    ("pd-llama-4M", "awq", [], True, (4, 128, False)),
    ("pd-llama-4M", "awq", ["--symmetric", "--group-size", "64"], False, (4, 64, True)),
    # Biases, and weights that stay plain.
    ("pd-qwen2-4M", "gptq", ["--group-size", "64", "--keep", "layers.1.mlp.down|layers.2.self_attn.o"],
     True, (4, 64, True)),
    ("pd-qwen2-4M", "awq", ["--group-size", "32", "--keep", "layers.1.mlp.down|layers.2.self_attn.o"],
     True, (4, 32, False)),
    # Rows of 172 do not divide into groups: they stay plain too.
    ("stories260K", "gptq", ["--group-size", "32"], False, (4, 32, True)),
    ("stories260K", "awq", ["--group-size", "64"], False, (4, 64, False)),
]


def stream(words, bits, count):
    """[W, N] words to [count, N] values: down each column a dense stream, low bits first."""
    words = words.astype(np.uint64)
    values = np.empty((count, words.shape[1]), np.int64)
    for i in range(count):
        word, shift = divmod(i * bits, 32)
        value = words[word] >> np.uint64(shift)
        if shift + bits > 32:
            value = value | words[word + 1] << np.uint64(32 - shift)
        values[i] = (value & np.uint64((1 << bits) - 1)).astype(np.int64)
    return values


def interleaved(words):
    """[R, C] words of AWQ to [R, 8 C] values."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    values = np.empty((words.shape[0], words.shape[1] * 8), np.int64)
    for nibble, output in enumerate(order):
        values[:, output::8] = (words >> np.uint32(4 * nibble)) & np.uint32(15)
    return values


def check_golden():
    def column(*words):
        return np.array(words, np.uint32)[:, None]

    good = stream(column(0x76543210), 4, 8).ravel().tolist() == list(range(8))
    good = good and stream(column(0x03020100), 8, 4).ravel().tolist() == list(range(4))
    good = good and stream(column(0xE4E4E4E4), 2, 16).ravel().tolist() == [0, 1, 2, 3] * 4
    three = column(0x88FAC688, 0xC688FAC6, 0xFAC688FA)
    good = good and stream(three, 3, 32).ravel().tolist() == list(range(8)) * 4
    good = good and interleaved(column(0x75316420)).ravel().tolist() == list(range(8))
    check(good, "the decoder of this script reads the golden words")


def decode(parts, module, config):
    """The weight [N, K] of a module in float32."""
    def words(part):
        return parts[f"{module}.{part}"].numpy().view(np.uint32)

    bits = config["bits"]
    scales = parts[module + ".scales"].float().numpy()
    groups, outputs = scales.shape
    if config["quant_method"] == "awq":
        codes, zeros = interleaved(words("qweight")), interleaved(words("qzeros"))
        index = np.arange(len(codes)) // (len(codes) // groups)
    else:
        codes = stream(words("qweight"), bits, words("qweight").shape[0] * 32 // bits)
        zeros = stream(words("qzeros").T, bits, outputs).T
        if config["checkpoint_format"] == "gptq":
            zeros = zeros + 1
        index = parts[module + ".g_idx"].numpy()
    return ((codes - zeros[index]).astype(np.float32) * scales[index]).T


def check_config(config, expected, layout):
    bits, group, symmetric = expected
    stated = (config["bits"], config["group_size"])
    good = config["quant_method"] == layout and stated == (bits, group)
    if layout == "gptq":
        good = good and config["sym"] == symmetric and config["desc_act"] is False
        good = good and config["checkpoint_format"] == ("gptq" if symmetric else "gptq_v2")
    else:
        good = good and config["zero_point"] is True and config["version"] == "gemm"
    check(good, f"  quantization_config says what it is: {config}")


def logits_of(model, window):
    with torch.no_grad():
        return model(window["tokens"][None]).logits[0].float()


def reference_window(output, floats, name, text, temp):
    """Tokens and the logits that the folder's weights give them: by `eval` where it knows the
    tokenizer, else by a float model of transformers."""
    path = temp / "logits.safetensors"
    if name in EVALUATED:
        pennyweight("eval", output, "--text", text, "--tokens", 1024, "--logits", path)
        return load_file(path)
    tokens = torch.randint(0, floats.config.vocab_size, (128,), generator=torch.Generator().manual_seed(1))
    return {"tokens": tokens, "logits": logits_of(floats, {"tokens": tokens})}


def compare(logits, window, what):
    difference = float((logits - window["logits"]).abs().max())
    check(len(window["tokens"]) > 100 and difference < TOLERANCE, f"  {what}: {difference:.2g}")


def check_client(output, layout, window, quantized):
    """The folder as transformers loads it."""
    config = AutoConfig.from_pretrained(output)
    config.quantization_config["backend"] = BACKENDS[layout]
    model, info = AutoModelForCausalLM.from_pretrained(output, config=config, dtype=torch.float32,
                                                       output_loading_info=True)
    left = {key: value for key, value in info.items() if value}
    check(not left, f"  transformers finds every key and no other {left or ''}")
    replaced = {name for name, module in model.named_modules() if hasattr(module, "qweight")}
    check(replaced == quantized, f"  it makes {len(replaced)} quantized modules, which are ours")
    compare(logits_of(model, window), window, "transformers computes our logits")


def check_case(original, text, case, temp):
    _, layout, flags, client, expected = case
    output, plain = temp / "quantized", temp / "float"
    print(" ".join([original.name, layout, *flags]), flush=True)
    pennyweight("quantize", original, "-o", output, "--to", layout, "--method", "rtn", *flags)
    config = load_config(output)["quantization_config"]
    check_config(config, expected, layout)
    pennyweight("convert", output, "-o", plain, "--dtype", "f32")

    parts, floats = load_tensors(output), load_tensors(plain)
    quantized = {name.removesuffix(".qweight") for name in parts if name.endswith(".qweight")}
    before = load_tensors(original)
    wrong, moved = [], 0
    for module in quantized:
        ours = floats[module + ".weight"]
        decoded = torch.from_numpy(np.ascontiguousarray(decode(parts, module, config)))
        if decoded.shape != ours.shape or not torch.equal(decoded, ours):
            wrong.append(module)
        floats[module + ".weight"] = decoded
        moved += not torch.equal(decoded, before[module + ".weight"].float())
    check(quantized and not wrong, f"  {len(quantized)} weights are ours, bit by bit {wrong[:3] or ''}")
    check(moved == len(quantized), "  none of them is the original")

    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    model.load_state_dict(floats, strict=False)
    window = reference_window(output, model, original.name, text, temp)
    compare(logits_of(model, window), window, "the decoded weights give our logits")
    if client and CLIENT:
        check_client(output, layout, window, quantized)


def main():
    if not CLIENT:
        print("SKIPPED transformers' own loading: gptqmodel and optimum are not installed", flush=True)
    check_golden()
    text = shared_text("pd/eval.txt") or SOURCE_DIR / "LICENSE"
    for name in sorted({case[0] for case in CASES}):
        for original in models(name):
            for case in CASES:
                if case[0] != name:
                    continue
                with scratch() as folder:
                    check_case(original, text, case, pathlib.Path(folder))
    finish()


main()
