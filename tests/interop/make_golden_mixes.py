#!/usr/bin/env python3
"""Makes testdata/golden/mixes.txt: the type that llama.cpp's quantizer gives to each tensor, for
every mix, on models of several architectures and shapes.

The models are crafted here: real names and counts, but few and short rows. llama-quantize --dry-run
prints its decisions without reading a weight. Read by tests/quant/mix_golden_test.cc.

Lines of the file (words separated by blanks):
  model NAME ARCHITECTURE LAYERS HEADS KV_HEADS EXPERTS
  tensor PATTERN COUNT DIM...      {} in PATTERN is the layer; shape as [.., rows, cols]
  left PATTERN COUNT DIM...        the same, for tensors that llama.cpp never quantizes
  run MIX plain|imatrix|pure|override DEFAULT [PATTERN=TYPE*COUNT,TYPE*COUNT..]...
A run belongs to the model above it. Tensors that are not named have the type DEFAULT. "override" is
with OVERRIDE below. A run that llama-quantize refuses (no stand-in for a shape) is not listed.

Needs numpy and gguf from PyPI. Usage: make_golden_mixes.py LLAMA_QUANTIZE OUTPUT
"""
import collections
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np

MIXES = """q1_0 q2_0 q2_k q2_k_s q3_k_s q3_k_m q3_k_l q4_0 q4_1 q4_k_s q4_k_m q5_0 q5_1 q5_k_s q5_k_m
q6_k q8_0 iq1_s iq1_m iq2_xxs iq2_xs iq2_s iq2_m iq3_xxs iq3_xs iq3_s iq3_m iq4_nl iq4_xs tq1_0
tq2_0 mxfp4_moe f16 bf16""".split()

# Which matrices --tensor-type takes from the mix: the counters of the mix must not see them.
OVERRIDE = r"blk\.(0|2|5)\.(attn_v|attn_qkv|ffn_down.*)\.weight=q8_0"
OVERRIDDEN = ("dense_32_groups_4", "mixtral_32", "phi3_32")

Model = collections.namedtuple("Model", "name arch layers heads kv_heads experts tensors pure")


def llama(name, layers, heads, kv_heads, cols=256, ffn=256, tied=False, pure=False, arch="llama"):
    blk = "blk.{}."
    tensors = [("token_embd.weight", 1, [8, cols]), ("output_norm.weight", 1, [cols])]
    if not tied:
        tensors.append(("output.weight", 1, [8, cols]))
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
        tensors.append((blk + part + ".weight", layers, [4, cols]))
    tensors.append((blk + "ffn_down.weight", layers, [4, ffn]))
    for part in ("attn_norm", "ffn_norm"):
        tensors.append((blk + part + ".weight", layers, [cols]))
    return Model(name, arch, layers, heads, kv_heads, 0, tensors, pure)


def experts(name, arch, layers, heads, kv_heads, count, shared=False, mla=False):
    model = llama(name, layers, heads, kv_heads, arch=arch)
    blk = "blk.{}."
    tensors = [t for t in model.tensors if "ffn_" not in t[0] or "norm" in t[0]]
    tensors.append((blk + "ffn_gate_inp.weight", layers, [count, 256]))
    for part in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
        tensors.append((blk + part + ".weight", layers, [count, 2, 256]))
    if shared:
        tensors.append((blk + "ffn_gate_inp_shexp.weight", layers, [256]))
        for part in ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"):
            tensors.append((blk + part + ".weight", layers, [4, 256]))
    if mla:  # the older files, with kv_b in one
        tensors = [t for t in tensors if not re.search(r"attn_[kv]\.", t[0])]
        for part in ("attn_kv_a_mqa", "attn_kv_b"):
            tensors.append((blk + part + ".weight", layers, [4, 256]))
        tensors.append((blk + "attn_kv_a_norm.weight", layers, [256]))
    return model._replace(experts=count, tensors=tensors)


def fused(name, arch, layers, heads, kv_heads, gated):
    model = llama(name, layers, heads, kv_heads, arch=arch, tied=not gated)
    blk = "blk.{}."
    gone = ("attn_q.", "attn_k.", "attn_v.", "ffn_gate.")
    tensors = [t for t in model.tensors if not any(g in t[0] for g in gone)]
    tensors.append((blk + "attn_qkv.weight", layers, [12, 256]))
    return model._replace(tensors=tensors, pure=True)


MODELS = [
    llama("dense_4", 4, 8, 4, pure=True),
    llama("dense_32_groups_4", 32, 32, 8),
    llama("dense_32_tied", 32, 8, 8, tied=True),
    llama("dense_80", 80, 64, 8),
    llama("dense_80_no_groups", 80, 64, 64),
    llama("qwen2_80", 80, 64, 8, arch="qwen2"),
    llama("ragged_64", 8, 8, 2, cols=64, ffn=160, pure=True),
    llama("ragged_172", 8, 8, 2, cols=320, ffn=172, tied=True, pure=True),
    experts("mixtral_32", "llama", 32, 32, 8, 8),
    experts("mixtral_4", "llama", 4, 8, 4, 4),
    experts("qwen2moe_24", "qwen2moe", 24, 16, 16, 60, shared=True),
    experts("deepseek2_27", "deepseek2", 27, 16, 16, 64, shared=True, mla=True),
    fused("phi3_32", "phi3", 32, 32, 32, gated=True),
    fused("falcon_32", "falcon", 32, 71, 1, gated=False),
]


def write_model(model, path):
    writer = gguf.GGUFWriter(path, model.arch)
    writer.add_block_count(model.layers)
    writer.add_context_length(512)
    writer.add_embedding_length(32 * model.heads)
    writer.add_feed_forward_length(256)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(8)
    writer.add_rope_dimension_count(32)
    if model.experts:
        writer.add_expert_count(model.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(256)
        writer.add_expert_shared_feed_forward_length(256)
        writer.add_expert_shared_count(1)
        writer.add_leading_dense_block_count(1)
        writer.add_expert_weights_scale(1.0)
        writer.add_kv_lora_rank(256)
        writer.add_key_length_mla(32)
        writer.add_value_length_mla(32)
    writer.add_tokenizer_model("none")
    for pattern, count, shape in model.tensors:
        for layer in range(count):
            writer.add_tensor(pattern.replace("{}", str(layer)), np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_imatrix(path):
    writer = gguf.GGUFWriter(path, "none")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["made up"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 256), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LINE = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\S+), size = .*?(?:\((\w+)\))?$")


def decisions(quantize, flags, path, mix):
    """Type by tensor name; None when the quantizer refuses."""
    result = subprocess.run([quantize, "--dry-run", *flags, path, mix.upper()],
                            capture_output=True, text=True)
    text = result.stdout + result.stderr
    if result.returncode != 0:
        if "no tensor type fallback is defined" in text:
            return None
        sys.exit(f"{mix}: {text[-2000:]}")
    types = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            types[match[1]] = (match[3] or match[2]).lower()
    return types


def left_alone(pattern, shape):
    return len(shape) < 2 or "ffn_gate_inp" in pattern


def write_run(out, model, mix, how, types):
    total = sum(count for _, count, _ in model.tensors)
    assert len(types) == total, f"{model.name} {mix}: {len(types)} of {total} tensors"
    default = collections.Counter(
        types[pattern.replace("{}", str(layer))] for pattern, count, shape in model.tensors
        for layer in range(count) if not left_alone(pattern, shape)).most_common(1)[0][0]
    words = []
    for pattern, count, shape in model.tensors:
        if left_alone(pattern, shape):
            assert types[pattern.replace("{}", "0")] == "f32", pattern
            continue
        row = [types[pattern.replace("{}", str(layer))] for layer in range(count)]
        if any(t != default for t in row):
            runs = [f"{t}*{len(list(group))}" for t, group in itertools.groupby(row)]
            words.append(pattern + "=" + ",".join(runs))
    out.write(" ".join(["run", mix, how, default, *words]) + "\n")


def main():
    quantize, output = sys.argv[1:3]
    runs = 0
    with tempfile.TemporaryDirectory() as folder, open(output, "w") as out:
        imatrix = str(pathlib.Path(folder) / "imatrix.gguf")
        write_imatrix(imatrix)
        for model in MODELS:
            path = str(pathlib.Path(folder) / (model.name + ".gguf"))
            write_model(model, path)
            out.write(f"model {' '.join(str(x) for x in model[:6])}\n")
            for pattern, count, shape in model.tensors:
                word = "left" if left_alone(pattern, shape) else "tensor"
                out.write(f"{word} {pattern} {count} {' '.join(map(str, shape))}\n")
            ways = {"plain": [], "imatrix": ["--imatrix", imatrix]}
            if model.name in OVERRIDDEN:
                ways["override"] = ["--tensor-type", OVERRIDE]
            if model.pure:
                ways["pure"] = ["--pure"]
            for mix, (how, flags) in itertools.product(MIXES, ways.items()):
                if how == "override" and mix in ("f16", "bf16"):
                    continue  # llama.cpp does not look at --tensor-type there
                types = decisions(quantize, flags, path, mix)
                if types is not None:
                    write_run(out, model, mix, how, types)
                    runs += 1
    print(f"{len(MODELS)} models, {runs} runs")


if __name__ == "__main__":
    main()
