"""RepairReport: what a repair did, beside plain fine-tuning, and whether it may stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from collapsekit.errors import RefusedError
from collapsekit.io.files import is_file
from collapsekit.report.base import Contract, Count, Flag, Frozen, Interval, Number, Whole
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.invariants.of_repair import repair_contradiction

FILE = "repair.json"
WEIGHTS = "model.safetensors"


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


Width = Annotated[Whole, Field(ge=1, le=2**20)]
Channel = Annotated[Whole, Field(ge=0, lt=2**20)]


class _Insert(Frozen):
    modality: str
    path: str  # of the encoder whose place it takes
    part: str | int | None = None  # which part of what the encoder gives is its features
    channels: Literal["first", "last"] | None = None
    features: Width


class BasisInsert(_Insert):
    """Heads h·h⁻¹ behind an encoder (collapsekit.adapters.inserts.Basis)."""

    kind: Literal["basis"] = "basis"
    latent: Width
    hidden: Width

    @property
    def weights(self) -> int:
        """How many it adds, biases aside."""
        return 2 * self.hidden * (self.features + self.latent)


class ExchangeInsert(_Insert):
    """Channels of an encoder blended with another's (collapsekit.adapters.inserts.Exchange)."""

    kind: Literal["exchange"] = "exchange"
    giver: str
    given: Width  # the giver's channels
    to: Annotated[tuple[Channel, ...], Field(max_length=2**16)]
    source: Annotated[tuple[Channel, ...], Field(max_length=2**16)]
    blend: Annotated[Number, Field(gt=0, lt=1)]  # to begin with

    @property
    def weights(self) -> int:
        """How many it adds, biases aside."""
        return len(self.to) + (self.given * self.features if self.given != self.features else 0)


Insert = Annotated[BasisInsert | ExchangeInsert, Field(discriminator="kind")]


def structure_of(checkpoint: Path) -> tuple[dict[str, Any], ...]:
    """What a repair put into the model whose weights are at ``checkpoint``: the records of the repair.json in that folder,
    or beside those weights; none where there is none. Raises RefusedError where it cannot be read."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not is_file(folder / FILE) or not (checkpoint.is_dir() or checkpoint.name == WEIGHTS):
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

    def contradiction(self) -> str | None:
        """See :meth:`Contract.contradiction`."""
        return repair_contradiction(self)
