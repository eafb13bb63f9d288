"""transformers loads the layouts beside GGUF that we write, decodes our weights and computes our logits.

Every type of every layout: compressed-tensors (integers of 2 to 8 bits, fp8, nvfp4, mxfp4), fp8 and
bitsandbytes. The weights that the client decodes are compared bit by bit with `convert --dtype f32`,
its logits with `eval --logits`. A client that decodes to 16 bits is asked for 32: bitsandbytes by the
dtypes of its quant_state and of its modules, NVFP4 by compressed-tensors' own decoder; what is left of rounding is none.
"""

import pathlib
import sys

import compressed_tensors
import torch
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from client import (SOURCE_DIR, check, finish, load_tensors, models, pennyweight, scratch,
                    shared_text)

try:
    import bitsandbytes.functional as bnb
except ImportError:
    bnb = None

TOLERANCE = 2e-2
# From 0.18 on values are a dense stream of bits, and packed zero points are refused.
DENSE = tuple(map(int, compressed_tensors.__version__.split(".")[:2])) >= (0, 18)


def cases():
    """Layout, type, method, flags, and the encodings that a report has to name."""
    ct = "compressed-tensors"
    for bits in (2, 3, 4, 5, 6, 8):
        if 32 % bits != 0 and not DENSE:
            print(f"SKIPPED int{bits}: compressed-tensors before 0.18 leaves bits unused", flush=True)
            continue
        yield ct, f"int{bits}", "minmax", ["--group-size", "16"], f"int{bits}_g16"
        yield ct, f"int{bits}_channel", "rtn", [], f"int{bits}_channel"
        if 32 % bits == 0 and not DENSE:
            yield ct, f"int{bits}_g32_asym", "rtn", [], f"int{bits}_g32_asym"
    if DENSE:
        print("SKIPPED zero points: compressed-tensors refuses them from 0.18 on", flush=True)
    for kind in ("tensor", "channel", "b128x128"):
        for method in ("minmax", "rtn"):
            yield ct, f"fp8_e4m3_{kind}", method, [], f"fp8_e4m3_{kind}"
    yield ct, "mxfp4", "rtn", [], "mxfp4"
    yield ct, "nvfp4", "rtn", [], "fp4_e2m1_b1x16"
    for element in ("e4m3", "e5m2"):
        for kind in ("tensor", "b128x128"):
            yield "fp8", f"fp8_{element}_{kind}", "rtn", [], f"fp8_{element}_{kind}"
    # Two groups of one format, and two formats.
    yield ct, "int4", "rtn", ["--group-size", "32", "--tensor-type", "down_proj=int8_channel"], "int4_g32"
    yield ct, "int4", "rtn", ["--group-size", "32", "--tensor-type",
                              "down_proj=fp8_e4m3_channel"], "int4_g32"
    if bnb is None:
        print("SKIPPED bitsandbytes: not installed", flush=True)
        return
    for kind in ("nf4", "fp4"):
        for method in ("minmax", "rtn"):
            yield "bnb", kind, method, [], f"{kind}_b64"
    yield "bnb", "nf4_b128", "minmax", ["--keep", "layers\\.0\\.mlp\\.down"], "nf4_b128"


def decoded_nvfp4(folder):
    """The linears of an NVFP4 folder by compressed-tensors' functions, in float32."""
    parts = load_tensors(folder)
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    values = {}
    for name, packed in parts.items():
        if not name.endswith("_packed"):
            continue
        name = name.removesuffix("_packed")
        codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, torch.float32)
        values[name] = dequantize(codes, parts[name + "_scale"].float(), args=args,
                                  global_scale=parts[name + "_global_scale"], dtype=torch.float32)
    return values


def load(folder):
    """The folder as transformers loads it, computing in float32; checks that every key was placed."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                       output_loading_info=True)
    left = {key: value for key, value in info.items() if value}
    check(not left, f"  transformers finds every key and no other {left or ''}")
    with torch.no_grad():
        try:
            model(torch.arange(4)[None])  # some clients decode at the first use
        except RuntimeError:
            pass  # they decode to another dtype than they compute in
    torch.nn.Module.float(model)
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            state.dtype = torch.float32
            module.compute_dtype = torch.float32
    return model


def weight_of(module):
    state = getattr(module.weight, "quant_state", None)
    return module.weight if state is None else bnb.dequantize_4bit(module.weight.data, state)


def check_weights(model, decoded, nvfp4):
    modules = dict(model.named_modules())
    wrong = []
    for name, ours in decoded.items():
        if not name.endswith("_proj.weight"):
            continue
        module = modules[name.removesuffix(".weight")]
        theirs = weight_of(module).detach()
        if nvfp4:
            # Decoded to bf16 by the loader: that is our value rounded, up to the order of rounding.
            close = (theirs - ours).abs() <= ours.abs() * 2**-7
            if not bool(close.all()):
                wrong.append(name)
            theirs = nvfp4[name]
            module.weight.data = theirs
        if theirs.shape != ours.shape or not torch.equal(theirs.float(), ours):
            wrong.append(name)
    check(not wrong, f"  the weights are ours, bit by bit {wrong[:3] or ''}")


def check_experts(model, decoded, rounded):
    """transformers puts the experts of a layer together in tensors of its own. It decodes integers to
    bf16 on the way, which is the one thing that it does not take as it is: ours stand there
    afterwards, for the logits."""
    wrong = []
    for layer, block in enumerate(model.model.layers):
        if not hasattr(block.mlp, "experts"):
            return
        prefix = f"model.layers.{layer}.block_sparse_moe.experts."
        w1, w2, w3 = ([decoded[f"{prefix}{e}.{part}.weight"] for e in range(model.config.num_local_experts)]
                      for part in ("w1", "w2", "w3"))
        ours = {"gate_up_proj": torch.stack([torch.cat(pair) for pair in zip(w1, w3)]),
                "down_proj": torch.stack(w2)}
        for name, value in ours.items():
            parameter = getattr(block.mlp.experts, name)
            want = value.bfloat16().float() if rounded else value
            if not torch.equal(parameter.detach().float(), want):
                wrong.append(f"{layer}.{name}")
            parameter.data = value
    how = "rounded to bf16" if rounded else "bit by bit"
    check(not wrong, f"  the experts are ours, {how} {wrong[:3] or ''}")


def check_bytes(output, reference):
    """minmax is what bitsandbytes does itself: the same bytes and absmax."""
    stored = load_tensors(output)
    same = True
    for name, value in reference.items():
        packed, state = bnb.quantize_4bit(value, quant_type="nf4", blocksize=64)
        same = same and torch.equal(packed, stored[name])
        same = same and torch.equal(state.absmax, stored[name + ".absmax"])
        same = same and torch.equal(state.code, stored[name + ".quant_map"])
    check(same, "  every byte is as bitsandbytes writes it")


def check_case(original, text, reference, case, temp):
    layout, kind, method, flags, encoding = case
    what = " ".join([original.name, layout, kind, method, *flags])
    output, plain = temp / "quantized", temp / "float"
    report = pennyweight("quantize", original, "-o", output, "--to", layout, "--type", kind,
                         "--method", method, "--force", *flags)
    found = {t["to"] for t in report["tensors"]}
    check(encoding in found, f"{what}: {sorted(found)}")
    pennyweight("convert", output, "-o", plain, "--dtype", "f32", "--force")
    decoded = load_tensors(plain)
    if (kind, method) == ("nf4", "minmax"):
        check_bytes(output, reference)
    model = load(output)
    check_weights(model, decoded, decoded_nvfp4(output) if kind == "nvfp4" else None)
    check_experts(model, decoded, kind.startswith("int"))
    path = temp / "logits.safetensors"
    pennyweight("eval", output, "--text", text, "--tokens", 1024, "--logits", path, "--force")
    window = load_file(path)
    path.unlink()
    with torch.no_grad():
        logits = model(window["tokens"][None]).logits[0].float()
    difference = float((logits - window["logits"]).abs().max())
    check(len(window["tokens"]) > 100 and difference < TOLERANCE,
          f"  the logits are ours within {difference:.2g}")
    # Suspiciously good would be as wrong: a model that was not quantized at all.
    moved = max(float((decoded[name] - value).abs().max()) for name, value in reference.items())
    check(moved > 0, f"  it is not the original ({moved:.2g})")


def main():
    # An argument picks the cases that have it in their type.
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    text = shared_text("pd/eval.txt") or SOURCE_DIR / "LICENSE"
    ct = "compressed-tensors"
    # Another family differs in names, biases and experts, not in how a type is packed.
    others = [(ct, "int4", "rtn", ["--group-size", "32"], "int4_g32"),
              (ct, "int8_channel", "rtn", [], "int8_channel"),
              (ct, "fp8_e4m3_channel", "minmax", [], "fp8_e4m3_channel")]
    for original in models("pd-llama-4M", "pd-qwen2-4M", "pd-mixtral-4M"):
        reference = {name: tensor.float() for name, tensor in load_tensors(original).items()
                     if name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"))}
        for case in cases() if original.name == "pd-llama-4M" else others:
            if part not in case[1]:
                continue
            with scratch() as name:
                check_case(original, text, reference, case, pathlib.Path(name))
    finish()


main()
