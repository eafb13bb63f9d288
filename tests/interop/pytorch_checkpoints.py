"""Every tensor of PyTorch checkpoints, as pennyweight reads it, against what torch loads.

The checkpoints are the shared ones, written by PyTorch 1.13, and new ones by the installed torch.
pennyweight writes each as f32 into a safetensors file, which loses nothing of f16 and bf16; other
types it copies.
"""

import pathlib
import subprocess

import torch
from safetensors import safe_open

from client import PENNYWEIGHT, SHARED, check, finish, scratch

# Read by name only: what torch would have to execute, or what is refused.
REFUSED = {"zip_quantized_sparse.pt"}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def run(*args):
    return subprocess.run([PENNYWEIGHT, *map(str, args)], capture_output=True, text=True)


def state_dict(path):
    """What torch has for the weights of a checkpoint that we or PyTorch wrote ourselves."""
    if path.name == "torchscript.pt":
        return torch.jit.load(path).state_dict()
    # Whole modules and old pickle protocols need more than weights_only; the files are our own.
    value = torch.load(path, weights_only=False, map_location="cpu")
    if isinstance(value, torch.nn.Module):
        return value.state_dict()
    return value.get("model", value)


def bits(tensor):
    """The bytes of a tensor in row-major order."""
    tensor = tensor.detach().contiguous()
    if tensor.numel() == 0:
        return b""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def compare(path, folder):
    """Reads `path` with both and compares names, types, shapes and bytes."""
    out = folder / (path.name + ".safetensors")
    ran = run("quantize", path, "-o", out, "--tensor-type", ".=f32",
              "--quiet")
    if not check(ran.returncode == 0, f"{path.name} is read {ran.stderr.strip()[:300]}"):
        return
    wanted = state_dict(path)
    with safe_open(out, "pt") as found:
        names = set(found.keys())
        if not check(names == set(wanted), f"{path.name}: {len(wanted)} names"):
            return
        wrong = []
        for name, tensor in wanted.items():
            ours = found.get_tensor(name)
            if tensor.dtype in FLOATS:
                ours, tensor = ours.float(), tensor.float()
            same = ours.dtype == tensor.dtype and ours.shape == tensor.shape
            if not same or bits(ours) != bits(tensor):
                wrong.append(f"{name} {ours.dtype} {tuple(ours.shape)}")
        check(not wrong, f"{path.name}: {len(wanted)} tensors, bit by bit {wrong[:3]}")


def new_checkpoints(folder):
    """Checkpoints by the installed torch, of what the shared ones do not have."""
    generator = torch.Generator().manual_seed(torch.seed() % 2**32)
    matrix = torch.randn(70, 130, generator=generator)
    views = {
        "transposed": matrix.t(),
        "steps": matrix[3::2, 5::3],
        "permuted": torch.randn(4, 5, 6, generator=generator).permute(2, 0, 1),
        "expanded": torch.randn(3, 1, generator=generator).expand(3, 7),
        "parameter": torch.nn.Parameter(matrix[1:4]),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    types = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2, "f16": torch.float16,
             "bf16": torch.bfloat16, "f64": torch.float64}
    numbers = {name: matrix.to(dtype) for name, dtype in types.items()}
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        numbers[str(dtype)] = torch.arange(9).to(dtype)
    numbers["complex"] = torch.complex(matrix, -matrix)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for name, value in {"views": views, "numbers": numbers, "module": module}.items():
        path = folder / f"new_{name}.pt"
        torch.save(value, path)
        yield path
    # The stream format has no unsigned types beyond bytes.
    path = folder / "new_legacy.pt"
    torch.save(views, path, _use_new_zipfile_serialization=False)
    yield path
    path = folder / "new_large_alignment.pt"
    torch.utils.serialization.config.save.storage_alignment = 4096
    torch.save(views, path)
    yield path


def main():
    with scratch() as name:
        folder = pathlib.Path(name)
        for path in new_checkpoints(folder):
            compare(path, folder)
        shared = SHARED / "pytorch"
        if not shared.is_dir():
            print(f"SKIPPED the checkpoints of PyTorch 1.13: {shared} is absent", flush=True)
        for path in sorted(shared.glob("*")):
            if path.name in REFUSED:
                ran = run("inspect", path)
                check(ran.returncode == 2 and "quantized" in ran.stderr, f"{path.name} is refused")
            else:
                compare(path, folder)
    finish()


main()
