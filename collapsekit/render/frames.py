"""Results of a report as a table of pandas or polars, whichever is installed; neither is needed for anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import Report
from collapsekit.report.display import Library
from collapsekit.report.names import cleaned

_LIBRARIES: tuple[Library, ...] = ("pandas", "polars")  # the first that is installed is taken
_OF = ("probe", "name", "modality", "versus")
# Column -> whether it holds numbers; of the others every entry is text, or nothing.
RESULT_COLUMNS = {
    **dict.fromkeys(_OF, False),
    **dict.fromkeys(("value", "lower", "upper"), True),
    **dict.fromkeys(("unit", "note", "skipped", "definition", "source"), False),
}
CURVE_COLUMNS = {
    **dict.fromkeys(_OF, False),
    "x": True,
    "category": False,
    **dict.fromkeys(("y", "lower", "upper"), True),
    **dict.fromkeys(("x_label", "y_label"), False),
}
_TYPES = {"pandas": ("float64", "object"), "polars": ("Float64", "String")}  # of numbers, and of text


def result_frame(report: Report, library: Library | None) -> Any:
    """Make a table of a report, one row a result, in the report's order; names are cleaned.

    Raises ConfigError where the library is not known, or not installed.
    """
    rows = []
    for r in cleaned(report).results:
        lower, upper = r.interval or (None, None)
        numbers = (r.value, lower, upper)
        rows.append(
            (r.probe, r.name, r.modality, r.versus, *numbers, r.unit, r.note, r.skipped, r.definition, r.source)
        )
    return _frame(RESULT_COLUMNS, rows, library)


def curve_frame(report: Report, library: Library | None) -> Any:
    """Make a table of a report's curves, one row a point; a point over names has a category in the place of x.

    Raises ConfigError where the library is not known, or not installed.
    """
    rows = []
    for r in cleaned(report).results:
        if r.curve is None:
            continue
        nothing = (None,) * len(r.curve.x)
        bounds = (r.curve.lower or nothing, r.curve.upper or nothing)
        for x, *ys in zip(r.curve.x, r.curve.y, *bounds, strict=True):
            at = (None, x) if isinstance(x, str) else (x, None)
            rows.append((r.probe, r.name, r.modality, r.versus, *at, *ys, r.curve.x_label, r.curve.y_label))
    return _frame(CURVE_COLUMNS, rows, library)


def _frame(columns: Mapping[str, bool], rows: Sequence[Sequence[Any]], library: Library | None) -> Any:
    """The table; numbers that are not there are what the library has for that."""
    name, module = _library(library)
    number, text = _TYPES[name]
    entries = dict(zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True))
    if name == "polars":
        schema = {c: getattr(module, number if numeric else text) for c, numeric in columns.items()}
        return module.DataFrame({c: list(map(_plain, entries[c])) for c in columns}, schema=schema)
    series = {c: module.Series(list(entries[c]), dtype=number if n else text) for c, n in columns.items()}
    return module.DataFrame(series)


def _plain(value: Any) -> Any:
    """A number of a curve's x may be whole; polars takes no whole number for a float."""
    return float(value) if isinstance(value, int) else value


def _library(name: Library | None) -> tuple[str, Any]:
    """The library that is asked for, or the first that is there."""
    if name is not None and name not in _LIBRARIES:
        near = did_you_mean(str(name), _LIBRARIES, 1)
        raise ConfigError(f"library {quote(str(name))} is not known: use {' or '.join(_LIBRARIES)}{near}.")
    tried: Iterable[str] = _LIBRARIES if name is None else (name,)
    for library in tried:
        try:
            return library, import_module(library)
        except ImportError:
            continue
    which = f"{name} is not installed" if name is not None else "neither pandas nor polars is installed"
    raise ConfigError(f"a table needs pandas or polars, and {which}: pip install {name or 'pandas'}.")
