"""How fast answers of a model that is elsewhere are read, and in how much memory, from JSON lines and from Parquet.

python -m benchmarks.answers [ROWS [jsonl|parquet ...]]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from collapsekit.answers.formats import get_format
from collapsekit.answers.manifest import AnswerShape, Manifest, PlanCost, read_ids, write_shards
from collapsekit.answers.reading import ANSWERED, read_answers

ROWS = 1_000_000
PARTS = 1024  # a number of each answer is one of as many, all of which are the same as text and as floats
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


def write_answers(path: Path, numbers: Any, order: Any, rows: int, form: str) -> None:
    """Write answers of three numbers in no order, as JSON lines or Parquet."""
    if form == "parquet":
        import polars

        step = 1 << 18
        parts = []
        for at in range(0, rows, step):
            some = order[at : at + step]
            ids = [f"{n:016x}" for n in numbers[some].tolist()]
            scores = np.stack([np.full(len(some), 1.25), some % PARTS / PARTS, np.full(len(some), -3.5)], 1)
            columns = {"id": ids, "plan": [KEY] * len(some)}
            parts.append(path.with_name(f"{path.stem}-{at:09d}.parquet"))
            polars.DataFrame(columns).with_columns(
                polars.Series("scores", scores).cast(polars.List(polars.Float64))
            ).write_parquet(parts[-1])
        polars.scan_parquet(parts).sink_parquet(path)
        for part in parts:
            part.unlink()
        return
    with path.open("w") as file:
        for i in order.tolist():
            file.write(f'{{"id":"{int(numbers[i]):016x}","plan":"{KEY}","scores":[1.25,{i % PARTS / PARTS},-3.5]}}\n')


def prepare(folder: Path, rows: int, form: str) -> None:
    """Write a plan of so many questions, and its answers."""
    r = np.random.default_rng(0)
    numbers = np.unique(r.integers(1, 2**63, rows + rows // 8, dtype=np.uint64))[:rows]
    kind = get_format("parquet" if form == "parquet" else "plain")
    lines = ({"id": f"{n:016x}", "split": "test", "example": 0, "edit": {}} for n in numbers.tolist())
    shards = write_shards(folder, lines, kind)
    make_manifest(rows).model_copy(update={"format": kind.name, "shards": tuple(shards)}).save(folder)
    write_answers(folder / f"answers.{kind.suffix}", numbers, r.permutation(rows), rows, form)


def read(folder: Path, form: str) -> None:
    """Read all, and print seconds and the peak of memory, of a process that did nothing else."""
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, busy = time.perf_counter(), time.process_time()
    manifest = Manifest.load(folder)
    numbers = read_ids(folder, manifest)
    asked = time.perf_counter() - began
    table = read_answers(manifest, numbers, [folder / f"answers.{get_format(manifest.format).suffix}"])
    digest = table.digest()
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert table.count(ANSWERED) == manifest.cost.questions
    assert "torch" not in sys.modules
    print(
        f"{form}: {len(numbers):,} questions and answers in {seconds:.1f} s ({busy:.1f} of a core), {asked:.1f} of them "
        f"the questions; "
        f"{peak / 1024:.0f} MB in use at most, {idle / 1024:.0f} before; digest {digest[:12]}"
    )


def main(rows: int = ROWS, *forms: str) -> None:
    """Write so many answers of three numbers in no order, read them, and print seconds and memory."""
    for form in forms or ("jsonl", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            for what in ("prepare", "read"):  # each in a process of its own, whose peak of memory is its own
                code = f"from benchmarks import answers; answers.{what}(answers.Path({folder!r}), "
                code += f"{rows}, {form!r})" if what == "prepare" else f"{form!r})"
                subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
