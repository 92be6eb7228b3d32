"""The one place where numbers become text."""

from __future__ import annotations

import math

ABSENT = "–"
_NOISE = 1e-12  # float64 rounding of a quantity of order one; shown as 0
_EXACT = 1e9  # whole numbers below this are counts or ranks and are shown digit by digit
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
    if power < -4 or power >= 6:
        return f"{mantissa}×10{power_of_ten(power)}"
    return f"{value:.{max(0, 2 - power)}f}"


def power_of_ten(power: int) -> str:
    """Write the exponent as superscript digits: ``-3`` is ``⁻³``."""
    return str(power).translate(_SUPERSCRIPT)


def fmt_interval(interval: tuple[float, float] | None) -> str:
    """Write ``[0.930, 1]``, or an empty string where there is no interval."""
    return f"[{fmt(interval[0])}, {fmt(interval[1])}]" if interval is not None else ""


def fmt_estimate(value: float | None, interval: tuple[float, float] | None) -> str:
    """Value and interval in one string: ``0.970 [0.930, 1]``."""
    return f"{fmt(value)} {fmt_interval(interval)}".rstrip()
