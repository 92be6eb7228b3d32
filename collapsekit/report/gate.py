"""GateReport: what the gate decided about one report, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from collapsekit.errors import RefusedError
from collapsekit.report.base import Contract, Frozen, Interval, Number, Positive, Share, read_json
from collapsekit.report.diagnosis import ModalityState, OverallState, Subject
from collapsekit.report.invariants.of_gate import gate_contradiction

State = Literal["passed", "failed", "inconclusive"]
EXIT_CODES: dict[str, int] = {"passed": 0, "failed": 1, "inconclusive": 5}


class GateCheck(Frozen):
    """One rule, or one number held against the baseline. Differences are worsenings: above 0 is worse."""

    name: str  # the rule as written; "use of audio", "accuracy"
    kind: Literal["rule", "paired", "retrained"]
    state: State
    sentence: str  # what was found, in words; what would help, where that is known
    modality: str | None = None
    found: Number | None = None  # in the report
    baseline: Number | None = None  # in the baseline; the mean where it holds several runs
    difference: Number | None = None
    interval: Interval | None = None  # of the difference
    margin: Number | None = None  # a difference under this is none to fail for
    p: Share | None = None
    p_holm: Share | None = None  # corrected for all comparisons of the gate
    detectable: Number | None = None  # the worsening that would have failed with 90 % probability
    needed: Positive | None = None  # how many more runs (retrained) or examples (paired) would decide
    unit: str | None = None
    definition: str
    source: str


class Against(Frozen):
    """The baseline that was compared with."""

    situation: Literal["paired", "retrained"]
    runs: Positive  # reports in it that were used
    because: str  # why paired, or retrained, in words


class GateReport(Contract):
    """Checks, and the outcome that follows from them: failed where one failed, else inconclusive where one is or there is
    none, else passed. The exit code follows from the outcome."""

    kind: Literal["gate"] = "gate"
    collapsekit: str
    outcome: State
    summary: str  # one sentence for the whole
    subject: Subject
    verdict: OverallState
    modalities: dict[str, ModalityState]
    checks: tuple[GateCheck, ...]
    against: Against | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outcome_follows(self) -> GateReport:
        if self.outcome != outcome_of([c.state for c in self.checks]):
            raise ValueError(f"the outcome {self.outcome!r} does not follow from the checks")
        return self

    def __bool__(self) -> bool:
        """Whether it passed, so that ``assert gate(report)`` asserts something."""
        return self.outcome == "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 5 inconclusive."""
        return EXIT_CODES[self.outcome]

    def contradiction(self) -> str | None:
        """See :meth:`Contract.contradiction`."""
        return gate_contradiction(self)

    @classmethod
    def load(cls, path: str | Path) -> GateReport:
        """Read what ``gate --format json`` wrote. Raises RefusedError where it cannot be read as that."""
        raw = read_json(path)
        if not isinstance(raw, dict) or raw.get("kind") != "gate":
            raise RefusedError(f"{path} is not of a gate: give a file that `collapsekit gate --format json` wrote.")
        return cls.from_data(raw, str(path))


def outcome_of(states: list[State]) -> State:
    """What the checks' states come to; of none, inconclusive: nothing was evaluated."""
    if "failed" in states:
        return "failed"
    return "inconclusive" if "inconclusive" in states or not states else "passed"
