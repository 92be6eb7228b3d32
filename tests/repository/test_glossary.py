"""Every word that a report uses has its sentence in the glossary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from collapsekit import registry
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import Against, GateCheck, GateReport, State
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
from collapsekit.report.repair import Check, LossCurve, RepairReport

DOCS = Path(__file__).parents[2] / "docs"
ROWS = dict(re.findall(r"^\| (?!word|---)(.+?) \| (.+) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.M))
EXPLAINED = {w for head in ROWS for w in re.findall(r"`(\w+)`", head)} | {
    w for text in ROWS.values() for w in re.findall(r"`(\w+)`", text)
}
MODELS: tuple[type[BaseModel], ...] = (
    *(Report, Subject, ModalityVerdict, Judged, Reference, Result, Curve, ReportWarning),
    *(GateReport, GateCheck, Against, RepairReport, Check, LossCurve),
)


def fields() -> set[str]:
    return {name for model in MODELS for name in model.model_fields}


def results() -> set[str]:
    """Names of results without their probe, from the probes' pages, which a test holds to what the probes yield."""
    registry.load_builtins()
    found = set()
    for page in (DOCS / "probes").glob("*.md"):
        table = page.read_text(encoding="utf-8").split("## Options")[0]
        found |= set(re.findall(rf"^\| `{page.stem}\.(\w+)[\w.]*` \|", table, re.M))
    return found


@pytest.mark.parametrize("word", sorted({*get_args(ModalityState), *get_args(OverallState), *get_args(State)}))
def test_every_state_has_an_entry(word: str) -> None:
    assert word in EXPLAINED


@pytest.mark.parametrize("word", sorted(fields()))
def test_every_field_of_a_report_has_an_entry(word: str) -> None:
    assert word in EXPLAINED


@pytest.mark.parametrize("word", sorted(results()))
def test_every_result_has_an_entry(word: str) -> None:
    assert word in EXPLAINED


def test_every_probe_has_an_entry() -> None:
    assert {
        w for w in registry.PROBES if registry.PROBES[w].run.__module__.startswith("collapsekit.")
    } - EXPLAINED == set()


def test_every_entry_is_one_sentence_and_stands_once() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    heads = re.findall(r"^\| (?!word|---)(.+?) \|", text, re.M)
    assert len(heads) == len(set(heads))
    words = [w for head in heads for w in re.findall(r"`(\w+)`", head)]
    assert sorted({w for w in words if words.count(w) > 1}) == []
    for head, sentence in ROWS.items():
        assert sentence.endswith((".", ")")), head
        assert not re.search(r"[a-z]\. [A-Z]", sentence), head
