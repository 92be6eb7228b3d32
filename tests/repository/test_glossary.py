"""Every word that a report uses has its sentence in the glossary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from collapsekit import registry
from collapsekit.report.baseline import Baseline
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import ModalityState, ModalityVerdict, OverallState, Report
from collapsekit.report.gate import GateReport, State
from collapsekit.report.repair import RepairReport

DOCS = Path(__file__).parents[2] / "docs"
TEXT, _, NAMES = (DOCS / "glossary.md").read_text(encoding="utf-8").partition("## Where each result is explained")
ROWS = dict(re.findall(r"^\| (?!word|---)(.+?) \| (.+) \|$", TEXT, re.M))
EXPLAINED = {w for head in ROWS for w in re.findall(r"`(\w+)`", head)} | {
    w for text in ROWS.values() for w in re.findall(r"`(\w+)`", text)
}
FILES: tuple[type[BaseModel], ...] = (Report, RepairReport, GateReport, Comparison, Baseline)


def parts(kind: object) -> Iterator[type[BaseModel]]:
    """The models that stand somewhere in a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from parts(inner)


def fields() -> set[str]:
    """Names of all fields of the files that collapsekit writes, however deep."""
    known: set[type[BaseModel]] = set()
    left = list(FILES)
    while left:
        model = left.pop()
        if model not in known:
            known.add(model)
            left += [part for field in model.model_fields.values() for part in parts(field.annotation)]
    return {name for model in known for name in model.model_fields}


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
    assert word in EXPLAINED | set(re.findall(r"`([\w.]+)`", NAMES))


def test_results_that_verdicts_are_read_from_have_sentences() -> None:
    """The others may stand on their probe's page alone."""
    judged = {name for name in results() if name in ModalityVerdict.model_fields} | {
        "shapley",
        "credit",
        "ratio",
        "share",
    }
    assert judged <= EXPLAINED


def test_every_entry_is_one_sentence_and_stands_once() -> None:
    heads = re.findall(r"^\| (?!word|---)(.+?) \|", TEXT, re.M)
    assert len(heads) == len(set(heads))
    words = [w for head in heads for w in re.findall(r"`(\w+)`", head)]
    assert sorted({w for w in words if words.count(w) > 1}) == []
    for head, sentence in ROWS.items():
        assert sentence.endswith((".", ")")), head
        assert not re.search(r"[a-z]\. [A-Z]", sentence), head
