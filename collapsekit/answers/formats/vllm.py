"""vllm: a request a line for ``vllm run-batch``, whose answers may be no other text than one of the choices."""

from __future__ import annotations

from typing import Any, ClassVar

from collapsekit.answers.formats._format import AskedExample
from collapsekit.answers.formats.openai_batch import OpenAIBatch
from collapsekit.answers.question import Question

LONGEST = 32  # tokens of a choice, at most


class VLLMBatch(OpenAIBatch):
    """The lines of ``openai-batch``, with what vLLM takes beside them: text held to the choices, so that these may be of
    several tokens. Output is read as that format's."""

    name: ClassVar[str] = "vllm"
    summary: ClassVar[str] = "for `vllm run-batch`; text held to the choices, which may be of several tokens"

    def write(self, id_: str, question: Question, example: AskedExample | None) -> dict[str, Any]:
        line = super().write(id_, question, example)
        assert example is not None
        line["body"] |= {"max_tokens": LONGEST, "structured_outputs": {"choice": list(example.choices)}}
        return line


FORMAT = VLLMBatch()
