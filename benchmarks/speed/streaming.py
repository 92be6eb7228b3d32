"""Statistics of features that come a few at a time: speed beside a bare matrix product, time over n, memory.

python -m benchmarks.speed.streaming [--wide]

``--wide`` also takes 16,384 examples of 8,192 features, whose moments and spectrum take several minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from collapsekit.stats.linalg.moments import ROWS, Summing

ROOT = Path(__file__).parents[2]
# Features are drawn a batch at a time; 16 jackknife groups, as a diagnosis has them.
_LONG = """
import json, resource, sys, time
import torch
from collapsekit.stats.linalg.moments import ROWS, Summing, leave_one_out, merge_all
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values
n, d, groups, spectra = (int(a) for a in sys.argv[1:])
x = torch.randn(ROWS, d)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
sums = [Summing(d) for _ in range(groups)]
for k in range(n // ROWS):
    sums[k % groups].add(x.roll(k, 1) if d < 4096 else x)
middle = time.perf_counter()
if spectra:
    whole = merge_all([s.moments() for s in sums])
    effective_rank(singular_values(whole))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([middle - start, time.perf_counter() - middle, before / 1e3, peak / 1e3]))
"""


@dataclass(frozen=True)
class Long:
    """Seconds of the sums and of the spectrum, and resident MB before and at most, of n examples of d features."""

    n: int
    d: int
    sums: float
    spectrum: float
    before: float
    peak: float


def long(n: int, d: int, groups: int = 16, *, spectra: bool = False) -> Long:
    """In a process of its own, so that its peak is its own."""
    command = [sys.executable, "-c", _LONG, str(n), str(d), str(groups), str(int(spectra))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Long(n, d, *json.loads(done.stdout))


def gram(d: int, repeats: int = 7) -> tuple[float, float]:
    """Seconds of taking in ROWS float32 examples of d features, and of the bare float64 product of that shape; medians of
    repeats in turn."""
    x = torch.randn(ROWS, d)
    double, out = x.double(), torch.zeros(d, d, dtype=torch.float64)
    sums = Summing(d)
    ours, bare = [], []
    for number in range(repeats + 1):
        start = time.perf_counter()
        sums.add(x)
        middle = time.perf_counter()
        out.addmm_(double.T, double)
        if number:
            ours.append(middle - start)
            bare.append(time.perf_counter() - middle)
    return median(ours), median(bare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", action="store_true")
    args = parser.parse_args()
    for d in (256, 1024, 2048):
        ours, bare = gram(d)
        print(
            f"Gram of {ROWS} examples, d = {d}: {ours:.3f} s, bare product {bare:.3f} s: {bare / ours:.0%} of its rate"
        )
    cases = [long(n, 1024) for n in (125_000, 250_000, 1_000_000)]
    if args.wide:
        cases.append(long(16_384, 8192, 4, spectra=True))
    for case in cases:
        print(
            f"n = {case.n}, d = {case.d}: {case.sums:.1f} s ({case.sums / case.n * 1e6:.1f} s a million), spectrum "
            f"{case.spectrum:.1f} s, {case.before:.0f} MB before, at most {case.peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
