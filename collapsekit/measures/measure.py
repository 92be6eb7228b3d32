"""Measure: one named quantity, what it is, which way is better; and the results that are made of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, Literal, Protocol, get_args

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.measures.picture import Picture
from collapsekit.report.base import Interval
from collapsekit.report.comparison import Better
from collapsekit.report.parts import Curve, Result
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds

LOSS = "{loss}"  # a unit that the task names
METRIC = "{metric}"  # likewise
Headline = Literal["each", "whole"]
Figure = Literal["bars", "lines", "matrix", "spectrum", "profile", "rows"]
End = float | None


class Scored(Protocol):
    """What a unit is taken from: a task."""

    @property
    def loss_name(self) -> str:
        """The loss and its unit, such as ``cross-entropy (nats)``."""
        ...

    @property
    def metric_name(self) -> str:
        """The metric, such as ``accuracy``."""
        ...

    @property
    def loss_bounds(self) -> Bounds:
        """The least and the most that a loss can be."""
        ...

    @property
    def metric_bounds(self) -> Bounds:
        """The least and the most that the metric can be."""
        ...


@dataclass(frozen=True)
class Heading:
    """How the results of one probe are headed and drawn, and where they stand among others': the least ``place`` first."""

    probe: str
    title: str
    place: float = math.inf  # after those that say one, in the order of the report
    pictures: tuple[Picture, ...] = ()
    cannot: str = ""  # what its numbers do not tell


@dataclass(frozen=True)
class Measure:
    """One named quantity.

    ``name``, ``unit``, ``definition`` and ``source`` are what its results say; each may hold fields in braces, such as
    ``{draws}``, that :meth:`fill` puts options and the task's names into. ``better`` and ``why``: which way a model is
    better, and the reason; None where a better model may lie either way. ``headline``: whether the default table of a
    comparison shows it, for ``each`` modality or for the ``whole`` model only. ``title``: its name on a figure.
    ``cannot``: what it does not tell, beside what its probe says of that. ``figure``: how it is drawn: as bars, as lines
    over what its curve runs over, as a matrix of pairs, as a spectrum a modality, or as a profile: a curve's values, the
    largest first.
    ``side_by_side``: whether a point of its curve means the same in another model's report. ``bounds``: the least and the
    most that it can be, None for an end that it does not have; "unit": those of the task's loss or metric, which is its
    unit; "difference": those of one loss or metric minus another. Intervals and reports keep to them.
    """

    name: str
    definition: str
    source: str
    unit: str | None = None
    better: Better | None = None
    why: str | None = None
    title: str | None = None
    headline: Headline | None = None
    cannot: str | None = None
    figure: Figure | None = None
    side_by_side: bool = False
    bounds: tuple[End, End] | Literal["unit", "difference"] | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("a measure has no name: call it PROBE.NAME, after the probe that makes it.")
        if (self.better is None) != (self.why is None):
            raise ConfigError(
                f"measure {self.name!r} says {'why' if self.why else 'which way'} is better without the other: give both "
                "`better` and `why`, or neither."
            )
        if self.figure is not None and self.figure not in get_args(Figure):
            raise ConfigError(
                f"measure {self.name!r} has the figure {self.figure!r}, expected one of {', '.join(get_args(Figure))}"
                f"{did_you_mean(str(self.figure), get_args(Figure))}."
            )
        if isinstance(self.bounds, str) and self.unit not in (LOSS, METRIC):
            raise ConfigError(
                f"measure {self.name!r} has bounds {self.bounds!r} and the unit {self.unit!r}, expected {LOSS!r} or "
                f"{METRIC!r}: give the least and the most that it can be."
            )
        for text in filter(None, (self.name, self.definition, self.source, self.unit)):
            _check_fields(self.name, text)

    @property
    def probe(self) -> str:
        """The probe whose it is: the part of the name before the first dot."""
        return self.name.partition(".")[0]

    def fill(self, task: Scored | None = None, /, **fields: object) -> Quantity:
        """Return the measure as it is in one run.

        Args:
            task: gives the fields ``loss`` and ``metric``.
            fields: what stands for each other field in braces.

        Raises:
            ConfigError: where a field in braces is not given.
        """
        bounds = self._bounds(task)
        if task is not None:
            fields = {"loss": task.loss_name, "metric": task.metric_name, **fields}
        try:
            name, definition, source = (t.format(**fields) for t in (self.name, self.definition, self.source))
            unit = None if self.unit is None else self.unit.format(**fields)
        except KeyError as e:
            raise ConfigError(f"measure {self.name!r} has a field {{{e.args[0]}}}: give it to `fill`.") from None
        return Quantity(name, self.probe, unit, definition, source, bounds)

    def _bounds(self, task: Scored | None) -> Bounds:
        if not isinstance(self.bounds, str):
            low, high = self.bounds or (None, None)
            return Bounds(-math.inf if low is None else low, math.inf if high is None else high)
        if task is None:
            return UNBOUNDED
        of_unit = task.loss_bounds if self.unit == LOSS else task.metric_bounds
        return of_unit if self.bounds == "unit" else of_unit.of_differences

    def result(self, value: float, interval: Interval | None = None, **about: Any) -> Result:
        """Return a number of it, where it has no fields to fill; see :meth:`Quantity.result`."""
        return self.fill().result(value, interval, **about)

    def curve(self, curve: Curve, **about: Any) -> Result:
        """Return a curve of it, where it has no fields to fill; see :meth:`Quantity.curve`."""
        return self.fill().curve(curve, **about)

    def skipped(self, reason: str, **about: Any) -> Result:
        """Say why there is none, where it has no fields to fill; see :meth:`Quantity.skipped`."""
        return self.fill().skipped(reason, **about)

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        texts = {"name": self.name, "definition": self.definition, "source": self.source, "unit": self.unit}
        return {part: _pattern(text) for part, text in texts.items() if text is not None}

    def names(self, name: str) -> bool:
        """Tell whether a result of that name is one of it."""
        return self._patterns["name"].fullmatch(name) is not None

    def fits(self, result: Result) -> bool:
        """Tell whether the result says what the measure does: name, definition, source, and unit unless it was skipped."""
        parts = ["name", "definition", "source"]
        if result.unit is not None or (self.unit is not None and result.skipped is None):
            parts.append("unit")
        return all(self._fits(part, getattr(result, part)) for part in parts)

    def _fits(self, part: str, text: str | None) -> bool:
        pattern = self._patterns.get(part)
        return pattern is not None and text is not None and pattern.fullmatch(text) is not None


@dataclass(frozen=True)
class Quantity:
    """A measure in one run: its texts hold no fields any more."""

    name: str
    probe: str
    unit: str | None
    definition: str
    source: str
    bounds: Bounds = UNBOUNDED

    def result(
        self,
        value: float | None,
        interval: Interval | None = None,
        *,
        curve: Curve | None = None,
        modality: str | None = None,
        versus: str | None = None,
        note: str | None = None,
    ) -> Result:
        """Return a number of it.

        Args:
            value: the number, in the quantity's unit; None where there is only the curve.
            interval: its ends, which hold the value.
            curve: what the number sums up, if anything.
            modality: which it is about; None: the fused representation, or the whole model.
            versus: the other modality, where it is about two.
            note: a caveat the reader needs.

        Returns:
            The result, with the quantity's name, unit, definition and source.

        Raises:
            ValidationError: where a number is not finite, or the interval's ends are swapped.
        """
        return self._make(value=value, interval=interval, curve=curve, modality=modality, versus=versus, note=note)

    def curve(
        self, curve: Curve, *, modality: str | None = None, versus: str | None = None, note: str | None = None
    ) -> Result:
        """Return a curve of it without a number.

        Args:
            curve: the curve, in the quantity's unit.
            modality, versus, note: as in :meth:`result`.

        Returns:
            The result.
        """
        if curve.bounds is None:
            curve = curve.model_copy(update={"bounds": self.bounds.ends})
        return self._make(curve=curve, modality=modality, versus=versus, note=note)

    def skipped(
        self,
        reason: str,
        *,
        modality: str | None = None,
        versus: str | None = None,
        note: str | None = None,
        unit: bool = False,
    ) -> Result:
        """Say why there is none.

        Args:
            reason: in words, a full stop at its end aside.
            modality, versus, note: as in :meth:`result`.
            unit: whether the result says its unit all the same.

        Returns:
            The result, without a number.
        """
        made = self._make(skipped=reason.rstrip("."), modality=modality, versus=versus, note=note)
        return made if unit else made.model_copy(update={"unit": None})

    def _make(self, **rest: Any) -> Result:
        texts = {"unit": self.unit, "definition": self.definition, "source": self.source}
        ends = self.bounds.ends if rest.get("value") is not None else None
        return Result(name=self.name, probe=self.probe, bounds=ends, **texts, **rest)


def _check_fields(name: str, text: str) -> None:
    try:
        fields = [field for _, field, *_ in Formatter().parse(text) if field is not None]
    except ValueError:
        fields = [""]
    odd = next((field for field in fields if not field.isidentifier()), None)
    if odd is not None:
        raise ConfigError(
            f"measure {name!r} has braces around {odd!r} in {text!r}, expected the name of a field: write {{{{ and }}}} for "
            "braces that are to stand."
        )


def _pattern(text: str) -> re.Pattern[str]:
    """What a text with fields can have become."""
    parts = Formatter().parse(text)
    return re.compile("".join(re.escape(plain) + ("" if field is None else ".*?") for plain, field, *_ in parts), re.S)
