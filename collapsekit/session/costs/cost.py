"""Cost: what a measurement asks of the model and of training, in numbers that no machine changes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Cost:
    """What is run and trained. Costs add up; a number that only a bound is known of says so, and why."""

    passes: int = 0  # examples through the whole model
    encodings: int = 0  # examples through one encoder by itself: in training, or with noise at its input
    replays: int = 0  # examples through fusion and head, the encoders answering from their recordings
    gradients: int = 0  # examples back through fusion and head
    heads: int = 0  # small models fitted on recorded features: linear readouts, networks, fusions
    steps: int = 0  # optimiser steps of these
    encoders: int = 0  # encoders trained, once a learning rate
    encoder_steps: int = 0  # optimiser steps of these
    bounded: frozenset[str] = frozenset()  # names of the numbers above that may come out lower
    why: tuple[str, ...] = ()  # what decides how much lower

    def __add__(self, other: Cost) -> Cost:
        """Add up two costs."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return Cost(**counts, bounded=self.bounded | other.bounded, why=tuple(dict.fromkeys(self.why + other.why)))

    def at_most(self, why: str) -> Cost:
        """Say that it may come out lower: each number that is not 0 is a bound. ``why``: what decides, in words."""
        some = {name for name in COUNTS if getattr(self, name)}
        return Cost(**self.counts(), bounded=self.bounded | some, why=(*self.why, why) if some else self.why)

    def counts(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {name: getattr(self, name) for name in COUNTS}


COUNTS = tuple(f.name for f in fields(Cost) if f.name not in ("bounded", "why"))


def reads_features(preview: object) -> Cost:
    """Cost nothing: the cost of a probe that only computes on what the encoders' one pass left behind."""
    del preview
    return Cost()
