"""Picture: how the results of a probe are drawn, and the sentence that its numbers allow; declared in the probe's file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from string import Formatter
from typing import Literal, get_args

from collapsekit.errors import ConfigError, did_you_mean

Question = Literal["most", "beyond", "against", "among", "change", "share"]
Side = Literal["above", "below"]
By = Literal["modality", "versus"]
# What a finding may come out as: each has a sentence.
ANSWERS: dict[Question, tuple[str, ...]] = {
    "most": ("clear", "unclear"),
    "beyond": ("clear", "unclear"),
    "against": ("above", "below", "unclear"),
    "among": ("above", "below", "unclear"),
    "change": ("above", "below", "unclear"),
    "share": ("clear",),
}
# What a sentence may name in braces. Numbers come with their interval where they have one.
FIELDS = ("modality", "versus", "second", "value", "other", "count", "limit", "begin", "end", "unit", "metric")


@dataclass(frozen=True)
class Panel:
    """One pair of axes, drawn as the ``figure`` of its first measure says.

    ``label`` says what its numbers are, with ``{unit}`` for the unit of its results and ``{metric}`` for the task's;
    ``series``: what each measure is called in the legend, and the measure; ``title`` stands above; ``along`` is beside the
    axis on which no numbers of the measures stand: what a curve runs over, or whom a matrix is about. ``guides``: measures
    whose values are dotted lines, across the axis "x" or "y". ``limits``: numbers that readers hold the values against,
    dotted as well. ``most``: how large a field of a matrix can be, where that is known. ``log``: whether a profile has a
    logarithmic axis. ``by``: which of the two modalities that a curve is about its line is called by. ``shared``: whether
    its numbers run as far as those of the panel before. ``unless``: a measure beside whose results the panel says nothing
    new, and is left out.
    """

    label: str
    series: dict[str, str]
    title: str = ""
    along: str = ""
    guides: dict[str, Literal["x", "y"]] = field(default_factory=dict)
    limits: tuple[float, ...] = ()
    most: float | None = None
    log: bool = False
    by: By = "modality"
    shared: bool = False
    unless: str = ""

    def __post_init__(self) -> None:
        if not self.series:
            raise ConfigError(f"panel {self.label!r} shows no measure: give `series`, a name and a measure for each.")
        if self.by not in get_args(By):
            raise ConfigError(f"panel {self.label!r} has lines by {self.by!r}, expected modality or versus.")


@dataclass(frozen=True)
class Finding:
    """One sentence on the results of a measure, of which an interval has to allow the choice.

    ``question``, of measure ``of``:

    - "most": which modality has the largest value (``side`` "below": the least)? clear where its interval is apart from
      all others'.
    - "beyond": which modality, or pair, lies farthest ``side`` of ``limit``? clear where an interval lies wholly there; of
      those the farthest.
    - "against": does the whole model lie above or below ``other``, a measure of it, too? Without an interval, ``other``
      counts as exact.
    - "among": does the fused representation lie above or below every modality?
    - "change": does a curve rise or fall from ``begin`` (else its first point) to its end? Of the modality whose curve
      changes most, those that clearly do first.
    - "share": how many of a curve's values lie above ``limit``? No interval is asked for: it counts what is drawn.

    ``says`` has a sentence for each answer (:data:`ANSWERS`), which may name :data:`FIELDS` in braces.
    """

    question: Question
    of: str
    says: dict[str, str]
    other: str = ""
    limit: float = 0.0
    side: Side = "above"
    begin: float | None = None

    def __post_init__(self) -> None:
        if self.question not in ANSWERS:
            near = did_you_mean(str(self.question), ANSWERS)
            raise ConfigError(f"finding of {self.of!r} asks {self.question!r}: use one of {', '.join(ANSWERS)}{near}.")
        if self.side not in get_args(Side):
            raise ConfigError(f"finding of {self.of!r} has the side {self.side!r}, expected above or below.")
        if set(self.says) != set(ANSWERS[self.question]):
            raise ConfigError(
                f"finding of {self.of!r} has sentences for {', '.join(self.says) or 'nothing'}, expected one each for "
                f"{', '.join(ANSWERS[self.question])}."
            )
        for sentence in self.says.values():
            self._check(sentence)

    def _check(self, sentence: str) -> None:
        try:
            named = [name for _, name, *_ in Formatter().parse(sentence) if name is not None]
        except ValueError:
            named = [""]
        odd = next((name for name in named if name not in FIELDS), None)
        if odd is not None:
            raise ConfigError(
                f"finding of {self.of!r} has braces around {odd!r}, expected one of {', '.join(FIELDS)}"
                f"{did_you_mean(odd, FIELDS)}."
            )


@dataclass(frozen=True)
class Picture:
    """One figure: its name, which its files bear, its title, its axes, and what may be said of it.

    ``about``: the measure whose definition and source explain it; by default the first one drawn. ``findings``: the first
    one that the report has numbers for stands in the caption, before the definition.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    findings: tuple[Finding, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        if not self.name.replace("_", "").isalnum() or not self.name.isascii():
            raise ConfigError(
                f"picture {self.name!r} cannot be a file's name: use letters, digits and underscores of ASCII."
            )
        if not self.panels:
            raise ConfigError(f"picture {self.name!r} has no panel: give one for each pair of axes.")

    def measures(self) -> Iterator[str]:
        """Name every measure that it shows or speaks of."""
        for panel in self.panels:
            yield from (*panel.series.values(), *panel.guides, *filter(None, [panel.unless]))
        for finding in self.findings:
            yield from filter(None, (finding.of, finding.other))
        yield from filter(None, [self.about])

    @property
    def explains(self) -> str:
        """The measure that the caption defines."""
        return self.about or next(iter(self.panels[0].series.values()))
