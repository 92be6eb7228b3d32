"""Answers read from files, line by line, whatever their order: checked against the plan, and reduced. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from collapsekit.answers.formats import find_table, read_answer
from collapsekit.answers.formats._format import AnswerRows
from collapsekit.answers.manifest import AnswerShape, Manifest
from collapsekit.answers.question import parse_id, to_id
from collapsekit.answers.values import UnfitError, to_numbers
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.files import is_file, reason
from collapsekit.io.safe_text import inline, quote, some

# States of a question, in order: a retry may only add to what is known.
MISSING, FAILED, UNREAD, REFUSED, ANSWERED = range(5)
LINE = 16 << 20  # bytes of a line, at most
BLOCK = 1 << 16  # answers that get their places at once
NAMED = 3  # questions that a message names


@dataclass
class Tally:
    """What was counted while answers were read."""

    lines: int = 0
    repeated: int = 0  # the same answer once more
    damaged: int = 0  # lines that are no whole answer, such as the last of a file that was cut


@dataclass(frozen=True)
class AnswerTable:
    """What is known of every question: its number, its state, and the numbers of its answer."""

    numbers: NDArray[np.uint64]  # (q,), ascending
    states: NDArray[np.uint8]  # (q,): MISSING to ANSWERED
    values: NDArray[np.float32]  # (q, w), 0 where there is no answer
    model: str | None  # that answered, as its answers say
    tally: Tally = field(compare=False)

    def count(self, state: int) -> int:
        """Count the questions in a state."""
        return int((self.states == state).sum())

    @property
    def open(self) -> NDArray[np.uint64]:
        """Numbers of the questions that have to be asked, or asked again: never answered, or with an error."""
        return self.numbers[self.states <= FAILED]

    def digest(self) -> str:
        """Compute the SHA-256 of all answers, whatever files they came in."""
        total = hashlib.sha256()
        for part in (self.numbers, self.states, self.values):
            total.update(part.astype(part.dtype.newbyteorder("<")).tobytes())
        return total.hexdigest()


class _Reader:
    """Puts answers into their places as they come; rows of numbers, which most are, many at a time."""

    def __init__(self, manifest: Manifest, numbers: NDArray[np.uint64]) -> None:
        self.manifest, self.shape = manifest, manifest.answer
        self.numbers = np.sort(numbers)
        self.states = np.zeros(len(numbers), np.uint8)
        self.values = np.zeros((len(numbers), self.shape.width), np.float32)
        self.conflicting = np.zeros(len(numbers), bool)
        self.tally = Tally()
        self.unknown: list[str] = []  # ids of the first of them
        self.strangers = 0  # answers to no question of this plan
        self.models: dict[str, None] = {}
        self._numbers, self._rows = array("Q"), array("d")  # that wait for their places

    def take(self, line: Any, where: str) -> None:
        """Read what one line holds. Raises RefusedError for an answer that cannot be to this plan's questions."""
        self.tally.lines += 1
        answer = read_answer(line) if isinstance(line, dict) else None
        if answer is None:
            self.tally.damaged += 1
            return
        plan = answer.get("plan")
        if plan is not None and plan != self.manifest.key:
            raise RefusedError(f"{where} is an answer to another plan's question: give the answers to this one.")
        number = parse_id(answer.get("id"))
        if number is None:
            self._note_unknown([str(answer.get("id"))])
            return
        if (model := answer.get("model")) is not None:
            self._note_models([str(model)])
        state, row = _state_of(answer, self.shape, where)
        if row is None:
            self._mark(number, state)
            return
        self._numbers.append(number)
        self._rows.extend(row)
        if len(self._numbers) == BLOCK:
            self._flush()

    def take_rows(self, rows: AnswerRows) -> None:
        """Read rows of numbers at once, as :meth:`take` would one by one."""
        self.tally.lines += len(rows.numbers)
        self._note_models(rows.models)
        self._place(rows.numbers, rows.values)

    def _note_models(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self.models) <= NAMED:
                self.models[name] = None

    def _note_unknown(self, ids: Sequence[str]) -> None:
        self.strangers += len(ids)
        self.unknown += [inline(one, 40) for one in ids[: NAMED - len(self.unknown)]]

    def _flush(self) -> None:
        numbers = np.array(self._numbers, np.uint64)
        self._place(numbers, np.array(self._rows, np.float32).reshape(len(numbers), self.shape.width))
        del self._numbers[:], self._rows[:]

    def _find(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The places of numbers, and which of these are questions at all; the others are noted."""
        if not len(self.numbers):
            places, known = np.zeros(len(numbers), np.intp), np.zeros(len(numbers), bool)
        else:
            places = np.searchsorted(self.numbers, numbers).clip(max=len(self.numbers) - 1)
            known = self.numbers[places] == numbers
        if not known.all():
            self._note_unknown([to_id(int(number)) for number in numbers[~known]])
        return places, known

    def _mark(self, number: int, state: int) -> None:
        places, known = self._find(np.array([number], np.uint64))
        if not known[0]:
            return
        if state > self.states[places[0]]:
            self.states[places[0]] = state
        else:
            self.tally.repeated += 1

    def _place(self, numbers: NDArray[np.uint64], values: NDArray[np.float32]) -> None:
        places, known = self._find(numbers)
        places, values = places[known], values[known]
        _, first = np.unique(places, return_index=True)
        new = first[self.states[places[first]] < ANSWERED]
        self.states[places[new]] = ANSWERED
        self.values[places[new]] = values[new]
        again = np.ones(len(places), bool)
        again[new] = False
        differ = (self.values[places[again]] != values[again]).any(1)
        self.tally.repeated += int((~differ).sum())
        self.conflicting[places[again][differ]] = True

    def finish(self) -> AnswerTable:
        """Make the table. Raises RefusedError where answers contradict one another, or are not to these questions."""
        self._flush()
        if self.strangers:
            more = f" and {self.strangers - NAMED} more" if self.strangers > NAMED else ""
            raise RefusedError(
                f"{self.strangers} of {self.tally.lines} answers are to questions that are not in this plan (ids "
                f"{', '.join(self.unknown)}{more}): give the folder of questions that they answer."
            )
        if self.conflicting.any():
            ids = [to_id(int(number)) for number in self.numbers[self.conflicting]]
            raise RefusedError(
                f"{len(ids)} questions have answers that contradict one another (ids {some(ids, NAMED)}): give the answers "
                "of one run, with sampling off."
            )
        names = [inline(name, 200) for name in self.models]
        if len(names) > 1:
            count = len(names) if len(names) <= NAMED else f"more than {NAMED}"
            raise RefusedError(f"the answers are of {count} models ({', '.join(names[:NAMED])}): give those of one.")
        return AnswerTable(self.numbers, self.states, self.values, names[0] if names else None, self.tally)


def read_answers(manifest: Manifest, numbers: NDArray[np.uint64], paths: Iterable[Path]) -> AnswerTable:
    """Read all answers to a plan's questions. What is kept of a question is its number, a state and its answer's numbers.

    Args:
        manifest: of the plan.
        numbers: of its questions, (q,).
        paths: files of answers, JSON lines or Parquet, in any order; a question may be answered in several.

    Returns:
        The table of all questions.

    Raises:
        ConfigError: for a file that is not there.
        RefusedError: for answers of another plan, another kind or several models, and such as contradict one another.
    """
    reader = _Reader(manifest, numbers)
    for path in paths:
        table = find_table(_head(path))
        if table is None:
            for count, line in enumerate(_lines(path), 1):
                reader.take(_parse(line), f"{path} line {count}")
            continue
        for rows in table.read_rows(path, manifest.in_brief):
            reader.take_rows(rows)
            for count, found in rows.others:
                reader.take(found, f"{path} row {count}")
    return reader.finish()


def _head(path: Path) -> bytes:
    """The first bytes of a file of answers. Raises ConfigError where there is none."""
    try:
        if not path.exists():
            raise ConfigError(f"file of answers {path} does not exist: check the path.")
        if not is_file(path):
            raise ConfigError(f"{path} is no file of answers: name files of JSON lines, one an answer, or Parquet.")
        with path.open("rb") as f:
            return f.read(16)
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {reason(e)}.") from None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, blank ones aside; one that is too long ends as if it were cut."""
    try:
        with path.open("rb") as f:
            while line := f.readline(LINE):
                if line.strip():
                    yield line
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {reason(e)}.") from None


def _parse(line: bytes) -> Any:
    try:
        return _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None


def _state_of(answer: Mapping[str, Any], shape: AnswerShape, where: str) -> tuple[int, list[float] | None]:
    if answer.get("refused"):
        return REFUSED, None
    if answer.get("error") is not None:
        return FAILED, None
    try:
        row = to_numbers(answer, shape)
    except UnfitError as e:
        raise RefusedError(f"{where} {e}: give answers of the kind that the manifest of the questions says.") from None
    return (UNREAD, None) if row is None else (ANSWERED, row)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{quote(name)} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
