#!/usr/bin/env python3
"""Makes testdata/golden/<type>.bin: random blocks of a GGUF type and what gguf-py decodes them to;
and testdata/golden/any_bits.sha256: of every type the hash of what many more blocks decode to.

Layout of a .bin file, little-endian: the blocks (BLOCKS of them), then their values as float32.
The hashes are of float32 values, every NaN written as 0x7FC00000. Their blocks are not stored:
tests/quant/codec_test.cc makes the same ones (any_blocks here is AnyBlocks there).
Types that gguf-py does not decode are decoded here, by the definition in ggml-common.h.
Needs numpy and gguf from PyPI. Usage: make_golden_blocks.py OUTPUT_FOLDER
"""
import hashlib
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 8
# The fp16 scales of the first blocks: least denormal, both zeros, both largest; then random ones.
EDGE_SCALES = np.array([6e-8, 0.0, -0.0, 65504.0, -65504.0], np.float16)


def fp16(blocks, at):
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def decode_q1_0(blocks):
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    d = fp16(blocks, 0)
    return np.where(bits == 1, d, -d)


def decode_q2_0(blocks):
    codes = blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & np.uint8(3)
    return fp16(blocks, 0) * (codes.reshape(len(blocks), 64).astype(np.float32) - np.float32(1))


def decode_q8_1(blocks):
    return fp16(blocks, 0) * blocks[:, 4:].view(np.int8).astype(np.float32)


def decode_q8_k(blocks):
    d = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return d * blocks[:, 4:260].view(np.int8).astype(np.float32)


# Bytes of a block and the offsets of its fp16 fields (random bits there would be NaN or infinite at
# times), and the decoder.
TYPES = {
    "q4_0": (18, [0], T.Q4_0),
    "q4_1": (20, [0, 2], T.Q4_1),
    "q5_0": (22, [0], T.Q5_0),
    "q5_1": (24, [0, 2], T.Q5_1),
    "q8_0": (34, [0], T.Q8_0),
    "q8_1": (36, [0, 2], decode_q8_1),
    "q2_k": (84, [80, 82], T.Q2_K),
    "q3_k": (110, [108], T.Q3_K),
    "q4_k": (144, [0, 2], T.Q4_K),
    "q5_k": (176, [0, 2], T.Q5_K),
    "q6_k": (210, [208], T.Q6_K),
    "q8_k": (292, [], decode_q8_k),
    "iq1_s": (50, [0], T.IQ1_S),
    "iq1_m": (56, [], T.IQ1_M),
    "iq2_xxs": (66, [0], T.IQ2_XXS),
    "iq2_xs": (74, [0], T.IQ2_XS),
    "iq2_s": (82, [0], T.IQ2_S),
    "iq3_xxs": (98, [0], T.IQ3_XXS),
    "iq3_s": (110, [0], T.IQ3_S),
    "iq4_nl": (18, [0], T.IQ4_NL),
    "iq4_xs": (136, [0], T.IQ4_XS),
    "tq1_0": (54, [52], T.TQ1_0),
    "tq2_0": (66, [64], T.TQ2_0),
    "q1_0": (18, [0], decode_q1_0),
    "q2_0": (18, [0], decode_q2_0),
    "mxfp4": (17, [], T.MXFP4),
    "nvfp4": (36, [], T.NVFP4),
}

ANY_BLOCKS = 2048
GGML_IDS = {"q8_1": 9, "q8_k": 15, "q1_0": 41, "q2_0": 42}  # of those decoded here
# Bits that scales may have: zeros, denormals, the largest, infinities, NaNs; of fp16 (twice), fp32.
EDGE_BITS = [
    0x00000000, 0x80008000, 0x00010001, 0x80018001, 0x03FF03FF, 0x04000400, 0x7BFF7BFF, 0xFBFFFBFF,
    0x7C007C00, 0xFC00FC00, 0x7C017C01, 0xFE00FE00, 0x00000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
]  # fmt: skip


def split_mix(counter):
    """The numbers of SplitMix64 at these places of its sequence."""
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def any_blocks(type_id, size):
    """Random bytes all through, scales included. In the first blocks, 16 for each of EDGE_BITS, a
    random half of the 32-bit words are those bits instead."""
    block = np.arange(ANY_BLOCKS, dtype=np.uint64)[:, None]
    counter = (np.uint64(type_id) << np.uint64(32)) + block * np.uint64(64)
    words = (size + 7) // 8
    blocks = split_mix(counter + np.arange(words, dtype=np.uint64)).view("<u4")
    which = split_mix(counter + np.uint64(63))
    for i, bits in enumerate(EDGE_BITS):
        at = slice(16 * i, 16 * i + 16)
        chosen = which[at] >> np.arange(blocks.shape[1], dtype=np.uint64) % np.uint64(64)
        blocks[at] = np.where(chosen & np.uint64(1), np.uint32(bits), blocks[at])
    return np.ascontiguousarray(blocks.view(np.uint8)[:, :size])


def any_bits_hash(blocks, decoder):
    with np.errstate(all="ignore"):
        values = dequantize(blocks, decoder) if isinstance(decoder, T) else decoder(blocks)
    assert values.dtype == np.float32
    bits = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    return hashlib.sha256(bits.astype("<u4").tobytes()).hexdigest()


def scales(rng):
    values = rng.normal(0, 0.05, BLOCKS).astype(np.float16)
    values[: len(EDGE_SCALES)] = EDGE_SCALES
    return values


def random_blocks(name, size, fields, rng):
    blocks = rng.integers(0, 256, size=(BLOCKS, size), dtype=np.uint8)
    for at in fields:
        blocks[:, at : at + 2] = scales(rng).view(np.uint8).reshape(BLOCKS, 2)
    if name == "q8_k":
        values = np.array([1e-45, 0, -0.0, 2e36, -2e36, 0.5, -0.01, 3e-39], np.float32)
        blocks[:, :4] = values.view(np.uint8).reshape(BLOCKS, 4)
    if name == "iq1_m":  # the scale is in the top nibbles of the last four words
        bits = scales(rng).view(np.uint16)
        for k in range(4):
            at = 49 + 2 * k
            blocks[:, at] = blocks[:, at] & 15 | (bits >> (4 * k) & 15).astype(np.uint8) << 4
    if name == "mxfp4":
        blocks[:, 0] = [0, 1, 2, 100, 120, 127, 130, 254]
    if name == "nvfp4":  # zeros, subnormals, the largest, the NaN, a sign bit that is not looked at
        edges = [0x00, 0x80, 0x01, 0x07, 0x08, 0x7E, 0x7F, 0xFF]
        blocks[:2, :4] = np.array(edges, np.uint8).reshape(2, 4)
    if name == "tq1_0":  # every byte there is, in the first five blocks
        blocks[:5, :52] = np.resize(rng.permutation(256), (5, 52))
    return blocks


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    hashes = []
    for number, (name, (size, fields, decoder)) in enumerate(TYPES.items()):
        rng = np.random.default_rng([20240607, number])
        blocks = random_blocks(name, size, fields, rng)
        with np.errstate(over="ignore"):  # MXFP4 reaches infinity
            values = dequantize(blocks, decoder) if isinstance(decoder, T) else decoder(blocks)
        assert values.dtype == np.float32 and not np.isnan(values).any(), name
        (out / f"{name}.bin").write_bytes(blocks.tobytes() + values.astype("<f4").tobytes())
        type_id = decoder if isinstance(decoder, T) else GGML_IDS[name]
        hashes.append(f"{any_bits_hash(any_blocks(type_id, size), decoder)}  {name}\n")
    (out / "any_bits.sha256").write_text("".join(hashes))


if __name__ == "__main__":
    main()
