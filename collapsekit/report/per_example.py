"""Records: what a report says of each example, beside it in a file of its own, so that two models can be compared example by
example. Hashes of examples and losses; nothing of the examples themselves."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsekit.errors import RefusedError
from collapsekit.io.files import read_bytes, reason
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "records.safetensors"
MAX_BYTES = 1_000_000_000
_MAX_COLUMNS = 10_000
# Records are float32, and their metric has the task's as its mean within the same part of it
# (collapsekit.games.per_example).
MEAN_RTOL, MEAN_ATOL = 1e-5, 1e-7
_MAX_HEADER = 10_000_000
_FLOAT, _INTEGER = ("F32", 4), ("I64", 8)


@dataclass(frozen=True)
class PerExample:
    """n examples in canonical order (see Features).

    ``columns``: "loss" (of the model as it is), "metric" (an example's part of the task metric, whose mean it is, where it
    is a mean), "credit.NAME" (Shapley credit in the calibrated model, whose mean is utilisation.credit),
    "loss_without.NAME" and "metric_without.NAME" (with that modality taken from other examples); all float32 (n,).
    """

    ids: NDArray[np.int64]  # (n,), hash of each example's inputs and target
    units: NDArray[np.int64] | None  # (n,), what it belongs to (data.group)
    columns: dict[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """Write them as the bytes of a safetensors file; the same records give the same bytes."""
        from safetensors.numpy import save

        units = {} if self.units is None else {"unit": self.units}
        return save({"id": self.ids, **units, **{f"column.{k}": v for k, v in self.columns.items()}})

    @classmethod
    def from_bytes(cls, data: bytes, origin: str) -> PerExample:
        """Read what :meth:`to_bytes` writes. Raises RefusedError naming ``origin`` where it is something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
            return _checked(arrays, origin)
        except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as e:
            raise RefusedError(f"{origin} is not a file of records ({e}): make the report again.") from None


def _checked(arrays: dict[str, Any], origin: str) -> PerExample:
    import numpy as np

    if "id" not in arrays or len(arrays) > _MAX_COLUMNS:
        raise RefusedError(f"{origin} is not a file of records: it has no ids of examples; make the report again.")
    shape, columns = arrays["id"].shape, {}
    for name, values in arrays.items():
        whole = name in ("id", "unit")
        if not whole and not name.startswith("column."):
            raise RefusedError(f"{origin} holds {quote(name)}, which records have not: make the report again.")
        if (
            values.shape != shape
            or len(shape) != 1
            or not len(values)
            or values.dtype != (np.int64 if whole else np.float32)
        ):
            raise RefusedError(
                f"{origin} has {quote(name)} of shape {values.shape} and type {values.dtype}, which does not fit its "
                "other columns: make the report again."
            )
        if not whole:
            if not np.isfinite(values).all():
                raise RefusedError(f"{origin} has NaN or infinity in {quote(name)}: make the report again.")
            columns[name.removeprefix("column.")] = values
    return PerExample(arrays["id"], arrays.get("unit"), columns)


def digest(data: bytes) -> str:
    """Compute the SHA-256 of a file of records, by which its report knows it."""
    return hashlib.sha256(data).hexdigest()


def load_records(report: Report, path: Path) -> bytes | None:
    """Return the bytes of the records of the report at ``path``, from the file beside it; None where it has none.

    Raises RefusedError where the file there is not the one that was written with the report, or the report says otherwise.
    """
    found = _beside(report, path)
    if found is None:
        return None
    data, file = found
    if digest(data) != report.settings.get("records"):
        raise RefusedError(
            f"{file} was not written with {path.name}, which knows its records by another SHA-256: keep both as "
            "`collapsekit diagnose` wrote them, or make the report again."
        )
    check_records(report, data, str(path))
    return data


def load_report(path: Path, raw: Any = None) -> Report:
    """Return the report at ``path`` (``raw``: its JSON, where that was read), whose numbers are those of its records
    where they lie beside it. A file there that is another report's is left alone. Raises RefusedError.
    """
    report = Report.load(path) if raw is None else Report.from_data(raw, str(path))
    found = _beside(report, path)
    if found is not None and digest(found[0]) == report.settings.get("records"):
        check_records(report, found[0], str(path))
    return report


def check_records(report: Report, data: bytes, origin: str) -> None:
    """Check that a report's numbers are those of its records.

    Args:
        report: the report.
        data: the bytes of the file of records.
        origin: what to call the report in messages.

    Raises:
        RefusedError: naming the first number that is not.
    """
    said = records_contradiction(report, data)
    if said is not None:
        raise RefusedError(
            f"{origin} contradicts its records: {said}; take both as collapsekit wrote them, or make them again."
        )


def _beside(report: Report, path: Path) -> tuple[bytes, Path] | None:
    """The file of records beside a report that names some."""
    known = report.settings.get("records")
    file = path.with_name(NAME)
    if not isinstance(known, str) or not os.path.lexists(file):
        return None
    if not file.is_file():
        raise RefusedError(f"{file} is not a regular file, or a link to none: keep it as it was written, or remove it.")
    try:
        data = read_bytes(file, MAX_BYTES)
    except OSError as e:
        raise RefusedError(f"{file} cannot be read: {reason(e)}.") from None
    return data, file


@dataclass(frozen=True)
class Means:
    """How many examples the records are of, and each column's mean and mean size."""

    examples: int
    columns: dict[str, tuple[float, float]]


def records_contradiction(report: Report, data: bytes) -> str | None:
    """Return the first number of a report that its records (the bytes of their file) contradict; None where all agree.

    Means of columns and the report's numbers may differ by MEAN_RTOL of the column's mean size, and MEAN_ATOL.
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
        if not abs(result.value - right) <= MEAN_RTOL * size + MEAN_ATOL:
            of = "" if modality is None else f" of {quote(modality)}"
            yield f"{quote(name)}{of} is {result.value:.6g}, and the records of its examples give {right:.6g}"


def _pairs(modalities: tuple[str, ...]) -> Iterator[tuple[str, str | None, tuple[tuple[str, int], ...]]]:
    """Which results are which sums of means of columns."""
    yield "reliance.full_loss", None, (("loss", 1),)
    yield "reliance.full_metric", None, (("metric", 1),)
    for m in modalities:
        yield "utilisation.credit", m, ((f"credit.{m}", 1),)
        yield "reliance.leave_one_out", m, ((f"loss_without.{m}", 1), ("loss", -1))
        yield "reliance.leave_one_out_metric", m, (("metric", 1), (f"metric_without.{m}", -1))


def parts_of(name: str, modality: str | None) -> tuple[tuple[str, int], ...] | None:
    """Return the columns of records, with their signs, whose means add up to a result; None where it is no such sum."""
    of = () if modality is None else (modality,)
    return next((parts for n, m, parts in _pairs(of) if (n, m) == (name, modality)), None)


def means_of(data: bytes) -> Means | str:
    """Return the means of the columns of a safetensors file, read without NumPy; or what is wrong with it."""
    odd = "its records are no file of records"
    if len(data) < 8 or (length := struct.unpack("<Q", data[:8])[0]) > min(_MAX_HEADER, len(data) - 8):
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
                return f"its records have no finite {quote(name)}"
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
