"""A report beside its records: what both say of the same examples is the same."""

from __future__ import annotations

import json
import math
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collapsekit.io.safe_text import quoted

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report

# Records are float32, and their metric has the task's as its mean within the same part of it
# (collapsekit.games.per_example).
PART, LEAST = 1e-5, 1e-7
_MOST_HEADER = 10_000_000
_FLOAT, _INTEGER = ("F32", 4), ("I64", 8)


@dataclass(frozen=True)
class Means:
    """How many examples the records are of, and each column's mean and mean size."""

    examples: int
    columns: dict[str, tuple[float, float]]


def records_contradiction(report: Report, data: bytes) -> str | None:
    """The first number of a report that its records (the bytes of their file) contradict; None where all agree.

    Means of columns and the report's numbers may differ by PART of the column's mean size, and LEAST.
    """
    means = means_of(data)
    if isinstance(means, str):
        return means
    return next(_contradictions(report, means), None)


def _contradictions(report: Report, means: Means) -> Iterator[str]:
    if means.examples != report.subject.examples:
        yield f"the records are of {means.examples} examples, and the report of {report.subject.examples}"
    for name, modality, parts in _pairs(report.subject.modalities):
        result = report.find(name, modality)
        if result is None or result.value is None or any(column not in means.columns for column, _ in parts):
            continue
        right = sum(sign * means.columns[column][0] for column, sign in parts)
        size = max(means.columns[column][1] for column, _ in parts)
        if not abs(result.value - right) <= PART * size + LEAST:
            of = "" if modality is None else f" of {quoted(modality)}"
            yield f"{quoted(name)}{of} is {result.value:.6g}, and the records of its examples give {right:.6g}"


def _pairs(modalities: tuple[str, ...]) -> Iterator[tuple[str, str | None, tuple[tuple[str, int], ...]]]:
    """Which results are which sums of means of columns."""
    yield "reliance.full_loss", None, (("loss", 1),)
    yield "reliance.full_metric", None, (("metric", 1),)
    for m in modalities:
        yield "utilisation.credit", m, ((f"credit.{m}", 1),)
        yield "reliance.leave_one_out", m, ((f"loss_without.{m}", 1), ("loss", -1))
        yield "reliance.leave_one_out_metric", m, (("metric", 1), (f"metric_without.{m}", -1))


def means_of(data: bytes) -> Means | str:
    """The means of the columns of a safetensors file, read without NumPy; or what is wrong with it."""
    odd = "its records are no file of records"
    if len(data) < 8 or (length := struct.unpack("<Q", data[:8])[0]) > min(_MOST_HEADER, len(data) - 8):
        return odd
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return odd
    if not isinstance(header, dict):
        return odd
    header.pop("__metadata__", None)
    columns, examples = dict[str, tuple[float, float]](), set[int]()
    for name, entry in header.items():
        dtype, size = _INTEGER if name in ("id", "unit") else _FLOAT
        part = _part(entry, dtype, size, memoryview(data)[8 + length :])
        if part is None:
            return odd
        examples.add(len(part) // size)
        if dtype == "F32":
            values = array("f", bytes(part))
            if sys.byteorder == "big":
                values.byteswap()
            count = max(1, len(values))
            if not all(map(math.isfinite, values)):
                return f"its records have no finite {quoted(name)}"
            columns[name.removeprefix("column.")] = (math.fsum(values) / count, math.fsum(map(abs, values)) / count)
    if len(examples) != 1 or "id" not in header:
        return odd
    return Means(examples.pop(), columns)


def _part(entry: Any, dtype: str, size: int, data: memoryview) -> memoryview | None:
    """Where a column lies; None where it does not lie in the file as a column would."""
    if not isinstance(entry, dict) or entry.get("dtype") != dtype:
        return None
    shape, at = entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(shape, list) and len(shape) == 1 and isinstance(at, list) and len(at) == 2):
        return None
    if not all(type(n) is int and n >= 0 for n in (*shape, *at)) or at[1] > len(data):
        return None
    return data[at[0] : at[1]] if at[1] - at[0] == size * shape[0] and shape[0] > 0 else None
