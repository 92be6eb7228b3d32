"""RepairReport: what a repair did, beside plain fine-tuning, and whether it may stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from collapsekit.errors import RefusedError
from collapsekit.io.files import is_file
from collapsekit.io.safe_text import quote, some
from collapsekit.report.agreement import (
    check_digest,
    check_interval,
    check_modality,
    check_names,
    check_results,
    differ,
)
from collapsekit.report.base import Contract, Count, Flag, Frozen, Interval, Number, Whole
from collapsekit.report.diagnosis import Report, Result

FILE = "repair.json"
WEIGHTS = "model.safetensors"
METRIC_MARGIN = 0.02  # of the metric: a larger loss is too much, however uncertain
MIN_SCORE_FALL = 0.05  # of a modality that was repaired
_SAME_BEFORE_AND_AFTER = ("task", "metric", "split", "examples", "modalities", "seed")


class LossCurve(Frozen):
    """The losses of one stage: mean training loss of each epoch, and the held-out loss behind it (epoch 0: before)."""

    method: str
    stage: str
    epochs: tuple[Count, ...]
    training: tuple[Number | None, ...]  # None: epoch 0, before any training
    held: tuple[Number, ...]
    kept: Count  # the epoch whose weights were kept
    note: str | None = None  # e.g. that the learning rate was halved

    @model_validator(mode="after")
    def _same_length(self) -> LossCurve:
        if not len(self.epochs) == len(self.training) == len(self.held):
            raise ValueError(f"the loss curve of {self.stage!r} has columns of several lengths")
        return self


class Check(Frozen):
    """One condition of acceptance, on the validation split."""

    name: str  # "metric", "score.audio"
    passed: Flag
    before: Number | None
    after: Number | None
    difference: Number | None = None  # after - before
    interval: Interval | None = None  # of the difference
    definition: str
    sentence: str  # what was found, in words


class Forecast(Frozen):
    """What repairing a modality was expected to gain of the task metric, before anything was trained."""

    modality: str
    split: str  # that it was measured on
    gain: Number
    interval: Interval | None = None


Width = Annotated[Whole, Field(ge=1, le=2**20)]
Channel = Annotated[Whole, Field(ge=0, lt=2**20)]


class _Insert(Frozen):
    modality: str
    path: str  # of the encoder whose place it takes
    part: str | int | None = None  # which part of what the encoder gives is its features
    channels: Literal["first", "last"] | None = None
    features: Width


class BasisInsert(_Insert):
    """Heads h·h⁻¹ behind an encoder."""

    kind: Literal["basis"] = "basis"
    latent: Width
    hidden: Width

    @property
    def weights(self) -> int:
        """How many it adds, biases aside."""
        return 2 * self.hidden * (self.features + self.latent)


class ExchangeInsert(_Insert):
    """Channels of an encoder blended with another's."""

    kind: Literal["exchange"] = "exchange"
    giver: str
    given: Width  # the giver's channels
    to: Annotated[tuple[Channel, ...], Field(max_length=2**16)]
    source: Annotated[tuple[Channel, ...], Field(max_length=2**16)]
    each: Channel | None = None  # how many are blended in an example, those of the least energy; None: all
    blend: Annotated[Number, Field(gt=0, lt=1)]  # to begin with

    @property
    def weights(self) -> int:
        """How many it adds, biases aside."""
        return len(self.to) + (self.given * self.features if self.given != self.features else 0)


class BankShape(Frozen):
    """Random kernels of one size and dilation."""

    shape: Annotated[tuple[Width, ...], Field(min_length=3, max_length=4)]
    dilation: Width
    stride: Width


class ReadoutInsert(_Insert):
    """A readout beside an encoder, whose evidence is added to the model's output."""

    kind: Literal["late"] = "late"
    reads: Literal["features", "numbers", "fourier", "convolutions"]
    layout: str  # how what is read is laid out before (collapsekit/adapters/inserts.py)
    argument: str | int | None = None  # of the encoder's forward: what is read, where that is what enters it
    entering: Width  # numbers an example
    sums: Width | None = None  # that they are projected to at random
    banks: Annotated[tuple[BankShape, ...], Field(max_length=2**8)] = ()
    read: Width  # numbers an example that are read out
    outputs: Width
    logs: Flag  # whether they are made log-probabilities
    output: str | int | None = None  # which part of what the model returns is its prediction

    @property
    def weights(self) -> int:
        """How many it adds, biases aside."""
        drawn = (self.sums or self.entering) * self.read if self.reads == "fourier" else 0
        drawn += sum(math.prod(bank.shape) for bank in self.banks)
        return drawn + self.read * self.outputs + (2 * self.entering if self.sums is not None else 0)


Insert = Annotated[BasisInsert | ExchangeInsert | ReadoutInsert, Field(discriminator="kind")]


def is_repaired(checkpoint: Path) -> bool:
    """Tell whether a repair wrote the weights at ``checkpoint``, or the folder."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return is_file(folder / FILE) and (checkpoint.is_dir() or checkpoint.name == WEIGHTS)


def structure_of(checkpoint: Path) -> tuple[dict[str, Any], ...]:
    """Return what a repair put into the model whose weights are at ``checkpoint``: the records of the repair.json in
    that folder, or beside those weights; none where there is none. Raises RefusedError where it cannot be read.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not is_repaired(checkpoint):
        return ()
    structure = RepairReport.load(folder / FILE).structure
    weights = sum(record.weights for record in structure)
    held = (folder / WEIGHTS).stat().st_size if is_file(folder / WEIGHTS) else 0
    if weights > held:  # before memory is taken for them
        raise RefusedError(
            f"{folder / FILE} describes inserts of {weights:,} weights, more than {WEIGHTS} can hold: the two are not of "
            "the same repair."
        )
    return tuple(record.model_dump() for record in structure)


class RepairReport(Contract):
    """A repair: settings, acceptance on the validation split, and reports before and after on the reported split.

    ``accepted`` follows from ``checks``; ``exported`` says whether weights were written all the same.
    """

    INNER = (("before",), ("after",), ("control",))

    kind: Literal["repair"] = "repair"
    collapsekit: str
    method: tuple[str, ...]  # in the order they ran
    summary: str
    repaired: tuple[str, ...]  # the modalities the repair was for
    base: str  # the checkpoint's name
    base_sha256: str
    accepted: Flag
    exported: Flag
    checks: tuple[Check, ...]
    before: Report
    after: Report
    control: Report | None = None  # plain fine-tuning: same data, steps, optimiser, schedule, early stopping
    # What was said before, one a modality; and what the task metric then gained on the reported split, which is `after`'s.
    forecast: tuple[Forecast, ...] = Field(default=(), json_schema_extra={"since": 2})
    gained: Number | None = Field(default=None, json_schema_extra={"since": 2})
    losses: tuple[LossCurve, ...]
    findings: tuple[Result, ...] = ()  # what methods noted down of their own, on training examples
    structure: tuple[Insert, ...] = ()  # what was put into the model, in order
    definitions: dict[str, str]  # method -> what it does and where that is from
    settings: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _follows(self) -> RepairReport:
        if self.accepted != all(check.passed for check in self.checks):
            raise ValueError("`accepted` does not follow from `checks`")
        for names in ([(r.kind, r.modality) for r in self.structure], [(r.kind, r.path) for r in self.structure]):
            if len(set(names)) < len(names):
                raise ValueError("`structure` names a modality or an encoder twice")
        return self

    def _gist(self) -> Iterator[str]:
        yield "accepted" if self.accepted else "rejected"
        yield f"{' then '.join(self.method)} for {some(self.repaired)}"
        yield f"{self.before.verdict} before, {self.after.verdict} after"

    def contradictions(self) -> Iterator[str]:
        """See :meth:`Contract.contradictions`."""
        return _contradictions(self)


def metric_passes(difference: float, interval: Interval) -> bool:
    """Tell whether the task metric is not worse."""
    return interval[1] >= 0 and difference >= -METRIC_MARGIN


def score_passes(difference: float | None) -> bool:
    """Tell whether a modality is ignored less than before."""
    return difference is not None and difference <= -MIN_SCORE_FALL


def _contradictions(repair: RepairReport) -> Iterator[str]:
    yield from _reports(repair)
    yield from _decision(repair)
    modalities = repair.before.subject.modalities
    yield from check_names("the list of checks", [check.name for check in repair.checks])
    for check in repair.checks:
        yield from _check_names(check, repair)
        yield from _check_numbers(check)
    yield from check_results(repair.findings, modalities)
    for said in repair.forecast:
        yield from check_modality("a forecast", said.modality, modalities)
        if said.modality not in repair.repaired:
            yield f"a forecast is of {quote(said.modality)}, which was not repaired"
        yield from check_interval(f"the forecast of {quote(said.modality)}", said.gain, said.interval)
    yield from _gained(repair)
    for record in repair.structure:
        for inserted in (record.modality, getattr(record, "giver", None)):
            yield from check_modality("what was put into the model", inserted, modalities)
    for curve in repair.losses:
        yield from _losses(curve)


def metric_of(report: Report) -> float | None:
    """Find the task metric that a report has of the whole model."""
    found = report.find("reliance.full_metric")
    return None if found is None else found.value


def _gained(repair: RepairReport) -> Iterator[str]:
    """What was gained is the difference of the two reports."""
    before, after = metric_of(repair.before), metric_of(repair.after)
    if repair.gained is None:
        return
    if before is None or after is None or differ(repair.gained, after - before, after):
        yield "what was gained is not the difference of the reports before and after"


def _decision(repair: RepairReport) -> Iterator[str]:
    """What was repaired and how, and whether it was accepted by every check that it needs."""
    for what, listed in (("the method", repair.method), ("what was repaired", repair.repaired)):
        if not listed:
            yield f"{what} is empty"
    yield from check_names("what was repaired", repair.repaired)
    for modality in repair.repaired:
        yield from check_modality("what was repaired", modality, repair.before.subject.modalities)
    if repair.accepted and not repair.exported:
        yield "it was accepted, but not exported"
    for judged, other in (("accepted", "rejected"), ("rejected", "accepted")):
        if f" was {judged} on the validation split" in repair.summary and repair.accepted != (judged == "accepted"):
            yield f"the summary says that it was {judged}, and `accepted` that it was {other}"
    names = {check.name for check in repair.checks}
    gone = next((name for name in ("metric", *(f"score.{m}" for m in repair.repaired)) if name not in names), None)
    if gone is not None:
        yield f"it was judged without the check {quote(gone)}"


def _reports(repair: RepairReport) -> Iterator[str]:
    """Each report by itself, and all of the same examples of the same task."""
    before = repair.before.subject
    for what, report in (("before", repair.before), ("after", repair.after), ("control", repair.control)):
        if report is None:
            continue
        said = report.contradiction()
        if said is not None:
            yield f"in the report {what}, {said}"
        for field in _SAME_BEFORE_AND_AFTER:
            first, here = getattr(before, field), getattr(report.subject, field)
            if first != here:
                yield f"{field} before is {quote(str(first))}, and in the report {what} {quote(str(here))}"
        examples = [r.settings.get("examples") for r in (repair.before, report)]
        if None not in examples and examples[0] != examples[1]:
            yield f"the report {what} is of other examples than the one before"
    yield from check_digest("base_sha256", repair.base_sha256)
    if (repair.base, repair.base_sha256) != (before.checkpoint, before.sha256):
        yield "the report before is of another checkpoint than `base`"


def _check_names(check: Check, repair: RepairReport) -> Iterator[str]:
    """Whom a check is about."""
    what, dot, modality = check.name.partition(".")
    if dot:
        yield from check_modality(f"the check {quote(check.name)}", modality, repair.before.subject.modalities)
    if what == "score" and modality not in repair.repaired:
        yield f"the check {quote(check.name)} is of a modality that was not repaired"


def _check_numbers(check: Check) -> Iterator[str]:
    """A check's numbers, and whether it passed by them."""
    what = check.name.partition(".")[0]
    for number in (check.before, check.after) if what in ("score", "still_used") else ():
        if number is not None and not 0 <= number <= 1:
            yield f"a score in the check {quote(check.name)} is {number:.6g}, outside of 0 to 1"
    if check.before is not None and check.after is not None:
        if check.difference is None or differ(check.difference, check.after - check.before, check.after):
            yield f"the difference in the check {quote(check.name)} is not that of its numbers"
    elif check.difference is not None:
        yield f"the check {quote(check.name)} has a difference of numbers that are not there"
    yield from check_interval(f"the difference in the check {quote(check.name)}", check.difference, check.interval)
    if check.passed != _passes(check, what):
        yield f"the check {quote(check.name)} {'passed' if check.passed else 'failed'}, which its numbers do not give"


def _passes(check: Check, what: str) -> bool:
    """Whether a check's numbers pass; what they do not decide is as the file has it."""
    if what == "metric" and check.difference is not None and check.interval is not None:
        return metric_passes(check.difference, check.interval)
    return score_passes(check.difference) if what == "score" else check.passed


def _losses(curve: LossCurve) -> Iterator[str]:
    if list(curve.epochs) != sorted(set(curve.epochs)):
        yield f"the epochs of {quote(curve.stage)} are not in order"
    if curve.kept not in curve.epochs:
        yield f"of {quote(curve.stage)} epoch {curve.kept} was kept, which is not among its epochs"
