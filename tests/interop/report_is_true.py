"""Every error in a report is true of the file: decode the output with other people's code, read the
original with safetensors, recompute each tensor's weight_rel_mse."""

import base64
import json
import pathlib

import numpy as np

from client import (check, finish, load_config, load_tensors, models, pennyweight, scratch, to_float,
                    unpack_integers)

TOLERANCE = 1e-6  # relative
ROUNDING = 1e-14  # of squares: a scale that was divided out and multiplied in again as f32


def heads_of(config, role):
    heads = config["num_attention_heads"]
    return heads if role == "attn_q" else config.get("num_key_value_heads") or heads


def decode_gguf(path, config):
    """Values of a GGUF file under their stored names, in Hugging Face's row order."""
    import gguf

    reader = gguf.GGUFReader(path)
    values = {}
    for tensor in reader.tensors:
        shape = [int(d) for d in reversed(tensor.shape)]
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        value = np.asarray(value, np.float32).reshape(shape)
        for part, role in (("attn_q.", "attn_q"), ("attn_k.", "attn_k")):
            # llama.cpp turns pairs of neighbours in a llama, halves of a head in a qwen2.
            if part in tensor.name and config["model_type"] != "qwen2":
                # Row (h, 2 i + p) of the file is row (h, p * head_dim / 2 + i) of the original.
                heads = heads_of(config, role)
                rows = value.reshape(heads, shape[0] // heads // 2, 2, -1)
                value = rows.swapaxes(1, 2).reshape(shape)
        values[tensor.name] = value
    return values


def decode_compressed_tensors(folder):
    parts = load_tensors(folder)
    values = {}
    for name, tensor in parts.items():
        if name.endswith("_packed"):
            values[name] = unpack_integers(parts, name[: -len("_packed")])
        elif not name.endswith(("_scale", "_zero_point", "_shape")):
            values[name] = to_float(tensor)
    return values


def read_folds(output):
    """The record of what was folded into an output (lib/fold_record.h), or nothing."""
    if output.is_dir():
        file = output / "pennyweight.folds.json"
        return json.loads(file.read_text())["folds"] if file.exists() else []
    import gguf

    field = gguf.GGUFReader(output).fields.get("pennyweight.folds")
    return json.loads(field.contents())["folds"] if field is not None else []


def undo_folds(folds, name, value):
    """A matrix in the numbers of the original: reports are about those."""
    value = value.astype(np.float64)
    for fold in reversed(folds if value.ndim > 1 else []):
        raw = base64.b64decode(fold["scale"])
        scale = (np.frombuffer(raw, "<f4").astype(np.float64) if fold["encoding"] == "f32"
                 else 2.0 ** (np.frombuffer(raw, np.int8) / 16.0))
        if name in fold["divided"]:
            value = (value.T * scale).T
        if name in fold["multiplied"]:
            heads = scale.reshape(-1, fold["head_dim"])
            value = value / np.repeat(heads, fold["repeat"], axis=0).reshape(-1)
    return value


def fold_norm(folds, name, value):
    """A norm as it was folded: it is reported in the numbers that are stored, to f32 rounding."""
    for fold in folds if value.ndim == 1 else []:
        if name in fold["divided"]:
            raw = base64.b64decode(fold["scale"])
            scale = (np.frombuffer(raw, "<f4") if fold["encoding"] == "f32"
                     else 2.0 ** (np.frombuffer(raw, np.int8) / 16.0))
            value = (value / scale).astype(np.float32)
    return value


def relative_error(original, decoded):
    original = original.astype(np.float64)
    square = float((original**2).sum())
    return float(((original - decoded) ** 2).sum()) / square if square > 0 else 0.0


def close(a, b):
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) + ROUNDING


def check_output(what, original, values, result, folds):
    rows = {row["name"]: row for row in result["tensors"]}
    check(set(rows) == set(original), f"{what}: every weight of the model has a row, and no other")
    worst, worst_name, compared = 0.0, "", 0
    error_sum = square_sum = 0.0
    all_close = True
    for name, row in rows.items():
        if row["output_name"] not in values:
            check(False, f"{what}: {row['output_name']} is in the file")
            continue
        weight, decoded = to_float(original[name]), values[row["output_name"]]
        if row["expert"] is not None and decoded.ndim == 3:
            decoded = decoded[row["expert"]]
        if not check_shape(what, name, weight, decoded):
            continue
        decoded = undo_folds(folds, name, decoded)
        weight = fold_norm(folds, name, weight)
        error = relative_error(weight, decoded)
        square = float((weight.astype(np.float64) ** 2).sum())
        error_sum += error * square
        square_sum += square
        claimed = row["weight_rel_mse"]
        if claimed is None:
            check(error <= ROUNDING, f"{what}: {name} claims no error and has none ({error:.3g})")
            continue
        compared += 1
        all_close &= close(claimed, error)
        difference = abs(claimed - error) / max(error, 1e-300) if claimed != error else 0.0
        if difference > worst:
            worst, worst_name = difference, f" ({name}: {claimed:.9g} against {error:.9g})"
    check(compared > 0 and all_close,
          f"{what}: {compared} errors are true, farthest {worst:.2g}{worst_name}")
    total = result["totals"]["weight_rel_mse"]
    check(total is not None and close(total, error_sum / square_sum) and error_sum > 0,
          f"{what}: the total is true ({total} against {error_sum / square_sum:.9g})")


def check_shape(what, name, weight, decoded):
    if weight.shape == decoded.shape:
        return True
    return check(False, f"{what}: {name} has shape {decoded.shape} instead of {weight.shape}")


def main():
    runs = [
        ("gguf", "q4_k_m", ["--method", "rtn"]),
        ("gguf", "q8_0", ["--method", "rtn"]),
        ("gguf", "q4_0", ["--method", "minmax"]),
        ("gguf", "q4_k_m", ["--tokens", "4096"]),
        ("compressed-tensors", "int4", ["--method", "awq", "--tokens", "4096"]),
        ("compressed-tensors", "int4", ["--method", "rtn", "--group-size", "32"]),
        ("compressed-tensors", "int4", ["--method", "rtn", "--group-size", "32", "--asymmetric"]),
        ("compressed-tensors", "int8", ["--method", "minmax"]),
    ]
    for folder in models("pd-llama-4M", "stories260K", "pd-qwen2-4M", "pd-mixtral-4M"):
        original, config = load_tensors(folder), load_config(folder)
        for layout, type_name, flags in runs:
            what = " ".join([folder.name, layout, type_name, *flags])
            with scratch() as temp:
                output = pathlib.Path(temp) / ("m.gguf" if layout == "gguf" else "m")
                result = pennyweight("quantize", folder, "-o", output, "--to", layout,
                                     "--type", type_name, *flags)
                values = (decode_gguf(output, config) if layout == "gguf"
                          else decode_compressed_tensors(output))
                check_output(what, original, values, result, read_folds(output))
    finish()


main()
