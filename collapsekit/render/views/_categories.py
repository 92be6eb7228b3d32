"""What is said of each kind of examples: a table of all, and why."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import fmt
from collapsekit.render.views import _words as words
from collapsekit.report.diagnosis import Categories, CategoryVerdict, ModalityVerdict, Report, Result
from collapsekit.report.verdicts import describe_state, is_weak

_ROWS = 24  # at a glance
NOT_JUDGED = "not judged"


def section_by_category(report: Report, full: dict[str, str], detail: Detail) -> Iterator[doc.Section]:
    """Make the section on categories, where the report has some.

    Args:
        report: a cleaned one.
        full: by name of a modality, what it is called once more.
        detail: at a glance it is cut after some rows, and has no reasons.

    Yields:
        The section.
    """
    categories = report.categories
    if categories is None:
        return
    order = sorted(categories.each, key=lambda c: _severity(c))
    rows = [row for category in order for row in _rows(category)]
    shown = rows[:_ROWS] if detail is Detail.GLANCE else rows
    state = doc.TableColumn(Span("verdict"), "state")
    heads = (categories.key, ">examples", ">metric", "modality", state, ">of its due", ">flips")
    about = f"metric: {report.subject.metric}; of its due: credit beside what a balanced reference gives it (1: all); "
    about += "flips: share of answers that are others without it"
    blocks: list[doc.Block] = [
        doc.sentence(
            f"By {categories.key}, each by itself, by the same rules; absent modalities are taken from all examples. Among "
            "many some interval errs by chance, one in twenty at 95 %.",
            "lead",
        ),
        doc.table(f"Verdicts by {categories.key}", heads, shown, about=about, counted="rows"),
    ]
    if len(shown) < len(rows):
        blocks.append(doc.sentence(f"{len(rows) - len(shown)} more rows in the JSON and HTML reports.", "note"))
    blocks += [doc.sentence(f"{c.name} is not judged: {c.why_not}.", "note") for c in order if c.why_not is not None]
    if detail is not Detail.GLANCE:
        for category in order:
            reasons = [doc.line(Span(full.get(m, m), "label"), f": {v.reason}") for m, v in category.modalities.items()]
            if reasons:
                blocks.append(doc.details(category.name, doc.items(reasons), about=str(category.summary)))
    yield doc.section(f"By {categories.key}", *blocks, name="categories")


def sentence_of(categories: Categories) -> str:
    """Say in a line which categories are worst, and how many are judged."""
    judged = [c for c in categories.each if c.verdict is not None]
    said = []
    for category in sorted(judged, key=_severity):
        weak = [f"{m} {describe_state(v)}" for m, v in category.modalities.items() if is_weak(v)]
        said.append(f"{category.name} {category.verdict}" + f" ({', '.join(weak)})" * bool(weak))
    return f"By {categories.key}, {len(judged)} of {len(categories.each)} judged: {'; '.join(said) or 'none'}."


def category_names(report: Report) -> Iterator[str]:
    """List what the categories of a report are called, and the field that says so."""
    if report.categories is not None:
        yield from (report.categories.key, *(c.name for c in report.categories.each))


def _severity(category: CategoryVerdict) -> int:
    return len(doc.MARKS) if category.verdict is None else words.severity(category.verdict)


def _rows(category: CategoryVerdict) -> Iterator[tuple[doc.TableCell | str, ...]]:
    """A row a modality, the first of which names the category."""
    reached = next((r.value for r in category.results if r.name == "reliance.full_metric"), None)
    about = (doc.cell(category.name, "label"), doc.cell(f"{category.examples:,}"), doc.cell(fmt(reached)))
    if category.verdict is None:
        yield *about, "", doc.cell(NOT_JUDGED, "quiet"), "", ""
        return
    for m, v in sorted(category.modalities.items(), key=lambda item: words.severity(item[1].verdict)):
        results = {r.name: r for r in category.results if r.modality == m}
        ratio, flips = (_number(results.get(name)) for name in ("utilisation.ratio", "reliance.flips"))
        yield *about, doc.name(m), doc.TableCell((_state(v),)), ratio, flips
        about = (doc.TableCell(), doc.TableCell(), doc.TableCell())


def _state(v: ModalityVerdict) -> Span:
    return doc.state(v.verdict, describe_state(v))


def _number(result: Result | None) -> doc.TableCell:
    return words.number(result.value, result.interval) if result is not None else doc.TableCell()
