"""The one place where numbers become text."""

from __future__ import annotations

import math

ABSENT = "–"
_NOISE = 1e-12  # float64 rounding of a quantity of order one; shown as 0
_EXACT = 1e9  # whole numbers below this are counts or ranks and are shown digit by digit
_SMALL, _LARGE = -4, 6  # powers of ten below the first, and from the second on, are written as such
_PART = 3  # the last digit of an estimate counts at most this part of its interval
_MOST = 6  # significant digits of an estimate; an interval that asks for more is of no width that can be shown
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fmt(value: float | None) -> str:
    """Write ``value`` to three significant digits: ``0.412``, ``64``, ``1.20×10⁻⁷``; ``–`` where there is none.

    Whole numbers below 10⁹ and numbers above 100 keep all their integer digits; magnitudes under 10⁻¹² read
    ``0``, never ``-0``.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if abs(value) < _NOISE:
        return "0"
    if float(value).is_integer() and abs(value) < _EXACT:
        return str(int(value))
    mantissa, exponent = f"{value:.2e}".split("e")
    power = int(exponent)  # after rounding, so that 0.9999 is read as 1.00 and not as 1.000
    if power < _SMALL or power >= _LARGE:
        return f"{mantissa}×10{power_of_ten(power)}"
    return f"{value:.{max(0, 2 - power)}f}"


def power_of_ten(power: int) -> str:
    """Write the exponent as superscript digits: ``-3`` is ``⁻³``."""
    return str(power).translate(_SUPERSCRIPT)


def fmt_interval(interval: tuple[float, float] | None) -> str:
    """Write ``[0.93, 1]`` by the rule of :func:`fmt_parts`, or an empty string where there is no interval."""
    return fmt_parts(None, interval)[1]


def fmt_estimate(value: float | None, interval: tuple[float, float] | None) -> str:
    """Value and interval in one string: ``0.97 [0.93, 1]``."""
    return " ".join(fmt_parts(value, interval)).rstrip()


def fmt_parts(value: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    """Write a value and its interval with as many digits as the interval's width justifies.

    The last digit is the largest power of ten that is at most a third of the width, and at most 1: ``0.02 [0.01, 0.04]`` for
    0.0215 [0.0085, 0.0398], ``0.893 [0.888, 0.900]`` for 0.8931 [0.8881, 0.8998]. So no number is moved by more than a
    sixth of the width. Whole numbers stay whole, an end of 0 or 1 too. What is not 0 keeps its first digit where it would
    be rounded to 0, but for a value whose interval holds 0, which then reads ``0``. Where there is no interval, or it asks
    for more than six significant digits, the numbers are written as :func:`fmt` writes them.

    Args:
        value: The value; None where there is none.
        interval: The ends of its interval.

    Returns:
        The value, and the interval in brackets; an empty string where there is no interval.
    """
    if interval is None:
        return fmt(value), ""
    low, high = interval
    last = _last_digit(value, low, high)
    if last is None:
        return fmt(value), f"[{fmt(low)}, {fmt(high)}]"
    ends = (_rounded(end, last, keep=True) for end in interval)
    return _rounded(value, last, keep=not low <= 0 <= high), f"[{', '.join(ends)}]"


def _last_digit(value: float | None, low: float, high: float) -> int | None:
    """The power of ten of the last digit; None where the width tells none."""
    third = high / _PART - low / _PART  # apart, as the width of two numbers may be more than a number can be
    largest = max(abs(x) for x in (value, low, high) if x is not None)
    if not (math.isfinite(largest) and third > _NOISE):
        return None
    last = min(0, _power(third))
    return last if _power(largest) - last < _MOST else None


def _rounded(x: float | None, last: int, *, keep: bool) -> str:
    """``x`` up to the digit that counts ten to the power ``last``; ``keep``: with its first one where that lies beyond."""
    if x is None or abs(x) < _NOISE or (float(x).is_integer() and abs(x) < _EXACT):
        return fmt(x)
    if float(f"{x:.{-last}f}") == 0:
        if not keep:
            return "0"
        last = _power(x)
    power = _power(round(x, -last))
    if power < _SMALL:
        return f"{x:.{power - last}e}".split("e")[0] + f"×10{power_of_ten(power)}"
    return f"{x:.{-last}f}"


def _power(x: float) -> int:
    """The power of ten of the first digit of ``x``, which is not 0."""
    return int(f"{abs(x):.14e}".split("e")[1])  # a digit less than floats have: 1e-7 is a little under
