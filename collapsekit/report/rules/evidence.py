"""What results say about one modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from collapsekit.report.base import Interval
from collapsekit.report.parts import Result


class Estimate(NamedTuple):
    """A value and the ends of its interval; where it has none, the value itself."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """Both ends."""
        return self.low, self.high


class ModalityEvidence:
    """The results about one modality, by name; which of them were read is kept for the verdict."""

    def __init__(self, results: Sequence[Result], modality: str) -> None:
        # A result about the whole (no modality) is everyone's, but never takes the place of one's own.
        near = sorted((r for r in results if r.modality in (modality, None)), key=lambda r: r.modality is not None)
        self._known = {(r.name, r.versus): r for r in near}
        self.read: list[str] = []

    def get(self, name: str, versus: str | None = None) -> Estimate | None:
        """Read a result's value; None where there is none."""
        result = self._known.get((name, versus))
        if result is None or result.value is None:
            return None
        if name not in self.read:
            self.read.append(name)
        return Estimate(result.value, *(result.interval or (result.value, result.value)))

    def why_not(self, name: str) -> str | None:
        """Say why a result was skipped; None where it was not."""
        result = self._known.get((name, None))
        return None if result is None else result.skipped

    def note(self, name: str) -> str | None:
        """Read a result's note."""
        result = self._known.get((name, None))
        return None if result is None else result.note
