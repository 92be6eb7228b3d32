"""Categories of a report: each verdict follows from the results beside it, and nothing else is let through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from collapsekit import Report
from collapsekit.errors import RefusedError
from collapsekit.render.views._categories import sentence_of
from collapsekit.report.base import sealed
from collapsekit.report.names import cleaned
from collapsekit.report.parts import Categories, CategoryVerdict, Judged
from collapsekit.report.rules.categories import judge_category
from collapsekit.report.verdicts import FOOLED, Verdicts
from tests.factories import make_plain_report, make_result


def with_categories(key: str = "question", names: tuple[str, str] = ("colour", "how many")) -> Report:
    """A report whose first category has the results of all, and whose second has too few examples."""
    report = make_plain_report([make_result("reliance.full_loss", 0.5)])
    of, few = report.subject, 1
    found = judge_category(report.results, of.modalities, of.metric, report.verdict, report.summary)
    first = CategoryVerdict(
        name=names[0],
        examples=of.examples - few,
        verdict=found.overall,
        summary=found.summary,
        judged=found.judged,
        modalities=found.each,
        results=report.results,
    )
    short = CategoryVerdict(name=names[1], examples=few, why_not="it has 1 example, and 50 are needed")
    return report.model_copy(update={"categories": Categories(key=key, each=(first, short))})


def read_changed(change: Callable[[Any], None]) -> Report:
    raw = json.loads(with_categories().to_json())
    change(raw["categories"]["each"])
    return Report.from_json(json.dumps(sealed(Report, raw)))


def test_it_is_read_as_it_was_written() -> None:
    report = with_categories()
    assert Report.from_json(report.to_json()) == report
    assert read_changed(lambda each: None) == report


def _change(place: int, **fields: Any) -> Callable[[Any], None]:
    return lambda each: each[place].update(fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_change(0, verdict="healthy"), "the verdict is 'healthy', but the results give"),
        (_change(0, judged={"extent": "fully", "missing": []}), "`judged` is"),
        (_change(0, examples=9), "examples, and its subject"),
        (_change(1, name="colour"), "is there twice"),
        (_change(1, verdict="healthy"), "why there is none"),
        (_change(0, why_not="so"), "why there is none"),
        (_change(0, modalities={}), "expected one on each modality"),
        (_change(0, summary="The model uses every modality."), "does not follow from the verdicts"),
        (lambda each: each[1].update(results=each[0]["results"]), "which was not judged"),
        (lambda each: each[0]["results"].append(each[0]["results"][0]), "is there twice"),
        (
            lambda each: next(iter(each[0]["modalities"].values())).update(verdict="uninformative"),
            "but the results give",
        ),
        (
            lambda each: next(iter(each[0]["modalities"].values())).update(cause="not seen"),
            "cause of .* is 'not seen', but the results give",
        ),
    ],
)
def test_what_does_not_follow_is_refused(change: Callable[[Any], None], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        read_changed(change)


@pytest.mark.parametrize("state", ["healthy", "underused", "collapsed"])
def test_nothing_is_decided_of_a_part_where_nothing_can_be_of_the_whole(
    state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Verdicts(state, "as it is", {}, Judged(extent="fully"))
    monkeypatch.setattr("collapsekit.report.rules.categories.judge", lambda *given: right)
    summary = f"{FOOLED}: an untrained build gains 9% of the prior loss."
    assert judge_category((), (), "accuracy", "healthy", "The model uses every modality.") == right
    fooled = judge_category((), (), "accuracy", "inconclusive", summary)
    kept = state == "collapsed"
    assert (fooled.overall, fooled.summary) == ((state, "as it is") if kept else ("inconclusive", summary))


def test_hostile_names_are_cleaned_and_stay_apart() -> None:
    report = cleaned(with_categories("q\x1b[31m", ("a\x1b[0m<b>", "a\x07<b>")))
    assert report.categories is not None
    text = report.categories.key + sentence_of(report.categories) + "".join(c.name for c in report.categories.each)
    assert not any(ord(c) < 32 or ord(c) == 127 for c in text)
    assert len({c.name for c in report.categories.each}) == 2
