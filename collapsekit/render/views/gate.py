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
    TableColumn(Span("p"), "number", about="one-sided, after Holm"),
    TableColumn(Span("would catch"), "number", about=_CATCH),
)
_AGAINST = "Against the baseline"


def worst_first(report: GateReport) -> list[GateCheck]:
    """Failed checks, then those that decided nothing, then the others, each in the report's order."""
    return sorted(report.checks, key=lambda c: SEVERITY.index(c.state))


def view(report: GateReport, detail: Detail) -> doc.Document:
    """Make a document of what the gate decided.

    At a glance a sentence on what was compared stands only where that did not pass.
    """
    report, glance = cleaned_gate(report), detail is Detail.GLANCE
    s, checks = report.subject, worst_first(report)
    each = f" ({', '.join(f'{m} {v}' for m, v in report.modalities.items())})"
    of_report = ("rule", "judged")
    kinds = ([c for c in checks if (c.kind in of_report) is alone] for alone in (True, False))
    # The worse part first, so that it is there where a summary is cut.
    parts = sorted(filter(None, kinds), key=lambda part: SEVERITY.index(part[0].state))
    return doc.Document(
        subject="Modality collapse gate",
        title=report.summary,
        outcome=doc.state(report.outcome, report.outcome if glance else f"Gate {report.outcome}"),
        page=f"gate {report.outcome}: {s.checkpoint}",
        facts=doc.facts(
            Checkpoint=Span(s.checkpoint, "name"),
            Task=f"{s.task}, {s.metric}",
            Data=f"{s.split} split, {s.examples} examples",
            Verdict=doc.line(Span(report.verdict, report.verdict), each),
        ),
        sections=(*(_section(report, part, glance) for part in parts), *_notes(report)),
        ends=(
            doc.line(f"Made by collapsekit {report.collapsekit}; exit code {report.exit_code}."),
            doc.line("Checkpoint SHA-256 ", Span(s.sha256, "name")),
        ),
        names=(*s.modalities, s.split, s.checkpoint),
    )


def _notes(report: GateReport) -> Iterator[doc.Section]:
    steps = [_with_commands(text) for text in next_steps(report)]
    yield from [doc.section("Notes", doc.items(f"Note: {note}" for note in report.notes))] if report.notes else []
    yield from [doc.section("Next", doc.items(steps))] if steps else []


def _with_commands(text: str) -> doc.Line:
    """A sentence of ours, with the commands in it that stand between backticks."""
    return doc.line(*(Span(part, "command") if i % 2 else part for i, part in enumerate(text.split("`"))))


def _section(report: GateReport, checks: Sequence[GateCheck], glance: bool) -> doc.Section:
    if checks[0].kind in ("rule", "judged"):
        shown = [c for c in checks if c.kind == "rule" or not glance or c.state != "passed"] or checks
        return doc.section("Rules", _sentences(shown, "name"))
    rows: list[tuple[doc.TableCell | str, ...]] = []
    for c in checks:
        name = doc.TableCell((Span(doc.state(c.state).mark, c.state), Span(" "), Span(c.name)))
        fall = number(c.difference, c.interval)
        rows.append((name, fmt(c.baseline), fmt(c.found), fall, p_value(c.p_holm), fmt(c.detectable)))
    numbers = any(field not in (ABSENT, number(None)) for _, *fields in rows for field in fields)
    table = [doc.table(_AGAINST, ("check", *_COLUMNS), rows)] * numbers
    open_ = [c for c in checks if not glance or c.state != "passed"]
    return doc.section(_AGAINST, doc.sentence(against(report), "note"), *table, _sentences(open_, "strong"))


def _sentences(checks: Sequence[GateCheck], kind: str) -> doc.Items:
    """What each check says; once, where it is said of several."""
    alike: dict[tuple[str, str], list[str]] = {}
    for c in checks:
        alike.setdefault((c.state, c.sentence), []).append(c.name)
    lines = []
    for (_, text), names in alike.items():
        runs = [part for name in names for part in (Span(name, kind), Span(", "))][:-1]
        lines.append(doc.line(*runs, f": {text}"))
    return doc.Items(tuple(lines), tuple(doc.state(state) for state, _ in alike))
