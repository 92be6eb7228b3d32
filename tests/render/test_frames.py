"""Results as tables of pandas and polars."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from sample_reports import HOSTILE, make_report, nothing_measured

from collapsekit import Report, ext
from collapsekit.render.frames import CURVE_COLUMNS, RESULT_COLUMNS

LIBRARIES = pytest.mark.parametrize("library", ["pandas", "polars"])


def rows(frame: Any) -> list[dict[str, Any]]:
    """Rows as dictionaries, what is missing as None."""
    if hasattr(frame, "to_dicts"):
        return list(frame.to_dicts())
    plain = frame.astype(object).where(frame.notna(), None)
    return list(plain.to_dict("records"))


@LIBRARIES
@pytest.mark.parametrize("names", [("image", "audio"), ("音声",)])
def test_a_row_is_a_result(library: Any, names: tuple[str, ...]) -> None:
    pytest.importorskip(library)
    report = make_report(names)
    made = rows(report.to_frame(library))
    assert len(made) == len(report.results) > 10
    for row, r in zip(made, report.results, strict=True):
        lower, upper = r.interval or (None, None)
        assert list(row) == list(RESULT_COLUMNS)
        expected = [r.probe, r.name, r.modality, r.versus, r.value, lower, upper, r.unit, r.note, r.skipped]
        assert [row[c] for c in list(row)[:10]] == expected
        assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())


@LIBRARIES
def test_a_row_of_curves_is_a_point(library: Any) -> None:
    pytest.importorskip(library)
    report = make_report(("image", "audio"))
    made = rows(report.curves_to_frame(library))
    curves = [(r, r.curve) for r in report.results if r.curve is not None]
    assert len(made) == sum(len(c.x) for _, c in curves)
    at = 0
    for r, curve in curves:
        for i, x in enumerate(curve.x):
            row = made[at]
            assert list(row) == list(CURVE_COLUMNS)
            assert (row["name"], row["modality"], row["versus"]) == (r.name, r.modality, r.versus)
            assert (row["category"] if isinstance(x, str) else row["x"]) == x
            assert (row["x"] is None) == isinstance(x, str)
            assert row["y"] == curve.y[i]
            assert row["lower"] == (None if curve.lower is None else curve.lower[i])
            at += 1
    assert {type(x) for _, c in curves for x in c.x} >= {str, float}  # both kinds were looked at


@LIBRARIES
def test_a_report_without_curves_has_all_columns(library: Any) -> None:
    pytest.importorskip(library)
    frame = nothing_measured().curves_to_frame(library)
    assert list(frame.columns) == list(CURVE_COLUMNS)
    assert len(frame) == 0
    numbers = [c for c, numeric in CURVE_COLUMNS.items() if numeric]
    assert {str(frame[c].dtype).lower() for c in numbers} == {"float64"}


@LIBRARIES
def test_names_are_cleaned(library: Any) -> None:
    pytest.importorskip(library)
    made = rows(make_report(HOSTILE).to_frame(library))
    texts = [v for row in made for v in row.values() if isinstance(v, str)]
    assert all("\x1b" not in t and "\u202e" not in t for t in texts)
    assert len({row["modality"] for row in made}) > len(HOSTILE)  # each its own, and None


def test_pandas_goes_first_and_polars_is_taken_where_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    report = make_report(("a", "b"))
    assert type(report.to_frame()).__module__.startswith("pandas")
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert isinstance(report.to_frame(), polars.DataFrame)


@pytest.mark.parametrize(
    ("library", "absent", "words"),
    [
        (None, ("pandas", "polars"), "neither pandas nor polars is installed: pip install pandas."),
        ("polars", ("polars",), "polars is not installed: pip install polars."),
        ("pands", (), "library 'pands' is not known: use pandas or polars (did you mean 'pandas'?)."),
    ],
)
def test_what_is_missing_is_said(
    library: Any, absent: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    report: Report = make_report(("a", "b"))
    for make in (report.to_frame, report.curves_to_frame):
        with pytest.raises(ext.ConfigError) as raised:
            make(library)
        assert str(raised.value).endswith(words)
