"""What the gate holds against a baseline: a number of the report, which way it is worse, by how much that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from collapsekit.config.options import ALPHA, WATCHED
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.measures import METRIC, Measure
from collapsekit.report.diagnosis import Report
from collapsekit.report.verdicts import COLLAPSED
from collapsekit.stats.use import floor_of, use

DEFAULT = ("metric", "use")
MARGINS = {"metric": 0.02, "use": 0.1, "missing": 0.05}
EFFECTS = {"metric": 0.1, "use": 0.4, "missing": 0.2}
HIGHER = "task metrics are written so that higher is better"
METRIC_AS_IT_IS = Measure(
    "metric",
    definition="{metric} of the model as it is",
    source="docs/gate.md",
    unit=METRIC,
    better="higher",
    why=HIGHER,
)
USE = Measure(
    "use",
    definition="(credit + e) / (due + e): Shapley credit in the calibrated model over what the balanced reference gives, as "
    "utilisation.score, but without bounds; the margin begins at 1, all that is due, where it was more",
    source="docs/gate.md",
    unit="of what is due",
    better="higher",
    why="0 is fully ignored",
)
MISSING = Measure(
    "missing",
    definition="{metric} with {modality} taken from other examples",
    source="docs/gate.md",
    unit=METRIC,
    better="higher",
    why=HIGHER,
)


@dataclass(frozen=True)
class Limits:
    """How the gate judges. ``margins``: a worsening under it is none to fail for; ``effects``: one that the gate has to be
    able to see with 90 % probability, else what it does not see decides nothing; by kind, in units of what is watched."""

    watch: tuple[str, ...] = DEFAULT
    alpha: float = ALPHA
    margins: Mapping[str, float] = field(default_factory=dict)  # where not MARGINS
    effects: Mapping[str, float] = field(default_factory=dict)  # where not EFFECTS, or twice the margin if that is more

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), *_named("margin", self.margins), *_named("effect", self.effects)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"the gate's {name} is {value!r}, expected a number.")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"the gate's alpha is {self.alpha}, expected a level between 0 and 0.5, such as 0.05.")
        for name, kinds in (("watch", self.watch), ("margin", self.margins), ("effect", self.effects)):
            odd = next((kind for kind in kinds if kind not in WATCHED), None)
            if odd is not None:
                near = did_you_mean(odd, WATCHED)
                raise ConfigError(f"the gate cannot watch {odd!r} ({name}){near}: it knows {', '.join(WATCHED)}.")
        for name, values in (("margin", self.margins), ("effect", self.effects)):
            wrong = next(((k, v) for k, v in values.items() if not 0 <= v < float("inf")), None)
            if wrong is not None:
                raise ConfigError(f"the gate's {name} of {wrong[0]} is {wrong[1]}, expected a number from 0 on.")

        for kind, effect in self.effects.items():
            if effect <= self.margin(kind):
                raise ConfigError(
                    f"the gate's effect of {kind} is {effect:g}, no more than its margin of {self.margin(kind):g}: what has "
                    "to be seen must be more than what may pass; raise it, or lower the margin."
                )

    def margin(self, kind: str, before: float = 0.0) -> float:
        """Return the margin of a kind of number that was ``before``.

        Of a use over 1, more than is due, the part over 1 may go unpunished: where a neglected modality comes
        back, the one that did its work is used less.
        """
        return self.margins.get(kind, MARGINS[kind]) + _surplus(kind, before)

    def effect(self, kind: str, before: float = 0.0) -> float:
        """Return the effect of a kind of number that was ``before``.

        Of a use, unless it was named: a collapse, if that is more.
        """
        named = self.effects.get(kind)
        if named is not None:
            return named + _surplus(kind, before)
        least = max(EFFECTS[kind], 2 * self.margin(kind)) + _surplus(kind, before)
        return max(least, before - COLLAPSED) if kind == "use" else least


def _named(name: str, values: object) -> list[tuple[str, object]]:
    """The numbers by kind, each with what it is called. Raises ConfigError for what is no mapping."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"the gate's {name}s are {values!r}, expected a mapping of kinds to numbers, such as {{'use': 0.1}}."
        )
    return [(f"{name} of {kind}", value) for kind, value in values.items()]


def _surplus(kind: str, before: float) -> float:
    return max(0.0, before - 1.0) if kind == "use" else 0.0


@dataclass(frozen=True)
class Criterion:
    """One watched number: lower is worse. ``columns`` of the records that say it example by example: of the first that both
    records have, differences are tested; in those of losses, higher is worse."""

    kind: str
    modality: str | None
    name: str
    unit: str
    definition: str
    columns: tuple[str, ...]


def says_nothing(reports: Sequence[Report]) -> list[str]:
    """Return modalities that all these reports call uninformative: where nothing is due, no use can be told."""
    return [
        m
        for m in reports[0].subject.modalities
        if all(m in r.modalities and r.modalities[m].verdict == "uninformative" for r in reports)
    ]


def numbers(report: Report, watch: Sequence[str], leave_out: Sequence[str] = ()) -> list[Criterion]:
    """List what to watch in reports such as this one, in the order of its modalities.

    Args:
        report: A report; its metric and its modalities count.
        watch: Kinds of numbers: metric, use, missing.
        leave_out: Modalities whose use is not watched.

    Returns:
        A criterion for each number.
    """
    metric, modalities = report.subject.metric, report.subject.modalities
    found = []
    if "metric" in watch:
        found.append(_number(METRIC_AS_IT_IS, None, metric, ("metric", "loss"), metric))
    for m in [m for m in modalities if m not in leave_out] if "use" in watch else ():
        found.append(_number(USE, m, f"use of {m}", (f"credit.{m}",), metric))
    for m in modalities if "missing" in watch else ():
        columns = (f"metric_without.{m}", f"loss_without.{m}")
        found.append(_number(MISSING, m, f"{metric} without {m}", columns, metric))
    return found


def _number(measure: Measure, modality: str | None, name: str, columns: tuple[str, ...], metric: str) -> Criterion:
    of = measure.fill(metric=metric, modality=modality)
    return Criterion(of.name, modality, name, str(of.unit), of.definition, columns)


def value_of(number: Criterion, report: Report) -> float | str:
    """Return the number in a report, or why it has none."""
    if number.kind == "use":
        made = due_of(report, number.modality)
        credit = report.find("utilisation.credit", number.modality)
        if isinstance(made, str) or credit is None or credit.value is None:
            return made if isinstance(made, str) else "the report has no utilisation.credit"
        return use(credit.value, made[0], made[1])
    full = report.find("reliance.full_metric")
    if full is None or full.value is None:
        return "the report has no reliance.full_metric: run the probe reliance"
    if number.kind == "metric":
        return full.value
    drop = report.find("reliance.leave_one_out_metric", number.modality)
    if drop is None or drop.value is None:
        return "the report has no reliance.leave_one_out_metric: run the probe reliance"
    return full.value - drop.value


def due_of(report: Report, modality: str | None) -> tuple[float, float] | str:
    """Return what is due to a modality and the prior loss, both in the loss's units; or why the report does not say."""
    due, prior = report.find("utilisation.reference_credit", modality), report.find("utilisation.prior_loss")
    if due is None or prior is None or due.value is None or prior.value is None:
        skipped = report.find("utilisation")
        why = f" ({skipped.skipped})" if skipped is not None and skipped.skipped else ""
        return f"the report has no utilisation of {modality}{why}: run the probe utilisation"
    if due.value + floor_of(prior.value) <= 0:
        return f"nothing is due to {modality} in the report"
    return due.value, prior.value
