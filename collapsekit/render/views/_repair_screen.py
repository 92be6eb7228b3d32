"""The first screen of a repair: the decision, what counts before, after and beside plain fine-tuning, what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from collapsekit.comparison.delta import Numbers, RepairDelta, repair_delta, scores
from collapsekit.comparison.standing import cautions, metric_numbers
from collapsekit.render import document as doc
from collapsekit.render.document import Span
from collapsekit.render.numbers import ABSENT, fmt_parts
from collapsekit.render.views import _words as words
from collapsekit.render.views._repair_tables import reports_of
from collapsekit.render.views._screen import LEAST, NAME, Screen, cut, shorten, shorten_all, view_steps
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import some
from collapsekit.report.repair import RepairReport
from collapsekit.report.verdicts import describe_state

_ABOUT = "number: 0 fully used, 1 fully ignored; change: after minus before; ~: within noise"
_CONTROL = "; control: plain fine-tuning"


@dataclass(frozen=True)
class RepairFold:
    """How much of each part there is room for."""

    rows: int  # modalities in the table
    lines: int = 3  # of warnings, and of conditions that failed, each
    title: int = 4  # lines of the headline


def list_repair_folds(report: RepairReport) -> Iterator[RepairFold]:
    """List ways to show less and less: of modalities those go first that were not repaired."""
    every = len(_ranked(report))
    fold = RepairFold(every)
    yield fold
    for fewest in (max(LEAST, len(report.repaired)), LEAST, 1):
        for count in range(fold.rows - 1, fewest - 1, -1):
            fold = replace(fold, rows=count)
            yield fold
        fold = replace(fold, lines=min(fold.lines, fewest), title=min(fold.title, fewest + 1))
        yield fold


def view_repair_screen(screen: Screen[RepairReport], fold: RepairFold, columns: int) -> doc.Document:
    """Make the document of a repair's first screen.

    Args:
        screen: What it is made of.
        fold: How much of each part there is room for.
        columns: Of the terminal.

    Returns:
        The document.
    """
    report, delta = screen.report, repair_delta(screen.report)
    outcome = doc.state("accepted" if report.accepted else "rejected")
    warnings = _some_lines(cautions(report), fold.lines, columns - len("Warning: "))
    failed = [check.sentence for check in report.checks if not check.passed]
    marks = columns - len("✗ failed ")
    reasons = [
        doc.Paragraph((doc.state("failed"), Span(f" {text}"))) for text in _some_lines(failed, fold.lines, marks)
    ]
    return doc.Document(
        subject="Modality collapse repair",
        title=cut(report.summary, fold.title * columns - len("✓ accepted  ") - 8),
        outcome=outcome,
        facts=_facts(report, columns),
        warnings=tuple(warnings),
        sections=(
            *([doc.Section((), tuple(reasons))] if reasons else []),
            doc.Section((), tuple(_numbers(report, delta, fold.rows, columns))),
            *view_steps(screen.steps, columns),
        ),
        ends=screen.view_ends(),
    )


def repair_headline(report: RepairReport) -> str:
    """Write the decision and its sentence in one line; ``report`` is a cleaned one."""
    word = "accepted" if report.accepted else "rejected"
    return f"{doc.plain((doc.state(word, word.upper()),))}  {report.summary}"


def _some_lines(texts: list[str], most: int, cells: int) -> Iterator[str]:
    """As many as there is room for, a line each, and how many more there are."""
    for i, text in enumerate(texts[:most], 1):
        more = f" (and {len(texts) - most} more)" if i == most < len(texts) else ""
        yield cut(text, cells - len(more)) + more


def _facts(report: RepairReport, columns: int) -> doc.Terms:
    """Of which checkpoint, by which methods, for which modalities, measured on what: two lines at most."""
    s, room = report.after.subject, columns - len("Checkpoint  · Repaired for ")
    weights = ("written" if report.accepted else "written all the same") if report.exported else "not written"
    return doc.facts(
        Checkpoint=shorten(report.base, max(NAME, room // 3)),
        Method=cut(" → ".join(report.method), room // 3),
        Repaired_for=cut(some(list(report.repaired)), room // 2),
        Weights=weights,
        Data=f"{cut(s.split, NAME)} split, {s.examples} examples",
    )


def _ranked(report: RepairReport) -> list[str]:
    """The modalities that were repaired, then the others, of each kind the worst after the repair first."""
    after, every = report.after.modalities, {m: None for r in reports_of(report).values() for m in r.modalities}

    def rank(name: str) -> tuple[bool, int]:
        return name not in report.repaired, words.severity(after[name].verdict) if name in after else -1

    return sorted(every, key=rank)


def _numbers(report: RepairReport, delta: RepairDelta, most: int, columns: int) -> Iterator[doc.Block]:
    """The task metric, and the verdict and score of each modality, side by side."""
    reports, ranked = reports_of(report), _ranked(report)
    short = shorten_all(ranked, NAME)
    heads = [doc.TableColumn(Span(when), "state") for when in reports]
    rows = [_metric_row(report, delta)]
    compared = scores(report, ranked[:most])
    for m in ranked[:most]:
        name = doc.name(short[m], "repaired" if m in report.repaired else "")
        rows.append((name, *(_verdict(r, m) for r in reports.values()), _change(compared[m])))
    yield doc.table("What counts", ("", *heads, ">change"), rows)
    if len(ranked) > most:
        left = [describe_state(report.after.modalities[m]) for m in ranked[most:] if m in report.after.modalities]
        counts = ", ".join(f"{left.count(word)} {word}" for word in dict.fromkeys(left))
        yield doc.sentence(cut(f"and {len(ranked) - most} more, after it: {counts}", 2 * columns), "note")
    yield doc.sentence(_ABOUT + _CONTROL * (report.control is not None), "note")
    yield from (doc.sentence(text, "note") for text in _left_out(delta, columns))


def _metric_row(report: RepairReport, delta: RepairDelta) -> tuple[doc.TableCell, ...]:
    numbers = metric_numbers(delta)
    name = doc.name(shorten(report.before.subject.metric, 2 * NAME))
    if numbers is None:
        return (name, *[doc.cell(ABSENT)] * (len(reports_of(report)) + 1))
    each = (getattr(numbers, when) for when in reports_of(report))
    return (name, *(doc.cell(ABSENT if e is None else fmt_parts(*e)[0]) for e in each), _change(numbers))


def _verdict(report: Report, modality: str) -> doc.TableCell:
    v = report.modalities.get(modality)
    if v is None:
        return doc.cell(ABSENT)
    score = () if v.score is None else (Span(fmt_parts(v.score, v.interval)[0]),)
    return doc.TableCell((doc.state(v.verdict, describe_state(v)),), score)


def _change(numbers: Numbers) -> doc.TableCell:
    """After minus before, with as many digits as both intervals justify, and a sign where chance may have done it."""
    judged = numbers.than_before
    unclear = judged is not None and judged.overlap and bool(numbers.difference)
    ends = (e[1] for e in (numbers.before, numbers.after) if e is not None)
    return doc.TableCell(doc.line(words.moved(numbers.difference, *ends)), marks="~" * unclear)


def _left_out(delta: RepairDelta, columns: int) -> Iterator[str]:
    """How many results have no counterpart, and the commonest reason."""
    if delta.left:
        reason, names = max(delta.left.items(), key=lambda item: len(item[1]))
        count = sum(map(len, delta.left.values()))
        rest = f", {len(names)} of them" * (len(names) < count)
        noun = "result was" if count == 1 else "results were"
        yield cut(f"{count} {noun} not compared{rest}: {reason}", columns)
