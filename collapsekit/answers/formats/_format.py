"""What a format of questions and answers is."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from collapsekit.answers.question import Question, parse_id
from collapsekit.errors import RefusedError


@dataclass(frozen=True)
class AskedExample:
    """An example as it is asked about, and how answers are wanted, for formats whose lines hold all of it.

    ``parts``: values of each modality's fields, in order: text, or an array of numbers.
    """

    parts: tuple[tuple[str, Any], ...]
    choices: tuple[str, ...]
    instruction: str | None
    model: str | None
    seed: int

    @property
    def closing(self) -> str:
        """The text behind an example's parts, which asks for an answer."""
        return self.instruction or f"Answer with one of these and nothing else: {', '.join(self.choices)}"


@dataclass(frozen=True)
class PlanInBrief:
    """What rows of answers are held against: a plan's key, what an answer to it is, and how many questions it has."""

    key: str
    kind: str  # classes, labels or values
    width: int  # numbers of an answer
    questions: int


@dataclass(frozen=True)
class AnswerRows:
    """Some rows of a table of answers: those that are rows of numbers at once, all others as lines have them."""

    numbers: NDArray[np.uint64]  # (k,), of the questions
    values: NDArray[np.float32]  # (k, w), as the task reads them
    models: tuple[str, ...]  # that these name
    others: tuple[tuple[int, dict[str, Any]], ...]  # number of the row from 1, and what it holds


class AnswerFormat(ABC):
    """A way to write questions and to read answers, a JSON object a line. What is read of a line holds
    ``id`` and one of the answers (collapsekit.answers.values), ``refused`` or ``error``, maybe ``plan`` and ``model``.

    A format whose files are no JSON lines says how they are made of these, and how answers are read from such files."""

    name: ClassVar[str]
    summary: ClassVar[str]
    suffix: ClassVar[str] = "jsonl"  # of its files of questions
    mark: ClassVar[bytes] = b""  # what its files of answers begin with, where they are no JSON lines
    id_key: ClassVar[str] = "id"  # the field of a question's line that holds its id
    needs_examples: ClassVar[bool] = (
        False  # whether a line holds what the example is, so that data and choices are needed
    )

    @abstractmethod
    def write(self, id_: str, question: Question, example: AskedExample | None) -> dict[str, Any]:
        """Write one question as a line.

        Args:
            id_: the question's.
            question: what is asked.
            example: what it is asked about, where the format ``needs_examples``.

        Returns:
            The line.

        Raises:
            ConfigError: for an example that the format has no words for.
        """

    @abstractmethod
    def read(self, line: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Read one line of answers; None where it is of another format, or no answer."""

    def pack(self, lines: str) -> bytes:
        """Make a file of questions of their JSON lines. Raises ConfigError where what it takes is not installed."""
        return lines.encode()

    def unpack(self, path: Path, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the lines that a file of questions was made of. Raises RefusedError for a line that is no question."""
        for line in data.splitlines():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict):
                raise RefusedError(f"{path} holds a line that is no question: plan the questions again.")
            yield found

    def numbers_in(self, path: Path, data: bytes) -> NDArray[np.uint64]:
        """Read the numbers of the questions in a file, those that are none aside. Raises RefusedError."""
        ids = re.findall(rb'^{"%s":"([0-9a-f]{16})"' % self.id_key.encode(), data, re.MULTILINE)
        if len(ids) == data.count(b"\n"):  # as our own lines begin
            return np.frombuffer(bytes.fromhex(b"".join(ids).decode()), ">u8").astype(np.uint64)
        numbers = (parse_id(line.get(self.id_key)) for line in self.unpack(path, data))
        return np.fromiter((number for number in numbers if number is not None), np.uint64)

    def read_rows(self, path: Path, plan: PlanInBrief) -> Iterator[AnswerRows]:
        """Yield the rows of a file of answers that begins with the format's ``mark``, some at a time.

        Args:
            path: of the file.
            plan: that the answers are to.

        Yields:
            Rows, in the order of the file.

        Raises:
            ConfigError: where what it takes is not installed.
            RefusedError: for a file that is damaged.
        """
        raise NotImplementedError(f"{self.name} has no tables: {path}, {plan.key}")
