"""What the interop scripts share: the binary, the models, and the checks."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

SOURCE_DIR = pathlib.Path(os.environ.get("SOURCE_DIR", pathlib.Path(__file__).parents[2]))
PENNYWEIGHT = os.environ.get("PENNYWEIGHT", str(SOURCE_DIR / "build/release/pennyweight"))
SHARED = SOURCE_DIR.parent / "shared"
FALLBACK_MODEL = "pd-llama-4M"

_passed = 0
_failed = 0


def check(ok, what):
    """Counts and prints one check."""
    global _passed, _failed
    if ok:
        _passed += 1
    else:
        _failed += 1
    print(("ok      " if ok else "FAILED  ") + what, flush=True)
    return bool(ok)


def finish():
    """The last line that run.sh reads, and the exit code."""
    print(f"{_passed} checks passed, {_failed} checks failed")
    sys.exit(0 if _failed == 0 and _passed > 0 else 1)


def models(*names):
    """Folders of the named models; the project's own one where the shared ones are absent."""
    found = [SHARED / "models" / name for name in names if (SHARED / "models" / name).is_dir()]
    for name in names:
        if not (SHARED / "models" / name).is_dir():
            own = SOURCE_DIR / "testdata" / name
            if name == FALLBACK_MODEL and own.is_dir():
                found.append(own)
            else:
                print(f"SKIPPED {name}: {SHARED / 'models' / name} is absent", flush=True)
    return found


def shared_text(name):
    """A text beside the checkout, or None with a loud skip."""
    path = SHARED / "text" / name
    if path.is_file():
        return path
    print(f"SKIPPED {name}: {path} is absent", flush=True)
    return None


def pennyweight(*args):
    """Runs the binary with --json; its result object. Stops the script on a failure."""
    command = [PENNYWEIGHT, *map(str, args), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        check(False, f"{' '.join(command)} (exit code {done.returncode})")
        print(done.stdout + done.stderr)
        finish()
    return json.loads(done.stdout)["result"]


def scratch():
    return tempfile.TemporaryDirectory(prefix="pennyweight_interop_")


def load_tensors(folder):
    """Every tensor of a folder's safetensors files, as torch tensors."""
    from safetensors.torch import load_file

    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def load_config(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def to_float(tensor):
    """A torch float tensor as numpy float32."""
    return tensor.float().numpy()


def unpack_integers(parts, name):
    """The values of a pack-quantized tensor by the layout's definition, in float32.

    `parts` holds name_packed [N, ceil(K b / 32)], name_scale [N, G], name_zero_point
    [ceil(N b / 32), G] when asymmetric, and name_shape. b follows from the packed width.
    """
    packed = parts[name + "_packed"].numpy().view(np.uint32)
    rows, cols = parts[name + "_shape"].tolist()
    scale = to_float(parts[name + "_scale"])
    bits = next(b for b in (4, 8) if -(-cols * b // 32) == packed.shape[1])
    mask, half = (1 << bits) - 1, 1 << (bits - 1)

    def unpack(words, count):
        """[R, W] words to [R, count] signed values, low bits first."""
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        values = (words[:, :, None] >> shifts) & mask
        return values.reshape(words.shape[0], -1)[:, :count].astype(np.int32) - half

    codes = unpack(packed, cols)
    groups = scale.shape[1]
    zero = np.zeros((rows, groups), np.int32)
    if name + "_zero_point" in parts:
        zero = unpack(parts[name + "_zero_point"].numpy().view(np.uint32).T, rows).T
    assert cols % groups == 0
    repeat = cols // groups
    difference = (codes - np.repeat(zero, repeat, 1)).astype(np.float32)
    return difference * np.repeat(scale, repeat, 1)
