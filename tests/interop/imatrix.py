"""Importance matrices as the gguf package reads them: names, shapes, metadata, and the sums."""

import pathlib
import tempfile

import numpy as np
from gguf import GGUFReader

from client import check, finish, models, pennyweight


def text_of(reader, key):
    field = reader.get_field(key)
    return None if field is None else field.contents()


def check_imatrix(model, folder):
    path = pathlib.Path(folder) / f"{model.name}.gguf"
    document = pennyweight("calibrate", model, "-o", path, "--context", 128, "--tokens", 1024)
    reader = GGUFReader(path)
    check(text_of(reader, "general.type") == "imatrix", f"{model.name}: general.type")
    check(text_of(reader, "imatrix.chunk_size") == 128, f"{model.name}: chunk_size")
    check(
        text_of(reader, "imatrix.chunk_count") == document["windows"],
        f"{model.name}: chunk_count",
    )
    check(text_of(reader, "imatrix.datasets") == ["built-in"], f"{model.name}: datasets")
    tensors = {t.name: t for t in reader.tensors}
    sums = sorted(n for n in tensors if n.endswith(".in_sum2"))
    names = [n.removesuffix(".in_sum2") for n in sums]
    check(
        len(sums) > 0 and set(tensors) == {f"{n}.{part}" for n in names for part in ("in_sum2", "counts")},
        f"{model.name}: {len(sums)} entries of two tensors",
    )
    # What the document tells of the inputs is what the file holds.
    matrices = sum(len(row["weights"]) for row in document["inputs"])
    counted = 0
    for name in names:
        counts = np.array(tensors[f"{name}.counts"].data).reshape(-1)
        values = np.array(tensors[f"{name}.in_sum2"].data).reshape(len(counts), -1)
        counted += len(counts)
        seen = counts > 0
        if not (np.isfinite(values).all() and (values[seen].sum(axis=1) > 0).all()):
            check(False, f"{model.name}: {name} has no sums")
    check(counted == matrices, f"{model.name}: {counted} matrices")
    by_count = sorted(row["tokens"] for row in document["inputs"] for _ in row["weights"])
    in_file = sorted(
        int(c) for n in names for c in np.array(tensors[f"{n}.counts"].data).reshape(-1)
    )
    check(by_count == in_file, f"{model.name}: counts")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for model in models("pd-llama-4M", "pd-qwen2-4M", "pd-mixtral-4M"):
            check_imatrix(model, folder)
    finish()


main()
