"""Causes: which of them follows from what was measured, and that none is named where none was looked for."""

from __future__ import annotations

import json

import pytest

from collapsekit.report.diagnosis import ModalityVerdict, Result
from collapsekit.report.rules.causes import KEPT, NEEDLESS, SAME, find_cause
from collapsekit.report.rules.evidence import ModalityEvidence
from collapsekit.report.verdicts import RULES, judge
from tests.factories import make_plain_report

NUMBERS = {
    "pathway.moves": 0.2,
    "pathway.spread": 1.0,
    "pathway.held_loss": 0.5,
    "pathway.adds": 0.3,
    "utilisation.prior_loss": 1.0,
    "utilisation.alone_gain": 0.5,
}


def result(name: str, value: float | None, interval: tuple[float, float] | None = None) -> Result:
    whole = name == "utilisation.prior_loss"
    return Result(
        name=name,
        probe=name.partition(".")[0],
        modality=None if whole else "image",
        value=value,
        interval=interval,
        skipped="it was not looked at" if value is None else None,
        definition="d",
        source="s",
    )


def evidence(**changed: float | None) -> ModalityEvidence:
    numbers = {**NUMBERS, **{k.replace("__", "."): v for k, v in changed.items()}}
    return ModalityEvidence([result(k, v) for k, v in numbers.items()], "image")


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({}, "seen but not believed"),
        ({"pathway__held_loss": 1 - (KEPT - 0.01) * 0.5}, "not seen"),
        ({"pathway__held_loss": 1.2}, "not seen"),
        ({"pathway__adds": NEEDLESS / 2}, "prior"),
        ({"pathway__moves": 0.0}, "not there"),
        ({"pathway__spread": SAME / 2}, "not there"),
        ({"pathway__spread": None, "pathway__adds": 0.0}, "prior"),
        ({"pathway__held_loss": None}, None),
    ],
)
def test_the_cause_follows_from_what_was_measured(changed: dict[str, float | None], cause: str | None) -> None:
    found = find_cause(evidence(**changed), "image")
    assert found is not None
    assert found.cause == cause
    assert found.sentence.endswith(".")
    if cause is None:
        assert "it was not looked at" in found.sentence
    else:
        assert f"Cause: {cause}" in found.sentence


def test_a_bug_is_named_before_anything_else() -> None:
    found = find_cause(evidence(pathway__moves=0.0, pathway__adds=0.0, pathway__held_loss=1.0), "image")
    assert found is not None
    assert found.cause == "not there"


def test_what_others_suffice_for_has_to_be_sure() -> None:
    results = [result(k, v) for k, v in NUMBERS.items() if k != "pathway.adds"]
    wide = [*results, result("pathway.adds", 0.01, (-0.02, 2 * NEEDLESS))]
    found = find_cause(ModalityEvidence(wide, "image"), "image")
    assert found is not None
    assert found.cause == "seen but not believed"


def test_without_the_probe_no_cause_is_named() -> None:
    results = [result(k, v) for k, v in NUMBERS.items() if not k.startswith("pathway")]
    assert find_cause(ModalityEvidence(results, "image"), "image") is None


def collapsed(*names: str) -> list[Result]:
    numbers = {
        **NUMBERS,
        "utilisation.credit": 0.0,
        "utilisation.reference_credit": 0.5,
        "utilisation.ratio": 0.0,
        "utilisation.score": 1.0,
        "utilisation.share": 0.0,
    }
    return [result(k, numbers[k]) for k in numbers if not k.startswith("pathway") or k in names]


def test_a_collapsed_verdict_names_its_cause_and_reads_as_its_evidence_says() -> None:
    verdict = judge(collapsed(*NUMBERS), ["image"], "accuracy").each["image"]
    assert (verdict.verdict, verdict.cause) == ("collapsed", "seen but not believed")
    assert "Cause: seen but not believed" in verdict.reason
    assert "pathway.held_loss" in verdict.evidence


def test_a_cause_that_its_results_do_not_give_is_found_out() -> None:
    report = make_plain_report(collapsed(*NUMBERS), ("image",), rules=RULES)
    said = report.modalities["image"].model_copy(update={"cause": "prior"})
    forged = report.model_copy(update={"modalities": {"image": said}})
    found = "; ".join(forged.contradictions())
    assert "cause of 'image' is" in found
    right = judge(report.results, ("image",), "accuracy").each
    assert "cause of" not in "; ".join(report.model_copy(update={"modalities": right}).contradictions())


def test_what_is_at_most_underused_has_its_cause_too() -> None:
    results = [r for r in collapsed(*NUMBERS) if r.name != "utilisation.ratio"]
    verdict = judge([*results, result("utilisation.ratio", 0.17, (0.14, 0.2))], ["image"], "accuracy").each["image"]
    assert (verdict.verdict, verdict.at_most, verdict.cause) == ("inconclusive", "underused", "seen but not believed")


def test_a_verdict_without_a_cause_is_written_as_before() -> None:
    verdict = judge(collapsed(), ["image"], "accuracy").each["image"]
    assert (verdict.verdict, verdict.cause) == ("collapsed", None)
    assert "cause" not in json.loads(verdict.model_dump_json())
    again = ModalityVerdict.model_validate_json(verdict.model_dump_json())
    assert again == verdict
