"""examples/answers_elsewhere/offline.py, word by word, against a stand-in for vLLM's `LLM`."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from collapsekit.cli import run

FOLDER = Path(__file__).parents[2] / "examples" / "answers_elsewhere"
CHOICES = ("red", "green", "blue")


@dataclass
class Logprob:
    """As vLLM's."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class RequestOutput:
    """As vLLM's, in the two fields that are read."""

    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None]


class LLM:
    """Reads the hint and never the picture; its tokens are characters."""

    asked = 0

    def __init__(self, model: str) -> None:
        assert model == "looks-away@1"

    def chat(self, chats: list[Any], how: Any, *, add_generation_prompt: bool) -> list[RequestOutput]:
        """Score each chat, whose last turn is the assistant's, whole."""
        assert (how.prompt_logprobs, how.max_tokens, add_generation_prompt) == (0, 1, False)
        LLM.asked += len(chats)
        return [self.scored(chat) for chat in chats]

    def scored(self, chat: Any) -> RequestOutput:
        """Each token of a prompt: one of the system, the choice's, and one of the end."""
        (_, user), (_, answer) = ((turn["role"], turn["content"]) for turn in chat)
        hint = " ".join(part["text"] for part in user[:-1] if part["type"] == "text")
        evidence = np.array([1.5 * (colour in hint) for colour in CHOICES])
        chance = float((np.exp(evidence) / np.exp(evidence).sum())[CHOICES.index(answer)])
        tokens = [1, 2, *map(ord, answer), 3]
        logs = [math.log(chance)] + [0.0] * len(answer)  # the first character decides
        entries = [{token: Logprob(log, 1)} for token, log in zip(tokens[1:], [-250.0, *logs], strict=True)]
        return RequestOutput(tokens, [None, *entries])


@dataclass
class SamplingParams:
    """As vLLM's, in the fields that are set."""

    temperature: float
    max_tokens: int
    prompt_logprobs: int


def test_choices_are_scored_offline_and_the_verdict_is_the_planted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml"):
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    spec = importlib.util.spec_from_file_location("answers_offline", tmp_path / "offline.py")
    assert spec is not None
    assert spec.loader is not None
    offline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(offline)
    words = ["--config", "elsewhere.yaml"]
    assert run(["plan", *words, "--format", "vllm", "--set", "reliance.draws=2", "-o", "questions"]) == 0
    total = json.loads(Path("questions/manifest.json").read_text())["cost"]["questions"]
    answers = Path("answers.jsonl")
    offline.main("questions", "answers.jsonl", "looks-away@1")
    assert LLM.asked == 3 * total
    answers.write_bytes(answers.read_bytes()[:-9])  # its machine went down
    offline.main("questions", "answers.jsonl", "looks-away@1")
    assert LLM.asked == 3 * (total + 1)
    assert run(["score", "questions", "answers.jsonl", *words, "-o", "report", "-f", "json"]) == 0
    told = json.loads(Path("report/report.json").read_text())
    assert {m: v["verdict"] for m, v in told["modalities"].items()} == {"image": "collapsed", "hint": "used"}
    assert "text_only" in {w["name"] for w in told["warnings"]}
