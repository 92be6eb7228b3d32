"""How an option is typed on the command line, and what its help says. Imports the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Flag:
    """One option of a command line. In ``help``, ``{default}`` becomes the default; it is then said there alone.

    ``gate`` and ``repair`` are what the help of these commands says instead; an option of a diagnosis is one of
    ``gate CKPT`` too where it says something there.
    """

    help: str
    name: str | None = None  # without dashes; default: the field's
    short: str | None = None
    metavar: str | None = None
    gate: str | None = None
    repair: str | None = None
    unset: object = None  # what None stands for, to be said as the default
    factor: float = 1.0  # how much of the field's unit one of the command line's is
    unit: str | None = None  # of what it is a number, for messages
    such_as: str | None = None  # examples, for messages
    bounded: bool = False  # whether help shows the least value
    completes: Literal["probes", "repairs"] | None = None  # names that a shell completes
    again: Literal["always", "changed", "never"] = "changed"  # when a report's command repeats it


_TRUST_PICKLE = (
    "RUNS THE FILE'S CODE: unpickle the checkpoint if its SHA-256 is this (`collapsekit inspect` prints it)."
)
TRUST_PICKLE = Flag(_TRUST_PICKLE, gate=_TRUST_PICKLE, metavar="sha256:DIGEST")
