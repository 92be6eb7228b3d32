"""openai-batch: a request for a chat completion a line, as OpenAI's Batch API and servers that follow it take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from collapsekit.answers.formats._chat import chat_body, read_batch_line
from collapsekit.answers.formats._format import AnswerFormat, AskedExample
from collapsekit.answers.question import Question

URL = "/v1/chat/completions"


class OpenAIBatch(AnswerFormat):
    """Requests with text and images, choices asked for as one token; responses and errors of such batches."""

    name: ClassVar[str] = "openai-batch"
    summary: ClassVar[str] = "chat completions for OpenAI's Batch API and servers that follow it; choices as one token"
    id_key: ClassVar[str] = "custom_id"
    needs_examples: ClassVar[bool] = True

    def write(self, id_: str, question: Question, example: AskedExample | None) -> dict[str, Any]:
        del question
        assert example is not None
        return {"custom_id": id_, "method": "POST", "url": URL, "body": chat_body(example)}

    def read(self, line: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return read_batch_line(line)


FORMAT = OpenAIBatch()
