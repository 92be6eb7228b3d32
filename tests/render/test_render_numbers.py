from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval

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


def test_intervals() -> None:
    assert fmt_interval(None) == ""
    assert fmt_interval((0.93, 1.0)) == "[0.930, 1]"
    assert fmt_estimate(0.97, (0.93, 1.0)) == "0.970 [0.930, 1]"
    assert fmt_estimate(0.97, None) == "0.970"
