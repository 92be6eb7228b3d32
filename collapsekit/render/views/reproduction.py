"""Reproduction: a table or figure of a paper beside what comes out here."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span, TableCell
from collapsekit.render.figures.reproduction import draw
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.report.reproduction import ItemCell, ItemOrder, Reproduction

_TONES = {"yes": "good", "in part": "warn", "no": "bad"}
_SMOKE = "A smoke run: few examples and epochs, so that its numbers mean nothing."


def view(report: Reproduction, detail: Detail) -> doc.Document:
    """Make a document of an item: whether the order is the paper's, then the numbers, and the figure."""
    count = len(report.seeds)
    seeds = f"{count} seed{'s' * (count > 1)} ({', '.join(map(str, report.seeds))})"
    machine = ", ".join(f"{k} {v}" for k, v in report.environment.items())
    about = f"{report.measure}: mean over seeds (standard deviation); [as printed in the paper]"
    parts: list[doc.Block] = [doc.sentence(report.claim, "lead"), doc.sentence(f"Here: {report.here}")]
    parts += [doc.sentence(_SMOKE, "note")] * report.quick
    if report.orders:
        parts.append(_orders(report))
    heads = [report.column_label, *(f">{clean(c)}" for c in report.columns)]
    rows = (
        [doc.cell(clean(row), "name"), *(_cell(_find(report, row, c)) for c in report.columns)] for row in report.rows
    )
    parts.append(doc.table(report.title, heads, rows, about=about))
    if detail is Detail.FULL:
        parts.append(doc.Figure("item", report.title, about, report.paper, draw(report)))
    parts.append(doc.items(clean(note, TEXT_LIMIT) for note in report.notes))
    return doc.Document(
        subject="Reproduction",
        title=f"{clean(report.item)}: {clean(report.title)}",
        page=clean(report.item),
        facts=doc.facts(
            Paper=clean(report.paper, TEXT_LIMIT),
            Data="; ".join(f"{clean(d.name)}: {clean(d.about, TEXT_LIMIT)}" for d in report.data),
            Seeds=seeds,
            Commit=", ".join(map(clean, report.commits)) or "of no checkout",
            Machine=clean(machine, TEXT_LIMIT),
        ),
        sections=(doc.Section((), tuple(parts)),),
        ends=(doc.line(f"Made by collapsekit {clean(report.collapsekit)}."),),
    )


def _find(report: Reproduction, row: str, column: str) -> ItemCell | None:
    return next((c for c in report.cells if (c.row, c.column) == (row, column)), None)


def _cell(cell: ItemCell | None) -> TableCell:
    """Ours with its deviation, then the paper's."""
    if cell is None:
        return doc.cell(ABSENT, "quiet")
    ours = ABSENT if cell.here is None else fmt(cell.here) + (f" ({fmt(cell.sd)})" if cell.sd is not None else "")
    return TableCell(
        doc.cell(ours).runs, doc.cell(f"[{fmt(cell.paper)}]" if cell.paper is not None else "", "quiet").runs
    )


def _orders(report: Reproduction) -> doc.Table:
    def row(order: ItemOrder) -> Iterator[TableCell]:
        yield doc.cell(clean(order.text, TEXT_LIMIT))
        steps = ", ".join(f"{clean(s)} {fmt(v)}" for s, v in zip(order.steps, order.here, strict=True))
        yield doc.cell(steps)
        yield TableCell((Span(order.same, _TONES[order.same]),))
        yield doc.cell(f"{order.seeds_in_order} of {order.seeds}")
        yield doc.cell(ABSENT if order.p is None else fmt(order.p))

    return doc.table(
        "Same order?",
        ("order", "here", "same order?", ">seeds in order", ">p"),
        (tuple(row(order)) for order in report.orders),
        about="in part: the last step beside the first alone. p: two-sided signed-rank test of these two, from six seeds on",
        split=True,
    )
