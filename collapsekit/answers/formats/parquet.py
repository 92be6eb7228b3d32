"""parquet: ids and edits as a table, and answers as one, for millions of them. Takes polars, imported where it is needed."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from collapsekit.answers.formats._format import AnswerRows, PlanInBrief
from collapsekit.answers.formats._parquet_footer import list_chunks
from collapsekit.answers.formats.plain import Plain
from collapsekit.answers.values import ANSWER_KEYS, LARGEST, LEAST
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.safe_text import inline, some
from collapsekit.user_code.frames import one_line

STEP = 1 << 17  # rows that are in memory at once
LONGEST_LIST = 256  # values in a row of a column beside what is asked for, such as alternatives that a server adds
MOST_TRIES = 64  # rows of a file for each question: more are no answers, and a small file can claim any number of rows
_EDIT = ("example", "absent", "left_out")  # what may be in a modality's place, one of them
_ID = "^[0-9a-f]{16}$"
_READ = ("id", "plan", "model", *ANSWER_KEYS, "refused", "error")  # columns; all others are left where they are
# Answers that are rows of numbers as they are, by what is asked; the rest is read row by row, as lines are.
_NUMBERS = {"classes": ("scores", "logprobs", "probs"), "labels": ("scores",), "values": ("value", "scores")}


class Parquet(Plain):
    """Questions and answers of the format ``plain`` as tables. A question's edit is a list of modalities with what is in
    their place; an answer's columns are called as the keys of a line are."""

    name: ClassVar[str] = "parquet"
    summary: ClassVar[str] = "as `plain`, in tables for millions of questions; takes collapsekit[polars]"
    suffix: ClassVar[str] = "parquet"
    mark: ClassVar[bytes] = b"PAR1"

    def pack(self, lines: str) -> bytes:
        polars = _need_polars("the format parquet is written")
        rows = [json.loads(line) for line in lines.splitlines()]
        for row in rows:
            row["edit"] = [{"modality": m, **dict.fromkeys(_EDIT), **how} for m, how in row["edit"].items()]
        place = polars.Int64
        each = dict(zip(_EDIT, (place, place, polars.Boolean), strict=True))
        edit = polars.List(polars.Struct({"modality": polars.String, **each}))
        table = polars.DataFrame(
            rows, schema={"id": polars.String, "split": polars.String, "example": place, "edit": edit}, orient="row"
        )
        out = io.BytesIO()
        table.write_parquet(out)
        return out.getvalue()

    def unpack(self, path: Path, data: bytes) -> Iterator[dict[str, Any]]:
        polars = _need_polars(f"{path.name} is read")
        with _Damaged(path):
            rows = polars.read_parquet(io.BytesIO(data), columns=["id", "split", "example", "edit"]).to_dicts()
        for row in rows:
            yield row | {"edit": {one.pop("modality"): _without_gaps(one) for one in row["edit"]}}

    def numbers_in(self, path: Path, data: bytes) -> NDArray[np.uint64]:
        polars = _need_polars(f"{path.name} is read")
        with _Damaged(path):
            ids = polars.read_parquet(io.BytesIO(data), columns=["id"]).get_column("id")
            found: NDArray[np.uint64] = _to_numbers(polars, ids.filter(ids.str.contains(_ID)))
        return found

    def read_rows(self, path: Path, plan: PlanInBrief) -> Iterator[AnswerRows]:
        polars = _need_polars(f"{path.name} is read")
        with _Damaged(path):
            scan = polars.scan_parquet(path, glob=False, hive_partitioning=False)
            schema = scan.collect_schema()
            total = int(scan.select(polars.len()).collect().item())
        columns = [name for name in _READ if name in schema]
        if schema.get("id") != polars.String or not {*columns} & {*ANSWER_KEYS, "refused", "error"}:
            found = some([inline(name, 40) for name in schema.names()], 6)
            raise RefusedError(
                f"{path} has the columns {found}, expected id as text, and one of {', '.join(ANSWER_KEYS)}: name them as "
                "the keys of a line of answers are."
            )
        if total > MOST_TRIES * (plan.questions + 1):
            raise RefusedError(
                f"{path} has {total:,} rows for {plan.questions:,} questions, more than {MOST_TRIES} for each: "
                "give answers to this plan alone."
            )
        _need_short_lists(path, columns, plan)
        for start in range(0, total, STEP):
            with _Damaged(path):
                part = scan.select(columns).slice(start, STEP).collect()
                rows = _rows_of(polars, part, plan, start)
            yield rows


def _need_short_lists(path: Path, columns: list[str], plan: PlanInBrief) -> None:
    """Before anything is decoded, that no column holds many more numbers than rows: a small file can claim any number, and
    log-probabilities of a whole vocabulary would fill the memory. Raises RefusedError."""
    most = LONGEST_LIST + plan.width
    with _Damaged(path):
        long = next((c for c in list_chunks(path) if c.column in columns and c.values > most * (c.rows + 1)), None)
    if long is not None:
        raise RefusedError(
            f"{path} has {long.values:,} values in {inline(long.column, 40)} of {long.rows:,} rows, more than {most} a row, "
            f"expected {plan.width}: write the numbers of the choices alone."
        )


class _Damaged:
    """What the library says of a file that it cannot read, as an error of ours. Panics of its are no ``Exception``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            return
        what = inline(one_line(error), 200)
        raise RefusedError(f"{self.path} cannot be read as Parquet ({what}): write it again.") from None


def _need_polars(what: str) -> Any:
    try:
        return importlib.import_module("polars")
    except ImportError:
        raise ConfigError(
            f"{what} by polars, which is not installed: pip install 'collapsekit[polars]', or use JSON lines "
            "(`--format plain`)."
        ) from None


def _to_numbers(polars: Any, ids: Any) -> Any:
    return ids.str.to_integer(base=16, dtype=polars.UInt64).to_numpy()


def _rows_of(polars: Any, part: Any, plan: PlanInBrief, start: int) -> AnswerRows:
    """Tell rows of numbers, which are most, from the rest of some rows."""
    schema = part.schema
    usable = [n for n in _NUMBERS[plan.kind] if n in schema and _is_numeric(polars, schema[n])]
    name = max(usable, key=lambda n: part.height - part.get_column(n).null_count(), default=None)
    if name is None:
        return AnswerRows(*_no_rows(plan.width), (), tuple(_lines(part, range(part.height), start)))
    if not schema[name].is_nested():
        part = part.with_columns(polars.when(polars.col(name).is_not_null()).then(polars.concat_list(name)).alias(name))
    plain = part.select(plain=_is_plain(polars, part, name, plan)).get_column("plain").to_numpy()
    rows = part.filter(plain)
    flat = rows.get_column(name).cast(polars.Array(polars.Float64, plan.width)).to_numpy()
    sound = (np.abs(flat) <= LARGEST).all(1)  # gaps are NaN, and no number is
    if name == "probs":
        sound &= ((flat >= 0) & (flat <= 1)).all(1)
    plain[np.flatnonzero(plain)[~sound]] = False
    rows, flat = rows.filter(sound), flat[sound]
    if name == "probs":  # by the same logarithm as a line's, so that not one bit hangs on the file
        flat = np.fromiter((math.log(max(p, LEAST)) for p in flat.ravel().tolist()), float).reshape(flat.shape)
    models = rows.get_column("model").drop_nulls().unique(maintain_order=True).to_list() if "model" in schema else []
    numbers = _to_numbers(polars, rows.get_column("id"))
    others = tuple(_lines(part.filter(~plain), np.flatnonzero(~plain).tolist(), start))
    return AnswerRows(numbers, flat.astype(np.float32), tuple(models), others)


def _no_rows(width: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    return np.empty(0, np.uint64), np.empty((0, width), np.float32)


def _is_numeric(polars: Any, kind: Any) -> bool:
    inner = kind.inner if isinstance(kind, polars.List | polars.Array) else kind
    return bool(inner.is_float() or inner.is_integer())


def _is_plain(polars: Any, part: Any, name: str, plan: PlanInBrief) -> Any:
    """An expression: whether a row has an id, this plan, as many numbers as are asked for, and nothing else to say."""
    col, schema = polars.col, part.schema
    lists = col(name).list if isinstance(schema[name], polars.List) else col(name).arr
    found = col("id").str.contains(_ID) & (lists.len() == plan.width)
    for other in (*ANSWER_KEYS, "refused", "error"):
        if other in schema and other != name:
            is_false = ~col(other) if schema[other] == polars.Boolean and other == "refused" else polars.lit(False)
            found &= col(other).is_null() | is_false
    if "plan" in schema:
        found &= col("plan").is_null() | (col("plan").cast(polars.String, strict=False) == plan.key)
    if "model" in schema and schema["model"] != polars.String:
        found &= col("model").is_null()
    return found.fill_null(value=False)


def _lines(part: Any, places: Any, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for place, row in zip(places, part.iter_rows(named=True), strict=True):
        yield start + int(place) + 1, _without_gaps(row)


def _without_gaps(row: dict[str, Any]) -> dict[str, Any]:
    """What a line would hold: of columns, and of names of choices, that are null nothing is said."""
    return {key: _without_gaps(v) if isinstance(v, dict) else v for key, v in row.items() if v is not None}


FORMAT = Parquet()
