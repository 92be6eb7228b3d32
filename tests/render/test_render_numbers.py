from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval, fmt_parts

_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _read(text: str) -> float:
    """The number a reader takes ``text`` for."""
    mantissa, _, power = text.partition("×10")
    return float(mantissa) * 10.0 ** int(power.translate(_DIGITS) or 0)


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_what_is_shown_is_the_value_to_three_digits(value: float) -> None:
    shown = fmt(value)
    if abs(value) < 1e-12:
        assert shown == "0"
    else:
        assert math.isclose(_read(shown), value, rel_tol=5.01e-3)
    assert re.fullmatch(r"-?\d+(\.\d+)?(×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?", shown)
    assert not re.fullmatch(r"-0(\.0*)?", shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.97, "0.970"),
        (0.99999, "1.00"),
        (99.96, "100"),
        (1234.5678, "1235"),
        (1000.0, "1000"),
        (64.0, "64"),
        (-0.0, "0"),
        (-1e-17, "0"),
        (0.00012, "0.000120"),
        (1.2e-7, "1.20×10⁻⁷"),
        (123456789.5, "1.23×10⁸"),
        (None, ABSENT),
        (math.nan, ABSENT),
    ],
)
def test_examples(value: float | None, shown: str) -> None:
    assert fmt(value) == shown


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (0.97, None, "0.970"),
        (0.97, (0.93, 1.0), "0.97 [0.93, 1]"),
        (0.8931, (0.8881, 0.8998), "0.893 [0.888, 0.900]"),
        (0.0215, (0.0085, 0.0398), "0.02 [0.01, 0.04]"),
        (1.487, (1.463, 1.512), "1.49 [1.46, 1.51]"),
        (2.3026, (2.3012, 2.3031), "2.3026 [2.3012, 2.3031]"),
        (274.3, (101.8, 1100.2), "274 [102, 1100]"),
        (20.0, (18.31, 21.24), "20 [18.3, 21.2]"),
        (2.0, (2.0, 2.0), "2 [2, 2]"),
        (0.0, (-0.0088, 0.0088), "0 [-0.009, 0.009]"),  # no change was measurable
        (0.0004, (-0.1, 0.1), "0 [-0.10, 0.10]"),
        (0.0004, (0.0003, 0.3), "0.0004 [0.0003, 0.30]"),  # surely above 0
        (-0.2, (-0.4, -0.0002), "-0.2 [-0.4, -0.0002]"),
        (0.7, (0.41, 0.9997), "0.7 [0.4, 1.0]"),  # not 1
        (1.2e-7, (0.9e-7, 1.6e-7), "1.2×10⁻⁷ [9×10⁻⁸, 1.6×10⁻⁷]"),
        (None, (0.1, 0.4), f"{ABSENT} [0.1, 0.4]"),
    ],
)
def test_an_interval_says_how_many_digits(
    value: float | None, interval: tuple[float, float] | None, shown: str
) -> None:
    assert fmt_estimate(value, interval) == shown
    assert fmt_interval(interval) == (shown.partition(" ")[2] if interval is not None else "")


SIZES = st.floats(min_value=-1e5, max_value=1e5) | st.floats(min_value=-1, max_value=1) | st.sampled_from([0.0, 1.0])


@given(st.lists(SIZES, min_size=3, max_size=3).map(sorted))
def test_rounding_by_the_interval_moves_no_number_by_more_than_a_sixth_of_its_width(numbers: list[float]) -> None:
    low, value, high = numbers
    text, ends = fmt_parts(value, (low, high))
    shown = [*map(_read, ends[1:-1].split(", "))]
    assert shown[0] <= _read(text) <= shown[1]
    for x, y in zip((low, high), shown, strict=True):
        assert (y == 0) == (abs(x) < 1e-12)  # no end is said to be 0 that is not
        assert x * y >= 0
        assert x not in (0, 1) or y == x
    if low > 1e-12 or high < -1e-12:
        assert _read(text) != 0
    width = high - low
    if width > 1e-9 and max(abs(low), abs(high)) / width < 1e4:
        for x, y in zip((value, low, high), (_read(text), *shown), strict=True):
            assert abs(x - y) <= width / 6 * (1 + 1e-9)


@given(st.lists(SIZES, min_size=3, max_size=3).map(sorted))
def test_no_digit_is_shown_that_counts_less_than_a_thirtieth_of_the_interval(numbers: list[float]) -> None:
    low, value, high = numbers
    text, _ = fmt_parts(value, (low, high))
    if low <= 0 <= high and not value.is_integer() and "×" not in text and high - low < 1e4:
        assert 10.0 ** -len(text.partition(".")[2]) >= min(1.0, (high - low) / 30 * (1 - 1e-9))
