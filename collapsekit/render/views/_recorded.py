"""What reports recorded, for readers who choose where to look: lines over β or a rate, numbers by modality, and sets of
modalities that the model was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from collapsekit.measures import heading_of
from collapsekit.render.document import Recording, Series
from collapsekit.render.views._results import SUBSETS, WHOLE, points
from collapsekit.render.views._words import Interval, thinned
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import subset_members

_PATTERNS = "missing.patterns"  # curves over the modalities that are absent
_MOST_POINTS = 256
_MOST_SERIES = 24  # more lines than that are not told apart
_Key = tuple[str, str, str]


def recorded(reports: Mapping[str, Report]) -> tuple[Recording, ...]:
    """Collect the recordings of one report, or of several that are shown beside one another.

    Args:
        reports: By what each is called in the name of a series; an empty name is left out. Their names are cleaned.

    Returns:
        A recording for each name of a result, over what it was measured at; those over sets of modalities say which
        modalities the model was given.
    """
    found: dict[_Key, list[Series]] = {}
    for when, report in reports.items():
        for key, series in (*_lines(report, when), *_by_modality(report, when)):
            found.setdefault(key, []).append(series)
    sets = {key: tuple(_sets_of(reports, key, series[0])) for key, series in found.items()}
    return tuple(Recording(_title(key), *key[1:], tuple(some[:_MOST_SERIES]), sets[key]) for key, some in found.items())


def _lines(report: Report, when: str) -> Iterator[tuple[_Key, Series]]:
    """A series a curve; fills of one kind of curve share a recording."""
    for r in report.results:
        if r.curve is None:
            continue
        stem, fill = _stem(r)
        every = points(r)
        shown = [every[i] for i in thinned(len(every), _MOST_POINTS)]
        of = r.modality or ("" if fill else WHOLE)
        parts = _parts(when, fill, of, f"versus {r.versus}" if r.versus is not None else "")
        series = _series(parts, shown, _place(report, r))
        yield (stem, r.curve.x_label, r.curve.y_label), series


def _by_modality(report: Report, when: str) -> Iterator[tuple[_Key, Series]]:
    """A series a name of single numbers, over the modalities that have it; one for each other modality beside which they
    stand."""
    groups: dict[tuple[str, str | None], list[Result]] = {}
    for r in report.results:
        if r.value is not None and r.curve is None and r.modality is not None:
            groups.setdefault((r.name, r.versus), []).append(r)
    for (name, versus), results in groups.items():
        shown = [(r.modality or "", r.value or 0.0, r.interval) for r in results]
        parts = _parts(when, f"versus {versus}" if versus is not None else "")
        yield (name, "modality", results[0].unit or ""), _series(parts, shown)


def _series(
    parts: tuple[str, ...], shown: Sequence[tuple[float | str, float, Interval]], place: int | None = None
) -> Series:
    return Series(parts, tuple(p[0] for p in shown), tuple(p[1] for p in shown), tuple(p[2] for p in shown), place)


def _parts(*parts: str) -> tuple[str, ...]:
    return tuple(filter(None, parts))


def _place(report: Report, r: Result) -> int | None:
    """Where the modality that tells a line from its like stands among the modalities."""
    names, of = report.subject.modalities, r.versus or r.modality
    return names.index(of) if of in names else None


def _stem(r: Result) -> tuple[str, str]:
    """A result's name without its fill, and the fill."""
    probe, _, rest = r.name.partition(".")
    kind, _, fill = rest.partition(".")
    return f"{probe}.{kind}", fill


def _title(key: _Key) -> str:
    probe, _, kind = key[0].partition(".")
    return f"{heading_of(probe).title}: {kind.replace('_', ' ')}"


def _sets_of(reports: Mapping[str, Report], key: _Key, series: Series) -> Iterator[tuple[str, ...]]:
    """Which modalities the model was given at each x, where x are sets of them."""
    absent = key[0].startswith(_PATTERNS)
    if key[0] not in SUBSETS and not absent:
        return
    names = next(iter(reports.values())).subject.modalities
    members = [subset_members(names, str(x)) for x in series.x]
    if all(m is not None for m in members):
        yield from (tuple(n for n in names if (n in m) is not absent) for m in members if m is not None)
