"""Whom a repair is of, by which methods, and what its report says of that."""

from __future__ import annotations

from typing import Any

import pytest

from collapsekit.errors import ConfigError, NothingEvaluatedError
from collapsekit.repairs.decision import RepairDecision, decide_repair, read_methods
from collapsekit.repairs.judging import _summarise
from collapsekit.report.diagnosis import ModalityVerdict, Report
from tests.factories import make_plain_report, make_subject

WEAK = {"verdict": "inconclusive", "at_most": "underused"}


def report(split: str = "val", **states: dict[str, Any]) -> Report:
    """A report that says nothing but how each modality is used."""
    verdicts = {m: ModalityVerdict(score=0.5, reason="By hand.", **state) for m, state in states.items()}
    return make_plain_report([], subject=make_subject(tuple(states), split=split), modalities=verdicts)


def test_all_that_are_surely_weak_are_repaired_unless_some_are_named() -> None:
    before = report(
        a={"verdict": "used"},
        b={"verdict": "collapsed"},
        c={"verdict": "inconclusive"},
        d=WEAK,
        e={"verdict": "underused"},
    )
    assert decide_repair(before, ("kd",), None) == RepairDecision(before, ("b", "d", "e"), ("kd",), None)
    assert decide_repair(before, ("kd",), ["c", "a"]).weak == ("a", "c")
    recommended = decide_repair(before, None, None)
    assert recommended.methods
    assert recommended.why
    with pytest.raises(ConfigError, match="no modality 'x'"):
        decide_repair(before, None, ["x"])
    with pytest.raises(NothingEvaluatedError, match="nothing to repair"):
        decide_repair(report(a={"verdict": "used"}, c={"verdict": "inconclusive"}), ("kd",), None)


@pytest.mark.parametrize(
    ("text", "names"), [(None, None), ("kd", ("kd",)), ("kd, ebr", ("kd", "ebr")), (["kd"], ("kd",))]
)
def test_methods_are_read_from_names_and_from_text(text: Any, names: Any) -> None:
    assert read_methods(text) == names


@pytest.mark.parametrize(
    ("text", "why"), [("kd,kd", "'kd' twice"), ([], "names nothing"), ("kdd", "did you mean 'kd'")]
)
def test_methods_that_cannot_be_meant_are_refused(text: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_methods(text)


def test_the_summary_calls_what_is_not_decided_at_most_underused() -> None:
    before = report(a={"verdict": "used"}, b=WEAK)
    shown, after = report("test", b=WEAK), report("test", b={"verdict": "used"})
    text = _summarise(RepairDecision(before, ("b",), ("kd", "ebr"), None), True, shown, after, None)
    assert text == ("kd,ebr was accepted on the validation split. On test, b is used, before it was at most underused.")
