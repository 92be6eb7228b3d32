"""Every measure there is: those declared in this process, and those that the package's probes declare in their files."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from collapsekit import registry
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.measures.declarations import read_declarations
from collapsekit.measures.measure import Heading, Measure
from collapsekit.measures.picture import Picture

PACKAGE = Path(__file__).parents[1]


@dataclass
class _Declared:
    """What was declared in this process, each with the file that did."""

    measures: dict[str, tuple[Measure, str]] = field(default_factory=dict)


DECLARED = _Declared()


def declare(measure: Measure) -> Measure:
    """Declare a measure, in the file of the probe that makes it.

    In a file of the package, its name and all of its arguments but ``definition``, ``source`` and ``unit`` are plain
    values, not names or expressions: readers of reports take them from the file's text, as importing it imports torch.

    Raises:
        ConfigError: where another file declares a measure of that name.
    """
    file = str(sys._getframe(1).f_globals.get("__file__") or "<python>")
    other = DECLARED.measures.get(measure.name)
    taken = None if other is None or other[1] == file else other[1]
    if taken is None and not Path(file).is_relative_to(PACKAGE) and _in_package(measure.name):
        taken = str(_files()[measure.probe])
    if taken is not None:
        raise ConfigError(f"measure {measure.name!r} is declared twice, by {taken} and {file}: rename one.")
    DECLARED.measures.pop(measure.name, None)  # a file that is loaded again declares all anew, in its order
    DECLARED.measures[measure.name] = measure, file
    return measure


def check_pictures(probe: str, pictures: Iterable[Picture]) -> None:
    """Check, when a probe is registered, that its pictures show measures which were declared before.

    Raises:
        ConfigError: Where one names another, which would be left out in silence.
    """
    declared = [measure.name for measure in measures_of(probe)]
    for picture in pictures:
        odd = next((name for name in picture.measures() if name not in declared and lookup(name) is None), None)
        if odd is not None:
            there = did_you_mean(odd, declared) or f": it declares {', '.join(declared) or 'none'}"
            raise ConfigError(
                f"picture {picture.name!r} of probe {probe!r} shows {odd!r}, but the probe's file declares no such measure "
                f"above it{there}."
            )


registry.CHECKS["pictures"] = check_pictures


def lookup(name: str) -> Measure | None:
    """Return the measure that results of that name are of; None where nobody here knows it."""
    exact = DECLARED.measures.get(name)
    if exact is not None:
        return exact[0]
    return next((m for m in measures_of(name.partition(".")[0]) if m.names(name)), None)


def measures_of(probe: str) -> tuple[Measure, ...]:
    """Return the measures of a probe, in the order in which they were declared."""
    found = tuple(m for m, _ in DECLARED.measures.values() if m.probe == probe)
    return found or _read(probe)[0]


def heading_of(probe: str) -> Heading:
    """Return how the results of a probe are headed; by its name where nobody here knows it."""
    spec = registry.PROBES.get(probe)
    if spec is not None:
        return Heading(probe, spec.title or probe, spec.place, tuple(spec.pictures), spec.cannot)
    return _read(probe)[1] or Heading(probe, probe)


def headings(probes: Iterable[str]) -> list[Heading]:
    """Return how the results of these probes are headed, in the order in which they are shown."""
    return sorted(map(heading_of, dict.fromkeys(probes)), key=lambda h: h.place)


def headings_of_package() -> list[Heading]:
    """Return how the results of the package's own probes are headed, in the order in which they are shown."""
    found = {name: _read(name)[1] for name in _files()}
    return headings(name for name, head in found.items() if head is not None and head.probe == name)


def index(name: str) -> tuple[float, int]:
    """Return where results of that name stand among others: by their probe's place, then as its file declares them."""
    made = lookup(name)
    if made is None:
        return math.inf, 0
    return heading_of(made.probe).place, measures_of(made.probe).index(made)


@cache
def _files() -> dict[str, Path]:
    """The file of each probe of the package, by the probe's name, which is the file's."""
    return {p.stem: p for p in sorted((PACKAGE / "probes").rglob("*.py"))}


@cache
def _read(probe: str) -> tuple[tuple[Measure, ...], Heading | None]:
    file = _files().get(probe)
    if file is None:
        return (), None
    measures, head = read_declarations(file.read_text(encoding="utf-8"))
    return tuple(measures), head


def _in_package(name: str) -> bool:
    return any(m.names(name) for m in _read(name.partition(".")[0])[0])
