"""Counts at the end of a Parquet file, against what polars wrote; and that nothing enormous is decoded."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.answers import KEY, make_manifest
from collapsekit.answers.formats._parquet_footer import ColumnChunk, FooterError, list_chunks
from collapsekit.answers.question import to_id
from collapsekit.answers.reading import read_answers
from collapsekit.errors import RefusedError
from tests.answers.making import make_numbers

pl = pytest.importorskip("polars")
NUMBERS = make_numbers(6)


def write(path: Path, lists: list[list[float]], **how: Any) -> Path:
    ids = [to_id(int(NUMBERS[i % 6])) for i in range(len(lists))]
    told = {"id": ids, "plan": [KEY] * len(ids), "scores": lists, "model": ["m"] * len(ids)}
    pl.DataFrame(told, schema_overrides={"scores": pl.List(pl.Float64)}).write_parquet(path, **how)
    return path


@pytest.mark.parametrize("compression", ["zstd", "uncompressed"])
@pytest.mark.parametrize("group", [None, 7])
def test_counts_are_those_that_were_written(tmp_path: Path, compression: str, group: int | None) -> None:
    sizes = np.random.default_rng(0).integers(1, 9, 20).tolist()
    path = write(tmp_path / "a.parquet", [[0.5] * n for n in sizes], compression=compression, row_group_size=group)
    found = [c for c in list_chunks(path) if c.column == "scores"]
    parts = [sizes] if group is None else [sizes[i : i + group] for i in range(0, 20, group)]
    assert found == [ColumnChunk("scores", len(part), sum(part)) for part in parts]
    assert {c.column for c in list_chunks(path)} == {"id", "plan", "scores", "model"}


def test_nested_columns_have_a_count_each(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    pl.DataFrame({"logprobs": [[{"token": "a", "bytes": [1, 2]}, {"token": "b", "bytes": [3]}]]}).write_parquet(path)
    assert [c[1:] for c in list_chunks(path)] == [(1, 2), (1, 3)]


_READ = """
import resource, sys
from pathlib import Path
import polars
from benchmarks.answers import make_manifest
from collapsekit.answers.reading import read_answers
from collapsekit.errors import RefusedError
from tests.answers.making import make_numbers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_answers(make_manifest(6), make_numbers(6), [Path(sys.argv[1])])
except RefusedError as e:
    print(e)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_an_enormous_list_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    count = 30_000_000  # 240 MB once it is decoded
    path = tmp_path / "big.parquet"
    told = {"id": [to_id(int(NUMBERS[0]))], "scores": [pl.zeros(count, dtype=pl.Float64, eager=True)]}
    pl.DataFrame(told).write_parquet(path)
    assert path.stat().st_size < 100_000
    found = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    said, grown = found.stdout.strip().rsplit("\n", 1)
    assert f"has {count:,} values in scores of 1 rows" in said
    assert int(grown) < 60


def test_a_list_that_is_a_little_too_long_is_named_by_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [[0.5] * 3] * 5 + [[0.5] * 200])
    with pytest.raises(RefusedError, match="row 6 has 200 scores, expected 3"):
        read_answers(make_manifest(6), NUMBERS, [path])


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_an_error_of_ours(tmp_path: Path, seed: int) -> None:
    path, r = write(tmp_path / "a.parquet", [[0.5] * 3] * 6), random.Random(seed)
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little")
    for _ in range(r.randint(1, 4)):
        data[len(data) - 8 - r.randint(1, footer)] = r.randrange(256)
    path.write_bytes(data[: len(data) - r.choice([0, 0, 0, r.randint(1, footer)])])
    with contextlib.suppress(FooterError):
        assert all(c.rows >= 0 <= c.values for c in list_chunks(path))


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    for data in (b"PAR1PAR1", b"PAR1" + b"x" * 40 + (1 << 30).to_bytes(4, "little") + b"PAR1"):
        path = tmp_path / "x.parquet"
        path.write_bytes(data)
        with pytest.raises(FooterError):
            list(list_chunks(path))
        with pytest.raises(RefusedError):
            read_answers(make_manifest(6), NUMBERS, [path])
