#!/usr/bin/env python3
"""Makes testdata/golden/<type>.bin: random blocks of a GGUF type and what gguf-py decodes them to.

Layout of a file, little-endian: the blocks (kBlocks of them), then their values as float32.
Needs numpy and gguf from PyPI. Usage: make_golden_blocks.py OUTPUT_FOLDER
"""
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Offsets of the fp16 fields of each block: random bits there would be NaN or infinite at times.
TYPES = {
    "q4_0": (T.Q4_0, [0]),
    "q4_1": (T.Q4_1, [0, 2]),
    "q5_0": (T.Q5_0, [0]),
    "q5_1": (T.Q5_1, [0, 2]),
    "q8_0": (T.Q8_0, [0]),
    "q2_k": (T.Q2_K, [80, 82]),
    "q3_k": (T.Q3_K, [108]),
    "q4_k": (T.Q4_K, [0, 2]),
    "q5_k": (T.Q5_K, [0, 2]),
    "q6_k": (T.Q6_K, [208]),
    "iq4_nl": (T.IQ4_NL, [0]),
    "iq4_xs": (T.IQ4_XS, [0]),
    "mxfp4": (T.MXFP4, []),
}
BLOCKS = 8


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240607)
    for name, (kind, scales) in TYPES.items():
        _, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, size=(BLOCKS, size), dtype=np.uint8)
        for at in scales:
            values = rng.normal(0, 0.05, BLOCKS).astype(np.float16)
            values[0] = np.float16(6e-8)  # the least denormal
            blocks[:, at : at + 2] = values.view(np.uint8).reshape(BLOCKS, 2)
        if name == "mxfp4":
            blocks[:, 0] = [0, 1, 2, 100, 120, 127, 130, 254]
        values = dequantize(blocks, kind).astype("<f4")
        (out / f"{name}.bin").write_bytes(blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
