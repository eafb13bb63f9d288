"""transformers loads what we wrote, through compressed-tensors, and computes the logits we compute.

Every folder goes through AutoModelForCausalLM as anybody would load it. compressed-tensors is pinned
at 0.17: from 0.18 to 0.20 it prepares the zero points of an asymmetric model unpacked and then refuses
the packed ones, which its own writer makes as well.
"""

import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from client import SOURCE_DIR, check, finish, models, pennyweight, scratch, shared_text

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
            pennyweight("quantize", original, "-o", output, "--type", type_name,
                        "--group-size", group_size, "--tokens", 8192, *flags)
            our_tokens, our_logits = ours(output, text, temp)
            check(torch.equal(our_tokens, tokens), f"{what}: the same tokens")
            difference = farthest(our_logits, logits_of(load(output), tokens))
            check(difference < TOLERANCE, f"{what}: logits as by transformers ({difference:.2g})")
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
