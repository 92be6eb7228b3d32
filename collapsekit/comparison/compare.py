"""compare(): reports -> Comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collapsekit.comparison.change import Records, place_of_base, with_changes
from collapsekit.comparison.compatibility import check_definitions, check_families, check_subjects, notes, unranked
from collapsekit.comparison.finding import describe_finding
from collapsekit.comparison.inputs import Columns, Group, groups_of
from collapsekit.comparison.pairing import match
from collapsekit.comparison.quantities import Choice, Found, Key, arranged, quantities
from collapsekit.comparison.significance import Said, run_tests, test_notes, testing
from collapsekit.comparison.spread import mean, sd
from collapsekit.errors import ConfigError
from collapsekit.measures import lookup
from collapsekit.report.comparison import Cell, Column, Comparison, Row, RunOf, Test, is_best
from collapsekit.version import __version__


def compare(
    reports: Columns,
    *,
    against: str | None = None,
    only: str | Sequence[str] = (),
    every: bool = False,
    base: str | None = None,
) -> Comparison:
    """Put reports side by side: verdicts and numbers, what changed, the best of each row marked, tests over paired runs.

    Nothing is printed or written. ``collapsekit compare`` of the same files gives the same answer: a mapping says what its
    ``NAME=REPORT,...`` say, a sequence what it makes of plain paths.

    Args:
        reports: A column each: a mapping of names to one report or to the reports of several runs of one method, or a
            sequence of reports, named by their paths, else ``report 1`` and so on by their places. A report is an object, or
            the path of a report.json or of its folder; under a name also of a folder of runs, which holds RUN/report.json or
            JSON files. A repair (an object, repair.json or its folder) is three columns, before, control and after; under a
            name it is what it is after.
        against: The column that others of several runs are tested against; default: the first of several runs.
        only: Globs of the numbers to show, such as ``vif.*`` or ``score``; default: headlines.
        every: Show every number.
        base: The column that changes are told against; default: the reference of the tests, else the first column.

    Returns:
        Columns, rows and tests, as every format of the command shows them.

    Raises:
        ConfigError: For fewer than two columns, what is no report, and reports that cannot be compared.
        RefusedError: Where a file is damaged.

    Example:
        >>> import collapsekit
        >>> comparison = collapsekit.compare({"before": "report.json", "after": ["other/report.json"]}, only="score")
        >>> [column.name for column in comparison.columns]
        ['before', 'after']
    """
    return compare_groups(
        groups_of(reports),
        against=against,
        choice=Choice((only,) if isinstance(only, str) else tuple(only), every),
        base=base,
    )


def compare_groups(
    groups: Sequence[Group], *, against: str | None = None, choice: Choice | None = None, base: str | None = None
) -> Comparison:
    """Compare groups of runs, as :func:`compare` does.

    Args:
        groups: Two or more, as :func:`collapsekit.comparison.inputs.read_groups` gives them.
        against: The name of the group that the others are tested against; None: the first of several runs.
        choice: Which quantities are shown; None: those that say the most.
        base: The name of the group that changes are told against; None: the reference, else the first.

    Returns:
        The table, its finding, its tests and its notes.

    Raises:
        ConfigError: Where there are fewer than two groups, they cannot be compared, or nothing fits the choice.
    """
    choice = choice or Choice()
    if len(groups) < 2:
        raise ConfigError(f"a comparison needs at least two columns, found {len(groups)}: give another report.json.")
    check_subjects(groups)
    said = [[quantities(run.report) for run in g.runs] for g in groups]
    check_definitions(groups, said, choice)
    check_families(groups, said, choice)
    keys = arranged(groups, said, choice)
    matching = match(groups, against)
    tests = run_tests(said, keys, matching)
    subject = groups[0].runs[0].report.subject
    start = place_of_base(groups, base, None if matching is None else matching.reference)
    records, apart = Records.of(groups), unranked(groups)
    tested = matching is not None and matching.reference == start
    columns = tuple(_column(g, matching.pairs[i] if matching else None) for i, g in enumerate(groups))
    cells = {key: with_changes(key, _cells(key, said, tests), start, records, tested=tested) for key in keys}
    rows = tuple(_row(key, said, cells[key], ranked=not apart) for key in keys)
    return Comparison(
        collapsekit=__version__,
        task=subject.task,
        metric=subject.metric,
        split=subject.split,
        examples=subject.examples,
        modalities=subject.modalities,
        columns=columns,
        rows=rows,
        testing=testing(groups, matching, tests),
        base=columns[start].name,
        finding=describe_finding(rows, columns, start, apart),
        unranked=apart,
        notes=(*notes(groups), *test_notes(groups, matching, tests)),
    )


def _column(group: Group, pairs: Sequence[tuple[int, int]] | None) -> Column:
    runs = tuple(
        RunOf(
            name=run.name,
            path=run.path,
            checkpoint=run.report.subject.checkpoint,
            sha256=run.report.subject.sha256,
            training_seed=run.training_seed,
        )
        for run in group.runs
    )
    return Column(name=group.name, runs=runs, pairs=None if pairs is None else len(pairs))


def _cells(key: Key, said: Said, tests: Mapping[tuple[Key, int], Test]) -> list[Cell]:
    return [_cell(key, runs, tests.get((key, column))) for column, runs in enumerate(said)]


def _row(key: Key, runs_of: Said, cells: list[Cell], *, ranked: bool) -> Row:
    found = next(f[key] for runs in runs_of for f in runs if key in f)
    known = lookup(key.name)
    better = known.better if known is not None else None
    values = [c.value for c in cells if c.value is not None]
    if ranked and better is not None and len(values) > 1:
        best = min(values) if better == "lower" else max(values)
        cells = [c.model_copy(update={"best": is_best(c.value, best)}) for c in cells]
    return Row(
        part=key.part,
        name=key.name,
        probe=found.probe,
        modality=key.modality,
        versus=key.versus,
        unit=found.unit,
        better=better,
        why=known.why if known is not None else None,
        definition=found.definition,
        source=found.source,
        cells=tuple(cells),
    )


def _cell(key: Key, runs: Sequence[dict[Key, Found]], test: Test | None) -> Cell:
    found = [f[key] for f in runs if key in f]
    states = sorted(f.state for f in found if f.state is not None)
    values = [f.value for f in found if f.value is not None]
    if states:
        return Cell(runs=len(states), states={s: states.count(s) for s in states})
    if not values:
        reasons = sorted(f.why_not for f in found if f.why_not is not None)
        return Cell(missing=reasons[0] if reasons else "the report does not have it")
    single = found[0].interval if len(runs) == 1 else None
    return Cell(value=mean(values), sd=sd(values), interval=single, runs=len(values), test=test)
