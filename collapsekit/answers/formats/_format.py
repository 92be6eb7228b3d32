"""What a format of questions and answers is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from collapsekit.answers.question import Question


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


class AnswerFormat(ABC):
    """A way to write questions and to read answers, a JSON object a line. What is read of a line holds
    ``id`` and one of the answers (collapsekit.answers.values), ``refused`` or ``error``, maybe ``plan`` and ``model``."""

    name: ClassVar[str]
    summary: ClassVar[str]
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
