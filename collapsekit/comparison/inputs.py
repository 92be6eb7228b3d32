"""The reports that arguments name: one a column, or several runs of one method."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.json import read_json
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.per_example import load_report
from collapsekit.report.repair import FILE as REPAIR
from collapsekit.report.repair import RepairReport

ReportOrPath = Report | RepairReport | str | os.PathLike[str]
Columns = Mapping[str, ReportOrPath | Sequence[ReportOrPath]] | Sequence[ReportOrPath]
MOST_RUNS = 1_000
REPORT = "report.json"
PARTS = ("before", "control", "after")  # of a repair, a column each


@dataclass(frozen=True)
class LoadedRun:
    """A report and where it is from. ``name`` is what runs of different groups may be paired by."""

    name: str
    path: str
    report: Report
    repair: RepairReport | None = None  # that the report is after, where a repair was given

    @property
    def training_seed(self) -> int | None:
        """The seed its model was trained with, where it says so."""
        seed = self.report.settings.get("training_seed")
        return seed if type(seed) is int else None


@dataclass(frozen=True)
class Group:
    """A column: at least one run."""

    name: str
    runs: tuple[LoadedRun, ...]


def read_groups(arguments: Sequence[str]) -> list[Group]:
    """Read a group for each of ``PATH`` and ``NAME=PATH,PATH,...``, in that order.

    What exists as it is written is a path, whatever signs it holds; a folder stands for the report.json in it, else
    (after ``NAME=``) for all SUBFOLDER/report.json in it, else all \\*.json, sorted by name. Raises ConfigError where
    an argument names no report or a name twice, RefusedError where a file is no report.
    """
    named = [_split(a) for a in arguments]
    files = [_files(name, text) for name, text in named]
    _check_number(sum(map(len, files)))
    again = [n for n, count in Counter(n for n, _ in named if n is not None).items() if count > 1]
    if again:
        raise ConfigError(f"two groups are called {quote(again[0])}: give each NAME= a name of its own.")
    taken = {n for n, _ in named if n is not None}
    plain = iter(_labels([paths[0] for (n, _), paths in zip(named, files, strict=True) if n is None], taken))
    groups = [Group(next(plain) if n is None else n, _runs(paths)) for (n, _), paths in zip(named, files, strict=True)]
    return _parted(groups, [n is not None for n, _ in named])


def _parted(groups: Sequence[Group], named: Sequence[bool]) -> list[Group]:
    """The groups; in the place of a repair without a name of its own what it is before, with plain fine-tuning and after."""
    repairs = [not own and g.runs[0].repair is not None for g, own in zip(groups, named, strict=True)]
    found: list[Group] = []
    for group, is_repair in zip(groups, repairs, strict=True):
        run = group.runs[0]
        if not is_repair or run.repair is None:
            found.append(group)
            continue
        prefix = "" if len(groups) == 1 else f"{group.name} "
        parts = [(part, getattr(run.repair, part)) for part in PARTS]
        found += [
            Group(f"{prefix}{part}", (LoadedRun(f"{run.name} {part}", run.path, _plain(report)),))
            for part, report in parts
            if report is not None
        ]
    again = [n for n, count in Counter(g.name for g in found).items() if count > 1]
    if again:
        raise ConfigError(f"two columns are called {quote(again[0])}: give each NAME= a name of its own.")
    return found


def _plain(report: Report) -> Report:
    """A report without curves, which are not compared, and would fill the memory where there are many runs."""
    return report.model_copy(update={"results": scalars(report)})


def groups_of(reports: Columns) -> list[Group]:
    """Return a group for each report or path of a sequence, and for each name of a mapping, in that order.

    Paths and names as :func:`read_groups` has them. Raises ConfigError for what is no report, or none, RefusedError where a
    file is no report.
    """
    if not isinstance(reports, Mapping | Iterable | os.PathLike | RepairReport):
        raise ConfigError(
            f"reports is {type(reports).__name__}, expected a mapping of names to reports, or a sequence of reports."
        )
    if isinstance(reports, Mapping):
        groups = _named_groups(reports)
    else:
        one = isinstance(reports, Report | RepairReport | str | os.PathLike)
        every: list[Any] = [reports] if one else list(reports)
        groups = _plain_groups(every)
        groups = _parted(groups, [False] * len(groups))
    _check_number(sum(len(group.runs) for group in groups))
    return groups


def _plain_groups(reports: Sequence[ReportOrPath]) -> list[Group]:
    """A column for each, named by its path or, of an object, by its place."""
    files = [None if _is_report(r) else _under(_path_of(r), several=False)[0] for r in reports]
    places = {i: f"report {i + 1}" for i, file in enumerate(files) if file is None}
    labels = iter(_labels([file for file in files if file is not None], set(places.values())))
    names = [places[i] if i in places else next(labels) for i in range(len(files))]
    return [Group(name, _mixed_runs(name, [r])) for name, r in zip(names, reports, strict=True)]


def _named_groups(columns: Mapping[str, ReportOrPath | Sequence[ReportOrPath]]) -> list[Group]:
    groups = []
    for name, some in columns.items():
        reports: list[Any] = list(some) if isinstance(some, Sequence) and not isinstance(some, str) else [some]
        if not reports:
            raise ConfigError(f"column {quote(name)} has no report: give at least one.")
        groups.append(Group(name, _mixed_runs(name, reports, several=True)))
    return groups


def _mixed_runs(name: str, reports: Sequence[ReportOrPath], *, several: bool = False) -> tuple[LoadedRun, ...]:
    """The runs of a column, in order: those of a path named by where they lie, others by their place."""
    files = [[] if _is_report(r) else _under(_path_of(r), several=several) for r in reports]
    flat = [file for some in files for file in some]
    _check_number(len(flat))
    _check_once(flat, name)
    read = iter(_runs(flat))
    runs: list[LoadedRun] = []
    for i, (report, some) in enumerate(zip(reports, files, strict=True), 1):
        if isinstance(report, Report):
            runs.append(LoadedRun(f"{name} {i}", f"{name} {i}", report))
        elif isinstance(report, RepairReport):
            runs.append(LoadedRun(f"{name} {i}", f"{name} {i}", report.after, report))
        runs += [next(read) for _ in some]
    return tuple(runs)


def _is_report(value: object) -> bool:
    return isinstance(value, Report | RepairReport)


def _path_of(value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"a report to compare is {type(value).__name__}, expected a Report, or the path of one.")
    return str(value)


def _check_number(count: int) -> None:
    if count > MOST_RUNS:
        raise ConfigError(f"{count:,} reports are more than the {MOST_RUNS:,} that are compared at once.")


def _check_once(files: Sequence[str], what: str) -> None:
    again = [f for f, count in Counter(map(os.path.realpath, files)).items() if count > 1]
    if again:
        raise ConfigError(f"{again[0]} is given twice in {quote(what)}: a run counts once.")


def _split(argument: str) -> tuple[str | None, str]:
    """Name and the rest; no name for a plain path."""
    name, equals, rest = argument.partition("=")
    if not equals or os.path.lexists(argument) or "/" in name:  # a path such as runs/lr=0.1
        return None, argument
    if not name.strip() or not rest.strip():
        raise ConfigError(f"{quote(argument)} is not of the form NAME=PATH,PATH,...: write e.g. ebr=runs/ebr.")
    return name.strip(), rest


def _files(name: str | None, text: str) -> list[str]:
    """The files of reports that a path, or a list of them, stands for."""
    parts = [text] if name is None or os.path.lexists(text) else [p for p in text.split(",") if p]
    found = [file for part in parts for file in _under(part, several=name is not None)]
    _check_once(found, name or text)
    return found


def _under(part: str, *, several: bool) -> list[str]:
    if not os.path.isdir(part):  # noqa: PTH112 - Path's own raises for a name too long
        if not os.path.lexists(part):
            raise ConfigError(
                f"{part} is not a file: give a report.json that `collapsekit diagnose` wrote, a repair.json, or a folder of "
                "one."
            )
        return [part]
    folder = Path(part)
    if os.path.lexists(folder / REPORT):
        return [str(folder / REPORT)]
    if os.path.lexists(folder / REPAIR):
        return [str(folder / REPAIR)]
    if not several:
        raise ConfigError(
            f"{part} holds neither {REPORT} nor {REPAIR}: name one, or write NAME={part} for all the runs in it."
        )
    found = list(folder.glob(f"*/{REPORT}")) or [p for p in folder.glob("*.json") if not p.is_dir()]
    if not found:
        raise ConfigError(
            f"{part} holds neither {REPORT}, nor folders with one, nor *.json: name the reports of the group."
        )
    return sorted(map(str, found), key=_natural)


def _natural(path: str) -> list[tuple[int, str]]:
    """So that seed2 is before seed10."""
    return [(len(part.lstrip("0")) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", path)]


def _runs(paths: Sequence[str]) -> tuple[LoadedRun, ...]:
    names = [place[-1] for place in _told_apart([_place(p) for p in paths])]
    return tuple(_read(name, path) for name, path in zip(names, paths, strict=True))


def _read(name: str, path: str) -> LoadedRun:
    raw = read_json(path)
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind == "repair":
        repair = RepairReport.from_data(raw, path)
        return LoadedRun(name, path, _plain(repair.after), repair)
    if isinstance(kind, str):
        raise RefusedError(
            f"{path} is a file of kind {quote(kind)}: give a report.json that `collapsekit diagnose` wrote, or repair.json."
        )
    return LoadedRun(name, path, _plain(load_report(Path(path), raw)))


def scalars(report: Report) -> tuple[Result, ...]:
    """Pick the results that are a number, or the reason why there is none."""
    return tuple(r for r in report.results if r.value is not None or r.skipped is not None)


def _place(path: str) -> list[str]:
    """The parts that tell a report from others: its folders, and its own name where that is not report.json."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and so rename runs
    parts = [p for p in whole.parent.parts if p != whole.anchor]
    return (parts if whole.name in (REPORT, REPAIR) and parts else [*parts, whole.stem]) or [whole.name]


def _told_apart(places: list[list[str]]) -> list[list[str]]:
    """The same without the last parts that all share, where they differ before those."""
    while len({tuple(p) for p in places}) > 1 and len({p[-1] for p in places}) == 1 and all(len(p) > 1 for p in places):
        places = [p[:-1] for p in places]
    return places


def _labels(paths: Sequence[str], taken: set[str]) -> list[str]:
    """A short name for each path, different from each other and from those ``taken``."""
    places = _told_apart([_place(p) for p in paths])
    found: list[str] = []
    for place in places:
        size = 1
        while size < len(place) and any(p[-size:] == place[-size:] and p != place for p in places):
            size += 1
        base = "/".join(place[-size:])
        name, n = base, 1
        while name in taken or name in found:
            n += 1
            name = f"{base} ({n})"
        found.append(name)
    return found
