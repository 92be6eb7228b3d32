"""What reports are made of: results, verdicts, what was diagnosed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from collapsekit.io.safe_text import clean
from collapsekit.report.base import Frozen, Interval, Number, Positive, Whole

# The least and the most that a number can be; null for an end that it does not have.
Limits = tuple[Number | None, Number | None]
ModalityState = Literal["used", "underused", "collapsed", "uninformative", "inconclusive"]
# Why a modality is collapsed or underused: it never reaches the answer, others suffice, its encoder does not hold it, or
# what follows does not heed it.
Cause = Literal["not there", "prior", "not seen", "seen but not believed"]
OverallState = Literal["collapsed", "underused", "healthy", "inconclusive"]


def _short(value: float) -> str:
    return f"{value:.4g}"


class Limited(Frozen):
    """Numbers that may say by ``bounds`` what they can be; where they do not, they are written as before they could."""

    @model_serializer(mode="wrap")
    def _without_absent_bounds(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if written["bounds"] is None:
            del written["bounds"]
        return written


class Curve(Limited):
    """A result that is a line or bars: ``y`` over ``x`` (numbers or category names), with bounds where had."""

    x: tuple[Number | str, ...]
    y: tuple[Number, ...]
    lower: tuple[Number, ...] | None = None
    upper: tuple[Number, ...] | None = None
    x_label: str
    y_label: str
    # The least and the most that y and its bounds can be; null: no end, or not told.
    bounds: Limits | None = Field(default=None, json_schema_extra={"since": 2})

    def __repr__(self) -> str:
        ends = f": {_short(self.y[0])} to {_short(self.y[-1])}" if self.y else ""
        return f"<Curve of {len(self.x)} points, {clean(self.y_label)} over {clean(self.x_label)}{ends}>"

    __str__ = __repr__

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        for name, other in (("y", self.y), ("lower", self.lower), ("upper", self.upper)):
            if other is not None and len(other) != len(self.x):
                raise ValueError(f"curve.{name} has {len(other)} entries, x has {len(self.x)}")
        return self


class Result(Limited):
    """One named number or curve with interval, definition and source; or ``skipped`` with the reason."""

    name: str  # "vif.mean"
    probe: str
    modality: str | None = None  # None: the fused representation, or the model as a whole
    versus: str | None = None  # the other modality, where the number is about two
    value: Number | None = None
    interval: Interval | None = None
    # The least and the most that value and interval can be; null: no end, or not told.
    bounds: Limits | None = Field(default=None, json_schema_extra={"since": 2})
    unit: str | None = None  # "nats", "dimensions", "accuracy", ...
    definition: str
    source: str
    curve: Curve | None = None
    note: str | None = None  # a caveat the reader needs: small n, a bound, what was dropped
    skipped: str | None = None
    # Where it was skipped for a fault of the program: the error's kind and place.
    error: str | None = Field(default=None, json_schema_extra={"since": 2})

    def __repr__(self) -> str:
        of = f" of {clean(self.modality)}" if self.modality is not None else ""
        versus = f" versus {clean(self.versus)}" if self.versus is not None else ""
        return f"<Result {clean(self.name)}{of}{versus}: {self._gist()}>"

    __str__ = __repr__

    def _gist(self) -> str:
        """What it found, or why it did not, in a few words."""
        if self.skipped is not None:
            return f"skipped, {clean(self.skipped, 100)}"
        ends = f" [{', '.join(map(_short, self.interval))}]" if self.interval is not None else ""
        unit = f" {clean(self.unit)}" if self.unit is not None else ""
        value = [f"{_short(self.value)}{ends}{unit}"] if self.value is not None else []
        curve = [f"a curve of {len(self.curve.x)} points"] if self.curve is not None else []
        return " and ".join([*value, *curve])

    @model_validator(mode="after")
    def _value_or_reason(self) -> Result:
        had = self.value is not None or self.curve is not None
        if had == (self.skipped is not None):
            raise ValueError(f"result {self.name!r} needs either a value or curve, or `skipped` with the reason")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"result {self.name!r} has an interval whose ends are swapped")
        if self.error is not None and self.skipped is None:
            raise ValueError(f"result {self.name!r} has an error and no `skipped`")
        return self


class ReportWarning(Frozen):
    """Something about the model, the data or the run that the numbers have to be read with."""

    name: str  # "weights_changed_in_forward": a short key that stays the same over releases
    sentence: str  # what was seen, and what it means for the numbers


class Reference(Frozen):
    """What the due of a modality was read from."""

    family: str  # "raw numbers", "the encoder trained alone"
    strength: Number | None = None  # its held-out gain over the best known; null where that was not measured
    read: str | None = Field(
        default=None, json_schema_extra={"since": 2}
    )  # what was read: shape, layout, pooling, width
    # Whether an encoder was trained alone until it got no better, and whether raw inputs were read out.
    trained_alone: bool | None = Field(default=None, json_schema_extra={"since": 2})
    independent: bool | None = Field(default=None, json_schema_extra={"since": 2})
    # Every family that was tried, with its held-out gain as a share of the prior loss.
    gains: dict[str, Number] = Field(default_factory=dict, json_schema_extra={"since": 2})

    @classmethod
    def of(cls, results: Iterable[Result], modality: str) -> Reference | None:
        """Read from results what the due of a modality was read from; None where utilisation does not say."""
        found = {r.name: r for r in results if r.modality == modality and r.probe == "utilisation"}
        strength = found.get("utilisation.strength")
        if strength is None or strength.curve is None or not strength.curve.x:
            return None
        flags = {
            field: None if (flag := found.get(f"utilisation.{name}")) is None or flag.value is None else flag.value > 0
            for field, name in (("trained_alone", "reference_trained"), ("independent", "reference_independent"))
        }
        return cls(
            family=str(strength.curve.x[0]),
            strength=strength.value,
            read=strength.note,
            gains={str(x): y for x, y in zip(strength.curve.x, strength.curve.y, strict=True)},
            **flags,
        )


class Judged(Frozen):
    """How much of what a verdict needs could be had."""

    extent: Literal["fully", "partly"]
    missing: tuple[str, ...] = ()  # what could not be had, each in words


class ModalityVerdict(Frozen):
    """What the evidence says of one modality."""

    verdict: ModalityState
    score: Number | None  # 0 = fully used, 1 = fully ignored; null where it could not be had
    interval: Interval | None = None
    costs_now: Number | None = None  # task metric lost today by not using it
    costs_if_missing: dict[str, Number] = Field(
        default_factory=dict
    )  # task metric lost when that other modality is absent
    reason: str  # one sentence a person can act on
    evidence: tuple[str, ...] = ()  # names of the results this verdict was read from
    reference: Reference | None = Field(default=None, json_schema_extra={"since": 2})  # null until it is measured
    # Of an inconclusive one: what it surely is no better than, and no worse than.
    at_most: Literal["underused"] | None = Field(default=None, json_schema_extra={"since": 2})
    at_least: Literal["underused"] | None = Field(default=None, json_schema_extra={"since": 2})
    missing: str | None = Field(default=None, json_schema_extra={"since": 2})  # what a full judgement of it lacks
    # Why it is collapsed, underused or at most that, where the probe pathway ran and tells; else it is not written.
    cause: Cause | None = Field(default=None, json_schema_extra={"since": 2})

    @model_serializer(mode="wrap")
    def _without_absent_cause(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if written.get("cause") is None:
            written.pop("cause", None)
        return written


class CategoryVerdict(Frozen):
    """What the evidence says of the examples of one category, such as the questions of one type."""

    name: str
    examples: Positive
    # Of its modalities as a whole, by the rules of verdicts; null: it was not judged, and `why_not` says why.
    verdict: OverallState | None = None
    summary: str | None = None
    judged: Judged | None = None
    why_not: str | None = None
    modalities: dict[str, ModalityVerdict] = Field(default_factory=dict)
    results: tuple[Result, ...] = ()  # of its examples alone, from which its verdicts follow


class Categories(Frozen):
    """Verdicts on the examples of each category."""

    key: str  # of the field that says an example's category (`data.category`)
    each: tuple[CategoryVerdict, ...]


class Subject(Frozen):
    """What was diagnosed, on what."""

    checkpoint: str
    sha256: str
    modalities: tuple[str, ...]
    task: str
    metric: str
    split: str
    examples: Positive
    seed: Whole
    engine: str | None = Field(default=None, json_schema_extra={"since": 2})  # what ran the model; null: PyTorch, here
