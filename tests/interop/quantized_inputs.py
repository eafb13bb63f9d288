"""Checkpoints that others have quantized, as pennyweight decodes them, against other decoders.

Every kind is written here from the weights of a small model with random scales, by the library that
owns the layout where it runs on a CPU (compressed-tensors, bitsandbytes), else by the layout's
definition; pennyweight converts it to float32, and every value is compared with what that library
(or transformers) decodes. GPTQ and AWQ have no decoder that installs everywhere: theirs are below,
in numpy, checked against published words.
"""

import json
import pathlib
import shutil

import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from client import check, finish, load_config, load_tensors, models, pennyweight, scratch

try:
    import bitsandbytes.functional as bnb
except ImportError:
    bnb = None

RNG = np.random.default_rng()


def is_linear(name, tensor):
    return name.endswith("_proj.weight") and tensor.dim() == 2


class Case:
    """A checkpoint: parts and expected values of the linears, everything else as it is."""

    def __init__(self, name, config, encoding):
        self.name = name
        self.config = config
        self.encoding = encoding
        self.parts = {}
        self.expected = {}

    def add(self, name, parts, value):
        self.parts.update(parts)
        self.expected[name] = value.detach().float().numpy()


def words(stream):
    return torch.from_numpy(np.ascontiguousarray(stream).view(np.int32))


def pack_stream(values, bits):
    """[R, C] to [R, ceil(C bits / 32)]: value i is the bits [i bits, (i + 1) bits)."""
    binary = (values[:, :, None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
    binary = binary.reshape(values.shape[0], -1)
    binary = np.pad(binary, ((0, 0), (0, -binary.shape[1] % 32)))
    fields = binary.reshape(values.shape[0], -1, 32).astype(np.uint64)
    return (fields << np.arange(32, dtype=np.uint64)).sum(2).astype(np.uint32)


def unpack_stream(stream, bits, count):
    """The inverse, one value at a time from a Python integer: another way than packing."""
    out = np.zeros((stream.shape[0], count), np.int64)
    for r, row in enumerate(stream):
        number = int.from_bytes(np.ascontiguousarray(row).tobytes(), "little")
        out[r] = [(number >> (i * bits)) & ((1 << bits) - 1) for i in range(count)]
    return out


def check_golden():
    check(pack_stream(np.arange(8)[None], 4)[0, 0] == 0x76543210, "golden: 4 bits")
    check(pack_stream(np.arange(4)[None], 8)[0, 0] == 0x03020100, "golden: 8 bits")
    check(pack_stream(np.arange(16)[None] % 4, 2)[0, 0] == 0xE4E4E4E4, "golden: 2 bits")
    three = pack_stream(np.arange(32)[None] % 8, 3)[0]
    check(list(three) == [0x88FAC688, 0xC688FAC6, 0xFAC688FA], "golden: 3 bits")
    awq = awq_pack(np.arange(8)[None])
    check(awq[0, 0] == 0x75316420, "golden: AWQ")


def awq_pack(values):
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    fields = values.reshape(values.shape[0], -1, 8)[:, :, order].astype(np.uint64)
    return (fields << np.arange(0, 32, 4, dtype=np.uint64)).sum(2).astype(np.uint32)


def random_integers(weight, bits, group, symmetric, dtype, act_order=False):
    """Codes of a weight [N, K] and random zeros, with scales near its own; then what they mean."""
    n, k = weight.shape
    group = group or k
    groups = k // group
    g_idx = np.arange(k) // group
    if act_order:
        g_idx = RNG.permutation(g_idx)
    spread = weight.abs().max().item() / 2 ** (bits - 1)
    scales = torch.from_numpy(RNG.uniform(0.3, 1.2, (groups, n)) * spread).to(dtype)
    half = 1 << (bits - 1)
    zeros = np.full((groups, n), half) if symmetric else RNG.integers(1, 2**bits, (groups, n))
    s = scales.float().numpy()[g_idx].T
    z = zeros[g_idx].T
    codes = np.clip(np.rint(weight.float().numpy() / s) + z, 0, 2**bits - 1).astype(np.int64)
    value = (codes - z).astype(np.float32) * s
    return codes, zeros, scales, g_idx.astype(np.int32), torch.from_numpy(value)


def gptq_case(weights, bits, group, symmetric, version, dtype, act_order, labelled):
    """`version`: how zero points are stored; `labelled`: what checkpoint_format says."""
    sizes = f"g{group}" if group else "channel"
    encoding = f"int{bits}_{sizes}" + ("" if symmetric else "_asym") + ("_actorder" if act_order else "")
    config = {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "sym": symmetric,
              "desc_act": act_order, "checkpoint_format": "gptq_v2" if labelled == 2 else "gptq"}
    case = Case(f"GPTQ v{version} labelled v{labelled} {encoding} {dtype}", config, encoding)
    for name, weight in weights.items():
        codes, zeros, scales, g_idx, value = random_integers(weight, bits, group, symmetric, dtype,
                                                             act_order)
        stored = zeros - (1 if version == 1 else 0)
        packed = pack_stream(codes, bits)
        assert np.array_equal(unpack_stream(packed[:2], bits, codes.shape[1]), codes[:2])
        prefix = name.removesuffix(".weight")
        case.add(name, {
            prefix + ".qweight": words(packed.T), prefix + ".qzeros": words(pack_stream(stored, bits)),
            prefix + ".scales": scales, prefix + ".g_idx": torch.from_numpy(g_idx)}, value)
    return case


def awq_case(weights, group, symmetric):
    encoding = f"int4_g{group}" + ("" if symmetric else "_asym")
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True,
              "version": "gemm"}
    case = Case(f"AWQ {encoding}", config, encoding)
    for name, weight in weights.items():
        codes, zeros, scales, _, value = random_integers(weight, 4, group, symmetric, torch.float16)
        prefix = name.removesuffix(".weight")
        case.add(name, {prefix + ".qweight": words(awq_pack(codes.T)),
                        prefix + ".qzeros": words(awq_pack(zeros)), prefix + ".scales": scales}, value)
    return case


def ct_config(args, format_name):
    weights = {key: value for key, value in args.items()}
    return {"quant_method": "compressed-tensors", "format": format_name,
            "quantization_status": "compressed", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                          "input_activations": None, "output_activations": None}}}


def ct_case(weights, format_name, args, encoding, scale_of, zeros_of=None, more_of=None):
    """compressed-tensors compresses and decompresses; ours has to give what it gives in float32."""
    case = Case(f"compressed-tensors {format_name} {encoding}", ct_config(args, format_name), encoding)
    compressor = BaseCompressor.get_value_from_registry(format_name)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    for name, weight in weights.items():
        state = {"weight": weight.float(), "weight_scale": scale_of(weight.float())}
        if zeros_of:
            state["weight_zero_point"] = zeros_of(state["weight_scale"])
        if more_of:
            state.update(more_of(weight.float()))
        parts = compressor.compress(dict(state), scheme)
        value = compressor.decompress(dict(parts), scheme)["weight"]
        if format_name.startswith("nvfp4"):
            # The compressor decodes to bfloat16; its own two steps, in float32.
            codes = unpack_fp4_from_uint8(parts["weight_packed"], *weight.shape).float()
            value = dequantize(codes, parts["weight_scale"].float(), args=scheme.weights,
                               global_scale=parts["weight_global_scale"])
        prefix = name.removesuffix("weight")
        case.add(name, {prefix + key: part.contiguous() for key, part in parts.items()}, value)
    return case


def group_scales(group, bits):
    def scales(weight):
        n, k = weight.shape
        blocks = weight.reshape(n, k // (group or k), -1)
        return blocks.abs().amax(2) / (2**bits - 1) * 2
    return scales


def ct_cases(weights):
    for bits in (2, 3, 4, 5, 6, 7, 8):
        args = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "group",
                "group_size": 32}
        yield ct_case(weights, "pack-quantized", args, f"int{bits}_g32", group_scales(32, bits))
    for bits in (4, 8):
        half = 1 << (bits - 1)
        args = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group",
                "group_size": 64}
        zeros = lambda s: torch.from_numpy(RNG.integers(-half, half, tuple(s.shape))).to(torch.int8)
        yield ct_case(weights, "pack-quantized", args, f"int{bits}_g64_asym", group_scales(64, bits),
                      zeros)
    args = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    yield ct_case(weights, "int-quantized", args, "int8_channel", group_scales(0, 8))
    args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
    absmax = lambda w: w.abs().amax(1, keepdim=True) / 448
    yield ct_case(weights, "float-quantized", args, "fp8_e4m3_channel", absmax)
    args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
    yield ct_case(weights, "float-quantized", args, "fp8_e4m3_tensor",
                  lambda w: (w.abs().max() / 448).reshape(1))
    args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block",
            "block_structure": [128, 128]}
    yield ct_case(weights, "float-quantized", args, "fp8_e4m3_b128x128",
                  lambda w: block_absmax(w) / 448)
    args = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group",
            "group_size": 16, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
    world = lambda w: 448 * 6 / w.abs().max()
    local = lambda w: (world(w) * w.reshape(w.shape[0], -1, 16).abs().amax(2) / 6).to(
        torch.float8_e4m3fn).float()
    yield ct_case(weights, "nvfp4-pack-quantized", args, "fp4_e2m1_b1x16", local, None,
                  lambda w: {"weight_global_scale": world(w).reshape(1)})
    args = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32,
            "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
    power = lambda w: torch.exp2(torch.floor(torch.log2(
        w.reshape(w.shape[0], -1, 32).abs().amax(2))) - 2)
    yield ct_case(weights, "mxfp4-pack-quantized", args, "mxfp4", power)


def block_absmax(weight):
    n, k = weight.shape
    padded = torch.nn.functional.pad(weight.abs(), (0, -k % 128, 0, -n % 128))
    return padded.reshape(-(-n // 128), 128, -(-k // 128), 128).amax((1, 3))


def fp8_cases(weights):
    for dtype, name, most in ((torch.float8_e4m3fn, "e4m3", 448), (torch.float8_e5m2, "e5m2", 57344)):
        for scale_type in (torch.float32, torch.bfloat16, torch.float8_e8m0fnu):
            config = {"quant_method": "fp8", "fmt": name, "activation_scheme": "dynamic",
                      "weight_block_size": [96, 80]}
            # Blocks that leave a rest in both directions.
            case = Case(f"fp8 {name} blocks, {scale_type}", config, f"fp8_{name}_b96x80")
            for key, weight in weights.items():
                n, k = weight.shape
                scale = torch.from_numpy(RNG.uniform(0.5, 2, (-(-n // 96), -(-k // 80))))
                scale = (scale * weight.abs().max().item() / most).float().to(scale_type)
                wide = scale.float().repeat_interleave(96, 0)[:n].repeat_interleave(80, 1)[:, :k]
                coded = (weight.float() / wide).clamp(-most, most).to(dtype)
                case.add(key, {key: coded, key + "_scale_inv": scale}, coded.float() * wide)
            yield case
    for shape in ((), (1,), (-1, 1), (-1,)):
        case = Case(f"fp8 with scales {shape}", {"quant_method": "fbgemm_fp8"},
                    "fp8_e4m3_channel" if -1 in shape else "fp8_e4m3_tensor")
        for key, weight in weights.items():
            count = weight.shape[0] if -1 in shape else 1
            scale = torch.from_numpy(RNG.uniform(0.5, 2, count)).float() * weight.abs().max() / 448
            coded = (weight.float() / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
            case.add(key, {key: coded, key + "_scale": scale.reshape(shape),
                           key.removesuffix("weight") + "input_scale": torch.ones(1)},
                     coded.float() * scale[:, None])
        yield case


def bnb_cases(weights):
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            for storage in (torch.uint8, torch.bfloat16, torch.float32):
                config = {"quant_method": "bitsandbytes", "load_in_4bit": True,
                          "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
                case = Case(f"bitsandbytes {kind} {'nested ' if nested else ''}in {storage}", config,
                            f"{kind}_b64" + ("_nested" if nested else ""))
                for key, weight in weights.items():
                    packed, state = bnb.quantize_4bit(weight.float(), quant_type=kind, blocksize=64,
                                                      compress_statistics=nested,
                                                      quant_storage=storage)
                    parts = {key: packed}
                    parts.update({f"{key}.{name}": part
                                  for name, part in state.as_dict(packed=True).items()})
                    case.add(key, parts, bnb.dequantize_4bit(packed, state))
                yield case
    case = Case("bitsandbytes LLM.int8", {"quant_method": "bitsandbytes", "load_in_8bit": True},
                "int8_absmax")
    for key, weight in weights.items():
        absmax = weight.float().abs().amax(1)
        codes = torch.round(weight.float() * 127 / absmax[:, None]).to(torch.int8)
        prefix = key.removesuffix("weight")
        case.add(key, {key: codes, prefix + "SCB": absmax,
                       prefix + "weight_format": torch.tensor(0, dtype=torch.uint8)},
                 bnb.int8_vectorwise_dequant(codes, absmax))
    yield case


def write(case, original, folder):
    folder.mkdir()
    for path in original.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    config = load_config(original)
    config["quantization_config"] = case.config
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    plain = {name: t for name, t in load_tensors(original).items() if name not in case.expected}
    save_file({**plain, **case.parts}, folder / "model.safetensors", metadata={"format": "pt"})


def ulps(ours, theirs):
    """The largest distance in units in the last place; NaN and infinities have to be the same."""
    finite = np.isfinite(theirs)
    if not np.array_equal(finite, np.isfinite(ours)):
        return np.inf
    away = np.abs(ours[finite].astype(np.float64) - theirs[finite])
    return float((away / np.spacing(np.abs(theirs[finite]))).max(initial=0))


def check_case(case, original, temp):
    folder, out = temp / "quantized", temp / "float"
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    write(case, original, folder)
    listed = {t["name"]: t for t in pennyweight("inspect", folder)["tensors"]}
    names = {listed.get(name, {}).get("dtype") for name in case.expected}
    check(names == {case.encoding}, f"{case.name}: listed as {names}")
    shapes = all(listed[name]["shape"] == list(value.shape) for name, value in case.expected.items())
    check(shapes and len(listed) == len(load_tensors(original)), "  with the weights' own shapes")
    pennyweight("convert", folder, "-o", out, "--dtype", "f32")
    ours = load_tensors(out)
    worst = max(ulps(ours[name].numpy(), value) for name, value in case.expected.items())
    check(worst <= 1, f"  {len(case.expected)} tensors differ by at most {worst:g} ulp")
    check("quantization_config" not in load_config(out), "  config.json claims nothing any more")
    # One file without a configuration: what the tensors tell.
    if case.config["quant_method"] in ("awq", "bitsandbytes", "gptq"):
        bare = {t["name"]: t["dtype"]
                for t in pennyweight("inspect", folder / "model.safetensors")["tensors"]}
        check(all(bare.get(name) == case.encoding for name in case.expected), "  and without config")


def check_gpt_oss(temp):
    """The experts of gpt-oss: transformers transposes them after decoding."""
    blocks = torch.from_numpy(RNG.integers(0, 256, (3, 160, 4, 16), dtype=np.uint8))
    scales = torch.from_numpy(RNG.integers(90, 150, (3, 160, 4), dtype=np.uint8))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    path = temp / "experts.safetensors"
    save_file({name + "_blocks": blocks, name + "_scales": scales}, path)
    listed = pennyweight("inspect", path)["tensors"]
    check([(t["name"], t["dtype"], t["shape"]) for t in listed] == [(name, "mxfp4", [3, 160, 128])],
          "gpt-oss experts are listed as mxfp4")
    pennyweight("convert", path, "-o", temp / "experts-f32.safetensors", "--dtype", "f32")
    ours = load_file(temp / "experts-f32.safetensors")[name]
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    check(ours.shape == theirs.shape and torch.equal(ours, theirs),
          f"and written as transformers has them: {tuple(ours.shape)}")


def main():
    check_golden()
    original = models("pd-llama-4M")[0]
    weights = {name: t for name, t in load_tensors(original).items() if is_linear(name, t)}
    # A few are enough for the slow ones; both shapes of matrices are among them.
    few = dict(list(weights.items())[:5])
    with scratch() as name:
        temp = pathlib.Path(name)
        for bits in (2, 3, 4, 8):
            for group, act_order in ((32, False), (64, True), (0, False)):
                dtype = [torch.float16, torch.bfloat16, torch.float32][int(RNG.integers(3))]
                for version, labelled in ((1, 1), (2, 2), (2, 1)):
                    check_case(gptq_case(few, bits, group, True, version, dtype, act_order,
                                         labelled), original, temp)
                check_case(gptq_case(few, bits, group, False, 2, dtype, act_order, 2), original,
                           temp)
                # Bare files are taken to be v1, so the names agree but not the values of v2.
                check_case(gptq_case(few, bits, group, False, 1, dtype, act_order, 1), original,
                           temp)
        for symmetric in (True, False):
            for group in (32, 128):
                check_case(awq_case(weights, group, symmetric), original, temp)
        for case in fp8_cases(weights):
            check_case(case, original, temp)
        for case in ct_cases(few):
            check_case(case, original, temp)
        if bnb is None:
            print("SKIPPED bitsandbytes: not installed", flush=True)
        else:
            for case in bnb_cases(few):
                check_case(case, original, temp)
        check_gpt_oss(temp)
    finish()


main()
