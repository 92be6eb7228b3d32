"""How fast answers of a model that is elsewhere are read, and in how much memory: `python -m benchmarks.answers [ROWS]`."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from collapsekit.answers.manifest import AnswerShape, Manifest, PlanCost
from collapsekit.answers.reading import ANSWERED, read_answers

ROWS = 1_000_000
KEY = "a" * 64


def make_manifest(count: int, **shape: Any) -> Manifest:
    """Make a plan of so many questions; ``shape``: of an answer, three classes by default."""
    return Manifest(
        collapsekit="0",
        key=KEY,
        config=None,
        config_sha256="b" * 64,
        data={},
        format="plain",
        modalities=("a", "b"),
        split="test",
        seed=0,
        limit=None,
        options={},
        draws={"test": 1},
        answer=AnswerShape(**{"kind": "classes", "width": 3, **shape}),
        cost=PlanCost(questions=count, forwards=count),
        shards=(),
    )


def main(rows: int = ROWS) -> None:
    """Write so many answers of three numbers in no order, read them, and print rate and memory."""
    r = np.random.default_rng(0)
    numbers = np.unique(r.integers(1, 2**63, rows + rows // 8, dtype=np.uint64))[:rows]
    manifest = make_manifest(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        with path.open("w") as file:
            for i in r.permutation(rows).tolist():
                file.write(f'{{"id":"{int(numbers[i]):016x}","plan":"{KEY}","scores":[1.25,{i / rows:.6f},-3.5]}}\n')
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        table = read_answers(manifest, numbers, [path])
        seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert table.count(ANSWERED) == rows
    print(
        f"{rows:,} answers in {seconds:.1f} s ({rows / seconds:,.0f} a second), {(after - before) / 1024:.0f} MB more in use"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
