"""Decisions of the gate made by hand, and strategies for hostile ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from collapsekit.report.diagnosis import Subject
from collapsekit.report.gate import Against, GateCheck, GateReport, outcome_of

HOSTILE = [
    "\x1b[31mred",
    "a\n::error::x",
    "##[error]y",
    "<script>",
    "]]>",
    "\ud800",
    "\ufffe\0",
    "‮audio",
    "a|b`c",
    "%0A::warning::z",
    "::stop-commands::t",
    ",x:y=",
    "- [a](http://b) @me #1",
    "//host/../x",
]
NAMES = st.one_of(
    st.sampled_from(["audio", "use of audio", "modalities.*.score <= 0.3", *HOSTILE]), st.text(max_size=30)
)
_NUMBERS = st.none() | st.floats(-1e6, 1e6)
_PARTS = st.none() | st.floats(0, 1)


def check(name: str = "use of audio", state: str = "failed", **more: Any) -> GateCheck:
    """A check of retrained models that says no numbers but those given."""
    given = {"name": name, "kind": "retrained", "state": state, "sentence": f"{name} fell.", **more}
    return GateCheck(**{"definition": "d", "source": "s", **given})


def report_of(
    found: list[GateCheck], names: tuple[str, ...] = ("audio",), checkpoint: str = "ckpt.pt", note: str = "a note"
) -> GateReport:
    """The decision that follows from these checks."""
    compared = any(c.kind != "rule" for c in found)
    return GateReport(
        collapsekit="0.1.0",
        outcome=outcome_of([c.state for c in found]),
        summary=f"{len(found)} checks of {names[0]}.",
        subject=Subject(
            checkpoint=checkpoint,
            sha256="0" * 64,
            modalities=names,
            task="classification",
            metric="accuracy",
            split="test",
            examples=10,
            seed=0,
        ),
        verdict="healthy",
        modalities=dict.fromkeys(names, "used"),
        checks=tuple(found),
        against=Against(situation="retrained", runs=5, because=note) if compared else None,
        notes=(note,),
    )


@st.composite
def checks(draw: st.DrawFn) -> GateCheck:
    return check(
        draw(NAMES),
        draw(st.sampled_from(["passed", "failed", "inconclusive"])),
        kind=draw(st.sampled_from(["rule", "paired", "retrained"])),
        sentence=draw(NAMES),
        modality=draw(st.none() | NAMES),
        found=draw(_NUMBERS),
        baseline=draw(_NUMBERS),
        difference=draw(_NUMBERS),
        interval=draw(st.none() | st.tuples(st.floats(-1, 0), st.floats(0, 1))),
        p=draw(_PARTS),
        p_holm=draw(_PARTS),
        detectable=draw(_NUMBERS),
        needed=draw(st.none() | st.integers(1, 10**6)),
        definition=draw(NAMES),
    )


REPORTS = st.builds(
    report_of,
    st.lists(checks(), max_size=4),
    st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
    NAMES,
    NAMES,
)
