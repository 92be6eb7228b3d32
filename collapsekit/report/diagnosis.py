"""Report: the contract every other command reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, PrivateAttr

from collapsekit.report.base import Contract, Interval, Number
from collapsekit.report.invariants.of_report import report_contradiction
from collapsekit.report.parts import (
    Curve,
    Judged,
    ModalityState,
    ModalityVerdict,
    OverallState,
    Reference,
    ReportWarning,
    Result,
    Subject,
)


class Report(Contract):
    """subject + verdicts + results + settings; frozen; the same input and seed give the same bytes,
    ``environment`` (versions, device) and the digest over it aside."""

    collapsekit: str
    subject: Subject
    verdict: OverallState
    summary: str  # one sentence for the whole
    judged: Judged | None = Field(default=None, json_schema_extra={"since": 2})  # null: not told
    modalities: dict[str, ModalityVerdict]
    results: tuple[Result, ...]
    warnings: tuple[ReportWarning, ...] = Field(default=(), json_schema_extra={"since": 2})
    # Path of the config file used, relative to the working directory; None: not from a file.
    config: str | None = Field(default=None, json_schema_extra={"since": 2})
    settings: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    _records: bytes | None = PrivateAttr(None)

    @property
    def records(self) -> bytes | None:
        """What it says of each example (collapsekit.report.per_example), where it comes from ``diagnose``; not part of the
        JSON, nor of what makes two reports equal."""
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

    def contradiction(self) -> str | None:
        """See :meth:`Contract.contradiction`."""
        return report_contradiction(self)


__all__ = [
    "Curve",
    "Interval",
    "Judged",
    "ModalityState",
    "ModalityVerdict",
    "Number",
    "OverallState",
    "Reference",
    "Report",
    "ReportWarning",
    "Result",
    "Subject",
]
