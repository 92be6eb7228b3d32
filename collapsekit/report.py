"""Result, ModalityVerdict, Report: the contract every other command reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from collapsekit.bounds import check_plain, json_text, quoted, shown
from collapsekit.errors import RefusedError
from collapsekit.files import read_text, reason

SCHEMA_VERSION = 1
MOST_BYTES = 64_000_000
_MOST_FREE = 1_000_000  # values in settings or environment
_DEEPEST = 100  # a config's levels, and those around it
_LONGEST_INTEGER = 100  # digits

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
    error: str | None = None  # where it was skipped for a fault of the program: the error's kind and place

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


class ReportWarning(_Frozen):
    """Something about the model, the data or the run that the numbers have to be read with."""

    name: str  # "weights_changed_in_forward": a short key that stays the same over releases
    sentence: str  # what was seen, and what it means for the numbers


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
    warnings: tuple[ReportWarning, ...] = ()
    config: str | None = None  # path of the config file used, relative to the working directory; None: not from a file
    settings: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    _records: bytes | None = PrivateAttr(None)

    @property
    def records(self) -> bytes | None:
        """What it says of each example (collapsekit.records), where it comes from ``diagnose``; not part of the JSON, nor of
        what makes two reports equal."""
        return self._records

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.__dict__ == other.__dict__

    def with_records(self, data: bytes) -> Report:
        """The same report with its records."""
        copy = self.model_copy()
        copy._records = data
        return copy

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
        # Not mode="json", which fails for half characters, as names of files can hold; JSON has an escape for them.
        plain = self.model_dump()
        return json_text(plain, default=to_jsonable_python) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = "report") -> Report:
        """Parse and check a report. Raises RefusedError naming the first thing that is wrong."""
        return cls.from_data(parse_json(text, origin), origin)

    @classmethod
    def from_data(cls, raw: Any, origin: str = "report") -> Report:
        """Check what a report's JSON holds. Raises RefusedError naming the first thing that is wrong."""
        return checked(cls, raw, origin)

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report.json of at most 64 MB. Raises RefusedError where it cannot be read as one."""
        return cls.from_data(read_json(path), str(path))


Kind = TypeVar("Kind", bound=BaseModel)


def checked(kind: type[Kind], raw: Any, origin: str, parts: Sequence[str] = ()) -> Kind:
    """``raw`` as a report of that kind; ``parts`` are the reports within it. Raises RefusedError."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        found = shown(json.dumps(version), 40) if isinstance(version, str | int | float) else type(version).__name__
        raise RefusedError(
            f"{origin} has schema_version {found}, this collapsekit reads {SCHEMA_VERSION}: "
            "make the report again with this version, or install the version that wrote it."
        )
    try:
        for holder in (raw, *(raw.get(part) for part in parts)):
            for free in ("settings", "environment"):  # what the schema says nothing of
                if isinstance(holder, dict):
                    check_plain(holder.get(free), values=_MOST_FREE, levels=_DEEPEST, whole=False)
        return kind.model_validate(raw)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = quoted(".".join(str(p)[:80] for p in first["loc"]), 200) if first["loc"] else "the report"
        said = shown(first["msg"].removeprefix("Value error, "))
        raise RefusedError(f"{origin} does not fit the report schema at {where}: {said}.") from None
    except ValueError as e:
        raise RefusedError(f"{origin} does not fit the report schema in its settings or environment: {e}.") from None


def read_json(path: str | Path) -> Any:
    """The JSON of a report's file of at most 64 MB. Raises RefusedError where it cannot be read as that."""
    try:
        text = read_text(path, MOST_BYTES)
    except OSError as e:
        raise RefusedError(f"{path} cannot be read as a report: {reason(e)}.") from None
    return parse_json(text, str(path))


def parse_json(text: str, origin: str) -> Any:
    """JSON in which no number is out of range and no key stands twice. Raises RefusedError naming ``origin``."""
    try:
        return json.loads(
            text,
            parse_constant=_reject_constant,
            parse_float=_finite_number,
            parse_int=_short_integer,
            object_pairs_hook=_each_key_once,
        )
    except RecursionError:
        raise RefusedError(f"{origin} is not JSON that collapsekit wrote: it is nested too deeply.") from None
    except ValueError as e:
        raise RefusedError(f"{origin} is not JSON ({e}): give a report.json that collapsekit wrote.") from None


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(text, 40)} is out of range")
    return value


def _short_integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"a number of {len(text):,} digits is too long")
    return int(text)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        again = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(again)} stands twice in one object")
    return found
