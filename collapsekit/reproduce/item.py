"""A table or figure of a paper as an item that can be run: what the paper prints and claims, and how it is measured here."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from collapsekit.context import Progress
from collapsekit.errors import ConfigError, did_you_mean

PAPERS = {
    "s1": "Chaudhuri et al. 2025, A Closer Look at Multimodal Representation Collapse",
    "s2": "Kim et al. 2025, Countering Multi-modal Representation Collapse through Rank-targeted Fusion",
}
State = Literal[
    "runs",  # on the paper's kind of data
    "other data",  # runs, on data that anyone can have in the place of the paper's
    "needs data that is not public",  # does not run
    "not reproducible",  # does not run
    "nothing to measure",  # an illustration
]


class Point(NamedTuple):
    """A number that one seed gives."""

    row: str
    column: str
    value: float


@dataclass(frozen=True)
class Trial:
    """One seed of an item."""

    seed: int
    quick: bool  # a smoke run
    folder: Path  # for what only this seed needs
    progress: Progress = field(default_factory=Progress)

    def pick(self, full: int, quick: int) -> int:
        """Choose a size of the full run or of the quick one."""
        return quick if self.quick else full


class Order(NamedTuple):
    """What the paper says rises or falls: the mean over the cells of each step, from the first step to the last."""

    text: str
    steps: Mapping[str, Sequence[tuple[str, str]]]  # by name: cells, (row, column)
    rises: bool


Measure = Callable[[Trial], Iterable[Point]]


@dataclass(frozen=True)
class Item:
    """A table or figure."""

    name: str  # PAPER.KINDnumber, such as s1.table7
    title: str
    claim: str = ""  # what the paper says, in a sentence
    here: str = ""  # what is done here, and on what
    state: State = "runs"
    why: str = ""  # it does not run
    data: tuple[str, ...] = ()  # names of collapsekit.reproduce.studies.datasets
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    column_label: str = ""
    measured: str = ""  # what the numbers are
    printed: Mapping[str, Sequence[float | None]] = field(default_factory=dict)  # by row: the paper's, by column
    orders: tuple[Order, ...] = ()
    notes: tuple[str, ...] = ()
    tested: bool = True  # whether seeds are draws that orders may be tested over
    drawn: Literal["lines", "bars"] = "bars"
    measure: Measure | None = None

    @property
    def paper(self) -> str:
        """Which of the papers."""
        return PAPERS[self.name.partition(".")[0]]

    @property
    def runs(self) -> bool:
        """Whether there is something to run."""
        return self.measure is not None


ITEMS: dict[str, Item] = {}


def item(name: str, **facts: Any) -> Callable[[Measure], Measure]:
    """Register a function of a :class:`Trial` that yields points as what measures the item ``name``.

    Args:
        name: PAPER.KINDnumber.
        facts: The other fields of :class:`Item`.

    Returns:
        A decorator, which returns the function as it is.
    """

    def register(measure: Measure) -> Measure:
        ITEMS[name] = Item(name, measure=measure, **facts)
        return measure

    return register


def no_run(name: str, title: str, state: State, why: str) -> None:
    """Register an item that does not run.

    Args:
        name: PAPER.KINDnumber.
        title: What it shows.
        state: Why it does not run, in a word or two.
        why: The same in a sentence, without its end.
    """
    ITEMS[name] = Item(name, title, state=state, why=why)


def rows_in_order(text: str, rows: Sequence[str], columns: Sequence[str], *, rises: bool) -> Order:
    """Make an order of rows.

    Args:
        text: What the paper says.
        rows: The steps, each the mean over the columns.
        columns: Which.
        rises: Whether the numbers are to rise; else they are to fall.

    Returns:
        The order.
    """
    return Order(text, {row: [(row, column) for column in columns] for row in rows}, rises)


def columns_in_order(text: str, columns: Sequence[str], rows: Sequence[str], *, rises: bool) -> Order:
    """Make an order of columns.

    Args:
        text: What the paper says.
        columns: The steps, each the mean over the rows.
        rows: Which.
        rises: Whether the numbers are to rise; else they are to fall.

    Returns:
        The order.
    """
    return Order(text, {column: [(row, column) for row in rows] for column in columns}, rises)


def load_items() -> dict[str, Item]:
    """Import every file of items.

    Returns:
        The items by name, in the order of the papers.
    """
    import collapsekit.reproduce.items as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return dict(sorted(ITEMS.items(), key=lambda pair: _place(pair[0])))


def _place(name: str) -> tuple[str, str, int]:
    paper, _, rest = name.partition(".")
    kind, number = re.fullmatch(r"([a-z]+)(\d+)", rest).groups()  # type: ignore[union-attr] # a test holds names to it
    return paper, kind, int(number)


def find_items(names: Iterable[str]) -> Iterator[Item]:
    """Find items by name.

    Args:
        names: Such as s1.table7.

    Yields:
        The items.

    Raises:
        ConfigError: For a name that is none, and for one that does not run.
    """
    every = load_items()
    for name in names:
        found = every.get(name)
        if found is None:
            hint = did_you_mean(name, every)
            raise ConfigError(f"{name!r} is no table or figure of the papers: see `collapsekit reproduce list`{hint}.")
        if not found.runs:
            raise ConfigError(f"{name} does not run ({found.state}): {found.why}")
        yield found
