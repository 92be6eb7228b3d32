"""Result, ModalityVerdict, Report: the contract every other command reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from collapsekit.errors import RefusedError

SCHEMA_VERSION = 1

ModalityState = Literal["used", "underused", "collapsed", "uninformative", "inconclusive"]
OverallState = Literal["collapsed", "healthy", "inconclusive"]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite: a value that could not be had is null with `skipped`")
    return value


Number = Annotated[float, AfterValidator(_finite)]
Interval = tuple[Number, Number]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Curve(_Frozen):
    """A result that is a line or bars: ``y`` over ``x`` (numbers or category names), with bounds where had."""

    x: tuple[Number | str, ...]
    y: tuple[Number, ...]
    lower: tuple[Number, ...] | None = None
    upper: tuple[Number, ...] | None = None
    x_label: str
    y_label: str

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        for name, other in (("y", self.y), ("lower", self.lower), ("upper", self.upper)):
            if other is not None and len(other) != len(self.x):
                raise ValueError(f"curve.{name} has {len(other)} entries, x has {len(self.x)}")
        return self


class Result(_Frozen):
    """One named number or curve with interval, definition and source; or ``skipped`` with the reason."""

    name: str  # "vif.mean"
    probe: str
    modality: str | None = None  # None: the fused representation, or the model as a whole
    versus: str | None = None  # the other modality, where the number is about two
    value: Number | None = None
    interval: Interval | None = None
    unit: str | None = None  # "nats", "dimensions", "accuracy", ...
    definition: str
    source: str
    curve: Curve | None = None
    note: str | None = None  # a caveat the reader needs: small n, a bound, what was dropped
    skipped: str | None = None

    @model_validator(mode="after")
    def _value_or_reason(self) -> Result:
        had = self.value is not None or self.curve is not None
        if had == (self.skipped is not None):
            raise ValueError(f"result {self.name!r} needs either a value or curve, or `skipped` with the reason")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"result {self.name!r} has an interval whose ends are swapped")
        return self


class ModalityVerdict(_Frozen):
    """What the evidence says of one modality."""

    verdict: ModalityState
    score: Number | None  # 0 = fully used, 1 = fully ignored; null where it could not be had
    interval: Interval | None = None
    costs_now: Number | None = None  # task metric lost today by not using it
    costs_if_missing: dict[str, Number] = {}  # task metric lost when that other modality is absent
    reason: str  # one sentence a person can act on
    evidence: tuple[str, ...] = ()  # names of the results this verdict was read from


class Subject(_Frozen):
    """What was diagnosed, on what."""

    checkpoint: str
    sha256: str
    modalities: tuple[str, ...]
    task: str
    metric: str
    split: str
    examples: int
    seed: int


class Report(_Frozen):
    """subject + verdicts + results + settings; frozen; the same input and seed give the same bytes,
    ``environment`` (versions, device, time) aside."""

    schema_version: Literal[1] = 1
    collapsekit: str
    subject: Subject
    verdict: OverallState
    summary: str  # one sentence for the whole
    modalities: dict[str, ModalityVerdict]
    results: tuple[Result, ...]
    settings: dict[str, Any] = {}
    environment: dict[str, Any] = {}

    def find(self, name: str, modality: str | None = None, versus: str | None = None) -> Result | None:
        """The result of that name, modality and counterpart, or None."""
        for r in self.results:
            if (r.name, r.modality, r.versus) == (name, modality, versus):
                return r
        return None

    def named(self, name: str) -> Iterator[Result]:
        """All results of that name, in report order."""
        return (r for r in self.results if r.name == name)

    def to_json(self) -> str:
        """The report as JSON text, keys in schema order, no NaN or Inf."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "report") -> Report:
        """Parse and check a report. Raises RefusedError naming the first thing that is wrong."""
        try:
            raw = json.loads(text, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as e:
            raise RefusedError(f"{origin} is not JSON ({e}): give a report.json that collapsekit wrote.") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise RefusedError(
                f"{origin} has schema_version {version!r}, this collapsekit reads {SCHEMA_VERSION}: "
                "make the report again with this version, or install the version that wrote it."
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(p) for p in first["loc"]) or "the report"
            raise RefusedError(f"{origin} does not fit the report schema at {where}: {first['msg']}.") from None

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report.json. Raises RefusedError where it cannot be read as one."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise RefusedError(f"{path} cannot be read as a report: {e}.") from None
        return cls.from_json(text, origin=str(path))


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")
