"""transformers loads what we wrote and computes the logits that we compute.

Symmetric folders go through AutoModelForCausalLM as anybody would load them. Asymmetric ones cannot:
transformers (seen in 5.23 with compressed-tensors 0.20) expects the zero points of a model that it
prepares on the meta device unpacked, while the files of every writer, and vLLM, have them packed. A
folder of one config group loads there with dequantize=True; besides, each module is decompressed by
compressed-tensors' own code under the scheme that its own matching picks.

compressed-tensors multiplies in the dtype of the scales. As stored, 16-bit scales make it round every
weight to 16 bits, which moves these small models' logits by up to 5e-2; the scales are widened to
float32 before it sees them where that can be done, and else its weights are compared instead: they
have to be ours, rounded to that dtype, to the last bit.
"""

import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import match_targets
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from client import (SOURCE_DIR, check, finish, load_config, load_tensors, models, pennyweight, scratch,
                    shared_text, unpack_integers)

TOLERANCE = 2e-2


def farthest(a, b):
    return float((a - b).abs().max())


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens[None]).logits[0].float()


def ours(model, text, temp):
    """tokens [T] and logits [T, vocab] of the first window of pennyweight's own forward pass."""
    path = pathlib.Path(temp) / "logits.safetensors"
    pennyweight("eval", model, "--text", text, "--tokens", "2048", "--logits", path)
    window = load_file(path)
    path.unlink()
    return window["tokens"], window["logits"].float()


def load(folder, **options):
    """The folder as transformers loads it; complains about keys that it could not place."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options)
    left = {key: value for key, value in info.items() if value}
    check(not left, f"{pathlib.Path(folder).name}: transformers finds every key and no other {left}")
    return model


def decompressed_by_its_own_code(folder, original):
    """A dense model with each module's weight as compressed-tensors decompresses it."""
    config = QuantizationConfig.model_validate(load_config(folder)["quantization_config"])
    schemes = {target: scheme for scheme in config.config_groups.values()
               for target in scheme.targets}
    stored = load_tensors(folder)
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    state = model.state_dict()
    modules = dict(model.named_modules())
    packed = {name[: -len(".weight_packed")] for name in stored if name.endswith(".weight_packed")}
    for name, module in modules.items():
        if not isinstance(module, torch.nn.Linear):
            continue
        targets = [] if name in config.ignore else match_targets(name, module, schemes)
        check_name = bool(targets) == (name in packed)
        if not check_name:
            check(False, f"{name}: config and tensors disagree on whether it is quantized")
        if name not in packed or not targets:
            continue
        scheme = schemes[targets[0]]
        parts = {key[len(name) + 1:]: value for key, value in stored.items()
                 if key.startswith(name + ".weight_")}
        parts["weight_scale"] = parts["weight_scale"].float()
        compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
        state[name + ".weight"] = compressor.decompress(parts, scheme)["weight"].float()
    for name, value in stored.items():
        if name in state and ".weight_" not in name:
            state[name] = value.float()
    if "lm_head.weight" not in stored:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    check(len(packed) > 0, f"{len(packed)} modules decompressed by compressed-tensors")
    return model


def check_rounded_weights(what, folder, model):
    """A model that was dequantized in the scales' dtype has our weights, rounded to it."""
    stored = load_tensors(folder)
    state = model.state_dict()
    compared = equal = 0
    for name in stored:
        if not name.endswith("_packed"):
            continue
        weight = name[: -len("_packed")]
        ours_rounded = torch.from_numpy(unpack_integers(stored, weight)).to(
            stored[weight + "_scale"].dtype)
        compared += 1
        equal += torch.equal(state[weight].float(), ours_rounded.float())
    check(compared > 0 and equal == compared,
          f"{what}: {equal} of {compared} weights are those of transformers, dequantize=True")


def check_model(original, text, group_size):
    with scratch() as temp:
        tokens, logits = ours(original, text, temp)
        reference = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
        expected = logits_of(reference, tokens)
        difference = farthest(logits, expected)
        check(len(tokens) > 100 and difference < TOLERANCE,
              f"{original.name}: {len(tokens)} tokens, our logits are torch's within {difference:.2g}")
        for type_name, flags in (("int4", []), ("int4", ["--asymmetric"]), ("int8", [])):
            what = " ".join([original.name, type_name, *flags])
            output = pathlib.Path(temp) / "-".join([type_name, *[f.strip("-") for f in flags]])
            pennyweight("quantize", original, "-o", output, "--to", "compressed-tensors",
                        "--type", type_name, "--group-size", group_size, "--method", "rtn", *flags)
            our_tokens, our_logits = ours(output, text, temp)
            check(torch.equal(our_tokens, tokens), f"{what}: the same tokens")
            groups = load_config(output)["quantization_config"]["config_groups"]
            theirs = {"compressed-tensors": decompressed_by_its_own_code(output, original)}
            if not flags:
                theirs["transformers"] = load(output)
            elif len(groups) == 1:
                check_rounded_weights(what, output, load(
                    output, quantization_config=CompressedTensorsConfig(dequantize=True)))
            for client, model in theirs.items():
                difference = farthest(our_logits, logits_of(model, tokens))
                check(difference < TOLERANCE, f"{what}: logits as by {client} ({difference:.2g})")
            # Suspiciously good would be as wrong: a model that was not quantized at all.
            check(farthest(our_logits, expected) > 10 * difference,
                  f"{what}: it is not the original ({farthest(our_logits, expected):.2g})")


def main():
    texts = {"stories260K": "tinystories-eval.txt", "pd-llama-4M": "pd/eval.txt"}
    for folder in models("stories260K", "pd-llama-4M"):
        text = shared_text(texts[folder.name])
        if text is None:
            text = SOURCE_DIR / "LICENSE"  # logits agree on any text that is long enough
        check_model(folder, text, 32)
    finish()


main()
