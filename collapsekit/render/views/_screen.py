"""The first screen of a diagnosis: what came out, what it costs, how far it was judged, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rich.cells import cell_len, chop_cells

from collapsekit.io.safe_text import TEXT_LIMIT, clean, distinct_names
from collapsekit.render import document as doc
from collapsekit.render.document import Span
from collapsekit.render.views import _words as words
from collapsekit.render.views._categories import sentence_of
from collapsekit.render.views._results import cost
from collapsekit.report.diagnosis import ModalityVerdict, Report
from collapsekit.report.verdicts import DUE, FAILED, describe_state

Shown = TypeVar("Shown")

NAME = 16  # cells of a modality's name; of longer ones the middle is left out
LEAST = 3  # modalities that stay in the table as long as anything else can be left out
# Warnings by what they do to the numbers, the gravest first; others follow in the report's order.
_GRAVE = (FAILED, "depends_on_batch", "weights_changed_in_forward", "integers_cast", "copied_rows")


@dataclass(frozen=True)
class NextStep:
    """What can be done about a diagnosis: why, in a sentence, and the words of the command."""

    about: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Screen(Generic[Shown]):
    """What a first screen is made of."""

    report: Shown  # of clean names (collapsekit.report.names)
    steps: tuple[NextStep, ...] = ()
    ends: tuple[str, ...] = ()  # where the files are

    def view_ends(self) -> tuple[doc.Line, ...]:
        """Make lines of where the files are."""
        return tuple(doc.line(clean(end, TEXT_LIMIT)) for end in self.ends)


@dataclass(frozen=True)
class Fold:
    """How much of each part there is room for."""

    rows: int  # modalities in the table
    reasons: int  # modalities with a line of reason
    warnings: int = 3  # lines
    title: int = 4  # lines of the headline


def list_folds(report: Report) -> Iterator[Fold]:
    """List ways to show less and less: reasons of what is used go first, then rows, and what is worst never."""
    every = len(report.modalities)
    bad = max(1, sum(v.verdict not in ("used", "uninformative") for v in report.modalities.values()))
    fold = Fold(every, every)
    yield fold
    for reasons in range(every - 1, bad - 1, -1):
        fold = replace(fold, reasons=reasons)
        yield fold
    fold = replace(fold, warnings=1)
    yield fold
    for fewest in (max(bad, LEAST), LEAST, 1):
        for count in range(fold.rows - 1, fewest - 1, -1):
            fold = replace(fold, rows=count, reasons=min(fold.reasons, count))
            yield fold
        fold = replace(fold, reasons=min(fold.reasons, fewest), title=min(fold.title, fewest + 1))
        yield fold


def view_screen(screen: Screen[Report], fold: Fold, columns: int) -> doc.Document:
    """Make the document of a first screen.

    Args:
        screen: What it is made of.
        fold: How much of each part there is room for.
        columns: Of the terminal.

    Returns:
        The document. Reasons and warnings are cut to one line each.
    """
    report = screen.report
    ranked = sorted(report.modalities, key=lambda m: words.severity(report.modalities[m].verdict))
    short = shorten_all(ranked, NAME)
    outcome = doc.state(report.verdict)
    return doc.Document(
        subject="Modality collapse diagnosis",
        title=cut(report.summary, fold.title * columns - cell_len(f"✗ {outcome.text}  ") - 8),
        outcome=outcome,
        facts=_facts(report, columns),
        warnings=tuple(_warnings(report, fold.warnings, columns)),
        sections=(
            doc.Section((), tuple(_verdicts(report, ranked, short, fold.rows))),
            *_reasons(report, ranked[: fold.reasons], short, columns),
            *_by_category(report, columns),
            *view_steps(screen.steps, columns),
        ),
        ends=screen.view_ends(),
    )


def headline(report: Report) -> str:
    """Write the verdict of the whole and its sentence in one line; ``report`` is a cleaned one."""
    return f"{doc.plain((doc.state(report.verdict, report.verdict.upper()),))}  {report.summary}"


def cut(text: str, cells: int) -> str:
    """Cut a sentence after a word so that it takes at most so many cells, and end it in … where something is left out."""
    if cell_len(text) <= cells:
        return text
    if cells < 2:
        return "…"
    kept = chop_cells(text, cells - 1)[0]
    whole = kept[: kept.rfind(" ")] if " " in kept[len(kept) // 2 :] else kept
    return whole.rstrip(" ,;:(") + "…"


def wrap_command(command: Sequence[str], columns: int) -> list[str]:
    """Write a command for a shell in lines of at most ``columns`` cells, which can be pasted as they are.

    Lines but the last end in a backslash. A word longer than a line goes on where the next line begins.
    """
    units = list(_units(command, max(8, columns - 6)))
    lines = [f"  {units[0][0]}"]
    for i, (first, *rest) in enumerate(units[1:], 2):
        end = " \\" * (i < len(units))
        if not rest and cell_len(f"{lines[-1]} {first}{end}") <= columns:
            lines[-1] += f" {first}"
        else:
            *broken, whole = [f"    {first}", *rest]
            lines[-1] += " \\"
            lines += [*(f"{part}\\" for part in broken), whole]
    return lines


def _units(command: Sequence[str], room: int) -> Iterator[list[str]]:
    """What stays in one line, a word or an option with its value, quoted; of a word that has no room in one, its pieces."""
    left = list(command)
    while left:
        word = left.pop(0)
        text = _quote(word)
        if word.startswith("--") and left and cell_len(pair := f"{text} {_quote(left[0])}") <= room:
            left.pop(0)
            yield [pair]
        elif cell_len(text) <= room:
            yield [text]
        else:
            size = (room - 2) // (5 if "'" in word else 1)  # a quote within quotes takes five
            yield [_quote(part) for part in chop_cells(word, max(1, size))]


def _quote(word: str) -> str:
    quoted = shlex.quote(word)
    return quoted if quoted.isprintable() else clean(quoted, TEXT_LIMIT)


def shorten(name: str, cells: int) -> str:
    """Leave out the middle of a name that is too long: both ends tell names apart."""
    if cell_len(name) <= cells:
        return name
    head, tail = chop_cells(name, (cells + 1) // 2 - 1)[0], chop_cells(name[::-1], cells // 2)[0][::-1]
    return f"{head}…{tail}"


def shorten_all(names: Sequence[str], cells: int) -> dict[str, str]:
    """Leave out the middle of each name that is too long; no two are the same after it."""
    return dict(zip(names, distinct_names((shorten(name, cells) for name in names), 2 * cells), strict=True))


def _facts(report: Report, columns: int) -> doc.Terms:
    """Of what it is, on which examples, and how far it was judged, in a line."""
    s, judged = report.subject, report.judged
    data = f"{cut(s.split, NAME)} split, {s.examples} examples"
    extent = {"Judged": judged.extent} if judged is not None else {}
    rest = doc.facts(Data=data, **extent)
    taken = sum(cell_len(f"{doc.plain(fact.runs)} {doc.plain(fact.text)} · ") for fact in rest.items)
    name = shorten(s.checkpoint, max(NAME, columns - taken - len("Checkpoint ")))
    return doc.facts(Checkpoint=name, Data=data, **extent)


def _warnings(report: Report, most: int, columns: int) -> Iterator[str]:
    """The gravest, a line each, and how many more there are."""
    order = {name: i for i, name in enumerate(_GRAVE)}
    ranked = sorted(report.warnings, key=lambda w: order.get(w.name, len(order)))
    for i, warning in enumerate(ranked[:most], 1):
        more = f" (and {len(ranked) - most} more)" if i == most < len(ranked) else ""
        yield cut(warning.sentence, columns - len(f"Warning: {more}")) + more


def _verdicts(report: Report, ranked: list[str], short: dict[str, str], most: int) -> Iterator[doc.Block]:
    metric = cut(report.subject.metric, 2 * NAME)
    about = (
        f"ignored: 0 fully used, 1 fully ignored; costs: {metric} lost by not using it, now and without another modality; "
        "due: what a balanced reference gives it"
    )
    heads = ("modality", doc.TableColumn(Span("verdict"), "state"), ">ignored (0–1)", ">costs now", ">if missing")
    rows = [_row(report, m, short) for m in ranked[:most]]
    yield doc.table("Verdicts", heads, rows, about="" if len(rows) < len(ranked) else about)
    if len(rows) < len(ranked):
        left = [describe_state(report.modalities[m]) for m in ranked[most:]]
        counts = ", ".join(f"{left.count(word)} {word}" for word in dict.fromkeys(left))
        yield doc.sentence(f"and {len(left)} more: {counts}", "note")
        yield doc.sentence(about, "note")


def _row(report: Report, name: str, short: dict[str, str]) -> tuple[doc.TableCell | str, ...]:
    v = report.modalities[name]
    other = max(v.costs_if_missing, key=lambda other: v.costs_if_missing[other], default=None)
    missing = cost(report, name, other)
    beside = doc.cell(short.get(other, ""), "quiet").runs if other is not None and missing != "0" else ()
    cells = words.number(v.score, v.interval), cost(report, name), doc.TableCell(doc.line(missing), beside)
    return doc.name(short[name]), doc.TableCell((doc.state(v.verdict, describe_state(v)),)), *cells


def _reasons(report: Report, names: list[str], short: dict[str, str], columns: int) -> Iterator[doc.Section]:
    width = max((cell_len(short[m]) for m in names), default=0)
    lines = []
    for m in names:
        lead = short[m] + " " * (width + 2 - cell_len(short[m]))
        lines.append(
            doc.Paragraph((Span(lead, "label"), Span(cut(_brief(m, report.modalities[m]), columns - width - 2))))
        )
    judged = report.judged
    if judged is not None and judged.missing and "artly judged" not in report.summary:
        more = f" (and {len(judged.missing) - 1} more)" * (len(judged.missing) > 1)
        lines.append(doc.sentence(cut(f"Partly judged{more}: {judged.missing[0]}", columns)))
    yield from [doc.Section((), tuple(lines))] if lines else []


def _by_category(report: Report, columns: int) -> Iterator[doc.Section]:
    if report.categories is not None:
        yield doc.Section((), (doc.sentence(cut(sentence_of(report.categories), columns)),))


def _brief(name: str, verdict: ModalityVerdict) -> str:
    """The first sentence of the reason, in fewer words."""
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", verdict.reason, maxsplit=1)[0]
    first = first.replace(f"The model gives {name} ", "gets ").removeprefix(f"{name} ")
    first = first.replace("yet the model gives it only", "yet gets only")
    first = first.replace(f"of {DUE}", "of its due").replace(f"twice {DUE}", "twice its due")
    return first if verdict.cause is None else f"{verdict.cause}: {first}"  # what follows may be cut off


def view_steps(steps: Sequence[NextStep], columns: int) -> Iterator[doc.Section]:
    """Make a section of what can be done next, the commands in lines that can be pasted; none where there is nothing."""
    lines = [part for i, step in enumerate(steps) for part in _step(step, columns, "Next: " * (i == 0))]
    yield from [doc.Section((), tuple(lines))] if lines else []


def _step(step: NextStep, columns: int, lead: str) -> Iterator[doc.Paragraph]:
    about = cut(step.about, 2 * columns - len(lead) - 8)
    yield doc.Paragraph(doc.line(Span(lead, "strong"), about[:1].upper() + about[1:] if not lead else about))
    if step.command:
        yield from (doc.Paragraph((Span(text, "strong"),)) for text in wrap_command(step.command, columns))
