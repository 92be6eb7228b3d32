"""Run an item: seed by seed, each kept as it is done."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.context import Progress
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.io.files import write_atomic
from collapsekit.io.locks import locked
from collapsekit.io.writable import check_folder
from collapsekit.report.reproduction import Reproduction
from collapsekit.reproduce.checkout import commit
from collapsekit.reproduce.item import Item, Point, Trial
from collapsekit.reproduce.studies import datasets
from collapsekit.reproduce.summary import summarise

RECORDS, FILE = "records.jsonl", "reproduction.json"


def run_item(
    item: Item, folder: Path, seeds: Sequence[int], *, quick: bool = False, progress: Progress | None = None
) -> Reproduction:
    """Measure an item for every seed that the folder does not hold yet, and set the paper beside it.

    Args:
        item: One that runs.
        folder: Where ``records.jsonl`` (one seed a line) and ``reproduction.json`` are written.
        seeds: Of data, weights and batches.
        quick: A smoke run, with few examples and epochs.
        progress: Hears of each seed.

    Returns:
        The item as it came out.

    Raises:
        ConfigError: Where its data are not there, or the folder holds another item's records.
    """
    shown, measure = progress or Progress(), item.measure
    absent = datasets.missing(item.data)
    if absent is not None or measure is None:
        raise ConfigError(absent or f"{item.name} does not run ({item.state}): {item.why}")
    check_folder(folder, "--output", (RECORDS, FILE))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / FILE, wait=0):
        records = read_records(folder / RECORDS, item, quick=quick)
        for place, seed in enumerate(seeds):
            shown.step(item.name, place, len(seeds), f"seed {seed}")
            if seed not in records:
                with tempfile.TemporaryDirectory() as scratch, preserve_rng_state():
                    points = [Point(*p) for p in measure(Trial(seed, quick, Path(scratch)))]
                records[seed] = _record(item, seed, points, quick=quick)
                write_atomic(folder / RECORDS, "".join(json.dumps(r, allow_nan=False) + "\n" for r in records.values()))
        shown.step(item.name, len(seeds), len(seeds))
        made = summarise(item, [records[seed] for seed in seeds], quick=quick)
        write_atomic(folder / FILE, made.to_json())
    return made


def read_records(path: Path, item: Item, *, quick: bool) -> dict[int, dict[str, Any]]:
    """Read what was measured before.

    Args:
        path: The file of records, which need not be there.
        item: Whose they are to be.
        quick: Whether they are to be of a smoke run.

    Returns:
        The records by seed.

    Raises:
        ConfigError: Where they are of something else, or are no records.
    """
    if not path.exists():
        return {}
    out: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(text)
            of, seed, points = (record["item"], record["quick"]), int(record["seed"]), record["points"]
            _check_points(item, [Point(*p) for p in points])
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"{path}, line {number} is no record of a seed: name another folder.") from e
        if of != (item.name, quick):
            raise ConfigError(f"{path} holds {_run(*of)}, not {_run(item.name, quick=quick)}: name another folder.")
        out[seed] = record
    return out


def _run(name: str, quick: bool) -> str:
    return f"a {'quick' if quick else 'full'} run of {name}"


def _record(item: Item, seed: int, points: Sequence[Point], *, quick: bool) -> dict[str, Any]:
    _check_points(item, points)
    return {"item": item.name, "seed": seed, "quick": quick, "commit": commit(), "points": [list(p) for p in points]}


def _check_points(item: Item, points: Sequence[Point]) -> None:
    """Raises NumericsError where a number is not finite, or of no cell of the item."""
    for row, column, value in points:
        if row not in item.rows or column not in item.columns:
            raise NumericsError(f"{item.name} has no cell {row}, {column}.")
        if not math.isfinite(value):
            raise NumericsError(f"{item.name} measured {value} for {row}, {column}.")
