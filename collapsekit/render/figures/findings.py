"""What a figure shows, in one sentence: a function of the report alone, as far as its intervals allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from collapsekit.measures import Finding
from collapsekit.render.figures.marks import in_unit
from collapsekit.render.figures.plots import results_of
from collapsekit.render.numbers import fmt, fmt_estimate
from collapsekit.report.diagnosis import Curve, Interval, Report, Result

_NAMED = 3  # modalities of a subset that a sentence names one by one
Answer = tuple[str, dict[str, str]] | None  # which sentence, and what stands in its fields


def state_finding(report: Report, findings: Sequence[Finding]) -> str:
    """Say what the numbers of a figure show.

    Args:
        report: Of a diagnosis, with clean names.
        findings: As the picture declares them.

    Returns:
        The sentence of the first finding that the report has numbers for; empty where there is none.
    """
    for finding in findings:
        found = _ANSWERS[finding.question](report, finding)
        if found is not None:
            answer, fields = found
            every = {"metric": report.subject.metric, "unit": _unit(report, finding), "limit": fmt(finding.limit)}
            return finding.says[answer].format(**{**every, **fields})
    return ""


def _unit(report: Report, finding: Finding) -> str:
    return in_unit("({unit})", results_of(report, finding.of)).strip("()") if results_of(report, finding.of) else ""


def _estimate(r: Result) -> str:
    return fmt_estimate(r.value, r.interval)


def _apart(low: Interval | None, high: Interval | None) -> bool:
    """Whether the first interval lies wholly below the second; no where either is not known."""
    return low is not None and high is not None and low[1] < high[0]


def _valued(report: Report, finding: Finding) -> list[Result]:
    return [r for r in results_of(report, finding.of) if r.value is not None]


def _whole(report: Report, name: str) -> Result | None:
    found = report.find(name)
    return found if found is not None and found.value is not None else None


def _most(report: Report, finding: Finding) -> Answer:
    rows = [r for r in _valued(report, finding) if r.modality is not None and r.versus is None]
    if len(rows) < 2:
        return None
    sign = 1 if finding.side == "above" else -1
    first, *rest = sorted(rows, key=lambda r: -sign * (r.value or 0.0))
    pairs = [(r.interval, first.interval) if sign > 0 else (first.interval, r.interval) for r in rest]
    fields = {"modality": first.modality or "", "value": _estimate(first)}
    fields |= {"second": rest[0].modality or "", "other": _estimate(rest[0])}
    return ("clear" if all(_apart(*pair) for pair in pairs) else "unclear"), fields


def _beyond(report: Report, finding: Finding) -> Answer:
    known = [r for r in _valued(report, finding) if r.modality is not None and r.interval is not None]
    if not known:
        return None
    at = (finding.limit, finding.limit)
    above = finding.side == "above"
    clear = [r for r in known if (_apart(at, r.interval) if above else _apart(r.interval, at))]
    if not clear:
        return "unclear", {}
    farthest = max(clear, key=lambda r: (r.value or 0.0) * (1 if above else -1))
    names = {"modality": farthest.modality or "", "versus": farthest.versus or ""}
    return "clear", {**names, "value": _estimate(farthest)}


def _against(report: Report, finding: Finding) -> Answer:
    first, second = _whole(report, finding.of), _whole(report, finding.other)
    if first is None or second is None or second.value is None:
        return None
    exact = second.interval if second.interval is not None else (second.value, second.value)
    return _side(first.interval, exact), {"value": _estimate(first), "other": _estimate(second)}


def _side(first: Interval | None, second: Interval | None) -> str:
    if _apart(second, first):
        return "above"
    return "below" if _apart(first, second) else "unclear"


def _among(report: Report, finding: Finding) -> Answer:
    whole = _whole(report, finding.of)
    rows = [r for r in _valued(report, finding) if r.modality is not None and r.versus is None]
    if whole is None or not rows:
        return None
    sides = {_side(whole.interval, r.interval) for r in rows}
    side = sides.pop() if len(sides) == 1 else "unclear"
    nearest = (max if side == "above" else min)(rows, key=lambda r: r.value or 0.0)
    return side, {"value": _estimate(whole), "modality": nearest.modality or "", "other": _estimate(nearest)}


def _change(report: Report, finding: Finding) -> Answer:
    rows = [
        (answer, abs(to - since), fields)
        for r in results_of(report, finding.of)
        if r.curve is not None and r.versus in (None, r.modality)
        for answer, since, to, fields in _ends(r.curve, finding, r.modality or "")
    ]
    if not rows:
        return None
    answer, _, fields = max(rows, key=lambda row: (row[0] != "unclear", row[1]))
    return answer, fields


def _ends(curve: Curve, finding: Finding, modality: str) -> list[tuple[str, float, float, dict[str, str]]]:
    """How a curve ends beside where it begins; nothing where those are one point, or the curve has no band."""
    begin = 0 if finding.begin is None else next((i for i, x in enumerate(curve.x) if x == finding.begin), -1)
    end = len(curve.x) - 1
    if not 0 <= begin < end or curve.lower is None or curve.upper is None:
        return []
    bands = [(curve.lower[i], curve.upper[i]) for i in (begin, end)]
    xs = [_place(x) for x in (curve.x[begin], curve.x[end])]
    values = [fmt_estimate(curve.y[i], band) for i, band in zip((begin, end), bands, strict=True)]
    fields = {"modality": modality, "begin": xs[0], "end": xs[1], "value": values[0], "other": values[1]}
    return [(_side(bands[1], bands[0]), curve.y[begin], curve.y[end], fields)]


def _place(x: float | str) -> str:
    """Where a point of a curve lies; subsets of many modalities by their number."""
    if not isinstance(x, str):
        return fmt(x)
    count = x.count("+") + 1
    return x if count <= _NAMED else f"{count} modalities"


def _share(report: Report, finding: Finding) -> Answer:
    curve = next((r.curve for r in results_of(report, finding.of) if r.curve is not None and r.curve.y), None)
    if curve is None:
        return None
    count = sum(y > finding.limit for y in curve.y)
    return "clear", {"count": f"{count} of {len(curve.y)}"}


_ANSWERS: dict[str, Callable[[Report, Finding], Answer]] = {
    "most": _most,
    "beyond": _beyond,
    "against": _against,
    "among": _among,
    "change": _change,
    "share": _share,
}
