"""Safetensors and GGUF files go both ways with equal bytes, values and metadata.

Files by PyPI safetensors and gguf are read here, and what is written here is read by them. The
values are random bits; the seed is printed.
"""

import json
import pathlib
import subprocess

import gguf
import numpy as np
import safetensors
import torch
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import load_file, save_file

import make_golden_blocks
from client import PENNYWEIGHT, check, finish, pennyweight, scratch

SEED = int(np.random.SeedSequence().entropy % 2**32)
RNG = np.random.default_rng(SEED)
SHAPES = {"scalar": [], "vector": [7], "matrix": [37, 20], "rank4": [2, 3, 4, 5], "none": [0, 4],
          "hollow": [3, 0]}


def random_bytes(count):
    return RNG.integers(0, 256, count, dtype=np.uint8).tobytes()


def fails(*args):
    """The error document of a command that has to fail."""
    done = subprocess.run([PENNYWEIGHT, *map(str, args), "--json"], capture_output=True, text=True)
    check(done.returncode == 2, f"{args[0]} {pathlib.Path(str(args[1])).name} is refused")
    return json.loads(done.stdout)["error"]


# Safetensors.


def header_of(path):
    """The JSON header of a safetensors file, and where its data begin."""
    blob = pathlib.Path(path).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]), 8 + length


def raw_tensors(path):
    """Name to dtype, shape and bytes, by PyPI safetensors, whatever the dtype."""
    parsed = safetensors.deserialize(pathlib.Path(path).read_bytes())
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in parsed}


def check_inspect(path):
    header, start = header_of(path)
    metadata = header.pop("__metadata__", {})
    result = pennyweight("inspect", path)
    want = {name: (t["dtype"].lower(), t["shape"], t["data_offsets"][1] - t["data_offsets"][0],
                   start + t["data_offsets"][0], str(path)) for name, t in header.items()}
    found = {t["name"]: (t["dtype"], t["shape"], t["bytes"], t["offset"], t["file"])
             for t in result["tensors"]}
    check(found == want, f"{path.name}: inspect lists {len(want)} tensors as they are")
    check(result["metadata"] == metadata, f"{path.name}: and {len(metadata)} keys of metadata")
    return metadata


def check_copies(path, temp):
    """One file and a folder of shards hold the same tensors, by PyPI safetensors."""
    metadata = check_inspect(path)
    want = raw_tensors(path)
    copy = temp / f"{path.stem}_copy.safetensors"
    pennyweight("convert", path, "-o", copy)
    check(raw_tensors(copy) == want, f"{path.name}: convert keeps dtype, shape and every byte")
    kept, _ = header_of(copy)
    check(kept.get("__metadata__") == {"format": "pt", **metadata}, f"{path.name}: and metadata")
    folder = temp / f"{path.stem}_folder"
    pennyweight("convert", path, "-o", folder, "--shard-size", 1000)
    shards, together = sorted(folder.glob("*.safetensors")), {}
    for shard in shards:
        together.update(raw_tensors(shard))
        kept, _ = header_of(shard)
        if kept.get("__metadata__") != {"format": "pt", **metadata}:
            check(False, f"{shard.name}: metadata")
    check(together == want, f"{path.name}: and in {len(shards)} shards")
    pennyweight("convert", folder, "-o", temp / f"{path.stem}_joined.safetensors")
    check(raw_tensors(temp / f"{path.stem}_joined.safetensors") == want, f"{path.name}: and back")
    pennyweight("split", path, "-o", temp / f"{path.stem}_split", "--shard-size", 1000)
    shards, together = sorted((temp / f"{path.stem}_split").glob("*.safetensors")), {}
    for shard in shards:
        together.update(raw_tensors(shard))
    check(together == want, f"{path.name}: split into {len(shards)} the same tensors")
    pennyweight("join", shards[0], "-o", temp / f"{path.stem}_whole.safetensors")
    check((temp / f"{path.stem}_whole.safetensors").read_bytes() == copy.read_bytes(),
          f"{path.name}: joined it is what convert writes")
    return copy


def torch_dtypes():
    names = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
             "float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn",
             "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
             "float4_e2m1fn_x2"]
    return [(name, getattr(torch, name)) for name in names]


def check_torch_file(temp):
    """Every dtype that safetensors.torch saves, in every shape."""
    tensors = {}
    for name, dtype in torch_dtypes():
        for shape_name, shape in SHAPES.items():
            if name == "float4_e2m1fn_x2" and not shape:
                continue  # two values to an element, so the last dimension doubles
            count = int(np.prod(shape, dtype=np.int64))
            data = bytearray(random_bytes(count * dtype.itemsize))
            if dtype == torch.bool:
                data = bytearray(b & 1 for b in data)
            tensor = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(
                0, dtype=torch.uint8)
            tensors[f"{name}.{shape_name}"] = tensor.view(dtype).reshape(shape)
    path = temp / "torch.safetensors"
    metadata = {"title": "ü \"quoted\" \\ \n", "empty": "", "tab\tkey": "\u2028\U0001f600"}
    save_file(tensors, path, metadata=metadata)
    copy = check_copies(path, temp)
    loaded = load_file(copy)

    def bits(t):
        return t.contiguous().reshape(-1).view(torch.uint8) if t.numel() else torch.empty(0)

    same = loaded.keys() == tensors.keys() and all(
        loaded[n].dtype == t.dtype and loaded[n].shape == t.shape
        and torch.equal(bits(loaded[n]), bits(t)) for n, t in tensors.items())
    check(same, f"torch loads {len(tensors)} tensors of {len(torch_dtypes())} dtypes back")


def check_odd_safetensors(temp):
    """Packed types that torch cannot hold, no tensors at all, and names that need escapes."""
    parts = [("f4", "F4", [6, 4], 12), ("f4 in one row", "F4", [10], 5),
             ("f6_e2m3", "F6_E2M3", [4, 4], 12), ("f6_e3m2", "F6_E3M2", [8], 6),
             ("f8_e8m0", "F8_E8M0", [5], 5), ("n\"a\\m\u00e9/\U0001f600", "I64", [2], 16)]
    check_copies(write_by_hand(temp / "packed.safetensors", parts), temp)
    across = write_by_hand(temp / "across.safetensors", [("rows of half bytes", "F4", [4, 3], 6)])
    check_inspect(across)
    error = fails("convert", across, "-o", temp / "no.safetensors")
    check(error["code"] == "unsupported" and error["tensor"] == "rows of half bytes",
          "rows that end inside a byte: listed, not copied")
    for name, metadata in (("bare", None), ("notes", {"only": "metadata"})):
        path = temp / f"{name}.safetensors"
        path.write_bytes(safetensors.serialize({}, metadata))
        check_copies(path, temp)


def write_by_hand(path, parts):
    """A safetensors file of (name, dtype, shape, bytes) with random data."""
    header, at, data = {}, 0, b""
    for name, dtype, shape, size in parts:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        data += random_bytes(size)
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


# GGUF.


def block_types():
    """Every type of blocks that gguf-py writes; llama.cpp keeps q8_1 and q8_k in memory only."""
    return [name for name in make_golden_blocks.TYPES
            if name.upper() in T.__members__ and name not in ("q8_1", "q8_k")]


def dequantize(name, blocks):
    """Rows of blocks as float32: by gguf-py, else by the definition that the golden blocks have."""
    size, _, decoder = make_golden_blocks.TYPES[name]
    with np.errstate(over="ignore"):  # MXFP4 reaches infinity
        if isinstance(decoder, T):
            return gguf.quants.dequantize(blocks, decoder)
        return decoder(blocks.reshape(-1, size)).reshape(len(blocks), -1)


def random_tensor(name, rows, cols):
    """[rows, bytes] of random blocks of a type; a few have the edge scales."""
    size, fields, _ = make_golden_blocks.TYPES[name]
    elements, _ = GGML_QUANT_SIZES[T[name.upper()]]
    count = rows * cols // elements
    blocks = np.concatenate([make_golden_blocks.random_blocks(name, size, fields, RNG)
                             for _ in range(-(-count // make_golden_blocks.BLOCKS))])[:count]
    return blocks.reshape(rows, -1)


def add_metadata(writer):
    """A key of every value type and an array of every element type; the writer's keys as text."""
    numbers = {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4000000000,
               "int32": -2000000000, "uint64": 2**64 - 1, "int64": -(2**63), "bool": True}
    want = {}
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
        want[f"test.{kind}"] = str(value).lower()
    writer.add_float32("test.float32", 0.15625)
    writer.add_float64("test.float64", -1e300)
    want.update({"test.float32": "0.15625", "test.float64": "-1e+300"})
    writer.add_string("test.string", "ü \"x\"\n\U0001f600")
    want["test.string"] = "ü \"x\"\n\U0001f600"
    for kind, values in (("ints", [1, -2, 3]), ("floats", [0.5, -1.5]), ("bools", [True, False]),
                         ("strings", ["a", "", "ü\0x"]), ("many", list(range(5000)))):
        writer.add_array(f"test.array.{kind}", values)
        want[f"test.array.{kind}"] = None
    for sub in ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "UINT64", "INT64", "FLOAT64"):
        writer.add_key_value(f"test.array.{sub}", [1, 2, 100], gguf.GGUFValueType.ARRAY,
                             sub_type=gguf.GGUFValueType[sub])
        want[f"test.array.{sub}"] = None
    return want


PLAIN = {"f32": np.float32, "f16": np.float16, "f64": np.float64, "i8": np.int8, "i16": np.int16,
         "i32": np.int32, "i64": np.int64}


def add_tensors(writer):
    """A tensor of every plain type in ranks 1 to 4, and of every block type; as (dtype, bytes)."""
    want = {}
    for name, dtype in PLAIN.items():
        for shape in ([5], [3, 8], [2, 3, 4], [2, 1, 3, 2]):
            count = int(np.prod(shape))
            tensor = np.frombuffer(random_bytes(count * np.dtype(dtype).itemsize), dtype)
            key = f"{name}.rank{len(shape)}"
            writer.add_tensor(key, tensor.reshape(shape))
            want[key] = (name, shape, tensor.tobytes())
    bf16 = np.frombuffer(random_bytes(3 * 8 * 2), np.uint8).reshape(3, 16)
    writer.add_tensor("bf16.rank2", bf16, raw_dtype=T.BF16)
    want["bf16.rank2"] = ("bf16", [3, 8], bf16.tobytes())
    for name in block_types():
        blocks = random_tensor(name, 6, 1024)
        for shape in ([6], [2, 3]):
            key = f"{name}.rank{len(shape) + 1}"
            writer.add_tensor(key, blocks.reshape(*shape, -1), raw_dtype=T[name.upper()])
            want[key] = (name, [*shape, 1024], blocks.tobytes())
    return want


def write_file(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fields_of(reader):
    """Key to types and bytes of the value, without the counts of the header."""
    return {name: (tuple(field.types), b"".join(bytes(p) for p in field.parts[2:]))
            for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def tensors_of(reader):
    return {t.name: (t.tensor_type.name.lower(), [int(d) for d in reversed(t.shape)],
                     t.data.tobytes()) for t in reader.tensors}


def check_gguf(temp):
    path = temp / "all.gguf"
    writer = gguf.GGUFWriter(path, "unheard-of")
    metadata = {**add_metadata(writer), "general.architecture": "unheard-of"}
    tensors = add_tensors(writer)
    write_file(writer)

    result = pennyweight("inspect", path)
    listed = {t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in result["tensors"]}
    check(listed == {n: (d, s, len(b)) for n, (d, s, b) in tensors.items()},
          f"inspect lists {len(tensors)} tensors of {len(block_types())} block types and "
          f"{len(PLAIN) + 1} plain ones")
    blob = path.read_bytes()
    check(all(blob[t["offset"] : t["offset"] + t["bytes"]] == tensors[t["name"]][2]
              for t in result["tensors"]), "and where their bytes are")
    said = result["metadata"]
    wrong = {k: (said.get(k), v) for k, v in metadata.items()
             if k not in said or (v is not None and said[k] != v)}
    check(said.keys() == metadata.keys() and not wrong, f"and {len(said)} keys {wrong or ''}")
    check("1, -2, 3" in said["test.array.ints"] and "5000" in said["test.array.many"],
          "short arrays are shown, long ones counted")

    copy = temp / "copy.gguf"
    pennyweight("convert", path, "-o", copy)
    before, after = gguf.GGUFReader(path), gguf.GGUFReader(copy)
    check(tensors_of(after) == tensors, "convert to GGUF keeps names, types, shapes and bytes")
    kept = fields_of(after)
    check(all(kept.get(k) == v for k, v in fields_of(before).items()), "and every key")
    added = set(kept) - set(metadata)
    check(added == {"general.file_type", "general.quantization_version", "pennyweight.version"},
          f"and adds its own: {sorted(added)}")

    pennyweight("convert", path, "-o", temp / "floats.safetensors", "--dtype", "f32")
    floats = load_file(temp / "floats.safetensors")
    check(floats.keys() == tensors.keys(), "convert --dtype f32 keeps the names")
    for name in block_types():
        for rank in (2, 3):
            _, shape, data = tensors[f"{name}.rank{rank}"]
            blocks = np.frombuffer(data, np.uint8).reshape(6, -1)
            want = dequantize(name, blocks).reshape(shape)
            found = floats[f"{name}.rank{rank}"].numpy()
            check(found.dtype == np.float32 and found.shape == want.shape
                  and found.tobytes() == want.tobytes(), f"{name} rank {rank}: equals gguf-py")


def check_family(temp):
    """A llama: Hugging Face's names and row order, whatever the type of the blocks."""
    heads, hidden = 4, 256
    for name in block_types():
        path = temp / f"llama_{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(hidden)
        writer.add_head_count(heads)
        writer.add_layer_norm_rms_eps(1e-5)
        blocks = random_tensor(name, hidden, hidden)
        writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=T[name.upper()])
        write_file(writer)
        output = temp / f"llama_{name}.safetensors"
        pennyweight("convert", path, "-o", output, "--dtype", "f32")
        found = load_file(output)
        values = dequantize(name, blocks)
        pairs = values.reshape(heads, hidden // heads // 2, 2, hidden).swapaxes(1, 2)
        want = np.ascontiguousarray(pairs).reshape(hidden, hidden)
        key = "model.layers.0.self_attn.q_proj.weight"
        check(list(found) == [key] and found[key].numpy().tobytes() == want.tobytes(),
              f"{name} in a llama: rows as transformers has them")


def small_model(path, alignment=None, **options):
    """A few random tensors; the values by name."""
    writer = gguf.GGUFWriter(path, "unheard-of", **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_string("test.note", "kept")
    tensors = {f"t{i}": RNG.standard_normal((4, 40 + i), np.float32) for i in range(7)}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    write_file(writer)
    return tensors


def check_split_and_endian(temp):
    tensors = small_model(temp / "parts.gguf", split_max_tensors=3)
    parts = sorted(temp.glob("parts-*.gguf"))
    check([p.name for p in parts] == [f"parts-0000{i}-of-00003.gguf" for i in (1, 2, 3)],
          "gguf-py splits into three files")
    for part in parts:
        result = pennyweight("inspect", part)
        check({t["name"] for t in result["tensors"]} == tensors.keys()
              and result["metadata"].get("test.note") == "kept", f"{part.name}: the whole model")
    pennyweight("convert", parts[0], "-o", temp / "whole.safetensors")
    whole = load_file(temp / "whole.safetensors")
    check(whole.keys() == tensors.keys() and all(
        whole[n].numpy().tobytes() == v.tobytes() for n, v in tensors.items()),
        "and its values")
    pennyweight("join", parts[2], "-o", temp / "joined.gguf")
    joined = gguf.GGUFReader(temp / "joined.gguf")
    check({n: b for n, (_, _, b) in tensors_of(joined).items()}
          == {n: v.tobytes() for n, v in tensors.items()}, "join: equal tensors by gguf-py")
    check(set(joined.fields) == {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count",
                                 "general.architecture", "test.note"}, "and no key of the parts")
    parts[1].rename(temp / "elsewhere.gguf")
    error = fails("inspect", parts[0])
    check(error["code"] == "shard_missing" and error["file"] == str(parts[1]),
          "a missing part is named")

    small_model(temp / "odd.gguf", alignment=128)
    before = gguf.GGUFReader(temp / "odd.gguf")
    files = pennyweight("split", temp / "odd.gguf", "-o", temp / "p", "--shard-size", 1500)["files"]
    together = {}
    for number, row in enumerate(files):
        part = gguf.GGUFReader(row["file"])
        check([part.fields[f"split.{k}"].contents() for k in ("no", "count", "tensors.count")]
              == [number, len(files), 7], f"gguf-py reads part {number + 1} of {len(files)}")
        together.update(tensors_of(part))
        if number == 0:
            kept = {k: v for k, v in fields_of(part).items() if not k.startswith("split.")}
            check(kept == fields_of(before), "the first one has the metadata, alignment too")
    check(len(files) > 2 and together == tensors_of(before), "and finds every tensor in them")
    pennyweight("join", files[1]["file"], "-o", temp / "again.gguf")
    check((temp / "again.gguf").read_bytes() == (temp / "odd.gguf").read_bytes(),
          "joined, it is the file that gguf-py wrote")

    small_model(temp / "big.gguf", endianess=gguf.GGUFEndian.BIG)
    for command in (["inspect"], ["convert", "-o", temp / "no.safetensors"]):
        error = fails(command[0], temp / "big.gguf", *command[1:])
        check(error["code"] == "unsupported" and "big-endian" in error["message"]
              and error["hint"], f"{command[0]}: big-endian is recognised")


def main():
    print(f"seed {SEED}")
    for work in (check_torch_file, check_odd_safetensors, check_gguf, check_family,
                 check_split_and_endian):
        print(f"== {work.__name__}")
        with scratch() as temp:
            work(pathlib.Path(temp))
    finish()


main()
