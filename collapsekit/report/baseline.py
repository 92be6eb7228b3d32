"""Baseline: the earlier reports that a new one is held against, in one file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from collapsekit.deprecated import TASKS_OF_BEFORE
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.files import is_file
from collapsekit.io.json import MAX_BYTES, read_json
from collapsekit.io.safe_text import quote, some
from collapsekit.report.base import Contract, Frozen
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import PerExample, check_records, digest


class Run(Frozen):
    """One earlier report without its curves, and its records (base64 of their file) where they were kept."""

    report: Report
    records: str | None = None

    @property
    def training_seed(self) -> int | None:
        """The seed its model was trained with, where it says so."""
        return seed_of(self.report)

    def read_records(self) -> PerExample | None:
        """Return its records. Raises RefusedError where they are damaged or another report's."""
        data = self._data()
        return None if data is None else PerExample.from_bytes(data, "the baseline's records")

    def check_numbers(self, origin: str) -> None:
        """Raise RefusedError where its records are damaged, another report's, or say otherwise than its report."""
        data = self._data()
        if data is not None:
            check_records(self.report, data, f"a report in {origin}")

    def _data(self) -> bytes | None:
        if self.records is None:
            return None
        try:
            data = base64.b64decode(self.records, validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError("the baseline's records are damaged (no base64): make the baseline again.") from None
        if digest(data) != self.report.settings.get("records"):
            raise RefusedError("the baseline's records are not those of its report: make the baseline again.")
        return data


class Baseline(Contract):
    """Runs that can be compared: same task, metric, modalities, split and examples, same definitions."""

    INNER = (("runs", "*", "report"),)

    kind: Literal["baseline"] = "baseline"
    collapsekit: str
    runs: tuple[Run, ...]

    @model_validator(mode="after")
    def _comparable(self) -> Baseline:
        if not self.runs:
            raise ValueError("a baseline needs at least one report")
        for run in self.runs[1:]:
            said = differs(self.runs[0].report, run.report)
            if said is not None:
                raise ValueError(f"its reports cannot be compared: {said}")
        return self

    def to_json(self) -> str:
        """Return the baseline as JSON text; the same reports in the same order give the same bytes.

        Raises ConfigError where it would be more than is read.
        """
        text = super().to_json()
        if len(text) > MAX_BYTES:
            raise ConfigError(
                f"the baseline would be over {MAX_BYTES:,} bytes, the most that is read: leave out the records "
                "(--no-records; retrained models can be compared without), or diagnose fewer examples."
            )
        return text

    @classmethod
    def load(cls, path: str | Path) -> Baseline:
        """Read a baseline of at most 64 MB. Raises ConfigError where there is none, RefusedError where it cannot be read."""
        if not is_file(path):
            raise ConfigError(
                f"there is no baseline {path}: make one with `collapsekit baseline create REPORT.json -o {path}`."
            )
        raw = read_json(path)
        if not isinstance(raw, dict) or raw.get("kind") != "baseline":
            raise RefusedError(f"{path} is not a baseline: give a file that `collapsekit baseline create` wrote.")
        found = cls.from_data(raw, str(path))
        for run in found.runs:
            run.check_numbers(str(path))
        return found

    def _gist(self) -> Iterator[str]:
        subject = self.runs[0].report.subject
        yield f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        yield some([f"{r.report.subject.checkpoint} {r.report.verdict}" for r in self.runs])
        yield f"{subject.task}, {subject.examples} examples of {subject.split}"

    def contradictions(self) -> Iterator[str]:
        """See :meth:`Contract.contradictions`."""
        return _contradictions(self)


def seed_of(report: Report) -> int | None:
    """Return the training seed that a report names; None where it names none."""
    seed = report.settings.get("training_seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def differs(ours: Report, theirs: Report) -> str | None:
    """Say why two reports cannot be compared, as a sentence without its end; None where they can."""
    for what in ("task", "metric", "split", "examples"):
        a, b = getattr(ours.subject, what), getattr(theirs.subject, what)
        if TASKS_OF_BEFORE.get(a, a) != TASKS_OF_BEFORE.get(b, b):
            return f"one has {what} {a}, the other {b}"
    one, other = (r.subject.modalities for r in (ours, theirs))
    if set(one) != set(other):
        return f"one has the modalities {', '.join(one)}, the other {', '.join(other)}"
    a, b = (r.settings.get("examples") for r in (ours, theirs))
    if a != b:
        return "they were made of different examples (or one does not say of which)"
    definitions = {(r.name, r.modality, r.versus): r.definition for r in ours.results}
    for r in theirs.results:
        if definitions.get((r.name, r.modality, r.versus), r.definition) != r.definition:
            return f"they define {r.name} differently"
    return other_families(ours, theirs)


def other_families(ours: Report, theirs: Report) -> str | None:
    """Say of which modality the due is chosen among other families of readouts, as a sentence without its end; None where
    it is of none, or a report does not say.

    Which family did best may differ from model to model: what is due is the best of all that were tried in both.
    """
    for m, verdict in ours.modalities.items():
        one, other = verdict.reference, theirs.modalities[m].reference if m in theirs.modalities else None
        if one is None or other is None or one.gains.keys() == other.gains.keys():
            continue
        odd = next(f for f in (*one.gains, *other.gains) if (f in one.gains) != (f in other.gains))
        return f"only one of them tried {quote(odd)} for what is due to {quote(m)}"
    return None


def same_run(ours: Report, theirs: Report) -> bool:
    """Tell whether two reports are of one training run: the same weights, or the same training seed."""
    seed = seed_of(ours)
    return ours.subject.sha256 == theirs.subject.sha256 or (seed is not None and seed == seed_of(theirs))


def _contradictions(baseline: Baseline) -> Iterator[str]:
    reports = [run.report for run in baseline.runs]
    for i, report in enumerate(reports):
        said = report.contradiction()
        if said is not None:
            yield f"in the report of its run {i + 1}, {said}"
        again = next((j for j, other in enumerate(reports[:i]) if same_run(other, report)), None)
        if again is not None:
            yield (
                f"its runs {again + 1} and {i + 1} ({quote(reports[again].subject.checkpoint)} and "
                f"{quote(report.subject.checkpoint)}) are one: the same weights or the same training seed"
            )
