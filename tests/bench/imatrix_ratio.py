"""The worst ratio of means of x^2 between importance matrices: imatrix_ratio.py NAME OURS THEIRS..."""

import sys

import numpy as np
from gguf import GGUFReader

LIMIT = 0.01


def means(path):
    """Means of x^2 by entry and matrix; None where nothing was seen."""
    tensors = {t.name: np.array(t.data, dtype=np.float64) for t in GGUFReader(path).tensors}
    out = {}
    for name, sums in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        counts = tensors[name.removesuffix(".in_sum2") + ".counts"].reshape(-1)
        rows = sums.reshape(len(counts), -1)
        out[name] = [row / count if count else None for row, count in zip(rows, counts)]
    return out


def main():
    name, ours = sys.argv[1], means(sys.argv[2])
    failed = False
    for path in sys.argv[3:]:
        theirs = means(path)
        if ours.keys() != theirs.keys():
            sys.exit(f"{name}: other entries: {sorted(ours.keys() ^ theirs.keys())}")
        worst, where, compared = 0.0, "", 0
        for entry, matrices in theirs.items():
            for e, theirs_mean in enumerate(matrices):
                our_mean = ours[entry][e]
                if theirs_mean is None or our_mean is None:
                    continue
                large = theirs_mean > 1e-3 * theirs_mean.mean()
                off = np.abs(our_mean[large] / theirs_mean[large] - 1)
                compared += int(large.sum())
                if off.max() > worst:
                    worst, where = float(off.max()), f"{entry}[{e}]"
        print(f"{name}: {len(theirs)} entries, {compared} channels, worst off by {worst:.2e} at {where}")
        failed = failed or worst > LIMIT or compared == 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
