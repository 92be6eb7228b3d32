"""The first screen of a comparison: the finding, verdicts, scores and task metric side by side, what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from collapsekit.comparison.finding import METRIC
from collapsekit.render import document as doc
from collapsekit.render.document import Span
from collapsekit.render.numbers import ABSENT, fmt_parts
from collapsekit.render.views import _words as words
from collapsekit.render.views._screen import LEAST, NAME, Screen, cut, shorten_all, view_steps
from collapsekit.render.views.comparison import BEST, DIFFERS, UNCLEAR
from collapsekit.report import comparison as data
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import ModalityState, OverallState
from collapsekit.report.names import some

_COLUMN = 12  # cells of a column's name
_NOTES, _SENTENCES = 2, 3
_ABOUT = "number: 0 fully used, 1 fully ignored"


@dataclass(frozen=True)
class ComparisonFold:
    """How much of each part there is room for."""

    rows: int  # modalities in the table
    columns: int
    findings: int  # sentences
    lines: int = 3  # of each sentence
    notes: int = 2  # lines of each note


def list_comparison_folds(c: Comparison) -> Iterator[ComparisonFold]:
    """List ways to show less and less: modalities go first, then columns, from the last on, the base never."""
    fold = ComparisonFold(len(c.modalities), len(c.columns), len(c.columns) - 1)
    yield fold
    fold = replace(fold, notes=1)
    yield fold
    for count in range(fold.rows - 1, LEAST - 1, -1):
        fold = replace(fold, rows=count)
        yield fold
    for lines in (2, 1):
        fold = replace(fold, lines=lines)
        yield fold
    for count in range(fold.columns - 1, 1, -1):
        fold = replace(fold, columns=count, findings=min(fold.findings, count - 1))
        yield fold
    for count in range(min(fold.rows, LEAST) - 1, 0, -1):
        fold = replace(fold, rows=count)
        yield fold


def view_comparison_screen(screen: Screen[Comparison], fold: ComparisonFold, columns: int) -> doc.Document:
    """Make the document of a comparison's first screen.

    Args:
        screen: What it is made of.
        fold: How much of each part there is room for.
        columns: Of the terminal.

    Returns:
        The document.
    """
    c = screen.report
    places = _places(c, fold.columns)
    short = shorten_all([column.name for column in c.columns], _COLUMN)
    findings = [doc.sentence(cut(text, fold.lines * columns - fold.lines * 8)) for text in c.finding[: fold.findings]]
    return doc.Document(
        subject="Modality collapse compared",
        title=cut(f"Compared: {some([column.name for column in c.columns])}", 2 * columns - 8),
        facts=doc.facts(
            Task=cut(f"{c.task}, {c.metric}", columns // 2), Data=f"{cut(c.split, NAME)} split, {c.examples} examples"
        ),
        sections=(
            *([doc.Section((), tuple(findings))] if findings else []),
            doc.Section((), (*_numbers(c, places, fold.rows, short), *_notes(c, fold.notes, columns))),
            *view_steps(screen.steps, columns),
        ),
        ends=screen.view_ends(),
    )


def comparison_headline(c: Comparison) -> str:
    """Write the finding in one line, or what was compared; ``c`` is a cleaned one."""
    names = some([column.name for column in c.columns])
    rest = f" (and {len(c.finding) - _SENTENCES} more)" if len(c.finding) > _SENTENCES else ""
    return " ".join(c.finding[:_SENTENCES]) + rest if c.finding else f"Compared: {names}"


def _places(c: Comparison, most: int) -> list[int]:
    """The columns that are shown, in their order: the base, then the first others."""
    base = next((i for i, column in enumerate(c.columns) if column.name == c.base), 0)
    others = [i for i in range(len(c.columns)) if i != base]
    return sorted([base, *others[: most - 1]])


def _numbers(c: Comparison, places: Sequence[int], most: int, short: dict[str, str]) -> Iterator[doc.Block]:
    """The task metric, the verdict of the whole and that of each modality with its score, a column a report."""
    rows = {(row.name, row.modality): row for row in c.rows if row.versus is None}
    change = len(c.columns) == 2
    heads = [doc.TableColumn(Span(short[c.columns[i].name]), "state") for i in places]
    table = []
    metric, whole = rows.get((METRIC, None)), rows.get(("verdict", None))
    if metric is not None:
        table.append(_row(c, c.metric, None, metric, places, change=change))
    if whole is not None:
        table.append(_row(c, "the whole model", whole, None, places, change=change))
    judged = [m for m in _ranked(c, rows) if ("verdict", m) in rows or ("score", m) in rows]
    names = shorten_all(judged, NAME)
    for m in judged[:most]:
        table.append(_row(c, names[m], rows.get(("verdict", m)), rows.get(("score", m)), places, change=change))
    if table:
        last = [doc.TableColumn(Span("change"), "number")] * change
        yield doc.table("What counts", ("", *heads, *last), table)
    left = [f"{len(judged) - most} more modalities"] * (len(judged) > most)
    left += [f"{len(c.columns) - len(places)} more columns"] * (len(c.columns) > len(places))
    shown = list(filter(_counts, c.rows))
    left += [f"{len(c.rows) - len(shown)} more numbers"] * (len(c.rows) > len(shown))
    if left:
        yield doc.sentence(f"and {', '.join(left)}", "note")


def _counts(row: data.Row) -> bool:
    """Whether a row is in the table of what counts."""
    return row.versus is None and (row.name in ("verdict", "score") or (row.name, row.modality) == (METRIC, None))


def _ranked(c: Comparison, rows: dict[tuple[str, str | None], data.Row]) -> list[str]:
    """Modalities, those first whose verdict differs between columns, then the worst."""

    def rank(name: str) -> tuple[bool, int]:
        row = rows.get(("verdict", name))
        states = [usual for cell in row.cells if (usual := _usual(cell)) is not None] if row is not None else []
        return len(set(states)) < 2, min(map(words.severity, states), default=len(doc.MARKS))

    return sorted(c.modalities, key=rank)


def _usual(cell: data.Cell) -> ModalityState | OverallState | None:
    """The verdict that most runs have; of as many, the worst."""
    return min(cell.states, key=lambda word: (-cell.states[word], words.severity(word)), default=None)


def _row(
    c: Comparison, name: str, verdict: data.Row | None, number: data.Row | None, places: Sequence[int], *, change: bool
) -> tuple[doc.TableCell, ...]:
    states = verdict.cells if verdict is not None else (None,) * len(c.columns)
    values = number.cells if number is not None else (None,) * len(c.columns)
    cells = tuple(_cell(c.columns[i], states[i], values[i]) for i in places)
    last = [_change(number)] * change
    return (doc.name(cut(name, 2 * NAME)), *cells, *last)


def _cell(column: data.Column, verdict: data.Cell | None, number: data.Cell | None) -> doc.TableCell:
    """Verdict and number in one cell; of a number within noise, a sign that says so."""
    text = _number(number) if number is not None and number.value is not None else ""
    word = _usual(verdict) if verdict is not None else None
    if verdict is None or word is None:
        return doc.cell(text or ABSENT)
    count = "" if len(column.runs) == 1 else f" {verdict.states[word]} of {len(column.runs)}"
    return doc.TableCell((doc.state(word, f"{word}{count}"),), doc.line(text))


def _within_noise(cell: data.Cell) -> bool:
    return cell.change is not None and cell.change.clear is False and cell.change.difference != 0


def _number(cell: data.Cell) -> str:
    found = cell.test is not None and cell.test.significant
    return fmt_parts(cell.value, cell.interval)[0] + BEST * cell.best + DIFFERS * found + UNCLEAR * _within_noise(cell)


def _change(row: data.Row | None) -> doc.TableCell:
    if row is None:
        return doc.cell("")
    change = next((cell.change for cell in row.cells if cell.change is not None), None)
    if change is None:
        return doc.cell(ABSENT)
    ends = [change.interval] if change.interval is not None else [cell.interval for cell in row.cells]
    return doc.cell(words.moved(change.difference, *ends))


def _notes(c: Comparison, lines: int, columns: int) -> Iterator[doc.Paragraph]:
    """What the signs mean, and what is to be known of the comparison."""
    shown = [cell for row in filter(_counts, c.rows) for cell in row.cells]
    parts = [_ABOUT] * any(cell.value is not None for cell in shown)
    parts += [f"{BEST}: best of the row"] * any(cell.best for cell in shown)
    against = f"{DIFFERS}: differs from {c.testing.reference}" if c.testing is not None else ""
    parts += [against] * any(cell.test is not None and cell.test.significant for cell in shown)
    parts += [f"{UNCLEAR}: within noise beside {c.base}"] * any(map(_within_noise, shown))
    if parts:
        yield doc.sentence(cut("; ".join(parts), 2 * columns - 8), "note")
    missing = [cell.missing for row in c.rows for cell in row.cells if cell.missing is not None]
    if missing:
        count = sum(len(row.cells) for row in c.rows)
        yield doc.sentence(cut(f"{len(missing)} of {count} not measured: {missing[0]}", columns), "note")
    for i, note in enumerate(c.notes[:_NOTES], 1):
        more = f" (and {len(c.notes) - _NOTES} more)" if i == _NOTES < len(c.notes) else ""
        yield doc.sentence(cut(note, lines * columns - len(more) - 8 * (lines - 1)) + more, "note")
