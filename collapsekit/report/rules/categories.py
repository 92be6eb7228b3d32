"""Verdicts on the examples of one category: by the rules for all examples, from results of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.io.safe_text import quote
from collapsekit.report.agreement import check_results, first_repeat, verdict_differences
from collapsekit.report.parts import Categories, CategoryVerdict, OverallState, Result, Subject
from collapsekit.report.verdicts import FOOLED, Verdicts, judge, misstatement

_SURE = ("healthy", "underused")  # verdicts that a model which uses nothing must not have


def judge_category(
    results: Sequence[Result], modalities: Sequence[str], metric: str, overall: OverallState, summary: str
) -> Verdicts:
    """Judge one category. Where controls showed that nothing can be decided of all examples, nothing is of these.

    Args:
        results: of its examples.
        modalities: the subject's.
        metric: what the task metric is called.
        overall: the verdict on all examples.
        summary: its sentence.

    Returns:
        Its verdicts.
    """
    found = judge(results, modalities, metric)
    if overall == "inconclusive" and summary.startswith(FOOLED) and found.overall in _SURE:
        return found._replace(overall="inconclusive", summary=summary)
    return found


def category_contradictions(
    categories: Categories, subject: Subject, overall: OverallState, summary: str
) -> Iterator[str]:
    """Yield every place where categories do not agree with themselves or the subject.

    Args:
        categories: of a report.
        subject: of the report.
        overall: its verdict on all examples.
        summary: its sentence for the whole.

    Yields:
        A sentence each, without its end.
    """
    if not categories.key.strip():
        yield "the field of its categories has no name"
    again = first_repeat(c.name for c in categories.each)
    if again is not None:
        yield f"the category {quote(again)} is there twice"
    count = sum(c.examples for c in categories.each)
    if count != subject.examples:
        yield f"its categories have {count} examples, and its subject {subject.examples}"
    for category in categories.each:
        what = f"of the category {quote(category.name)}"
        if (category.verdict is None) != (category.why_not is not None):
            yield f"the verdict {what} is {category.verdict}, and why there is none {quote(str(category.why_not))}"
        if category.verdict is None:
            if category.modalities or category.results:
                yield f"there are results {what}, which was not judged"
            continue
        yield from (f"{said}, {what}" for said in _contradictions(category, subject, overall, summary))


def _contradictions(category: CategoryVerdict, subject: Subject, overall: OverallState, summary: str) -> Iterator[str]:
    yield from check_results(category.results, subject.modalities)
    right = judge_category(category.results, subject.modalities, subject.metric, overall, summary)
    if list(category.modalities) != list(right.each):
        yield f"verdicts are on {', '.join(map(quote, category.modalities))}, expected one on each modality"
        return
    for m, verdict in right.each.items():
        yield from verdict_differences(m, category.modalities[m], verdict)
    for what, a, b in (("the verdict", category.verdict, right.overall), ("`judged`", category.judged, right.judged)):
        if a != b:
            yield f"{what} is {quote(str(a))}, but the results give {quote(str(b))}"
    claim = misstatement(category.summary or "", right.summary, category.modalities)
    if claim is not None:
        yield f"the summary says {quote(claim)}, which does not follow from the verdicts"
