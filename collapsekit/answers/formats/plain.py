"""plain: ids and edits alone; collapsekit.answers.Engine makes the examples of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from collapsekit.answers.formats._format import AnswerFormat, AskedExample
from collapsekit.answers.question import Question
from collapsekit.answers.values import ANSWER_KEYS


class Plain(AnswerFormat):
    """Questions as ids and edits, answers as numbers or text."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "ids and edits; collapsekit.answers.Engine makes the examples for any function of yours"

    def write(self, id_: str, question: Question, example: AskedExample | None) -> dict[str, Any]:
        del example
        return {"id": id_, **question.to_record()}

    def read(self, line: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "custom_id" in line or "tokens" in line:
            return None
        return line if "id" in line and any(key in line for key in (*ANSWER_KEYS, "refused", "error")) else None


FORMAT = Plain()
