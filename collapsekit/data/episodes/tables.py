"""Tables beside videos: Parquet, and JSON a line. Parquet takes pyarrow, which is imported where it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.files import read_text, reason
from collapsekit.io.json import parse_json
from collapsekit.user_code.frames import one_line

Column = Any  # a NumPy array (rows, ...), or a list of text, bytes or mappings
_MAX_LINES_BYTES = 256_000_000
INSTEAD = "install the extra (pip install 'collapsekit[robot]'), or export the frames as .npz (docs/robot.md)"


def need_module(name: str, what: str) -> Any:
    """Import a module of the extra ``robot``. Raises ConfigError, saying what to do, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(f"{what} is read by {name.partition('.')[0]}, which is not installed: {INSTEAD}.") from None


def read_parquet(paths: Sequence[Path]) -> dict[str, Column]:
    """Read the columns of Parquet files, one below another.

    Args:
        paths: the files, which have the same columns.

    Returns:
        By name an array (rows, ...) of numbers, or a list of what is none.

    Raises:
        ConfigError: without pyarrow.
        RefusedError: for a file that is damaged, or has other columns than the first.
    """
    parquet = need_module("pyarrow.parquet", f"{paths[0].name} (Parquet)")
    parts: list[dict[str, Column]] = []
    for path in paths:
        try:
            table = parquet.ParquetFile(path).read()
            parts.append({name: _column(table.column(name)) for name in table.column_names})
        except Exception as e:  # noqa: BLE001 - damaged bytes make pyarrow raise almost anything
            raise RefusedError(f"{path} cannot be read as Parquet ({one_line(e)}): get it anew.") from None
        if parts[-1].keys() != parts[0].keys():
            raise RefusedError(f"{path} has other columns than {paths[0].name}: get the recording anew.")
    return {name: _joined([part[name] for part in parts], name, paths[0]) for name in parts[0]}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; none where there is no file. Raises RefusedError."""
    if not path.is_file():
        return []
    try:
        text = read_text(path, _MAX_LINES_BYTES)
    except OSError as e:
        raise RefusedError(f"{path} cannot be read: {reason(e)}.") from None
    rows = [parse_json(line, f"a line of {path}") for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise RefusedError(f"{path} holds lines that are no JSON objects: get it anew.")
    return rows


def _column(values: Any) -> Column:
    """One column: numbers, lists of equal lengths as further axes; anything else as a list."""
    plain = values.to_pylist() if _is_nested(values.type) else values.to_numpy()
    array = np.asarray(plain) if not _holds_objects(plain) else None
    if array is not None and array.dtype.kind in "biuf":
        return array
    return plain if isinstance(plain, list) else plain.tolist()


def _is_nested(kind: Any) -> bool:
    return "list" in str(kind) or str(kind).startswith("struct")


def _holds_objects(plain: Any) -> bool:
    first = plain[0] if len(plain) else None
    return isinstance(first, dict | str | bytes) or first is None


def _joined(parts: Iterable[Column], name: str, path: Path) -> Column:
    known = list(parts)
    if all(isinstance(part, np.ndarray) for part in known):
        try:
            return np.concatenate(known)
        except ValueError:
            raise RefusedError(f"column {name!r} of {path} and the files after it differ in shape.") from None
    return [value for part in known for value in part]
