"""vllm: a request a line for ``vllm run-batch``, whose answers may be no other text than one of the choices. Read are these
answers, and log-probabilities of prompts (``prompt_logprobs``), which vLLM gives offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from collapsekit.answers.formats._format import AskedExample
from collapsekit.answers.formats.openai_batch import OpenAIBatch
from collapsekit.answers.question import Question

LONGEST = 32  # tokens of a choice, at most


class VLLMBatch(OpenAIBatch):
    """The lines of ``openai-batch``, with what vLLM takes beside them: text held to the choices, so that these may be of
    several tokens. Output is read as that format's; or a line holds ``prompts``, by choice a prompt that ends in it, with
    ``prompt_token_ids`` and ``prompt_logprobs`` as vLLM's ``RequestOutput`` has them."""

    name: ClassVar[str] = "vllm"
    summary: ClassVar[str] = "for `vllm run-batch`; text held to the choices, which may be of several tokens"

    def write(self, id_: str, question: Question, example: AskedExample | None) -> dict[str, Any]:
        line = super().write(id_, question, example)
        assert example is not None
        line["body"] |= {"max_tokens": LONGEST, "structured_outputs": {"choice": list(example.choices)}}
        return line

    def read(self, line: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "prompts" not in line:
            return super().read(line)
        about = {key: line[key] for key in ("plan", "model") if key in line}
        return {"id": line.get("custom_id", line.get("id")), **about, "prompts": line["prompts"]}


FORMAT = VLLMBatch()
