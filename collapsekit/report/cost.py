"""CostReport: what a diagnosis would cost, as `collapsekit diagnose --dry-run --json` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.io.safe_text import quote
from collapsekit.report.agreement import first_repeat
from collapsekit.report.base import Contract, Count, Flag, Frozen, Number, Positive, Whole

COUNTED = ("passes", "encodings", "replays", "gradients", "heads", "steps", "encoders", "encoder_steps")
OPENING, TOTAL = "opening", "total"


class CostRow(Frozen):
    """What one part of a diagnosis runs and trains. What several parts need is counted where it is first needed."""

    name: str  # of a probe; or "opening" (encoders over the split to diagnose), or "total"
    passes: Count = 0  # examples through the whole model
    encodings: Count = 0  # examples through one encoder by itself: in training, or with noise at its input
    replays: Count = 0  # examples through fusion and head, the encoders answering from their recordings
    gradients: Count = 0  # examples back through fusion and head
    heads: Count = 0  # small models fitted on recorded features: linear readouts, networks, fusions
    steps: Count = 0  # optimiser steps of these
    encoders: Count = 0  # encoders trained, once a learning rate
    encoder_steps: Count = 0  # optimiser steps of these
    at_most: tuple[str, ...] = ()  # which of these numbers may come out lower
    why: tuple[str, ...] = ()  # what decides how much lower
    seconds: Number | None = None  # reckoned: by one timed batch of each kind, and by the sizes of what is fitted
    skipped: str | None = None  # why it would measure nothing
    estimated: Flag = True  # false: it does not say what it costs


class CostReport(Contract):
    """What a diagnosis would cost: what is run and trained by part, seconds on this machine, and memory."""

    collapsekit: str
    checkpoint: str
    profile: str
    split: str
    seed: Whole
    examples: dict[str, Positive]  # by split that is read
    opening: CostRow
    probes: tuple[CostRow, ...]  # in the order in which they run
    total: CostRow
    unit_seconds: dict[str, Number]  # of one example, or of one step of 64, by the names of the numbers above
    kept_bytes: Count  # of inputs and features, in memory or mapped from files
    peak_bytes: Count  # of one batch, beside the model

    def _gist(self) -> Iterator[str]:
        total = self.total
        yield f"about {total.seconds or 0.0:.3g} s"
        yield f"{len(self.probes)} probes on split {self.split}, profile {self.profile}"

    def contradictions(self) -> Iterator[str]:
        """Yield where names repeat or the total is not the sum of the parts."""
        repeated = first_repeat(row.name for row in self.probes)
        if repeated is not None:
            yield f"the probe {quote(repeated)} is in it twice"
        for name in COUNTED:
            if getattr(self.total, name) != sum(getattr(row, name) for row in (self.opening, *self.probes)):
                yield f"{name} of the total is not the sum over its parts"
