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
_CATCH = "the fall that would have failed with 90 % probability"
_COLUMNS = (
    *doc.columns(">before", ">now"),
    TableColumn(Span("fall"), "number", about="above 0 is worse"),
    TableColumn(Span("p"), "number", about="one-sided, after Holm", spare=True),
    TableColumn(Span("would catch"), "number", about=_CATCH, spare=True),
)
_AGAINST = "Against the baseline"
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
    checks = worst_first(report)
    rules, compared = ([c for c in checks if (c.kind == "rule") is rule] for rule in (True, False))
    parts = [(rules[0], _rules(rules, detail))] if rules else []
    parts += [(compared[0], _compared(report, compared, detail))] if compared else []
    if not glance:  # the worse part first, so that it is there where a summary is cut
        parts.sort(key=lambda p: SEVERITY.index(p[0].state))
    return doc.Document(
        subject="Modality collapse gate",
        title=report.summary,
        outcome=doc.state(report.outcome, report.outcome if glance else f"Gate {report.outcome}"),
        page=f"gate {report.outcome}: {s.checkpoint}",
        about=((*about, Span(report.verdict, report.verdict), *doc.line("" if glance else each)),),
        facts=doc.facts(Checkpoint=s.checkpoint, Verdict=report.verdict + each),
        sections=(*(part for _, part in parts), *_notes(report, detail)),
        ends=(digest, made) if glance else (made, digest),
    )


def _notes(report: GateReport, detail: Detail) -> Iterator[doc.Section]:
    steps = [_with_commands(text) for text in next_steps(report)]
    notes = [doc.line(f"Note: {note}") for note in report.notes]
    if detail is Detail.GLANCE:
        yield from (doc.Section((), (doc.Paragraph(note),)) for note in notes)
        yield from [doc.section("Next", *map(doc.Paragraph, steps))] if steps else []
    elif notes or steps:
        yield doc.Section((), (doc.items([*notes, *steps]),))


def _with_commands(text: str) -> doc.Line:
    """A sentence of ours, with the commands in it that stand between backticks."""
    return doc.line(*(Span(part, "command") if i % 2 else part for i, part in enumerate(text.split("`"))))


def _rules(checks: Sequence[GateCheck], detail: Detail) -> doc.Section:
    if detail is Detail.GLANCE:
        return doc.section("Rules", *(block for c in checks for block in _alike([c])))
    rows = [(doc.TableCell((doc.state(c.state),)), doc.name(c.name), c.sentence) for c in checks]
    return doc.Section((), (doc.table("Rules", ("", "rule", "found"), rows),))


def _compared(report: GateReport, checks: Sequence[GateCheck], detail: Detail) -> doc.Section:
    held = doc.sentence(against(report), "note")
    if detail is Detail.GLANCE:
        return doc.section(_AGAINST, held, *_short_comparison(checks))
    rows = [(doc.TableCell((doc.state(c.state),)), c.name, *_numbers(c), c.sentence) for c in checks]
    return doc.Section((), (held, doc.table(_AGAINST, ("", "", *_COLUMNS, ""), rows)))


def _short_comparison(checks: Sequence[GateCheck]) -> Iterator[doc.Block]:
    names = (doc.TableCell((Span(doc.state(c.state).mark, c.state), Span(" "), Span(c.name))) for c in checks)
    rows = [(name, *_numbers(c)) for name, c in zip(names, checks, strict=True)]
    if any(field not in (ABSENT, number(None)) for _, *numbers in rows for field in numbers):
        yield doc.table(_AGAINST, ("", *_COLUMNS), rows, labels=_LABELS)
    alike: dict[str, list[GateCheck]] = {}
    for check in checks:
        if check.state != "passed":
            alike.setdefault(check.sentence, []).append(check)
    yield from [doc.Paragraph(())] if alike else []
    yield from (block for same in alike.values() for block in _alike(same))


def _alike(checks: Sequence[GateCheck]) -> tuple[doc.Block, ...]:
    """What one sentence says, of all checks that it is said of."""
    names = Span(", ".join(c.name for c in checks), "strong")
    return doc.Paragraph((doc.state(checks[0].state), Span("  "), names)), doc.sentence(checks[0].sentence, "inset")


def _numbers(c: GateCheck) -> tuple[doc.TableCell | str, ...]:
    """Baseline, found, fall with its interval, p after Holm, what would have been caught."""
    fall = number(c.difference, c.interval)
    return fmt(c.baseline), fmt(c.found), fall, p_value(c.p_holm), fmt(c.detectable)
