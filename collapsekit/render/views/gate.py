"""What the gate decided: the outcome first, then what it rests on, the worst checks before the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.gating.next_steps import against, next_steps
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span, TableColumn
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.render.views._words import number, p_value
from collapsekit.report.gate import GateCheck, GateReport
from collapsekit.report.names import cleaned_gate

SEVERITY = ("failed", "inconclusive", "passed")
_COLUMNS = (
    TableColumn(Span("before"), "number"),
    TableColumn(Span("now"), "number"),
    TableColumn(Span("fall"), "number", about="above 0 is worse"),
    TableColumn(Span("p"), "number", about="one-sided, after Holm", spare=True),
    TableColumn(
        Span("would catch"), "number", about="the fall that would have failed with 90 % probability", spare=True
    ),
)
_LABELS = (36, 20)


def worst_first(report: GateReport) -> list[GateCheck]:
    """Failed checks, then those that decided nothing, then the others, each in the report's order."""
    return sorted(report.checks, key=lambda c: SEVERITY.index(c.state))


def view(report: GateReport, detail: Detail) -> doc.Document:
    """Make a document of what the gate decided.

    At a glance a sentence stands once for all checks it is said of.
    """
    report = cleaned_gate(report)
    s, glance = report.subject, detail is Detail.GLANCE
    about = doc.line(
        Span(s.checkpoint, "name"), f" · {s.task}, {s.metric} · {s.split} split, {s.examples} examples · verdict "
    )
    each = f" ({', '.join(f'{m} {v}' for m, v in report.modalities.items())})"
    digest = doc.line("sha256 " if glance else "Checkpoint SHA-256 ", Span(s.sha256, "name"), "" if glance else ".")
    made = doc.line(f"Made by collapsekit {report.collapsekit}; exit code {report.exit_code}.")
    rules = [c for c in worst_first(report) if c.kind == "rule"]
    compared = [c for c in worst_first(report) if c.kind != "rule"]
    parts = [(checks, part) for checks, part in ((rules, _rules), (compared, _compared)) if checks]
    if not glance:  # the worse part first, so that it is there where a summary is cut
        parts.sort(key=lambda p: SEVERITY.index(p[0][0].state))
    return doc.Document(
        subject="Modality collapse gate",
        title=report.summary,
        outcome=doc.state(report.outcome, report.outcome if glance else f"Gate {report.outcome}"),
        page=f"gate {report.outcome}: {s.checkpoint}",
        about=((*about, Span(report.verdict, report.verdict), *doc.line("" if glance else each)),),
        facts=doc.facts(Checkpoint=s.checkpoint, Verdict=report.verdict + each),
        sections=(*(part(report, checks, detail) for checks, part in parts), *_notes(report, detail)),
        ends=(digest, made) if glance else (made, digest),
    )


def _notes(report: GateReport, detail: Detail) -> Iterator[doc.Section]:
    steps = [_with_commands(text) for text in next_steps(report)]
    notes = [doc.line(f"Note: {note}") for note in report.notes]
    if detail is not Detail.GLANCE:
        every = (*notes, *steps)
        yield from [doc.Section((), (doc.Items(every),))] if every else []
        return
    yield from (doc.Section((), (doc.Paragraph(note),)) for note in notes)
    yield from [doc.section("Next", *map(doc.Paragraph, steps))] if steps else []


def _with_commands(text: str) -> doc.Line:
    """A sentence of ours, with the commands in it that stand between backticks."""
    return doc.line(*(Span(part, "command") if i % 2 else part for i, part in enumerate(text.split("`"))))


def _rules(report: GateReport, checks: Sequence[GateCheck], detail: Detail) -> doc.Section:
    del report
    if detail is Detail.GLANCE:
        return doc.section("Rules", *(block for c in checks for block in _alike([c])))
    rows = [(doc.TableCell((doc.state(c.state),)), doc.cell(c.name, "name"), doc.cell(c.sentence)) for c in checks]
    return doc.Section((), (doc.table("Rules", doc.columns("", "rule", "found"), rows),))


def _compared(report: GateReport, checks: Sequence[GateCheck], detail: Detail) -> doc.Section:
    held = doc.sentence(against(report), "note")
    if detail is Detail.GLANCE:
        return doc.section("Against the baseline", held, *_short_comparison(checks))
    rows = [
        (doc.TableCell((doc.state(c.state),)), doc.cell(c.name), *_numbers(c), doc.cell(c.sentence)) for c in checks
    ]
    heads = (*doc.columns("", ""), *_COLUMNS, *doc.columns(""))
    return doc.Section((), (held, doc.table("Against the baseline", heads, rows)))


def _short_comparison(checks: Sequence[GateCheck]) -> Iterator[doc.Block]:
    rows = [(c, _numbers(c)) for c in checks]
    if any(number.runs[0].text != ABSENT for _, numbers in rows for number in numbers):
        names = (doc.TableCell((Span(doc.state(c.state).mark, c.state), Span(" "), Span(c.name))) for c in checks)
        made = tuple(doc.TableRow((name, *numbers)) for name, (_, numbers) in zip(names, rows, strict=True))
        yield doc.Table("Against the baseline", (*doc.columns(""), *_COLUMNS), made, labels=_LABELS)
    alike: dict[str, list[GateCheck]] = {}
    for check in checks:
        if check.state != "passed":
            alike.setdefault(check.sentence, []).append(check)
    yield from [doc.Paragraph(())] if alike else []
    for found in alike.values():
        yield from _alike(found)


def _alike(checks: Sequence[GateCheck]) -> tuple[doc.Block, ...]:
    """What one sentence says, of all checks that it is said of."""
    names = Span(", ".join(c.name for c in checks), "strong")
    return doc.Paragraph((doc.state(checks[0].state), Span("  "), names)), doc.sentence(checks[0].sentence, "inset")


def _numbers(check: GateCheck) -> tuple[doc.TableCell, ...]:
    """Baseline, found, fall with its interval, p after Holm, what would have been caught."""
    fall = number(check.difference, check.interval)
    return (
        doc.cell(fmt(check.baseline)),
        doc.cell(fmt(check.found)),
        fall,
        doc.cell(p_value(check.p_holm)),
        doc.cell(fmt(check.detectable)),
    )
