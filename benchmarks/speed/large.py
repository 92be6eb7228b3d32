"""Seconds and peak resident memory of what is done with large checkpoints.

python -m benchmarks.speed.large [--gigabytes 20]

The checkpoints are sparse: sound headers, and holes where the numbers lie, so they take no room on disk and reading them
costs no disk's time: on a real disk, add size / throughput to what reads the files whole (SHA-256, checksums, numbers).
Each row runs in a process of its own, started by a small one, since a process's peak counts what its parent held when it
began.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.sparse import WIDTH, sharded, torch_zip

ROOT = Path(__file__).parents[2]
_START = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
peak = peak if sys.platform == "darwin" else peak * 1024
print(json.dumps([time.perf_counter() - begin, peak, done.returncode, done.stderr[-2000:]]))
"""
READ = "import sys; from collapsekit.checkpoint.read import read_checkpoint; read_checkpoint(sys.argv[1])"
LOAD = """
import sys, torch
from torch import nn
from collapsekit.adapters.weights.load import load_weights
from collapsekit.checkpoint.read import read_checkpoint
model = nn.Module()
count, width = int(sys.argv[2]), int(sys.argv[3])
layers = (nn.Linear(width, width, bias=False, device="meta", dtype=torch.bfloat16) for _ in range(count))
model.layers = nn.Sequential(*layers).to_empty(device="cpu")
load_weights(model, read_checkpoint(sys.argv[1]))
assert not any(p.count_nonzero() for p in model.parameters())
"""


@dataclass(frozen=True)
class Row:
    """What was done with how many bytes; ``limit`` in MB is what it may hold, None for what is there to compare with."""

    what: str
    size: int
    seconds: float
    megabytes: float
    limit: float | None = None


def peak(*arguments: str) -> tuple[float, float]:
    """Seconds and peak resident MB of Python with these arguments. Raises RuntimeError where it fails."""
    command = [sys.executable, "-I", "-c", _START, sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, held, code, said = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed: {said}")
    return seconds, held / 1e6


def rows(folder: Path, size: int, part: int) -> Iterator[Row]:
    """Everything, with a set of about ``size`` bytes, and ``part`` bytes for what holds or sums all of it."""
    each = 2 * WIDTH * WIDTH
    whole, some = max(1, size // each), max(1, part // each)
    sharded(folder / "large", whole)
    sharded(folder / "some", some)
    torch_zip(folder / "some.pt", some)
    yield Row("python -c 'import torch'", 0, *peak("-c", "import torch"))
    for what, arguments, count, limit in _asked(folder, whole, some):
        yield Row(what, count * each, *peak(*arguments), limit)


def _asked(folder: Path, whole: int, some: int) -> Iterator[tuple[str, Sequence[str], int, float]]:
    inspect = ("-m", "collapsekit", "inspect")
    large, few, one = (str(folder / name) for name in ("large", "some", "some.pt"))
    yield "inspect, sharded safetensors", (*inspect, large), whole, 500
    # More holes than these are not read whole.
    yield "inspect --values, sharded safetensors", (*inspect, "--values", few), some, 500
    yield "inspect --values, torch zip", (*inspect, "--values", one), some, 500
    yield "read_checkpoint, sharded safetensors", ("-c", READ, few), some, 500
    yield "read_checkpoint, torch zip", ("-c", READ, one), some, 500
    model = some * 2 * WIDTH * WIDTH / 1e6
    for what, path in (("sharded safetensors", few), ("torch zip", one)):
        yield f"load_weights, {what}", ("-c", LOAD, path, str(some), str(WIDTH)), some, model + 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20, help="of the large set")
    parser.add_argument("--some", type=float, default=2, help="gigabytes of the sets that are read whole")
    args = parser.parse_args()
    print(f"{'what':40}{'size, GB':>10}{'seconds':>10}{'peak, MB':>10}{'limit, MB':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder), int(args.gigabytes * 1e9), int(args.some * 1e9)):
            limit = "" if row.limit is None else f"{row.limit:.0f}"
            over = "  over" if row.limit is not None and row.megabytes >= row.limit else ""
            line = f"{row.what:40}{row.size / 1e9:>10.1f}{row.seconds:>10.2f}{row.megabytes:>10.0f}{limit:>11}{over}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
